import type {
  BackupConfiguration,
  BackupSnapshot,
  CreateRestoreOperationInput,
  RestoreDestination,
  RestoreType,
} from '../types/backup.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';

type Checked = Pick<
  BackupConfiguration,
  'configType' | 'branchIds' | 'scope' | 'storageDestination' | 'encryptionEnabled' | 'allowUnencryptedPHI'
>;

/**
 * Refuses what this version does not do yet and what does not fit the host's entities, before anything is written:
 * `NOT_SUPPORTED`, `ENTITY_*`, `VALIDATION_FAILED` for PHI that would be stored in the clear.
 */
export async function requireSupportedConfiguration(
  context: ServiceContext,
  organizationId: UUID,
  settings: Checked,
): Promise<void> {
  const { configType, scope } = settings;
  if (configType !== 'FULL') throw unsupported(`${configType} backups`, 'FULL');
  for (const field of ['includeAttachments', 'includeDocuments'] as const) {
    if (scope[field] === true)
      throw unsupported(`\`scope.${field}\``, 'the rows of entities; leave the field out');
  }
  if (settings.encryptionEnabled && context.keys === undefined) {
    throw new ValidationError('The backup configuration', [
      {
        path: 'encryptionEnabled',
        message: 'Is true, but no key provider is configured.',
        remedy: 'Give `keys` to createDataProtection, or set it to false.',
      },
    ]);
  }
  context.openStorage(settings.storageDestination);
  const entities = await context.source.check({
    organizationId,
    branchIds: settings.branchIds,
    scope,
  });
  const phi = entities.filter((entity) => entity.phi).map((entity) => entity.type);
  if (phi.length > 0 && !settings.encryptionEnabled && !settings.allowUnencryptedPHI) {
    throw new ValidationError('The backup configuration', [
      {
        path: 'encryptionEnabled',
        message: `Is false although the scope holds PHI (${phi.join(', ')}).`,
        remedy: 'Give `keys` to createDataProtection and set it to true, or say `allowUnencryptedPHI: true`.',
      },
    ]);
  }
}

/** Where a restore puts the rows. */
export type RestorePlace = { readonly kind: 'LIVE' } | { readonly kind: 'SCHEMA'; readonly name: string };

/**
 * What a restore comes to in this version: FULL or SELECTIVE into the live tables, FULL into a schema of its own. Throws
 * `NOT_SUPPORTED`, `INVALID_STATE`.
 */
export function requireSupportedRestore(
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
): { restoreType: RestoreType; destination: RestoreDestination; place: RestorePlace } {
  const narrowed = Object.keys(input.scope ?? {}).length > 0;
  const restoreType = input.restoreType ?? (narrowed ? 'SELECTIVE' : 'FULL');
  const destination = input.restoreDestination ?? { type: 'PRODUCTION' as const };
  for (const field of [
    'includeAttachments',
    'includeDocuments',
    'restoreAttachments',
    'restoreDocuments',
  ] as const) {
    if (input.scope?.[field] === true)
      throw unsupported(`\`scope.${field}\``, 'the rows of entities; leave the field out');
  }
  const place = placeOf(destination);
  if (restoreType !== 'FULL' && (restoreType !== 'SELECTIVE' || place.kind !== 'LIVE')) {
    throw unsupported(
      `${restoreType} restores to ${destination.type}`,
      'FULL ones, and SELECTIVE ones to PRODUCTION',
    );
  }
  if (narrowed && place.kind !== 'LIVE') {
    throw unsupported('A `scope` of restores into schemas', 'the whole snapshot; leave the field out');
  }
  if (snapshot.status !== 'COMPLETED' && snapshot.status !== 'COMPLETED_WITH_WARNINGS') {
    throw new DataProtectionError(
      `Snapshot ${snapshot.snapshotNumber} is ${snapshot.status}; only a COMPLETED or COMPLETED_WITH_WARNINGS one can be restored`,
      'INVALID_STATE',
    );
  }
  return { restoreType, destination, place };
}

/** The place of a destination that was accepted. */
export function placeOf({ type, schemaName }: RestoreDestination): RestorePlace {
  if (type === 'PRODUCTION') return { kind: 'LIVE' };
  if (schemaName === undefined || type === 'TEMPORARY') {
    throw unsupported(
      `Restoring to ${type} without \`schemaName\``,
      "`restoreDestination: { type: 'STAGING', schemaName: '...' }`",
    );
  }
  return { kind: 'SCHEMA', name: schemaName };
}

const unsupported = (what: string, instead: string): DataProtectionError =>
  new DataProtectionError(`${what} come with a later version. This one does ${instead}`, 'NOT_SUPPORTED');
