import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { type BackupRepository, createBackupRepository } from '../../src/repository/backup-repository.ts';
import type { NewConfiguration } from '../../src/repository/configurations.ts';
import { createDatabase, type Database } from '../../src/repository/database.ts';
import type { NewRestoreOperation } from '../../src/repository/restore-operations.ts';
import type { SnapshotFailure, SnapshotResult } from '../../src/repository/snapshot-end.ts';
import type { NewSnapshot } from '../../src/repository/snapshots.ts';
import type {
  BackupConfiguration,
  BackupProgress,
  BackupSnapshot,
  RestoreProgress,
} from '../../src/types/backup.ts';
import type { UUID } from '../../src/types/ids.ts';

export const START = '2026-03-01T10:00:00.000Z';
export const LATER = '2026-03-01T10:05:00.123Z';

/** A clock that the test moves. */
export function manualClock(at: string = START) {
  let now = new Date(at);
  return {
    now: () => now,
    set: (to: string): void => {
      now = new Date(to);
    },
  };
}

export function aDatabase(pool: pg.Pool, clock: { now(): Date } = manualClock()): Database {
  return createDatabase({ pool, clock });
}

/** A repository of a whole organization. */
export function ofOrganization(db: Database, organizationId: UUID): BackupRepository {
  return createBackupRepository(db, { organizationId, branchIds: 'ALL' });
}

export function aConfiguration(changes: Partial<NewConfiguration> = {}): NewConfiguration {
  return {
    id: randomUUID(),
    branchIds: null,
    name: 'Nightly',
    description: null,
    configType: 'FULL',
    schedule: [{ frequency: 'DAILY', startTime: '02:00', timezone: 'America/Chicago' }],
    timezone: 'America/Chicago',
    scope: { includeEntities: ['CLIENT', 'VISIT'] },
    retention: { retentionDays: 30, autoDeleteExpired: true },
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/backups' } },
    encryptionEnabled: true,
    encryptionKeyId: 'key-1',
    allowUnencryptedPHI: false,
    compressionEnabled: true,
    compressionAlgorithm: 'ZSTD',
    compressionLevel: 3,
    integrityCheckEnabled: true,
    checksumAlgorithm: 'SHA256',
    notificationSettings: {},
    status: 'ACTIVE',
    statusReason: null,
    nextScheduledBackupAt: null,
    complianceRequirements: [],
    auditRetentionDays: null,
    customFields: {},
    createdBy: randomUUID(),
    ...changes,
  };
}

export function aSnapshot(configurationId: UUID, changes: Partial<NewSnapshot> = {}): NewSnapshot {
  return {
    id: randomUUID(),
    configurationId,
    snapshotType: 'FULL',
    trigger: 'MANUAL',
    generation: 0,
    scheduledAt: null,
    checksumAlgorithm: 'SHA256',
    encrypted: true,
    encryptionKeyId: null,
    encryptionAlgorithm: 'AES-256-GCM',
    compressed: true,
    compressionAlgorithm: 'ZSTD',
    expiresAt: null,
    parentSnapshotId: null,
    tags: {},
    notes: null,
    customFields: {},
    requestedBy: randomUUID(),
    ...changes,
  };
}

export function aRestore(snapshotId: UUID, changes: Partial<NewRestoreOperation> = {}): NewRestoreOperation {
  return {
    id: randomUUID(),
    snapshotId,
    restoreType: 'FULL',
    requestedBy: randomUUID(),
    scope: {},
    restoreDestination: { type: 'STAGING', schemaName: 'restored' },
    status: 'QUEUED',
    validationEnabled: true,
    conflictResolutionStrategy: 'BACKUP_WINS',
    requiresApproval: false,
    rollbackEnabled: false,
    deleteNotInBackup: false,
    allowCascades: false,
    columnMapping: {},
    notes: null,
    customFields: {},
    ...changes,
  };
}

export function aResult(changes: Partial<SnapshotResult> = {}): SnapshotResult {
  return {
    status: 'COMPLETED',
    branchIds: null,
    startedAt: START,
    completedAt: LATER,
    duration: 300_123,
    dataMetrics: {
      totalRecords: 10,
      totalSizeBytes: 5000,
      storedSizeBytes: 1000,
      recordsByEntity: { VISIT: 10 },
      sizeByEntity: { VISIT: 5000 },
      phiRecords: 10,
      piiRecords: 0,
      financialRecords: 0,
      segments: 1,
      objects: 2,
    },
    storageLocation: {
      type: 'LOCAL_FILESYSTEM',
      description: 'local',
      path: 'a/b',
      manifestKey: 'a/b/manifest',
      replicationLocations: [],
      destination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/backups' } },
    },
    checksum: 'ab'.repeat(32),
    integrityVerified: true,
    integrityVerifiedAt: LATER,
    compressionRatio: 5,
    warnings: [],
    ...changes,
  };
}

export function aFailure(changes: Partial<SnapshotFailure> = {}): SnapshotFailure {
  return {
    statusReason: 'The worker died',
    completedAt: LATER,
    duration: null,
    error: { code: 'BACKUP_INTERRUPTED', message: 'The worker died', recoverable: true, occurredAt: LATER },
    ...changes,
  };
}

export function aProgress(percentage = 50): BackupProgress {
  return {
    phase: 'BACKING_UP_DATA',
    percentage,
    currentEntity: 'VISIT',
    entitiesTotal: 2,
    entitiesCompleted: 1,
    recordsProcessed: 5,
    bytesProcessed: 2500,
    bytesTotal: 5000,
    bytesStored: 500,
    bytesPerSecond: 12.5,
    estimatedTimeRemainingMs: 1000,
    updatedAt: LATER,
  };
}

export function aRestoreProgress(percentage = 50): RestoreProgress {
  return {
    phase: 'LOADING',
    percentage,
    currentEntity: 'VISIT',
    entitiesTotal: 2,
    entitiesCompleted: 1,
    recordsRestored: 5,
    bytesProcessed: 2500,
    bytesTotal: 5000,
    bytesPerSecond: 12.5,
    estimatedTimeRemainingMs: null,
    updatedAt: LATER,
  };
}

/** Where a value must be there for the test to go on. */
export function present<T>(value: T | undefined | null): T {
  if (value === undefined || value === null) throw new Error('expected a value');
  return value;
}

export interface Chain {
  readonly configuration: BackupConfiguration;
  readonly snapshot: BackupSnapshot;
  readonly attemptId: UUID;
}

/** A configuration with a queued snapshot and its running attempt. */
export async function aRunningSnapshot(
  repository: BackupRepository,
  changes: Partial<NewConfiguration> = {},
): Promise<Chain> {
  const configuration = await repository.insertConfig(aConfiguration(changes));
  const snapshot = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
  return { configuration, snapshot, attemptId: await anAttempt(repository, snapshot) };
}

export async function anAttempt(repository: BackupRepository, snapshot: BackupSnapshot): Promise<UUID> {
  const id = randomUUID();
  const storagePrefix = `backups/${snapshot.snapshotNumber}/${id}`;
  present(await repository.createAttempt({ id, snapshotId: snapshot.id, storagePrefix, worker: 'test' }));
  return id;
}

/** A further snapshot of a configuration that has completed. */
export async function aCompletedSnapshot(
  repository: BackupRepository,
  configurationId: UUID,
  changes: Partial<SnapshotResult> = {},
): Promise<BackupSnapshot> {
  const snapshot = present(await repository.insertSnapshot(aSnapshot(configurationId)));
  const attemptId = await anAttempt(repository, snapshot);
  if (!(await repository.finalizeSnapshot({ snapshotId: snapshot.id, attemptId }, aResult(changes)))) {
    throw new Error('not finalized');
  }
  return present(await repository.findSnapshotById(snapshot.id));
}
