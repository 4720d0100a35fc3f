import {
  createOfflineSyncRepository,
  type OfflineSyncRepository,
} from '../repository/offline-sync-repository.ts';
import type { Actor, Permission } from '../types/actor.ts';
import type { Page } from '../types/backup.ts';
import { DataProtectionError, SyncError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type {
  AdmissionAnswer,
  ApproveOperationInput,
  DeviceHealth,
  DeviceInfo,
  EditOperationInput,
  ListConflictsInput,
  ListOperationsInput,
  ListSyncEventsInput,
  NetworkStatus,
  OfflineEntity,
  OfflineSession,
  OfflineSyncQueue,
  OperationState,
  ProcessingSummary,
  QueueOperationInput,
  QueueOptions,
  ResolveConflictInput,
  SyncConflict,
  SyncEvent,
  SyncStatistics,
  SyncStatisticsInput,
} from '../types/offline-sync.ts';
import {
  ApproveOperationSchema,
  EditOperationSchema,
  ListConflictsSchema,
  ListOperationsSchema,
  ListSyncEventsSchema,
  NetworkStatusSchema,
  parseInput,
  QueueOptionsSchema,
  ResolveConflictSchema,
  StartOfflineSessionSchema,
  SyncStatisticsInputSchema,
} from '../validation/index.ts';
import { notFound } from './asking.ts';
import { requirePermission } from './authorize.ts';
import { boundActor } from './bound-actor.ts';
import { admitOperations } from './sync-admit.ts';
import type { SyncContext } from './sync-context.ts';
import { decideConflict } from './sync-decisions.ts';
import { approve, cancel, edit, pause, redrive, refuse, resume } from './sync-interventions.ts';
import { processDevice, processOne } from './sync-process.ts';
import { readEntities } from './sync-read.ts';

/**
 * Offline sync on behalf of one actor, whose organization and branches bound everything that it sees and does. What
 * lies outside is `NOT_FOUND`; a missing permission is `FORBIDDEN`. What an actor handed in himself he may always see.
 */
export class OfflineSyncService {
  readonly #context: SyncContext;
  readonly #actor: Actor;
  /** What the actor may see. */
  readonly #repository: OfflineSyncRepository;

  /** Throws `VALIDATION_FAILED` where the actor is none. Later changes of the object that is given have no effect. */
  constructor(context: SyncContext, actor: Actor) {
    this.#context = context;
    this.#actor = boundActor(actor);
    this.#repository = createOfflineSyncRepository(context.db, this.#actor);
  }

  /**
   * Takes one operation; see `queueOperations`. Permission `sync:write`. Throws a `SyncError` with the code and the
   * operation's id where it is not taken: `VALIDATION_FAILED`, `FORBIDDEN`, `IDEMPOTENCY_MISMATCH`, `SEQUENCE_CONFLICT`,
   * `DEPENDENCY_CYCLE`, `APPEND_ONLY`.
   */
  async queueOperation(
    input: QueueOperationInput,
    options: QueueOptions = {},
  ): Promise<Exclude<AdmissionAnswer, { status: 'REJECTED' }>> {
    const [answer] = await this.queueOperations([input], options);
    if (answer === undefined) throw new DataProtectionError('An operation was not answered', 'INTERNAL');
    if (answer.status !== 'REJECTED') return answer;
    const issues = answer.issues.map(({ path, message }) => `${path}: ${message}`).join(' | ');
    throw new SyncError(
      issues === '' ? answer.message : `${answer.message} ${issues}`,
      answer.code,
      answer.operationId,
      false,
    );
  }

  /**
   * Takes up to 500 operations (1 MiB of JSON) of the actor, and answers each in the order of the call: ACCEPTED once it
   * is on disk and will take effect exactly once or be shown to somebody; DUPLICATE with what it came to, where it was
   * taken before; REJECTED with a code. One bad operation does not touch the others. Permission `sync:write`. Throws
   * `VALIDATION_FAILED` where the call as a whole is too large.
   */
  async queueOperations(
    inputs: readonly QueueOperationInput[],
    options: QueueOptions = {},
  ): Promise<readonly AdmissionAnswer[]> {
    requirePermission(this.#actor, 'sync:write');
    const parsed = parseInput(QueueOptionsSchema, 'The options', options);
    return admitOperations(this.#context, this.#actor, inputs, parsed);
  }

  /**
   * Rows for offline use, each with its version and a signature: what the client gives back as `previousVersion`. Rows
   * that are not there or that the actor may not see are left out. Up to 500. Permission `sync:write` or `sync:read`.
   * Throws `ENTITY_UNKNOWN`.
   */
  async readForOffline(entityType: string, entityIds: readonly string[]): Promise<readonly OfflineEntity[]> {
    this.#requireOneOf('sync:write', 'sync:read');
    return readEntities(this.#context, this.#actor, entityType, entityIds);
  }

  /**
   * Applies what a device has handed in, here and now, without a worker: the actor's own operations; with `sync:admin`,
   * and not limited to branches, everybody's. What cannot be applied expires, is parked or is shown as held up, as it does where there are workers;
   * only they forget what is old. Permission `sync:write`. Throws `DATABASE_UNAVAILABLE`.
   */
  async processPendingOperations(
    deviceId: string,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<ProcessingSummary> {
    requirePermission(this.#actor, 'sync:write');
    return processDevice(this.#context, this.#actor, deviceId, options.signal);
  }

  /** Applies one operation here and now, where it is ready. Permission `sync:write`. Throws `NOT_FOUND`. */
  async processQueueItem(operationId: UUID): Promise<OperationState> {
    requirePermission(this.#actor, 'sync:write');
    const operation = await this.#operation(operationId);
    await processOne(this.#context, operation);
    return this.#state(operationId);
  }

  /** Permission `sync:write` for one's own, `sync:read` for others'. Throws `NOT_FOUND`. */
  async getOperation(operationId: UUID): Promise<OfflineSyncQueue> {
    return this.#operation(operationId);
  }

  /** What one's own operations came to; unknown ids are left out. Permission `sync:write`. */
  async getOperationStates(operationIds: readonly UUID[]): Promise<readonly OperationState[]> {
    requirePermission(this.#actor, 'sync:write');
    return this.#repository.operationStates(operationIds, this.#actor.userId);
  }

  /** Newest first. Permission `sync:read`. */
  async listOperations(input: ListOperationsInput = {}): Promise<Page<OfflineSyncQueue>> {
    requirePermission(this.#actor, 'sync:read');
    return this.#repository.listOperations(parseInput(ListOperationsSchema, 'The list of operations', input));
  }

  /**
   * Lets an operation that waits for approval be applied, and applies it. Not by its author, nor by who edited it last.
   * `seen` binds the approval to the entity and the operation as they were shown: where either has moved since,
   * `CONFLICT_STALE`. Permission `sync:resolve`. Throws `NOT_FOUND`, `INVALID_STATE`, `FORBIDDEN`.
   */
  async approveOperation(operationId: UUID, seen: ApproveOperationInput = {}): Promise<OperationState> {
    requirePermission(this.#actor, 'sync:resolve');
    const parsed = parseInput(ApproveOperationSchema, 'The approval', seen);
    await approve(this.#context, this.#actor, await this.#operation(operationId), parsed);
    return this.#state(operationId);
  }

  /** Rejects an operation that waits for approval. Not by its author, nor by who edited it last. Permission `sync:resolve`. */
  async refuseOperation(operationId: UUID): Promise<OperationState> {
    requirePermission(this.#actor, 'sync:resolve');
    await refuse(this.#context, this.#actor, await this.#operation(operationId));
    return this.#state(operationId);
  }

  /** Holds an operation that has not begun. Permission `sync:write` for one's own, `sync:admin` for others'. */
  async pauseOperation(operationId: UUID): Promise<OperationState> {
    await pause(this.#context, this.#actor, await this.#ownOperation(operationId));
    return this.#state(operationId);
  }

  /**
   * Lets an operation that was paused go on; one that is BLOCKED, without what it waits for and what was rejected,
   * cancelled or has expired: its own change, which nobody then knows the beginning of, is a conflict. Permission as
   * `pauseOperation`. Throws `INVALID_STATE`, also where what blocks it can still come.
   */
  async resumeOperation(operationId: UUID): Promise<OperationState> {
    await resume(this.#context, this.#actor, await this.#ownOperation(operationId));
    return this.#state(operationId);
  }

  /** Ends an operation that has not been applied, for good; what builds on it waits for somebody. Permission as `pauseOperation`. */
  async cancelOperation(operationId: UUID): Promise<OperationState> {
    await cancel(this.#context, this.#actor, await this.#ownOperation(operationId));
    return this.#state(operationId);
  }

  /**
   * Corrects the payload of an operation that has not been applied; an approval, or a decision on its conflict, counts no
   * more, and what it says now may have to be approved. Permission as `pauseOperation`.
   */
  async editOperation(operationId: UUID, input: EditOperationInput): Promise<OperationState> {
    const parsed = parseInput(EditOperationSchema, 'The change of the operation', input);
    await edit(this.#context, this.#actor, await this.#ownOperation(operationId), parsed);
    return this.#state(operationId);
  }

  /** Tries an operation that is PARKED, FAILED or EXPIRED once more, also past its `expiresAt`. Permission as `pauseOperation`. */
  async redriveOperation(operationId: UUID): Promise<OperationState> {
    await redrive(this.#context, this.#actor, await this.#ownOperation(operationId));
    return this.#state(operationId);
  }

  /**
   * Decides a conflict and carries the decision out; unless it is of the author, or of who edited it last, it counts as
   * approval. Where the entity has changed since the version that was seen, nothing is decided: `CONFLICT_STALE`, and the
   * conflict shows it as it is now. Both versions are kept. Permission `sync:resolve`. Throws `NOT_FOUND`, `INVALID_STATE`.
   */
  async resolveConflict(input: ResolveConflictInput): Promise<SyncConflict> {
    requirePermission(this.#actor, 'sync:resolve');
    const parsed = parseInput(ResolveConflictSchema, 'The resolution', input);
    if (parsed.resolvedBy !== undefined && parsed.resolvedBy !== this.#actor.userId) {
      throw new DataProtectionError('`resolvedBy` is not the actor; leave it out', 'FORBIDDEN');
    }
    return decideConflict(this.#context, this.#actor, await this.getConflict(parsed.conflictId), parsed);
  }

  /** Several, each by itself, in their order. */
  async resolveConflicts(
    inputs: readonly ResolveConflictInput[],
  ): Promise<readonly ({ readonly conflict: SyncConflict } | { readonly error: DataProtectionError })[]> {
    const answers: ({ readonly conflict: SyncConflict } | { readonly error: DataProtectionError })[] = [];
    for (const input of inputs) {
      try {
        answers.push({ conflict: await this.resolveConflict(input) });
      } catch (error) {
        if (!(error instanceof DataProtectionError) || error.retryable) throw error;
        answers.push({ error });
      }
    }
    return answers;
  }

  /** Makes somebody responsible for a conflict; null: nobody. Permission `sync:resolve`. */
  async assignConflict(conflictId: UUID, assignedTo: UUID | null): Promise<SyncConflict> {
    requirePermission(this.#actor, 'sync:resolve');
    const conflict = await this.#context.db.withTransaction(async (transaction) => {
      const assigned = await createOfflineSyncRepository(transaction, this.#actor).assignConflict(
        conflictId,
        assignedTo,
      );
      if (assigned === undefined) throw notFound('open conflict', conflictId);
      await this.#context.audit.append(transaction, {
        organizationId: this.#actor.organizationId,
        action: 'sync.conflict.assigned',
        userId: this.#actor.userId,
        resourceType: 'sync_conflict',
        resourceId: conflictId,
        details: { assignedTo },
      });
      return assigned;
    });
    return conflict;
  }

  /** Permission `sync:resolve` or `sync:read`. Throws `NOT_FOUND`. */
  async getConflict(conflictId: UUID): Promise<SyncConflict> {
    this.#requireOneOf('sync:resolve', 'sync:read');
    const conflict = await this.#repository.findConflict(conflictId);
    if (conflict === undefined) throw notFound('conflict', conflictId);
    return conflict;
  }

  /** Newest first. Permission `sync:resolve` or `sync:read`. */
  async listConflicts(input: ListConflictsInput = {}): Promise<Page<SyncConflict>> {
    this.#requireOneOf('sync:resolve', 'sync:read');
    return this.#repository.listConflicts(parseInput(ListConflictsSchema, 'The list of conflicts', input));
  }

  /**
   * Begins a time offline; the one that goes on where there is one. Operations of the device belong to it until it ends.
   * `userId` and `organizationId` must be the actor's. Permission `sync:write`.
   */
  async startOfflineSession(
    userId: UUID,
    deviceId: string,
    organizationId: UUID,
    more: { readonly networkStatus?: NetworkStatus; readonly deviceInfo?: DeviceInfo } = {},
  ): Promise<OfflineSession> {
    requirePermission(this.#actor, 'sync:write');
    const parsed = parseInput(StartOfflineSessionSchema, 'The offline session', {
      userId,
      deviceId,
      organizationId,
      ...more,
    });
    if (parsed.userId !== this.#actor.userId || parsed.organizationId !== this.#actor.organizationId) {
      throw new DataProtectionError('The session is not the actor’s', 'FORBIDDEN');
    }
    return this.#repository.startSession({
      userId: parsed.userId,
      deviceId: parsed.deviceId,
      networkStatus: parsed.networkStatus ?? { online: false },
      deviceInfo: parsed.deviceInfo ?? {},
    });
  }

  /** Permission `sync:write`; one's own sessions only. Throws `NOT_FOUND`. */
  async updateNetworkStatus(sessionId: UUID, status: NetworkStatus): Promise<OfflineSession> {
    requirePermission(this.#actor, 'sync:write');
    const parsed = parseInput(NetworkStatusSchema, 'The network status', status);
    const session = await this.#repository.updateNetwork(sessionId, this.#actor.userId, parsed);
    if (session === undefined) throw notFound('open offline session', sessionId);
    return session;
  }

  /** Ends a time offline: COMPLETED, PARTIAL where something is still open, FAILED where nothing succeeded. */
  async endOfflineSession(sessionId: UUID): Promise<OfflineSession> {
    requirePermission(this.#actor, 'sync:write');
    const session = await this.#repository.endSession(sessionId, this.#actor.userId);
    if (session === undefined) throw notFound('open offline session', sessionId);
    return session;
  }

  /** Permission `sync:read`. */
  async getSyncStatistics(input: SyncStatisticsInput = {}): Promise<SyncStatistics> {
    requirePermission(this.#actor, 'sync:read');
    return this.#repository.syncStatistics(parseInput(SyncStatisticsInputSchema, 'The period', input));
  }

  /** What happened, newest first. Permission `sync:read`. */
  async getSyncEvents(input: ListSyncEventsInput = {}): Promise<Page<SyncEvent>> {
    requirePermission(this.#actor, 'sync:read');
    return this.#repository.listEvents(parseInput(ListSyncEventsSchema, 'The list of events', input));
  }

  /** Permission `sync:read`. Throws `NOT_FOUND` for a device that has never handed anything in. */
  async getDeviceHealth(deviceId: string): Promise<DeviceHealth> {
    requirePermission(this.#actor, 'sync:read');
    const health = await this.#repository.deviceHealth(deviceId, this.#context.limits.alarmMs.NORMAL);
    if (health === undefined) throw notFound('device', deviceId);
    return health;
  }

  /** One that the actor may see: his own, or, with `sync:read`, of his branches. */
  async #operation(operationId: UUID): Promise<OfflineSyncQueue> {
    this.#requireOneOf('sync:write', 'sync:read', 'sync:resolve');
    const operation = await this.#repository.findOperation(operationId);
    const own = operation?.userId === this.#actor.userId;
    if (operation === undefined || !(own || this.#may('sync:read') || this.#may('sync:resolve')))
      throw notFound('operation', operationId);
    return operation;
  }

  async #ownOperation(operationId: UUID): Promise<OfflineSyncQueue> {
    const operation = await this.#operation(operationId);
    requirePermission(this.#actor, operation.userId === this.#actor.userId ? 'sync:write' : 'sync:admin');
    return operation;
  }

  async #state(operationId: UUID): Promise<OperationState> {
    const [state] = await this.#repository.operationStates([operationId]);
    if (state === undefined) throw notFound('operation', operationId);
    return state;
  }

  #may(permission: Permission): boolean {
    return this.#actor.permissions.some((held) => held === permission || held === 'sync:admin');
  }

  #requireOneOf(...permissions: readonly [Permission, ...Permission[]]): void {
    if (!permissions.some((permission) => this.#may(permission)))
      requirePermission(this.#actor, permissions[0]);
  }
}
