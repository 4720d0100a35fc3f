import { isDeepStrictEqual } from 'node:util';
import { uuidv7 } from 'uuidv7';
import { auditTrail } from '../repository/audit-trail.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Transaction } from '../repository/database.ts';
import type { Actor } from '../types/actor.ts';
import type {
  AuditCheckpoint,
  AuditEntry,
  AuditVerdict,
  ListAuditLogInput,
  PruneAuditLogInput,
  PrunedAuditLog,
} from '../types/audit.ts';
import type {
  BackupConfigStatus,
  BackupConfiguration,
  BackupSnapshot,
  CreateBackupConfigInput,
  CreateRestoreOperationInput,
  CreateSnapshotInput,
  ListConfigurationsInput,
  ListInput,
  ListSnapshotsInput,
  Page,
  ResolveRestoreConflictInput,
  RestoreConflict,
  RestoreOperation,
  RestorePreview,
  StorageDestination,
  StorageJob,
  UpdateBackupConfigInput,
  ValidationResults,
} from '../types/backup.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { ExportSnapshotInput, SnapshotExport } from '../types/export.ts';
import type { Json, UUID } from '../types/ids.ts';
import type { KeyStatus, RewrapKeysInput, RotatedKey } from '../types/keys.ts';
import type {
  StorageAnalytics,
  StorageAnalyticsInput,
  StorageUsage,
  StorageUsageInput,
} from '../types/usage.ts';
import { previewSchedule, type ScheduledStart } from '../utils/schedule.ts';
import {
  applyConfigUpdate,
  CreateBackupConfigSchema,
  CreateRestoreOperationSchema,
  CreateSnapshotSchema,
  ExportSnapshotSchema,
  ListAuditLogSchema,
  ListConfigurationsSchema,
  ListSnapshotsSchema,
  PruneAuditLogSchema,
  parseInput,
  ResolveRestoreConflictSchema,
  UpdateBackupConfigSchema,
  withConfigDefaults,
} from '../validation/index.ts';
import { KeyIdSchema, RewrapKeysInputSchema } from '../validation/keys.ts';
import { StorageAnalyticsInputSchema, StorageUsageInputSchema } from '../validation/usage.ts';
import { type Asking, alreadyRunning, notFound, requireStatus } from './asking.ts';
import { type AuditAsking, createAuditCheckpoint } from './audit-checkpoint.ts';
import { pruneAuditLog, verifyAuditLog } from './audit-log.ts';
import {
  allowedBranches,
  requireAllBranches,
  requireOwnOrganization,
  requirePermission,
} from './authorize.ts';
import { boundActor } from './bound-actor.ts';
import type { ServiceContext } from './context.ts';
import { endDeadAttempts } from './dead-attempts.ts';
import { keyFailure } from './failure.ts';
import { requestRewrapping, requireWholeOrganization, retireKey, rotateKey } from './key-changes.ts';
import { keyStatus } from './key-status.ts';
import { resolveConflict } from './live-restore.ts';
import {
  approveRestore,
  decideRestore,
  planRestore,
  requireRollback,
  requireWholeRestore,
  rollbackRestore,
  startRestore,
  stopRestore,
} from './restore-start.ts';
import { lastSize, nextBackupAt } from './schedules.ts';
import { exportSnapshot } from './snapshot-export.ts';
import { type RunOptions, startSnapshot, stopSnapshot } from './snapshot-start.ts';
import { storageAnalytics } from './storage-analytics.ts';
import { cancelStorageJob, requestForSnapshot, requestMigration } from './storage-requests.ts';
import { requireSupportedConfiguration } from './supported.ts';
import { storageUsage } from './usage.ts';
import { verifySnapshotArchive } from './verify-snapshot.ts';

export type { RunOptions } from './snapshot-start.ts';

/** Of a preview: more is a question of minutes. */
const MOST_STARTS = 1000;

/**
 * Backups and restores on behalf of one actor, whose organization and branches bound everything that it sees and does.
 * What lies outside is `NOT_FOUND`; a missing permission is `FORBIDDEN`; inputs are checked as a whole
 * (`VALIDATION_FAILED` with every problem). Every change is entered in the audit log in its own transaction.
 */
export class BackupService {
  readonly #context: ServiceContext;
  readonly #actor: Actor;
  readonly #repository: BackupRepository;
  /** For runs that the actor was allowed to start: they end what earlier runs of the organization left. */
  readonly #system: BackupRepository;

  /** Throws `VALIDATION_FAILED` where the actor is none. Later changes of the object that is given have no effect. */
  constructor(context: ServiceContext, actor: Actor) {
    this.#context = context;
    this.#actor = boundActor(actor);
    this.#repository = context.repository(this.#actor);
    this.#system = context.repository({ organizationId: this.#actor.organizationId, branchIds: 'ALL' });
  }

  /**
   * Creates a configuration with the defaults of its fields filled in. Permission `backup:create`. Errors:
   * `VALIDATION_FAILED`, `FORBIDDEN`, `NOT_SUPPORTED`, `ENTITY_*` where the scope does not fit the entities.
   */
  async createConfiguration(input: CreateBackupConfigInput): Promise<BackupConfiguration> {
    requirePermission(this.#actor, 'backup:create');
    const parsed = parseInput(CreateBackupConfigSchema, 'The backup configuration', input);
    requireOwnOrganization(this.#actor, parsed.organizationId);
    const settings = withConfigDefaults(parsed, {
      defaultDestination: parsed.storageDestination ?? this.#defaultDestination(),
      encryptionAvailable: this.#context.keys !== undefined,
    });
    const branchIds = allowedBranches(this.#actor, settings.branchIds);
    await requireSupportedConfiguration(this.#context, this.#actor.organizationId, {
      ...settings,
      branchIds,
    });
    const encryptionKeyId = await this.#keyId(settings);
    const id = uuidv7();
    return this.#context.db.withTransaction(async (transaction) => {
      const created = await this.#in(transaction).insertConfig({
        ...settings,
        id,
        branchIds,
        encryptionKeyId,
        status: 'ACTIVE',
        statusReason: null,
        nextScheduledBackupAt: nextBackupAt({ ...settings, id }, this.#context.clock.now(), undefined),
        createdBy: this.#actor.userId,
      });
      await this.#audit(transaction, 'configuration.created', created.id, { name: created.name });
      return created;
    });
  }

  /** Permission `backup:read`. Errors: `NOT_FOUND`. */
  async getConfiguration(id: UUID): Promise<BackupConfiguration> {
    requirePermission(this.#actor, 'backup:read');
    return this.#configuration(id);
  }

  /** Newest first. Permission `backup:read`. */
  async listConfigurations(input: ListConfigurationsInput = {}): Promise<Page<BackupConfiguration>> {
    requirePermission(this.#actor, 'backup:read');
    return this.#repository.listConfigs(
      parseInput(ListConfigurationsSchema, 'The list of configurations', input),
    );
  }

  /**
   * Changes the fields that are given; the whole must be valid afterwards. Permission `backup:create`. A run that is
   * going on is not affected. Errors as `createConfiguration`, and `INVALID_STATE` for an ARCHIVED one or when somebody
   * else changed it at the same moment.
   */
  async updateConfiguration(id: UUID, input: UpdateBackupConfigInput): Promise<BackupConfiguration> {
    requirePermission(this.#actor, 'backup:create');
    const update = parseInput(UpdateBackupConfigSchema, 'The change of the backup configuration', input);
    const current = await this.#configuration(id);
    requireStatus(current, ['ACTIVE', 'PAUSED', 'SUSPENDED', 'DISABLED'], 'be changed');
    const settings = applyConfigUpdate(current, update);
    const branchIds = allowedBranches(this.#actor, settings.branchIds);
    await requireSupportedConfiguration(this.#context, this.#actor.organizationId, {
      ...settings,
      branchIds,
    });
    const encryptionKeyId = await this.#keyId(settings);
    const { clock } = this.#context;
    const size = await lastSize(this.#repository, id);
    // The scheduler moves the next start on without regard to who changes the rest.
    const sameSchedule = isDeepStrictEqual(
      [settings.schedule, settings.timezone],
      [current.schedule, current.timezone],
    );
    const next = sameSchedule
      ? {}
      : { nextScheduledBackupAt: nextBackupAt({ ...settings, id }, clock.now(), size) };
    return this.#change(
      current,
      'configuration.updated',
      { ...settings, ...next, branchIds, encryptionKeyId },
      { fields: Object.keys(update) },
    );
  }

  /** No run starts while a configuration is PAUSED; one that is going on ends. Permission `backup:create`. */
  async pauseConfiguration(id: UUID, reason?: string): Promise<BackupConfiguration> {
    return this.#setStatus(id, 'PAUSED', ['ACTIVE'], 'backup:create', reason);
  }

  /** Permission `backup:create`. */
  async resumeConfiguration(id: UUID): Promise<BackupConfiguration> {
    return this.#setStatus(id, 'ACTIVE', ['PAUSED', 'SUSPENDED', 'DISABLED'], 'backup:create');
  }

  /** Ends a configuration for good; its snapshots stay and can be restored. Permission `backup:delete`. */
  async archiveConfiguration(id: UUID, reason?: string): Promise<BackupConfiguration> {
    return this.#setStatus(
      id,
      'ARCHIVED',
      ['ACTIVE', 'PAUSED', 'SUSPENDED', 'DISABLED'],
      'backup:delete',
      reason,
    );
  }

  /** Hides a configuration; its snapshots stay and can be restored. Permission `backup:delete`. `INVALID_STATE` while a run goes on. */
  async deleteConfiguration(id: UUID): Promise<void> {
    requirePermission(this.#actor, 'backup:delete');
    const current = await this.#configuration(id);
    await this.#withLock(current, async () => {
      await endDeadAttempts(this.#context, this.#system, current);
      await this.#context.db.withTransaction(async (transaction) => {
        if (!(await this.#in(transaction).softDeleteConfig(id, this.#actor.userId)))
          throw notFound('configuration', id);
        await this.#audit(transaction, 'configuration.deleted', id, { name: current.name });
      });
    });
  }

  /**
   * Starts a FULL backup, or, with `execution: 'worker'`, queues it for the workers, who try again after failures that
   * may pass. Resolves with the QUEUED snapshot, or with `wait` when it has ended well. Permission `backup:create`.
   * Errors: `NOT_FOUND`, `INVALID_STATE` (the configuration is not ACTIVE), `BACKUP_ALREADY_RUNNING`, `NOT_SUPPORTED`,
   * `STORAGE_QUOTA_EXCEEDED` (nothing is entered; one that was queued before the quota was used up ends as FAILED);
   * with `wait` also what ended the run, as a `BackupError` with the snapshot's id.
   */
  async createSnapshot(input: CreateSnapshotInput, options: RunOptions = {}): Promise<BackupSnapshot> {
    requirePermission(this.#actor, 'backup:create');
    return startSnapshot(this.#asking, parseInput(CreateSnapshotSchema, 'The snapshot', input), options);
  }

  /** With live progress while it runs. Permission `backup:read`. Errors: `NOT_FOUND`. */
  async getSnapshot(id: UUID): Promise<BackupSnapshot> {
    requirePermission(this.#actor, 'backup:read');
    return this.#snapshot(id);
  }

  /** Newest first. Permission `backup:read`. */
  async listSnapshots(input: ListSnapshotsInput = {}): Promise<Page<BackupSnapshot>> {
    requirePermission(this.#actor, 'backup:read');
    return this.#repository.listSnapshots(parseInput(ListSnapshotsSchema, 'The list of snapshots', input));
  }

  /**
   * Stops a backup that is going on, in whatever process, within about a second; what it had stored is removed. Resolves
   * when the worker has been told, or, in the process that runs it, when it has stopped. A run whose process has died
   * is ended here. Permission `backup:create`. Errors: `NOT_FOUND`, `INVALID_STATE` when it has ended.
   */
  async cancelSnapshot(id: UUID): Promise<BackupSnapshot> {
    requirePermission(this.#actor, 'backup:create');
    return stopSnapshot(this.#asking, await this.#snapshot(id));
  }

  /**
   * Downloads everything of a snapshot and checks it: digests, encryption, lengths, numbers of rows. Damage is a result
   * (`passed: false`), not an error. Permission `backup:read`. Errors: `NOT_FOUND`, `INVALID_STATE`, `KEY_UNAVAILABLE`,
   * `STORAGE_*`.
   */
  async verifySnapshot(
    id: UUID,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<ValidationResults> {
    requirePermission(this.#actor, 'backup:read');
    const snapshot = await this.#snapshot(id);
    const signal = options.signal ?? new AbortController().signal;
    return verifySnapshotArchive(this.#context, snapshot, this.#actor.userId, signal);
  }

  /**
   * Verifies a snapshot in the background, or in a worker: see `verifySnapshot`, whose results are the job's `result`.
   * Permission `backup:read`. Errors: `NOT_FOUND`, `INVALID_STATE`.
   */
  async startVerification(snapshotId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:read');
    return requestForSnapshot(this.#asking, 'VERIFICATION', await this.#snapshot(snapshotId));
  }

  /**
   * Catches up the copies of a snapshot of a MULTI destination: every object of every copy is checked by its digests,
   * what is missing is stored. Begins by itself after each backup; one that waits after a failure is tried now. With
   * `execution: 'inline'` nobody retries a QUEUED job by itself unless a worker runs. The job's `result` is
   * `{ stored, damaged, copies }`; the state of each copy stands on `storageLocation.replicationLocations`. Permission `backup:create`. Errors: `NOT_FOUND`,
   * `INVALID_STATE`.
   */
  async startReplication(snapshotId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:create');
    return requestForSnapshot(this.#asking, 'REPLICATION', await this.#snapshot(snapshotId));
  }

  /** As `startReplication`, with its permission and result, and stores whole objects beside damaged ones, which readers then take. */
  async healSnapshot(snapshotId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:create');
    return requestForSnapshot(this.#asking, 'HEALING', await this.#snapshot(snapshotId));
  }

  /**
   * Moves the snapshots of a configuration to another destination, and then the configuration: copied, read back and
   * checked, switched one by one; what lay at the old place stays until `removeMigrated`. The job's `result` is
   * `{ snapshots, objects, bytes, damaged }`; `damaged` names snapshots that are whole nowhere and stay. One that is
   * QUEUED after a failure: `cancelJob`, then ask again, or run a worker. Permission `backup:admin`. Errors: `NOT_FOUND`, `VALIDATION_FAILED`, `INVALID_STATE`.
   */
  async migrateStorage(configurationId: UUID, to: StorageDestination): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:admin');
    return requestMigration(this.#asking, configurationId, { to });
  }

  /**
   * Removes what migrated snapshots left at their former places, each once all of it is read at the new one. Restores that
   * began before the move read the former place: wait for them. The job's
   * `result` is `{ snapshots, objects }`. Permission `backup:delete`. Errors: `NOT_FOUND`, `INVALID_STATE`.
   */
  async removeMigrated(configurationId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:delete');
    return requestMigration(this.#asking, configurationId, { remove: true });
  }

  /**
   * Which keys the organization's kept snapshots need, whether each opens the newest of them now, and how old it is.
   * `KEY_TOO_OLD` warns of a current key of 90 days or more; backups go on, without a warning of their own. Permission
   * `backup:admin`, for all branches. Errors: `FORBIDDEN`, `KEY_UNAVAILABLE`.
   */
  async getKeyStatus(options: { readonly signal?: AbortSignal } = {}): Promise<KeyStatus> {
    this.#requireKeyAdmin();
    return keyStatus(this.#asking, options.signal ?? new AbortController().signal);
  }

  /**
   * Makes a new current key, for all organizations that the key provider serves; older ones go on opening what they
   * wrapped. Permission `backup:admin`, for all branches. Errors: `FORBIDDEN`, `CONFIGURATION_INVALID` where keys come
   * from the host, `KEY_UNAVAILABLE`, `KEYRING_INVALID`.
   */
  async rotateKey(): Promise<RotatedKey> {
    this.#requireKeyAdmin();
    return rotateKey(this.#asking);
  }

  /**
   * Has the data keys of the organization's snapshots wrapped by the current key, in sidecars beside them: one job for
   * each configuration with snapshots that are wrapped otherwise, none where all is done. One that goes on is given
   * again. A job's `result` is `{ snapshots, keyId }`. Permission `backup:admin`, for all branches. Errors: `FORBIDDEN`,
   * `VALIDATION_FAILED`, `INVALID_STATE` (`toKeyId` is not the current key), `CONFIGURATION_INVALID`, `KEY_UNAVAILABLE`.
   */
  async rewrapKeys(input: RewrapKeysInput = {}): Promise<readonly StorageJob[]> {
    this.#requireKeyAdmin();
    return requestRewrapping(this.#asking, parseInput(RewrapKeysInputSchema, 'The re-wrapping', input));
  }

  /**
   * Removes a key that no kept snapshot of any organization needs, for good; from then on nothing new may be wrapped by
   * it. Harmless to repeat after a failure. Where only the host can remove keys it is `NOT_SUPPORTED`, which says how:
   * nothing needs the key then, and nothing new may be wrapped by it either. Permission `backup:admin`, for all branches.
   * Errors: `FORBIDDEN`, `VALIDATION_FAILED`, `KEY_IN_USE`, `INVALID_STATE` (the current key), `NOT_SUPPORTED`,
   * `KEY_UNAVAILABLE` (the provider has no such key), `KEYRING_INVALID`.
   */
  async retireKey(keyId: string): Promise<void> {
    this.#requireKeyAdmin();
    return retireKey(this.#asking, parseInput(KeyIdSchema, 'The key id', keyId));
  }

  /** Status, progress and result of a job. Permission `backup:read`. Errors: `NOT_FOUND`. */
  async getJobStatus(jobId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:read');
    return this.#job(jobId);
  }

  /** Stops a job, in whatever process, within a few seconds. Permission `backup:create`. Errors: `NOT_FOUND`, `INVALID_STATE`. */
  async cancelJob(jobId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:create');
    return cancelStorageJob(this.#asking, await this.#job(jobId));
  }

  /**
   * The next scheduled starts of a configuration as it is now, 1 to 1,000 of them. Permission `backup:read`. Errors:
   * `NOT_FOUND`, `VALIDATION_FAILED`.
   */
  async previewSchedule(configurationId: UUID, count = 10): Promise<readonly ScheduledStart[]> {
    requirePermission(this.#actor, 'backup:read');
    if (!Number.isSafeInteger(count) || count < 1 || count > MOST_STARTS) {
      throw new ValidationError('The preview', [
        {
          path: 'count',
          message: 'Is not a whole number from 1 to 1000.',
          remedy: 'Give one, or leave it out.',
        },
      ]);
    }
    const { id, schedule, timezone } = await this.#configuration(configurationId);
    const databaseSizeBytes = await lastSize(this.#repository, id);
    return previewSchedule(schedule, timezone, {
      configurationId: id,
      ...(databaseSizeBytes === undefined ? {} : { databaseSizeBytes }),
      from: this.#context.clock.now(),
      count,
    });
  }

  /**
   * What is stored, by configuration and by place, from the catalog; with `measure: true` also what the storages
   * themselves list, so that what belongs to no snapshot shows. A storage that cannot be listed is an `error` in its
   * entry. Permission `backup:read`. Errors: `NOT_FOUND`, `VALIDATION_FAILED`.
   */
  async getStorageUsage(
    input: StorageUsageInput = {},
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<StorageUsage> {
    requirePermission(this.#actor, 'backup:read');
    const parsed = parseInput(StorageUsageInputSchema, 'The question for the usage', input);
    return storageUsage(this.#asking, parsed, options.signal ?? new AbortController().signal);
  }

  /**
   * Size now, growth by calendar months and at which rate, when quotas will be used up, and what it costs in a month by
   * the `storagePrices` of `createDataProtection`. Permission `backup:read`. Errors: `NOT_FOUND`, `VALIDATION_FAILED`.
   */
  async getStorageAnalytics(input: StorageAnalyticsInput = {}): Promise<StorageAnalytics> {
    requirePermission(this.#actor, 'backup:read');
    const parsed = parseInput(StorageAnalyticsInputSchema, 'The question for the analytics', input);
    return storageAnalytics(this.#asking, parsed);
  }

  /**
   * Gives the rows of a snapshot as files, one per entity: see `docs/export.md`. Resolves when the first byte can be read,
   * which takes hours where the snapshot must be thawed; nothing has left then. Whoever goes through it pulls the rows;
   * memory stays flat. The audit log gets an entry when they begin to leave, and `snapshot.exported` with what left, also
   * where it ends early. `close()` ends it with `BACKUP_INTERRUPTED`. Permission `backup:restore`. Errors: `NOT_FOUND`,
   * `INVALID_STATE`, `ENTITY_*`, `NOT_SUPPORTED`, `DEPENDENCY_MISSING`, `KEY_UNAVAILABLE`, `ARCHIVE_*`, `STORAGE_*`; on the
   * way also `EXPORT_ROW_UNSUPPORTED`.
   *
   * @example
   * const files = await backups.exportSnapshot({ snapshotId, format: 'CSV' });
   * for await (const { fileName, chunks } of files) await pipeline(chunks, createWriteStream(fileName));
   */
  async exportSnapshot(
    input: ExportSnapshotInput,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<SnapshotExport> {
    requirePermission(this.#actor, 'backup:restore');
    const parsed = parseInput(ExportSnapshotSchema, 'The export', input);
    const signal = options.signal ?? new AbortController().signal;
    return exportSnapshot(this.#asking, await this.#snapshot(parsed.snapshotId), parsed, signal);
  }

  /**
   * Restores a snapshot, all or nothing: into the live tables (PRODUCTION, the default), whole or the part that `scope`
   * names, by `conflictResolutionStrategy` where rows stand that differ; or as a whole into a schema that does not exist
   * yet (STAGING or TEST with `schemaName`). One that requires approval (PRODUCTION does unless `requiresApproval` is
   * false) resolves as PENDING_APPROVAL; others as QUEUED, or with `wait` when they have ended well. Permission
   * `backup:restore`. Errors: `NOT_FOUND`, `INVALID_STATE`, `NOT_SUPPORTED`, `ENTITY_*`; with `wait` also what ended it.
   */
  async createRestoreOperation(
    input: CreateRestoreOperationInput,
    options: RunOptions = {},
  ): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:restore');
    const parsed = parseInput(CreateRestoreOperationSchema, 'The restore operation', input);
    return startRestore(this.#asking, await this.#snapshot(parsed.snapshotId), parsed, options);
  }

  /**
   * What a restore into the live tables would do at this moment, by entity, with the rows that deletes would take along.
   * Reads the snapshot and compares it; changes nothing. Permission `backup:restore`. Errors as `createRestoreOperation`.
   */
  async planRestore(
    input: CreateRestoreOperationInput,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<RestorePreview> {
    requirePermission(this.#actor, 'backup:restore');
    const parsed = parseInput(CreateRestoreOperationSchema, 'The restore', input);
    const signal = options.signal ?? new AbortController().signal;
    return planRestore(this.#asking, await this.#snapshot(parsed.snapshotId), parsed, signal);
  }

  /**
   * Approves a restore that waits for it, and runs it in the background of this process; with `wait` it resolves when it
   * has ended well. Permission `backup:approve`, and another person than who requested it. Errors: `NOT_FOUND`,
   * `FORBIDDEN`, `INVALID_STATE`; with `wait` also what ended it.
   */
  async approveRestoreOperation(
    id: UUID,
    options: RunOptions & { readonly notes?: string } = {},
  ): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:approve');
    const restore = await this.#restore(id);
    const snapshot = await this.#snapshot(restore.snapshotId);
    return approveRestore(this.#asking, restore, snapshot, options.notes ?? null, options);
  }

  /** Rejects a restore that waits for approval, for good. Permission and errors as `approveRestoreOperation`. */
  async rejectRestoreOperation(id: UUID, notes?: string): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:approve');
    return decideRestore(this.#asking, await this.#restore(id), 'REJECTED', notes ?? null);
  }

  /**
   * Puts back what a restore into the live tables changed, all or nothing. Rows that somebody has written since stay as
   * they are and become conflicts (`listRestoreConflicts`). Permission `backup:restore`. Errors: `NOT_FOUND`,
   * `INVALID_STATE`, `FORBIDDEN`, `RESTORE_*`, `DATABASE_*`.
   */
  async rollbackRestore(
    id: UUID,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:restore');
    const restore = await this.#restore(id);
    requireRollback(this.#asking, restore);
    return rollbackRestore(this.#asking, restore, options.signal ?? new AbortController().signal);
  }

  /** The rows that a restore, or its rollback, left to people; newest first. Permission `backup:restore`: they hold the rows. */
  async listRestoreConflicts(id: UUID, input: ListInput = {}): Promise<Page<RestoreConflict>> {
    requirePermission(this.#actor, 'backup:restore');
    const restore = await this.#restore(id);
    requireWholeRestore(this.#actor, restore);
    return this.#repository.listRestoreConflicts(restore.id, input);
  }

  /**
   * Decides about a row that a restore or its rollback left, and carries it out, where the row is still the one that the
   * conflict shows. Permission `backup:restore`. Errors: `NOT_FOUND`, `VALIDATION_FAILED`, `INVALID_STATE` (it has been
   * decided, or the row is in other hands), `FORBIDDEN`, `CONFLICT_STALE`, `RESTORE_*`.
   */
  async resolveRestoreConflict(
    input: ResolveRestoreConflictInput,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<RestoreConflict> {
    requirePermission(this.#actor, 'backup:restore');
    const parsed = parseInput(ResolveRestoreConflictSchema, 'The decision', input);
    const conflict = await this.#repository.findRestoreConflict(parsed.conflictId);
    if (conflict === undefined) throw notFound('restore conflict', parsed.conflictId);
    const restore = await this.#restore(conflict.restoreId);
    requireWholeRestore(this.#actor, restore);
    if (conflict.status !== 'PENDING') {
      throw new DataProtectionError('The conflict has been decided', 'INVALID_STATE');
    }
    const signal = options.signal ?? new AbortController().signal;
    return resolveConflict(this.#asking, restore, conflict, parsed, signal);
  }

  /** With live progress while it runs. Permission `backup:read`. Errors: `NOT_FOUND`. */
  async getRestoreOperation(id: UUID): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:read');
    return this.#restore(id);
  }

  /**
   * Stops a restore of this process; nothing of it stays. One whose process has died is ended here. Permission
   * `backup:restore`. Errors: `NOT_FOUND`, `INVALID_STATE` when it has ended or runs in another process.
   */
  async cancelRestoreOperation(id: UUID): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:restore');
    return stopRestore(this.#asking, await this.#restore(id));
  }

  /**
   * Who did what, newest first; what was done in offline sync too. Permission `backup:admin`, and not limited to branches.
   * Errors: `VALIDATION_FAILED`.
   */
  async listAuditLog(input: ListAuditLogInput = {}): Promise<Page<AuditEntry>> {
    const { context, organizationId } = this.#auditAsking();
    return auditTrail(context.db, organizationId).list(
      parseInput(ListAuditLogSchema, 'The list of the audit log', input),
    );
  }

  /**
   * Verifies every entry of the audit log, each link, and every checkpoint in the database and in the default storage. What
   * is wrong is a result (`valid: false` with the first `problem`), not an error, and is told as `audit.broken`. Permission
   * `backup:admin`, and not limited to branches. Errors: `STORAGE_*`, `KEY_UNAVAILABLE` where they do not answer.
   */
  async verifyAuditLog(options: { readonly signal?: AbortSignal } = {}): Promise<AuditVerdict> {
    return verifyAuditLog(this.#auditAsking(), options.signal ?? new AbortController().signal);
  }

  /**
   * Signs the audit log as it is now, in the database and in the default storage. The newest checkpoint where nothing has been
   * entered since. Workers make one a day. Permission `backup:admin`, and not limited to branches. Errors:
   * `AUDIT_LOG_BROKEN`, `INVALID_STATE` before the first entry, `KEY_UNAVAILABLE`, `CONFIGURATION_INVALID`, `STORAGE_*`.
   */
  async createAuditCheckpoint(): Promise<AuditCheckpoint> {
    return createAuditCheckpoint(this.#auditAsking());
  }

  /**
   * Removes entries from before `before` for good, up to the newest authenticated checkpoint among them, once the whole log
   * has been verified. Permission `backup:admin`, and not limited to branches. Errors: `VALIDATION_FAILED`,
   * `AUDIT_LOG_BROKEN`, `CONFIGURATION_INVALID` without a key provider, `INVALID_STATE` where no authenticated checkpoint
   * covers them, and as `verifyAuditLog`.
   */
  async pruneAuditLog(
    input: PruneAuditLogInput,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<PrunedAuditLog> {
    const asking = this.#auditAsking();
    const parsed = parseInput(PruneAuditLogSchema, 'The pruning of the audit log', input);
    return pruneAuditLog(asking, parsed, options.signal ?? new AbortController().signal);
  }

  /** Throws `FORBIDDEN` unless the actor may see the whole organization's audit log. */
  #auditAsking(): AuditAsking {
    requirePermission(this.#actor, 'backup:admin');
    requireAllBranches(this.#actor, 'The audit log');
    const { organizationId, userId } = this.#actor;
    return { context: this.#context, organizationId, userId };
  }

  #requireKeyAdmin(): void {
    requirePermission(this.#actor, 'backup:admin');
    requireWholeOrganization(this.#asking);
  }

  get #asking(): Asking {
    return {
      context: this.#context,
      actor: this.#actor,
      repository: this.#repository,
      system: this.#system,
    };
  }

  #in(transaction: Transaction): BackupRepository {
    return this.#context.repository(this.#actor, transaction);
  }

  #defaultDestination() {
    const { defaultDestination } = this.#context;
    if (defaultDestination !== undefined) return defaultDestination;
    throw new DataProtectionError(
      'The configuration names no `storageDestination` and createDataProtection was given none',
      'CONFIGURATION_INVALID',
    );
  }

  async #configuration(id: UUID): Promise<BackupConfiguration> {
    const found = await this.#repository.findConfigById(id);
    if (found === undefined) throw notFound('configuration', id);
    return found;
  }

  async #snapshot(id: UUID): Promise<BackupSnapshot> {
    const found = await this.#repository.findSnapshotById(id);
    if (found === undefined) throw notFound('snapshot', id);
    return found;
  }

  async #job(id: UUID): Promise<StorageJob> {
    const found = await this.#repository.findStorageJobById(id);
    if (found === undefined) throw notFound('storage job', id);
    return found;
  }

  async #restore(id: UUID): Promise<RestoreOperation> {
    const found = await this.#repository.findRestoreById(id);
    if (found === undefined) throw notFound('restore operation', id);
    return found;
  }

  async #setStatus(
    id: UUID,
    status: BackupConfigStatus,
    from: readonly BackupConfigStatus[],
    permission: 'backup:create' | 'backup:delete',
    reason?: string,
  ): Promise<BackupConfiguration> {
    requirePermission(this.#actor, permission);
    const current = await this.#configuration(id);
    requireStatus(current, from, `become ${status}`);
    return this.#change(
      current,
      `configuration.${status.toLowerCase()}`,
      {
        status,
        statusReason: reason ?? null,
        // What was missed while it was not ACTIVE is not caught up.
        ...(status === 'ACTIVE'
          ? {
              nextScheduledBackupAt: nextBackupAt(
                current,
                this.#context.clock.now(),
                await lastSize(this.#repository, id),
              ),
            }
          : {}),
      },
      { from: current.status },
    );
  }

  async #change(
    current: BackupConfiguration,
    action: string,
    changes: Parameters<BackupRepository['updateConfig']>[1],
    details: { readonly [key: string]: Json },
  ): Promise<BackupConfiguration> {
    return this.#context.db.withTransaction(async (transaction) => {
      const changed = await this.#in(transaction).updateConfig(current.id, changes, {
        expectedUpdatedAt: current.updatedAt,
      });
      if (changed === undefined) {
        throw new DataProtectionError(
          'The configuration was changed by somebody else meanwhile; read it again',
          'INVALID_STATE',
          { retryable: true },
        );
      }
      await this.#audit(transaction, action, current.id, details);
      return changed;
    });
  }

  async #withLock<T>(configuration: BackupConfiguration, work: () => Promise<T>): Promise<T> {
    const lock = await this.#context.locks.tryConfiguration(configuration.id);
    if (lock === undefined) throw alreadyRunning(configuration);
    try {
      return await work();
    } finally {
      await lock.release();
    }
  }

  async #keyId({ encryptionEnabled }: { readonly encryptionEnabled: boolean }): Promise<string | null> {
    const { keys } = this.#context;
    if (!encryptionEnabled || keys === undefined) return null;
    return keys.currentKeyId().catch((error: unknown) => {
      throw keyFailure(error);
    });
  }

  async #audit(
    transaction: Transaction,
    action: string,
    resourceId: UUID,
    details: { readonly [key: string]: Json },
  ): Promise<void> {
    await this.#context.audit.append(transaction, {
      organizationId: this.#actor.organizationId,
      action,
      userId: this.#actor.userId,
      resourceType: action.startsWith('configuration') ? 'backup_configuration' : 'backup_snapshot',
      resourceId,
      details,
    });
  }
}
