import { isDeepStrictEqual } from 'node:util';
import { uuidv7 } from 'uuidv7';
import type { SessionLock } from '../repository/advisory-lock.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Transaction } from '../repository/database.ts';
import type { Actor } from '../types/actor.ts';
import type {
  BackupConfigStatus,
  BackupConfiguration,
  BackupSnapshot,
  CreateBackupConfigInput,
  CreateRestoreOperationInput,
  CreateSnapshotInput,
  ListConfigurationsInput,
  ListSnapshotsInput,
  Page,
  RestoreDestination,
  RestoreOperation,
  RestoreType,
  StorageDestination,
  StorageJob,
  UpdateBackupConfigInput,
  ValidationResults,
} from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { previewSchedule, type ScheduledStart } from '../utils/schedule.ts';
import {
  applyConfigUpdate,
  CreateBackupConfigSchema,
  CreateRestoreOperationSchema,
  CreateSnapshotSchema,
  ListConfigurationsSchema,
  ListSnapshotsSchema,
  parseInput,
  UpdateBackupConfigSchema,
  withConfigDefaults,
} from '../validation/index.ts';
import { runAttempt } from './attempt-run.ts';
import { allowedBranches, requireOwnOrganization, requirePermission } from './authorize.ts';
import { boundActor } from './bound-actor.ts';
import { endBadly } from './catalog-end.ts';
import type { ServiceContext } from './context.ts';
import { endDeadAttempts } from './dead-attempts.ts';
import { asBackupError, keyFailure } from './failure.ts';
import { waitForSnapshot } from './queued-snapshots.ts';
import { endDeadRestores, restoreEntry, runRestore } from './restore-run.ts';
import { lastSize, nextBackupAt } from './schedules.ts';
import { enterAttempt, enterSnapshot, type SnapshotRequest } from './snapshot-request.ts';
import { type Asking, cancelStorageJob, requestForSnapshot, requestMigration } from './storage-requests.ts';
import { requireSupportedConfiguration, requireSupportedRestore } from './supported.ts';
import { verifySnapshotArchive } from './verify-snapshot.ts';

export interface RunOptions {
  /** true: resolves when the run has ended, and rejects with what ended it if it did not succeed. */
  readonly wait?: boolean;
}

/** Tries of a backup that workers run. */
const MAX_ATTEMPTS = 3;

const RUNNING = ['QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING'];

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
    const nextScheduledBackupAt = isDeepStrictEqual(
      [settings.schedule, settings.timezone],
      [current.schedule, current.timezone],
    )
      ? current.nextScheduledBackupAt
      : nextBackupAt({ ...settings, id }, clock.now(), size);
    return this.#change(
      current,
      'configuration.updated',
      { ...settings, branchIds, encryptionKeyId, nextScheduledBackupAt },
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
   * Errors: `NOT_FOUND`, `INVALID_STATE` (the configuration is not ACTIVE), `BACKUP_ALREADY_RUNNING`, `NOT_SUPPORTED`;
   * with `wait` also what ended the run, as a `BackupError` with the snapshot's id.
   */
  async createSnapshot(input: CreateSnapshotInput, options: RunOptions = {}): Promise<BackupSnapshot> {
    requirePermission(this.#actor, 'backup:create');
    const parsed = parseInput(CreateSnapshotSchema, 'The snapshot', input);
    const asked = await this.#configuration(parsed.configurationId);
    requireStatus(asked, ['ACTIVE'], 'be backed up');
    if (parsed.parentSnapshotId !== undefined) {
      throw new DataProtectionError(
        'Snapshots that build on a parent come with a later version. Leave `parentSnapshotId` out',
        'NOT_SUPPORTED',
      );
    }
    await this.#requireSupported(asked, parsed);
    return this.#context.execution === 'worker'
      ? this.#queueForWorkers(asked, parsed, options)
      : this.#startHere(asked, parsed, options);
  }

  async #queueForWorkers(
    configuration: BackupConfiguration,
    input: CreateSnapshotInput,
    options: RunOptions,
  ): Promise<BackupSnapshot> {
    const context = this.#context;
    const snapshot = await context.db.withTransaction(async (transaction) => {
      const repository = this.#in(transaction);
      const queued = await enterSnapshot(
        context,
        transaction,
        repository,
        this.#request(configuration, input),
      );
      await repository.enqueueRun(queued.id, {
        maxAttempts: MAX_ATTEMPTS,
        notBefore: context.clock.now().toISOString(),
        mustEndBy: null,
        maxDurationMs: null,
      });
      return queued;
    });
    const { id, organizationId } = snapshot;
    await context.wake({ kind: 'BACKUP', key: id, data: { organizationId, snapshotId: id } });
    return options.wait === true ? waitForSnapshot(this.#system, snapshot) : snapshot;
  }

  async #startHere(
    asked: BackupConfiguration,
    input: CreateSnapshotInput,
    options: RunOptions,
  ): Promise<BackupSnapshot> {
    const context = this.#context;
    const lock = await context.locks.tryConfiguration(asked.id);
    if (lock === undefined) throw alreadyRunning(asked);
    try {
      await endDeadAttempts(context, this.#system, asked);
      // It may have been paused or changed while what was left of dead runs was removed.
      const configuration = await this.#configuration(asked.id);
      requireStatus(configuration, ['ACTIVE'], 'be backed up');
      if (configuration.updatedAt !== asked.updatedAt) await this.#requireSupported(configuration, input);
      const opened = context.openStorage(configuration.storageDestination);
      // Snapshot and attempt together, so that no run exists that nobody can find dead.
      const { snapshot, attemptId } = await context.db.withTransaction(async (transaction) => {
        const repository = this.#in(transaction);
        const entered = await enterSnapshot(
          context,
          transaction,
          repository,
          this.#request(configuration, input),
        );
        return { snapshot: entered, attemptId: await enterAttempt(context, repository, entered, opened) };
      });
      const run = { context, repository: this.#system, configuration, snapshot, attemptId, opened, lock };
      const ended = runAttempt({ ...run, limits: undefined });
      if (options.wait === true) return await ended;
      ended.catch(() => undefined);
      return snapshot;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  #request(configuration: BackupConfiguration, input: CreateSnapshotInput): SnapshotRequest {
    return {
      configuration,
      trigger: input.trigger ?? 'MANUAL',
      scheduledAt: null,
      requestedBy: this.#actor.userId,
      input,
    };
  }

  #requireSupported(configuration: BackupConfiguration, input: CreateSnapshotInput): Promise<void> {
    return requireSupportedConfiguration(this.#context, this.#actor.organizationId, {
      ...configuration,
      configType: input.snapshotType ?? configuration.configType,
    });
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
    const snapshot = await this.#snapshot(id);
    if (!RUNNING.includes(snapshot.status)) {
      throw notCancellable(snapshot, `is ${snapshot.status}`);
    }
    const reason = new BackupError('The backup was cancelled', 'BACKUP_CANCELLED', id, false);
    // One that waits for a worker ends here.
    if (snapshot.status === 'QUEUED' && (await endBadly(this.#context, snapshot, null, reason))) {
      this.#context.events.emit('snapshot.cancelled', {
        snapshotId: id,
        organizationId: snapshot.organizationId,
      });
      return this.#snapshot(id);
    }
    await this.#context.db.withTransaction(async (transaction) => {
      if (!(await this.#in(transaction).requestCancel(id)))
        throw notCancellable(snapshot, 'has ended meanwhile');
      await this.#audit(transaction, 'snapshot.cancel_requested', id, {
        snapshotNumber: snapshot.snapshotNumber,
      });
    });
    if (!(await this.#context.work.cancel(id, reason))) {
      const configuration = await this.#repository.findConfigOfSnapshot(id);
      const lock = configuration && (await this.#context.locks.tryConfiguration(configuration.id));
      if (configuration !== undefined && lock !== undefined) {
        try {
          await endDeadAttempts(this.#context, this.#system, configuration, reason);
        } finally {
          await lock.release();
        }
      }
    }
    return this.#snapshot(id);
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
   * what is missing is stored. Begins by itself after each backup. The job's `result` is `{ stored, copies }`; the state
   * of each copy stands on `storageLocation.replicationLocations`. Permission `backup:create`. Errors: `NOT_FOUND`,
   * `INVALID_STATE`.
   */
  async startReplication(snapshotId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:create');
    return requestForSnapshot(this.#asking, 'REPLICATION', await this.#snapshot(snapshotId));
  }

  /** As `startReplication`, and stores whole objects beside damaged ones, which readers then take. */
  async healSnapshot(snapshotId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:create');
    return requestForSnapshot(this.#asking, 'HEALING', await this.#snapshot(snapshotId));
  }

  /**
   * Moves the snapshots of a configuration to another destination, and then the configuration: copied, read back and
   * checked, switched one by one; what lay at the old place stays until `removeMigrated`. The job's `result` is
   * `{ snapshots, objects, bytes }`. Permission `backup:admin`. Errors: `NOT_FOUND`, `VALIDATION_FAILED`, `INVALID_STATE`.
   */
  async migrateStorage(configurationId: UUID, to: StorageDestination): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:admin');
    return requestMigration(this.#asking, configurationId, { to });
  }

  /**
   * Removes what migrated snapshots left at their former places, each once all of it is seen at the new one. The job's
   * `result` is `{ snapshots, objects }`. Permission `backup:delete`. Errors: `NOT_FOUND`, `INVALID_STATE`.
   */
  async removeMigrated(configurationId: UUID): Promise<StorageJob> {
    requirePermission(this.#actor, 'backup:delete');
    return requestMigration(this.#asking, configurationId, { remove: true });
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

  /** The next scheduled starts of a configuration as it is now. Permission `backup:read`. Errors: `NOT_FOUND`. */
  async previewSchedule(configurationId: UUID, count = 10): Promise<readonly ScheduledStart[]> {
    requirePermission(this.#actor, 'backup:read');
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
   * Restores a snapshot as a whole into a schema that does not exist yet (destination STAGING or TEST with
   * `schemaName`). All or nothing. Resolves with the QUEUED operation, or with `wait` when it has ended well. Permission
   * `backup:restore`. Errors: `NOT_FOUND`, `INVALID_STATE`, `NOT_SUPPORTED`; with `wait` also what ended it.
   */
  async createRestoreOperation(
    input: CreateRestoreOperationInput,
    options: RunOptions = {},
  ): Promise<RestoreOperation> {
    requirePermission(this.#actor, 'backup:restore');
    const parsed = parseInput(CreateRestoreOperationSchema, 'The restore operation', input);
    const snapshot = await this.#snapshot(parsed.snapshotId);
    const { restoreType, destination, targetSchema } = requireSupportedRestore(snapshot, parsed);
    const context = this.#context;
    await endDeadRestores(context, this.#system);
    const id = uuidv7();
    const lock = await context.locks.tryRestore(id);
    if (lock === undefined) throw new DataProtectionError('The lock of a new restore is held', 'INTERNAL');
    try {
      const restore = await this.#queueRestore(id, snapshot, parsed, { restoreType, destination });
      const ended = context.work.start(id, async (signal) => {
        try {
          context.events.emit('restore.started', { restore });
          const run = { context, repository: this.#system, restore, snapshot, targetSchema };
          await runRestore({ ...run, signal: unlessLost(lock, snapshot, signal) }).finally(() =>
            lock.release(),
          );
        } catch (error) {
          throw this.#announceFailedRestore(restore, error);
        }
        const done = await this.#system.findRestoreById(id);
        if (done === undefined) throw notFound('restore operation', id);
        context.events.emit('restore.completed', { restore: done });
        return done;
      });
      if (options.wait === true) return await ended;
      ended.catch(() => undefined);
      return restore;
    } catch (error) {
      await lock.release();
      throw error;
    }
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
    const restore = await this.#restore(id);
    const reason = new BackupError(
      'The restore was cancelled',
      'RESTORE_CANCELLED',
      restore.snapshotId,
      false,
    );
    if (await this.#context.work.cancel(restore.id, reason)) return this.#restore(id);
    await endDeadRestores(this.#context, this.#system);
    const found = await this.#restore(id);
    if (found.status !== restore.status) return found;
    throw new BackupError(
      `Restore ${found.restoreNumber} is ${found.status} and does not run in this process`,
      'INVALID_STATE',
      found.snapshotId,
      false,
    );
  }

  get #asking(): Asking {
    return { context: this.#context, actor: this.#actor, repository: this.#repository };
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

  async #queueRestore(
    id: UUID,
    snapshot: BackupSnapshot,
    input: CreateRestoreOperationInput,
    what: { readonly restoreType: RestoreType; readonly destination: RestoreDestination },
  ): Promise<RestoreOperation> {
    return this.#context.db.withTransaction(async (transaction) => {
      const restore = await this.#in(transaction).insertRestore({
        id,
        snapshotId: snapshot.id,
        restoreType: what.restoreType,
        requestedBy: this.#actor.userId,
        scope: input.scope ?? {},
        restoreDestination: what.destination,
        validationEnabled: input.validationEnabled ?? true,
        conflictResolutionStrategy: input.conflictResolutionStrategy ?? 'BACKUP_WINS',
        requiresApproval: false,
        rollbackEnabled: false,
        notes: input.notes ?? null,
        customFields: {},
        status: 'QUEUED',
      });
      if (restore === undefined) throw notFound('snapshot', snapshot.id);
      await this.#context.audit.append(transaction, restoreEntry(restore, 'restore.requested', 'QUEUED'));
      return restore;
    });
  }

  #announceFailedRestore(restore: RestoreOperation, reason: unknown): BackupError {
    const { events, logger } = this.#context;
    const failure = asBackupError(reason, restore.snapshotId);
    const { code, message } = failure;
    const about = { restoreId: restore.id, organizationId: restore.organizationId };
    logger.error({ ...about, code, message }, 'A restore ended without success');
    events.emit('restore.failed', { ...about, code, message });
    return failure;
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

const notFound = (what: string, id: UUID): DataProtectionError =>
  new DataProtectionError(`There is no ${what} ${id}`, 'NOT_FOUND');

const notCancellable = (snapshot: BackupSnapshot, why: string): BackupError =>
  new BackupError(
    `Snapshot ${snapshot.snapshotNumber} ${why} and cannot be cancelled`,
    'INVALID_STATE',
    snapshot.id,
    false,
  );

const alreadyRunning = (configuration: BackupConfiguration): DataProtectionError =>
  new DataProtectionError(
    `A backup of configuration ${configuration.id} is running`,
    'BACKUP_ALREADY_RUNNING',
  );

/** Aborts also when the lock that says that the restore is alive is lost. */
function unlessLost(lock: SessionLock, snapshot: BackupSnapshot, signal: AbortSignal): AbortSignal {
  const stop = new AbortController();
  const lose = (): void =>
    stop.abort(
      new BackupError(
        'The lock of the restore was lost with its connection',
        'DATABASE_UNAVAILABLE',
        snapshot.id,
      ),
    );
  lock.lost.addEventListener('abort', lose, { once: true });
  if (lock.lost.aborted) lose();
  return AbortSignal.any([signal, stop.signal]);
}

function requireStatus(
  configuration: BackupConfiguration,
  allowed: readonly BackupConfigStatus[],
  action: string,
): void {
  if (allowed.includes(configuration.status)) return;
  throw new DataProtectionError(
    `The configuration is ${configuration.status} and cannot ${action}; it must be ${allowed.join(' or ')}`,
    'INVALID_STATE',
  );
}
