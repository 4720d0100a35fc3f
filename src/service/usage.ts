import type { UsedConfiguration, UsedPlace } from '../repository/usage.ts';
import type { ConfigurationUsage, StorageUsage, StorageUsageInput } from '../types/usage.ts';
import type { Asking } from './asking.ts';
import { catalogUsage, mergedPlaces, totalsOf, usedQuotas } from './catalog-usage.ts';
import type { ServiceContext } from './context.ts';
import { measureStorages } from './measured-usage.ts';

/**
 * What is stored, by configuration and by place, from the catalog, and with `measure` from the storages. Throws
 * `NOT_FOUND`.
 */
export async function storageUsage(
  asking: Asking,
  input: StorageUsageInput,
  signal: AbortSignal,
): Promise<StorageUsage> {
  const { context } = asking;
  const used = await catalogUsage(asking, input.configurationId);
  const quotas = await usedQuotas(asking, used.places);
  return {
    asOf: context.clock.now().toISOString(),
    ...totalsOf(used),
    configurations: used.configurations.map((one) => configurationUsage(context, one, used.places)),
    places: mergedPlaces(context, used.places).map(({ usage }) => usage),
    quotas: quotas.map(({ quota }) => quota),
    measured:
      input.measure === true ? await measureStorages(asking, used, input.configurationId, signal) : null,
  };
}

function configurationUsage(
  context: ServiceContext,
  configuration: UsedConfiguration,
  all: readonly UsedPlace[],
): ConfigurationUsage {
  const { configurationId, name, deleted } = configuration;
  const places = all.filter((place) => place.configurationId === configurationId);
  return {
    configurationId,
    name,
    deleted,
    ...totalsOf({ configurations: [configuration], places }),
    places: mergedPlaces(context, places).map(({ usage }) => usage),
  };
}
