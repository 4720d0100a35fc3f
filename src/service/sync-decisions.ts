import { setTimeout as sleep } from 'node:timers/promises';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { syncOutcomes } from '../repository/sync-outcome.ts';
import { type Resolved, resolveByPerson } from '../sync/resolve.ts';
import type { Actor } from '../types/actor.ts';
import { DataProtectionError, SyncError, ValidationError } from '../types/errors.ts';
import type { OfflineSyncQueue, ResolveConflictInput, SyncConflict } from '../types/offline-sync.ts';
import { notFound } from './asking.ts';
import { entityOf, type SyncContext } from './sync-context.ts';
import { newestBy, type StoredDecision, withoutPlan } from './sync-decide.ts';
import type { SyncEntity } from './sync-entities.ts';
import { processOne } from './sync-process.ts';
import { changedAt } from './sync-subject.ts';

/** How long a decision that another worker has taken up is waited for. */
const WAIT_MS = 5_000;
/** And one that nobody has: it may wait for an operation before it. */
const SOON_MS = 300;

/**
 * Stores a person's decision with the version that he saw, and has it carried out by the way that every operation
 * goes: under the locks of the entity, by the host's rules, once.
 */
export async function decideConflict(
  context: SyncContext,
  actor: Actor,
  conflict: SyncConflict,
  input: ResolveConflictInput,
): Promise<SyncConflict> {
  if (conflict.status !== 'PENDING_MANUAL' && conflict.status !== 'DETECTED') {
    throw new DataProtectionError(
      `The conflict is ${conflict.status}; it must be PENDING_MANUAL`,
      'INVALID_STATE',
    );
  }
  const { operationId } = conflict;
  const everything = { ...actor, branchIds: 'ALL' } as const;
  const operation = await createOfflineSyncRepository(context.db, everything).findOperation(operationId);
  if (operation === undefined) throw notFound('operation', operationId);
  const decision = await decisionOf(context, actor, { conflict, operation }, input);
  if (decision.seenVersion !== conflict.serverVersionNumber) throw stale(conflict);
  await context.db.withTransaction(async (transaction) => {
    const repository = createOfflineSyncRepository(transaction, everything);
    if (!(await repository.beginResolving(conflict.id, withoutPlan(decision)))) throw stale(conflict);
    const seenVersion = decision.givesUp ? null : decision.seenVersion;
    const carried = { kind: 'DECIDE', decision, decidedBy: actor.userId, seenVersion } as const;
    if ((await repository.intervene(operation.id, carried)) === undefined) throw stale(conflict);
    await context.audit.append(transaction, {
      organizationId: actor.organizationId,
      action: 'sync.conflict.resolved',
      userId: actor.userId,
      resourceType: 'sync_conflict',
      resourceId: conflict.id,
      details: { strategy: input.strategy, seenVersion: decision.seenVersion, operationId },
    });
  });
  await processOne(context, operation);
  return outcome(context, actor, conflict);
}

/** Nobody writes by a decision on an operation of his own, or that he edited, what somebody else would have to approve. */
function refuseOwnApproval(
  entity: SyncEntity,
  { userId }: Actor,
  operation: OfflineSyncQueue,
  { row, changed }: Resolved,
): void {
  const isOwn = userId === operation.userId || userId === operation.editedBy;
  if (!isOwn || operation.requiresApproval || row === null) return;
  const payload = Object.fromEntries(changed.map((column) => [column, row[column] ?? null]));
  const { entityId } = operation;
  if (!entity.asksApproval({ operation: operation.operation, entityId, payload, userId })) return;
  throw new DataProtectionError('Somebody else has to decide what needs an approval', 'FORBIDDEN');
}

async function decisionOf(
  context: SyncContext,
  actor: Actor,
  { conflict, operation }: { readonly conflict: SyncConflict; readonly operation: OfflineSyncQueue },
  input: ResolveConflictInput,
): Promise<StoredDecision> {
  const entity = entityOf(context, conflict.entityType);
  const { clientVersion: client, serverVersion: server, conflictingFields: fields } = conflict;
  const { baseVersion: base, conflictType } = conflict;
  const rules = {
    shape: await entity.shape(),
    policies: entity.options.merge ?? {},
    mergeDisjoint: entity.options.mergeDisjoint ?? true,
    operationId: conflict.operationId,
  };
  const baseKnown = base !== null || conflictType === 'CREATE_CREATE';
  const { entityType, entityId } = conflict;
  const [state] = await syncOutcomes(context.db).readStates(actor.organizationId, [{ entityType, entityId }]);
  const newest = newestBy(operation, (column) => (state === undefined ? null : changedAt(state, column)));
  // What waits for something that is missing has not been compared with anything yet.
  const unseen = operation.statusReason === 'PREDECESSOR_MISSING';
  const type = unseen && client === null ? 'DELETE_UPDATE' : conflictType;
  const resolved = resolveByPerson(
    { type, base, baseKnown, client, server, fields, rules },
    { strategy: input.strategy, fields: input.fields, data: input.data, newest },
  );
  const simple = input.strategy === 'CLIENT_WINS' || input.strategy === 'SERVER_WINS';
  if (unseen && !simple && (state?.version ?? 0) > 0) {
    throw new ValidationError('The resolution', [
      {
        path: 'strategy',
        message: 'Does not decide what waits for an operation that has not arrived.',
        remedy:
          'Choose CLIENT_WINS, which shows the row where it differs, or SERVER_WINS, which gives it up.',
      },
    ]);
  }
  if (resolved === undefined) {
    throw new ValidationError('The resolution', [
      {
        path: 'strategy',
        message: 'Does not decide this conflict.',
        remedy:
          'Choose CLIENT_WINS, SERVER_WINS, FIELD_LEVEL_MERGE, or MANUAL with `data`; NEWEST_WINS where the clocks tell.',
      },
    ]);
  }
  refuseOwnApproval(entity, actor, operation, resolved);
  return {
    strategy: input.strategy,
    resolvedBy: actor.userId,
    notes: input.notes ?? null,
    seenVersion: input.seenVersion,
    data: resolved.row,
    writes: resolved.kind === 'WRITE',
    outcome: resolved.outcome,
    superseded: resolved.superseded,
    decidedAt: context.clock.now().toISOString(),
    overwritten: resolved.overwritten,
    givesUp: unseen && resolved.kind === 'KEEP',
  };
}

/** The conflict once its decision has been carried out, or could not be; or where that waits for something else. */
async function outcome(context: SyncContext, actor: Actor, conflict: SyncConflict): Promise<SyncConflict> {
  const repository = createOfflineSyncRepository(context.db, { ...actor, branchIds: 'ALL' });
  const started = performance.now();
  for (;;) {
    const operation = await repository.findOperation(conflict.operationId);
    const now = await repository.findConflict(conflict.id);
    if (now === undefined) throw notFound('conflict', conflict.id);
    if (now.status === 'PENDING_MANUAL') {
      const moved = now.redetections > conflict.redetections || operation?.status === 'WAITING_APPROVAL';
      throw moved ? stale(conflict) : refused(conflict, operation);
    }
    const limit =
      operation?.status === 'IN_PROGRESS' ? WAIT_MS : operation?.status === 'PENDING' ? SOON_MS : 0;
    if (now.status !== 'RESOLVING' || performance.now() - started > limit) return now;
    await sleep(50);
  }
}

/** What kept a decision from being carried out, though nobody had been there. */
function refused(conflict: SyncConflict, operation: OfflineSyncQueue | undefined): SyncError {
  const reason = operation?.statusReason ?? 'VALIDATION_FAILED';
  const why = reason === 'FORBIDDEN' ? 'FORBIDDEN' : 'VALIDATION_FAILED';
  return new SyncError(
    `The row that was decided on is refused: ${[reason, operation?.lastAttemptError ?? ''].join(' ').trim()}`,
    why,
    conflict.operationId,
    false,
  );
}

const stale = (conflict: SyncConflict): SyncError =>
  new SyncError(
    'The entity has changed since it was looked at; the conflict shows it as it is now',
    'CONFLICT_STALE',
    conflict.operationId,
    false,
  );
