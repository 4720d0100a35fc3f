import { type AttemptQueries, attemptQueries } from './attempts.ts';
import { type ConfigurationQueries, configurationQueries } from './configurations.ts';
import type { Database } from './database.ts';
import { type KeyUseQueries, keyUseQueries } from './key-uses.ts';
import { type RestoreQueries, restoreQueries } from './restore-operations.ts';
import { type RunQueueQueries, runQueueQueries } from './run-queue.ts';
import { bindScope, type RepositoryScope } from './scope.ts';
import { type SnapshotQueries, snapshotQueries } from './snapshots.ts';
import { type StorageJobQueries, storageJobQueries } from './storage-jobs.ts';
import { type UsageQueries, usageQueries } from './usage.ts';

/**
 * The rows of one organization, and of them those that the actor's branches allow. Whatever lies outside is answered
 * as if it did not exist: undefined, false, or an empty list.
 */
export interface BackupRepository
  extends ConfigurationQueries,
    SnapshotQueries,
    AttemptQueries,
    RestoreQueries,
    RunQueueQueries,
    StorageJobQueries,
    KeyUseQueries,
    UsageQueries {}

/**
 * Binds the repository; costs nothing. Given a transaction, all it does belongs to that transaction. Throws
 * VALIDATION_FAILED where the organization or a branch is not a UUID.
 *
 * @example
 * await database.withTransaction(async (tx) => {
 *   const repository = createBackupRepository(tx, { organizationId, branchIds: 'ALL' });
 *   await repository.insertConfig(configuration);
 *   await createAuditLog(organizationId).append(tx, entry);
 * });
 */
export function createBackupRepository(db: Database, scope: RepositoryScope): BackupRepository {
  const bound = bindScope(db, scope);
  return {
    ...configurationQueries(bound),
    ...snapshotQueries(bound),
    ...attemptQueries(bound),
    ...restoreQueries(bound),
    ...runQueueQueries(bound),
    ...storageJobQueries(bound),
    ...keyUseQueries(bound),
    ...usageQueries(bound),
  };
}
