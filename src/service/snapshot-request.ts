import { isDeepStrictEqual } from 'node:util';
import { uuidv7 } from 'uuidv7';
import { attemptPrefix } from '../archive/format.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Transaction } from '../repository/database.ts';
import type {
  BackupConfiguration,
  BackupSnapshot,
  BackupTrigger,
  CreateSnapshotInput,
} from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import type { OpenedStorage, ServiceContext } from './context.ts';

/** Tries of a backup that workers run. */
export const MAX_ATTEMPTS = 3;

export interface SnapshotRequest {
  readonly configuration: BackupConfiguration;
  readonly trigger: BackupTrigger;
  readonly scheduledAt: Timestamp | null;
  readonly requestedBy: UUID;
  readonly input: Pick<CreateSnapshotInput, 'snapshotType' | 'tags' | 'notes'>;
}

/** Enters a QUEUED snapshot, with its audit entry. `repository` belongs to the transaction. */
export async function enterSnapshot(
  context: ServiceContext,
  transaction: Transaction,
  repository: BackupRepository,
  { configuration, trigger, scheduledAt, requestedBy, input }: SnapshotRequest,
): Promise<BackupSnapshot> {
  const snapshot = await repository.insertSnapshot({
    id: uuidv7(),
    configurationId: configuration.id,
    snapshotType: input.snapshotType ?? configuration.configType,
    trigger,
    generation: 0,
    scheduledAt,
    ...settingsOf(configuration),
    encryptionKeyId: null,
    expiresAt: null,
    parentSnapshotId: null,
    tags: input.tags ?? {},
    notes: input.notes ?? null,
    customFields: {},
    requestedBy,
  });
  if (snapshot === undefined) {
    throw new DataProtectionError(`There is no configuration ${configuration.id}`, 'NOT_FOUND');
  }
  await context.audit.append(transaction, {
    organizationId: snapshot.organizationId,
    action: 'snapshot.requested',
    userId: requestedBy,
    resourceType: 'backup_snapshot',
    resourceId: snapshot.id,
    details: { snapshotNumber: snapshot.snapshotNumber, configurationId: configuration.id },
  });
  return snapshot;
}

/**
 * Enters an attempt at a snapshot, by the configuration as it is now: it may have changed since the snapshot was asked
 * for, and what the catalog says of encryption must be what the run does. Throws `INVALID_STATE` where the snapshot has ended,
 * `BACKUP_ALREADY_RUNNING`.
 */
export async function enterAttempt(
  context: ServiceContext,
  repository: BackupRepository,
  snapshot: BackupSnapshot,
  configuration: BackupConfiguration,
  { prefix }: OpenedStorage,
): Promise<UUID> {
  const attemptId = uuidv7();
  const settings = settingsOf(configuration);
  const { checksumAlgorithm, encrypted, encryptionAlgorithm, compressed, compressionAlgorithm } = snapshot;
  const asked = { checksumAlgorithm, encrypted, encryptionAlgorithm, compressed, compressionAlgorithm };
  const attempt = await repository.createAttempt({
    id: attemptId,
    snapshotId: snapshot.id,
    storagePrefix: attemptPrefix(prefix, { ...snapshot, snapshotId: snapshot.id, attemptId }),
    worker: context.worker,
    destination: configuration.storageDestination,
    ...(isDeepStrictEqual(settings, asked) ? {} : { settings }),
  });
  if (attempt !== undefined) return attemptId;
  throw new DataProtectionError(`Snapshot ${snapshot.snapshotNumber} has ended`, 'INVALID_STATE');
}

const settingsOf = (configuration: BackupConfiguration) => ({
  checksumAlgorithm: configuration.checksumAlgorithm,
  encrypted: configuration.encryptionEnabled,
  encryptionAlgorithm: configuration.encryptionEnabled ? ('AES-256-GCM' as const) : null,
  compressed: configuration.compressionEnabled,
  compressionAlgorithm: configuration.compressionAlgorithm,
});
