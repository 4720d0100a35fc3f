import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import type { Intervention } from '../repository/sync-queue.ts';
import type { Actor } from '../types/actor.ts';
import { DataProtectionError, SyncError, ValidationError } from '../types/errors.ts';
import type { EditOperationInput, OfflineSyncQueue } from '../types/offline-sync.ts';
import { type SyncContext, wakeStreams } from './sync-context.ts';
import { processOne } from './sync-process.ts';
import { readSubjects } from './sync-read.ts';

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

/** Throws `FORBIDDEN` for the author. */
export async function refuse(context: SyncContext, actor: Actor, operation: OfflineSyncQueue): Promise<void> {
  requireSecondPerson(actor, operation);
  await intervene(context, actor, operation, { kind: 'REFUSE' });
}

/** Throws `FORBIDDEN` for the author, `CONFLICT_STALE` where the entity is not what the approver saw. */
export async function approve(
  context: SyncContext,
  actor: Actor,
  operation: OfflineSyncQueue,
  seen: number | undefined,
): Promise<void> {
  requireSecondPerson(actor, operation);
  const { entityType, entityId } = operation;
  const subjects = await readSubjects(context, actor, entityType, [entityId]);
  // What is not there yet has no version to see; one that was deleted keeps its own, which the next try compares.
  const version = subjects.get(entityId)?.subject.version ?? seen ?? 0;
  if (seen !== undefined && seen !== version) throw stale(operation);
  await intervene(context, actor, operation, {
    kind: 'APPROVE',
    approvedBy: actor.userId,
    seenVersion: version,
  });
  await processOne(context, operation);
  const repository = createOfflineSyncRepository(context.db, { ...actor, branchIds: 'ALL' });
  const [now] = await repository.operationStates([operation.operationId]);
  if (now?.status === 'WAITING_APPROVAL') throw stale(operation);
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
  const partial = operation.operation === 'PATCH' || operation.operation === 'UPDATE';
  await intervene(context, actor, operation, {
    kind: 'EDIT',
    payload: input.payload,
    schemaVersion,
    fields: partial ? Object.keys(input.payload) : ['*'],
  });
}

/**
 * Changes an operation, enters it in the audit log in the same transaction, and lets what builds on it go on or be
 * shown as held up. Throws `INVALID_STATE` where its status does not allow it.
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
    if (intervention.kind === 'CANCEL') await repository.closeConflict(operation.id, 'CANCELLED', null);
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
  if (actor.userId !== operation.userId) return;
  throw new DataProtectionError('Whoever did something cannot approve it himself', 'FORBIDDEN');
}

const stale = (operation: OfflineSyncQueue): SyncError =>
  new SyncError(
    'The entity has changed since it was looked at',
    'CONFLICT_STALE',
    operation.operationId,
    false,
  );
