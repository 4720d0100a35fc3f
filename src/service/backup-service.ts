import { uuidv7 } from 'uuidv7';
import { attemptPrefix } from '../archive/format.ts';
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
  UpdateBackupConfigInput,
  ValidationResults,
} from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
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
import { allowedBranches, requireOwnOrganization, requirePermission } from './authorize.ts';
import { boundActor } from './bound-actor.ts';
import type { ServiceContext } from './context.ts';
import { endDeadAttempts } from './dead-attempts.ts';
import { asBackupError, isCancellation, keyFailure } from './failure.ts';
import { endDeadRestores, restoreEntry, runRestore } from './restore-run.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import { runSnapshot } from './snapshot-run.ts';
import { requireSupportedConfiguration, requireSupportedRestore } from './supported.ts';
import { verifyArchive } from './verification.ts';

export interface RunOptions {
  /** true: resolves when the run has ended, and rejects with what ended it if it did not succeed. */
  readonly wait?: boolean;
}

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
    await requireSupportedConfiguration(this.#context, this.#actor, { ...settings, branchIds });
    const encryptionKeyId = await this.#keyId(settings);
    return this.#context.db.withTransaction(async (transaction) => {
      const created = await this.#in(transaction).insertConfig({
        ...settings,
        id: uuidv7(),
        branchIds,
        encryptionKeyId,
        status: 'ACTIVE',
        statusReason: null,
        nextScheduledBackupAt: null,
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
    await requireSupportedConfiguration(this.#context, this.#actor, { ...settings, branchIds });
    const encryptionKeyId = await this.#keyId(settings);
    return this.#change(
      current,
      'configuration.updated',
      { ...settings, branchIds, encryptionKeyId },
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
   * Starts a FULL backup. Resolves with the QUEUED snapshot, or with `wait` when it has ended well. Permission
   * `backup:create`. Errors: `NOT_FOUND`, `INVALID_STATE` (the configuration is not ACTIVE), `BACKUP_ALREADY_RUNNING`,
   * `NOT_SUPPORTED`; with `wait` also what ended the run, as a `BackupError` with the snapshot's id.
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
    await requireSupportedConfiguration(this.#context, this.#actor, {
      ...asked,
      configType: parsed.snapshotType ?? asked.configType,
    });
    const lock = await this.#context.locks.tryConfiguration(asked.id);
    if (lock === undefined) throw alreadyRunning(asked);
    try {
      await endDeadAttempts(this.#context, this.#system, asked);
      // It may have been paused or changed while what was left of dead runs was removed.
      const configuration = await this.#configuration(asked.id);
      requireStatus(configuration, ['ACTIVE'], 'be backed up');
      if (configuration.updatedAt !== asked.updatedAt) {
        await requireSupportedConfiguration(this.#context, this.#actor, {
          ...configuration,
          configType: parsed.snapshotType ?? configuration.configType,
        });
      }
      const opened = this.#context.openStorage(configuration.storageDestination);
      const attemptId = uuidv7();
      const snapshot = await this.#queue(configuration, parsed, attemptId, opened.prefix);
      const context = this.#context;
      const ended = context.work.start(snapshot.id, async (signal) => {
        try {
          context.events.emit('snapshot.started', { snapshot });
          const run = { context, repository: this.#system, configuration, snapshot, attemptId, opened, lock };
          await runSnapshot({ ...run, signal }).finally(() => lock.release());
        } catch (error) {
          throw this.#announceFailure(snapshot, error);
        }
        return this.#announce(snapshot.id);
      });
      if (options.wait === true) return await ended;
      ended.catch(() => undefined);
      return snapshot;
    } catch (error) {
      await lock.release();
      throw error;
    }
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
    const { clock, db, events } = this.#context;
    const results = await this.#verify(snapshot, options.signal ?? new AbortController().signal);
    await db.withTransaction(async (transaction) => {
      await this.#in(transaction).recordVerification(id, {
        integrityVerified: results.passed,
        integrityVerifiedAt: clock.now().toISOString(),
      });
      await this.#audit(transaction, 'snapshot.verified', id, {
        passed: results.passed,
        records: results.recordsFound,
      });
    });
    events.emit('snapshot.verified', { snapshotId: id, organizationId: snapshot.organizationId, results });
    return results;
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
      { status, statusReason: reason ?? null },
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

  /** Enters the snapshot and its attempt together, so that no run exists that nobody can find dead. */
  async #queue(
    configuration: BackupConfiguration,
    input: CreateSnapshotInput,
    attemptId: UUID,
    prefix: string,
  ): Promise<BackupSnapshot> {
    return this.#context.db.withTransaction(async (transaction) => {
      const repository = this.#in(transaction);
      const snapshot = await repository.insertSnapshot({
        id: uuidv7(),
        configurationId: configuration.id,
        snapshotType: input.snapshotType ?? configuration.configType,
        trigger: input.trigger ?? 'MANUAL',
        generation: 0,
        scheduledAt: null,
        checksumAlgorithm: configuration.checksumAlgorithm,
        encrypted: configuration.encryptionEnabled,
        encryptionKeyId: null,
        encryptionAlgorithm: configuration.encryptionEnabled ? 'AES-256-GCM' : null,
        compressed: configuration.compressionEnabled,
        compressionAlgorithm: configuration.compressionAlgorithm,
        expiresAt: null,
        parentSnapshotId: null,
        tags: input.tags ?? {},
        notes: input.notes ?? null,
        customFields: {},
        requestedBy: this.#actor.userId,
      });
      if (snapshot === undefined) throw notFound('configuration', configuration.id);
      const identity = { ...snapshot, snapshotId: snapshot.id, attemptId };
      await repository.createAttempt({
        id: attemptId,
        snapshotId: snapshot.id,
        storagePrefix: attemptPrefix(prefix, identity),
        worker: this.#context.worker,
      });
      await this.#audit(transaction, 'snapshot.requested', snapshot.id, {
        snapshotNumber: snapshot.snapshotNumber,
        configurationId: configuration.id,
      });
      return snapshot;
    });
  }

  async #announce(id: UUID): Promise<BackupSnapshot> {
    const snapshot = await this.#system.findSnapshotById(id);
    if (snapshot === undefined) throw notFound('snapshot', id);
    this.#context.events.emit('snapshot.completed', { snapshot, warnings: snapshot.warnings });
    return snapshot;
  }

  #announceFailure(snapshot: BackupSnapshot, reason: unknown): BackupError {
    const { events, logger } = this.#context;
    const failure = asBackupError(reason, snapshot.id);
    const { code, message } = failure;
    const about = { snapshotId: snapshot.id, organizationId: snapshot.organizationId };
    logger.error({ ...about, code, message }, 'A backup ended without success');
    if (isCancellation(reason)) events.emit('snapshot.cancelled', about);
    else events.emit('snapshot.failed', { ...about, code, message });
    return failure;
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

  async #verify(snapshot: BackupSnapshot, signal: AbortSignal): Promise<ValidationResults> {
    try {
      return await verifyArchive(
        await openSnapshotArchive(this.#context, snapshot, signal),
        this.#context.clock,
        signal,
      );
    } catch (error) {
      if (!(error instanceof DataProtectionError) || !error.code.startsWith('ARCHIVE_')) throw error;
      return {
        passed: false,
        validatedAt: this.#context.clock.now().toISOString(),
        recordsExpected: snapshot.dataMetrics?.totalRecords ?? 0,
        recordsFound: 0,
        checks: [{ name: 'manifest', passed: false, details: error.message }],
      };
    }
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
