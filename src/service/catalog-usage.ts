import type { UsedConfiguration, UsedPlace } from '../repository/usage.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { PlaceUsage, QuotaUsage, UsageTotals } from '../types/usage.ts';
import type { Asking } from './asking.ts';
import type { ServiceContext } from './context.ts';
import { quotaUsage } from './quota.ts';

/** What the catalog says of what is stored. */
export interface CatalogUsage {
  readonly configurations: readonly UsedConfiguration[];
  /** Of each configuration, place and class. */
  readonly places: readonly UsedPlace[];
}

/** Throws `NOT_FOUND` where the actor does not see the configuration. */
export async function catalogUsage(
  { repository }: Asking,
  configurationId: UUID | undefined,
): Promise<CatalogUsage> {
  const configurations = await repository.findUsedConfigurations(configurationId);
  if (configurationId !== undefined && configurations.length === 0) {
    throw new DataProtectionError(`There is no configuration ${configurationId}`, 'NOT_FOUND');
  }
  return { configurations, places: await repository.findUsedPlaces(configurationId) };
}

export function totalsOf({ configurations, places }: CatalogUsage): UsageTotals {
  const storedBytes = sum(configurations.map((one) => one.storedBytes));
  const rawBytes = sum(configurations.map((one) => one.rawBytes));
  const oldest = configurations.flatMap(({ oldestSnapshotAt }) => oldestSnapshotAt ?? []).sort();
  const newest = configurations.flatMap(({ newestSnapshotAt }) => newestSnapshotAt ?? []).sort();
  return {
    snapshots: sum(configurations.map((one) => one.snapshots)),
    objects: sum(configurations.map((one) => one.objects)),
    storedBytes,
    rawBytes,
    compressionRatio: storedBytes === 0 ? null : rawBytes / storedBytes,
    oldestSnapshotAt: oldest[0] ?? null,
    newestSnapshotAt: newest.at(-1) ?? null,
    occupiedBytes: sum(places.flatMap(({ bytes, formerBytes }) => [bytes, formerBytes])),
    pendingBytes: sum(places.map((place) => place.pendingBytes)),
  };
}

/** The places of several configurations, each place and class once. */
export function mergedPlaces(
  context: ServiceContext,
  places: readonly UsedPlace[],
): readonly { readonly place: string; readonly usage: PlaceUsage }[] {
  const groups = Map.groupBy(places, ({ place, storageClass }) => JSON.stringify([place, storageClass]));
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const of = (
      field: 'snapshots' | 'objects' | 'bytes' | 'pendingBytes' | 'formerObjects' | 'formerBytes',
    ) => sum(group.map((one) => one[field]));
    const usage = {
      description: describePlace(context, group),
      type: first.type,
      storageClass: first.storageClass,
      snapshots: of('snapshots'),
      objects: of('objects'),
      bytes: of('bytes'),
      pendingBytes: of('pendingBytes'),
      formerObjects: of('formerObjects'),
      formerBytes: of('formerBytes'),
    };
    return [{ place: first.place, usage }];
  });
}

/** What the storage calls itself; its type where it cannot be opened any more. */
export function describePlace(context: ServiceContext, places: readonly UsedPlace[]): string {
  const known = places.find(({ description }) => description !== null)?.description;
  if (known != null) return known;
  for (const { destination } of places) {
    try {
      return context.openStorage(destination).storage.description;
    } catch (error) {
      if (!(error instanceof DataProtectionError)) throw error;
    }
  }
  return places[0]?.type ?? '';
}

/**
 * The quotas of present destinations, with what the whole organization has used of each: the smallest where
 * configurations differ. An actor who is limited to branches is told of none, since it sums up what he may not see.
 */
export async function usedQuotas(
  { context, actor, repository }: Asking,
  places: readonly UsedPlace[],
): Promise<readonly { readonly place: string; readonly quota: QuotaUsage }[]> {
  if (actor.branchIds !== 'ALL') return [];
  const limited = [...Map.groupBy(places, ({ place }) => place)].flatMap(([place, group]) => {
    const quotas = group.flatMap(({ quotaBytes }) => quotaBytes ?? []);
    const [first] = group;
    return first === undefined || quotas.length === 0
      ? []
      : [{ place, group, first, quotaBytes: Math.min(...quotas) }];
  });
  if (limited.length === 0) return [];
  const used = await repository.takeQuotaUse(limited.map(({ first }) => first.destination));
  return limited.map(({ place, group, first, quotaBytes }) => ({
    place,
    quota: quotaUsage({
      description: describePlace(context, group),
      type: first.type,
      quotaBytes,
      usedBytes: used.find((use) => use.place === place)?.usedBytes ?? 0,
    }),
  }));
}

/** Throws INTERNAL for a sum that JavaScript does not hold exactly. */
export function sum(values: readonly number[]): number {
  const total = values.reduce((before, value) => before + value, 0);
  if (Number.isSafeInteger(total)) return total;
  throw new DataProtectionError('A sum of bytes is beyond 2^53', 'INTERNAL');
}
