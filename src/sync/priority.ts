import { ValidationError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import type { SyncPriority } from '../types/offline-sync.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { toTimestamp } from '../utils/timestamp.ts';
import {
  type DependentOperation,
  effectiveRanks,
  type Group,
  groupsOf,
  inDependencyOrder,
  nodeOf,
} from './dependencies.ts';

/** How much later than it arrived an operation takes its place, in milliseconds. What waits overtakes in time. */
export const PRIORITY_WEIGHTS: Readonly<Record<SyncPriority, number>> = {
  CRITICAL: 0,
  HIGH: 0,
  NORMAL: 30_000,
  LOW: 5 * 60_000,
  BACKGROUND: 30 * 60_000,
};

/** The place of an operation in its lane: when it arrived, and the weight of its priority. Throws `VALIDATION_FAILED`. */
export function dueAt(queuedAt: Timestamp, priority: SyncPriority): Timestamp {
  const due = toTimestamp(new Date(Date.parse(queuedAt) + PRIORITY_WEIGHTS[priority]));
  if (due !== undefined) return due;
  throw new ValidationError('The place of the operation', [
    { path: 'queuedAt', message: 'Is not an instant.', remedy: 'Give ISO 8601 in UTC.' },
  ]);
}

const OF_ENTITY_TYPE: ReadonlyMap<string, SyncPriority> = new Map([
  ['EVV_RECORD', 'CRITICAL'],
  ['VISIT', 'HIGH'],
]);

/** The priority where nobody says one: EVV records CRITICAL, visits HIGH, others NORMAL. */
export function defaultPriority(entityType: string): SyncPriority {
  return OF_ENTITY_TYPE.get(normalizeEntityType(entityType)) ?? 'NORMAL';
}

/**
 * The priority that an operation gets: the one that a device asks for, else its entity's own. CRITICAL is only what the
 * entity is: asked for with another entity it counts as HIGH, so that no device passes by approvals and expiry.
 */
export function admittedPriority(asked: SyncPriority | undefined, own: SyncPriority): SyncPriority {
  return asked === 'CRITICAL' && own !== 'CRITICAL' ? 'HIGH' : (asked ?? own);
}

/** What the order in a queue follows from. */
export interface SortableOperation extends DependentOperation {
  readonly priority: SyncPriority;
  readonly sequenceNumber: number;
}

/**
 * A new list in the order in which to work: by priority and then by sequence number, equals as they come. Nothing stands
 * before something in the list that it waits for (`dependsOn`, `previousOperationId`): that takes the place of the most
 * urgent operation that waits for it. An atomic batch stands together, with its highest priority and lowest number. Where
 * operations wait for each other in a circle, that part of their order is passed over.
 *
 * @example
 * const sorted = sortQueueByPriority(await repository.findPendingOperations(deviceId));
 */
export function sortQueueByPriority<T extends SortableOperation>(operations: readonly T[]): T[] {
  const groups = groupsOf(operations, nodeOf);
  const ranks = effectiveRanks(groups);
  const placed = groups
    .map((group) => ({ group, rank: ranks.get(group) ?? 0, sequence: firstNumber(group) }))
    .sort((a, b) => a.rank - b.rank || a.sequence - b.sequence)
    .map(({ group }) => group);
  return inDependencyOrder(placed).flatMap(({ steps }) => {
    const bySequence = steps.toSorted((a, b) => a.operation.sequenceNumber - b.operation.sequenceNumber);
    return inDependencyOrder(bySequence).map(({ operation }) => operation);
  });
}

function firstNumber({ steps }: Group<SortableOperation>): number {
  return steps.reduce(
    (least, { operation }) => Math.min(least, operation.sequenceNumber),
    Number.POSITIVE_INFINITY,
  );
}
