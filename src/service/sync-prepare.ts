import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { OperationEnd } from '../repository/sync-outcome.ts';
import type { Actor } from '../types/actor.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { EntityShape } from '../types/sync-handler.ts';
import { actorFor, type SyncContext } from './sync-context.ts';
import type { SyncEntity } from './sync-entities.ts';
import { endOf, rejection } from './sync-failure.ts';

/** An operation that can be applied: whose it is, of what, and what it says in the current schema. */
export interface Prepared {
  readonly operation: ClaimedOperation;
  readonly actor: Actor;
  readonly entity: SyncEntity;
  readonly shape: EntityShape;
  readonly payload: EntityRow;
}

/** What needs no transaction. An end where the operation cannot be applied as things are. */
export async function prepare(
  context: SyncContext,
  operation: ClaimedOperation,
): Promise<Prepared | OperationEnd> {
  const entity = context.entities.get(operation.entityType);
  if (entity === undefined) return endOf(operation, 'PARKED', 'ENTITY_UNKNOWN');
  const payload = upcast(entity, operation);
  if (payload === undefined) return endOf(operation, 'PARKED', 'SCHEMA_UNKNOWN');
  if (payload === null) return rejection(operation, 'VALIDATION_FAILED');
  // Asked again: when it was handed in, its type or version may not have been known here.
  if (entity.appendOnly && operation.operation !== 'CREATE') return rejection(operation, 'APPEND_ONLY');
  const issues = operation.unchecked ? await entity.check(operation.operation, payload) : [];
  if (issues.length > 0) return rejection(operation, 'VALIDATION_FAILED', issues);
  const { entityId, userId } = operation;
  const asked = { operation: operation.operation, entityId, payload, userId };
  const waits = operation.approvedBy === null && (operation.requiresApproval || entity.asksApproval(asked));
  if (waits && !operation.approvalWaived) return endOf(operation, 'WAITING_APPROVAL', 'APPROVAL');
  const actor = await actorFor(context, operation);
  if (actor === undefined) return endOf(operation, 'PARKED', 'ACTOR_UNKNOWN');
  const allowed = actor.permissions.some((held) => held === 'sync:write' || held === 'sync:admin');
  if (!allowed) return rejection(operation, 'FORBIDDEN');
  const reviewRequired = operation.reviewRequired || waits;
  return { operation: { ...operation, reviewRequired }, actor, entity, shape: await entity.shape(), payload };
}

export const isPrepared = (one: Prepared | OperationEnd): one is Prepared => 'actor' in one;

/** undefined: no way to the current version; null: it is not what its version describes. */
function upcast(entity: SyncEntity, operation: ClaimedOperation): EntityRow | null | undefined {
  try {
    return entity.current(operation.operation, operation.payload, operation.schemaVersion);
  } catch {
    return null;
  }
}
