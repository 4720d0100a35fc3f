import { setTimeout as sleep } from 'node:timers/promises';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { resolveByPerson } from '../sync/resolve.ts';
import type { Actor } from '../types/actor.ts';
import { DataProtectionError, SyncError, ValidationError } from '../types/errors.ts';
import type { ResolveConflictInput, SyncConflict } from '../types/offline-sync.ts';
import { notFound } from './asking.ts';
import type { SyncContext } from './sync-context.ts';
import { type StoredDecision, withoutPlan } from './sync-decide.ts';
import { processOne } from './sync-process.ts';

/** How long a decision that another worker has taken up is waited for. */
const WAIT_MS = 5_000;

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
  const decision = await decisionOf(context, actor, conflict, input);
  if (decision.seenVersion !== conflict.serverVersionNumber) throw stale(conflict);
  const everything = { ...actor, branchIds: 'ALL' } as const;
  const operation = await createOfflineSyncRepository(context.db, everything).findOperation(operationId);
  if (operation === undefined) throw notFound('operation', operationId);
  await context.db.withTransaction(async (transaction) => {
    const repository = createOfflineSyncRepository(transaction, everything);
    if (!(await repository.beginResolving(conflict.id, withoutPlan(decision)))) throw stale(conflict);
    if ((await repository.intervene(operation.id, { kind: 'DECIDE', decision })) === undefined)
      throw stale(conflict);
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

async function decisionOf(
  context: SyncContext,
  actor: Actor,
  conflict: SyncConflict,
  input: ResolveConflictInput,
): Promise<StoredDecision> {
  const entity = context.entities.get(conflict.entityType);
  if (entity === undefined) {
    throw new DataProtectionError('The entity type is not registered for sync', 'ENTITY_UNKNOWN');
  }
  const { clientVersion: client, serverVersion: server, conflictingFields: fields } = conflict;
  const { baseVersion: base, conflictType } = conflict;
  const rules = {
    shape: await entity.shape(),
    policies: entity.options.merge ?? {},
    mergeDisjoint: entity.options.mergeDisjoint ?? true,
    operationId: conflict.operationId,
  };
  const baseKnown = base !== null || conflictType === 'CREATE_CREATE';
  const resolved = resolveByPerson(
    { base, baseKnown, client, server, fields, rules },
    { strategy: input.strategy, fields: input.fields, data: input.data },
  );
  if (resolved === undefined) {
    throw new ValidationError('The resolution', [
      {
        path: 'strategy',
        message: 'Does not decide this conflict.',
        remedy: 'Choose CLIENT_WINS, SERVER_WINS, FIELD_LEVEL_MERGE, or MANUAL with `data`.',
      },
    ]);
  }
  return {
    strategy: input.strategy,
    resolvedBy: actor.userId,
    notes: input.notes ?? null,
    seenVersion: input.seenVersion ?? conflict.serverVersionNumber,
    data: resolved.row,
    writes: resolved.kind === 'WRITE',
    outcome: resolved.outcome,
    superseded: resolved.superseded,
  };
}

/** The conflict once its decision has been carried out, or could not be. */
async function outcome(context: SyncContext, actor: Actor, conflict: SyncConflict): Promise<SyncConflict> {
  const repository = createOfflineSyncRepository(context.db, { ...actor, branchIds: 'ALL' });
  const until = performance.now() + WAIT_MS;
  for (;;) {
    const now = await repository.findConflict(conflict.id);
    if (now === undefined) throw notFound('conflict', conflict.id);
    if (now.status === 'PENDING_MANUAL') {
      if (now.redetections > conflict.redetections) throw stale(conflict);
      throw await refused(context, actor, conflict);
    }
    if (now.status !== 'RESOLVING' || performance.now() > until) return now;
    await sleep(50);
  }
}

/** What kept a decision from being carried out, though nobody had been there. */
async function refused(context: SyncContext, actor: Actor, conflict: SyncConflict): Promise<SyncError> {
  const repository = createOfflineSyncRepository(context.db, { ...actor, branchIds: 'ALL' });
  const operation = await repository.findOperation(conflict.operationId);
  const why = operation?.statusReason === 'FORBIDDEN' ? 'FORBIDDEN' : 'VALIDATION_FAILED';
  return new SyncError(
    `The row that was decided on is refused: ${operation?.lastAttemptError ?? why}`,
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
