import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import type { Intervention } from '../repository/sync-interventions.ts';
import type { Actor } from '../types/actor.ts';
import { DataProtectionError, SyncError, ValidationError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import type { EditOperationInput, OfflineSyncQueue } from '../types/offline-sync.ts';
import { type SyncContext, wakeStreams } from './sync-context.ts';
import { touchedColumns } from './sync-entities.ts';
import { processOne } from './sync-process.ts';
import { versionOf } from './sync-read.ts';

/** What an intervention leaves behind for the operations that build on the one it is about. */
type Effect = 'GOES_ON' | 'HOLDS' | 'NONE';

const EFFECTS: Readonly<Record<Intervention['kind'], Effect>> = {
  PAUSE: 'NONE',
  RESUME: 'GOES_ON',
  CANCEL: 'HOLDS',
  REDRIVE: 'GOES_ON',
  REFUSE: 'HOLDS',
  APPROVE: 'GOES_ON',
  EDIT: 'NONE',
  DECIDE: 'GOES_ON',
};

export const pause = (context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> =>
  intervene(context, actor, operation, { kind: 'PAUSE' });

export const resume = (context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> =>
  intervene(context, actor, operation, { kind: 'RESUME' });

export const cancel = (context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> =>
  intervene(context, actor, operation, { kind: 'CANCEL' });

export const redrive = (context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> =>
  intervene(context, actor, operation, { kind: 'REDRIVE' });

/** Throws `FORBIDDEN` for the author and for who edited it last. */
export async function refuse(context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> {
  requireSecondPerson(actor, operation);
  await intervene(context, actor, operation, { kind: 'REFUSE' });
}

/** Throws `FORBIDDEN` for the author and for who edited it last, `CONFLICT_STALE` where entity or operation are not what the approver saw. */
export async function approve(
  context: SyncContext,
  actor: Actor,
  operation: OfflineSyncQueue,
  seen: { readonly seenVersion?: number | undefined; readonly seenUpdatedAt?: Timestamp | undefined },
): Promise<void> {
  requireSecondPerson(actor, operation);
  const { entityType, entityId } = operation;
  const { seenUpdatedAt = operation.updatedAt } = seen;
  const { version, visible } = await versionOf(context, actor, entityType, entityId);
  const moved = (seen.seenVersion ?? visible) !== visible || seenUpdatedAt !== operation.updatedAt;
  if (moved && operation.status === 'WAITING_APPROVAL') throw stale(operation);
  await intervene(context, actor, operation, {
    kind: 'APPROVE',
    approvedBy: actor.userId,
    seenVersion: version,
    seenUpdatedAt,
  });
  await processOne(context, operation);
  if (await isWaiting(context, actor, operation)) throw stale(operation);
}

async function isWaiting(context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<boolean> {
  const repository = createOfflineSyncRepository(context.db, { ...actor, branchIds: 'ALL' });
  const [now] = await repository.operationStates([operation.operationId]);
  return now?.status === 'WAITING_APPROVAL';
}

/** Throws `VALIDATION_FAILED` where the host's schema refuses the payload. */
export async function edit(
  context: SyncContext,
  actor: Actor,
  operation: OfflineSyncQueue,
  input: EditOperationInput,
): Promise<void> {
  const schemaVersion = input.schemaVersion ?? operation.schemaVersion;
  const entity = context.entities.get(operation.entityType);
  const payload = entity?.current(operation.operation, input.payload, schemaVersion);
  const issues =
    entity === undefined || payload === undefined ? [] : await entity.check(operation.operation, payload);
  if (issues.length > 0) throw new ValidationError('The payload', issues);
  const { entityId, userId } = operation;
  const asked = { operation: operation.operation, entityId, payload: payload ?? input.payload, userId };
  await intervene(context, actor, operation, {
    kind: 'EDIT',
    editedBy: actor.userId,
    payload: input.payload,
    schemaVersion,
    fields: touchedColumns(operation.operation, payload),
    requiresApproval: entity?.asksApproval(asked) === true,
    unchecked: payload === undefined,
  });
}

/**
 * Changes an operation, enters it in the audit log in the same transaction, and lets what builds on it go on or be
 * shown as held up. Throws `INVALID_STATE` where its status does not allow it, `CONFLICT_STALE` where it is no longer
 * what was to be approved.
 */
async function intervene(
  context: SyncContext,
  actor: Actor,
  operation: OfflineSyncQueue,
  intervention: Intervention,
): Promise<void> {
  const changed = await context.db.withTransaction(async (transaction) => {
    const repository = createOfflineSyncRepository(transaction, actor);
    const found = await repository.intervene(operation.id, intervention);
    if (found === undefined) return undefined;
    if (EFFECTS[intervention.kind] === 'HOLDS')
      await repository.closeConflict(operation.id, 'CANCELLED', null);
    // What was decided was something else.
    if (intervention.kind === 'EDIT') await repository.reopenConflict(operation.id);
    await context.audit.append(transaction, {
      organizationId: actor.organizationId,
      action: `sync.operation.${intervention.kind.toLowerCase()}`,
      userId: actor.userId,
      resourceType: 'offline_operation',
      resourceId: operation.operationId,
      details: { entityType: operation.entityType, from: operation.status, to: found.status },
    });
    return found;
  });
  if (changed === undefined) {
    if (intervention.kind === 'APPROVE' && (await isWaiting(context, actor, operation)))
      throw stale(operation);
    throw new DataProtectionError(
      `The operation is ${operation.status} and does not allow it, or a worker has it`,
      'INVALID_STATE',
    );
  }
  await follow(context, actor, changed, EFFECTS[intervention.kind]);
}

async function follow(
  context: SyncContext,
  actor: Actor,
  operation: OfflineSyncQueue,
  effect: Effect,
): Promise<void> {
  const { organizationId, streamId, lane } = operation;
  const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
  if (effect === 'HOLDS') await repository.blockDescendants([operation.id], 'PREDECESSOR_FAILED');
  if (effect !== 'GOES_ON') return;
  const freed = await repository.unblock([operation.operationId]);
  await wakeStreams(context, [
    { organizationId: actor.organizationId, streamId, lane },
    ...freed.map((one) => ({ organizationId, ...one })),
  ]);
}

function requireSecondPerson(actor: Actor, operation: OfflineSyncQueue): void {
  if (actor.userId !== operation.userId && actor.userId !== operation.editedBy) return;
  throw new DataProtectionError('Whoever did or edited something cannot approve it himself', 'FORBIDDEN');
}

const stale = (operation: OfflineSyncQueue): SyncError =>
  new SyncError(
    'The entity or the operation has changed since it was looked at',
    'CONFLICT_STALE',
    operation.operationId,
    false,
  );
