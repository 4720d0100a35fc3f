import type { UUID } from '../types/ids.ts';
import { SYNC_PRIORITIES, type SyncPriority, type SyncQueueStatus } from '../types/offline-sync.ts';

/** What the order of an operation follows from. Every `OfflineSyncQueue` and `QueueOperationInput` has it. */
export interface DependentOperation {
  readonly operationId?: UUID;
  readonly dependsOn?: readonly UUID[];
  readonly previousOperationId?: UUID | null;
  readonly streamId?: UUID;
  readonly batchId?: UUID | null;
  readonly batchSize?: number | null;
}

/** An operation as a node of the graph of who waits for whom. */
export interface DependencyNode {
  readonly operationId: UUID | undefined;
  /** The atomic batch that it belongs to. */
  readonly batchId: string | null;
  readonly predecessors: readonly UUID[];
}

/** Something that comes after others. */
interface Vertex<V> {
  readonly waitsFor: ReadonlySet<V>;
}

/** An operation within its group. */
export interface Step<T> extends Vertex<Step<T>> {
  readonly operation: T;
}

/** What is done as one: an operation, or an atomic batch. */
export interface Group<T> extends Vertex<Group<T>> {
  readonly steps: readonly Step<T>[];
}

/** The atomic batch of an operation; undefined: it stands for itself. Streams may use the same id for different batches. */
export function atomicBatchOf({ batchId, batchSize, streamId }: DependentOperation): string | undefined {
  if (batchId === undefined || batchId === null) return undefined;
  if (batchSize === undefined || batchSize === null) return undefined;
  return streamId === undefined ? batchId : `${streamId} ${batchId}`;
}

function predecessorsOf({ dependsOn, previousOperationId }: DependentOperation): readonly UUID[] {
  return [...(dependsOn ?? []), ...(previousOperationId ? [previousOperationId] : [])];
}

/** The node of an operation as it is queued. */
export function nodeOf(operation: DependentOperation): DependencyNode {
  return {
    operationId: operation.operationId,
    batchId: atomicBatchOf(operation) ?? null,
    predecessors: predecessorsOf(operation),
  };
}

/**
 * Whether everything that an operation waits for (`dependsOn`, `previousOperationId`) has ended well, which is to be
 * COMPLETED. Looks in the list only: what is not there counts as done, so the list must hold everything that is not. An
 * atomic batch waits as one: for what any of its operations in the list waits for, and not for each other.
 *
 * @example
 * const pending = await repository.findPendingOperations(deviceId);
 * for (const operation of sortQueueByPriority(pending)) if (areDependenciesMet(operation, pending)) await send(operation);
 */
export function areDependenciesMet(
  operation: DependentOperation,
  operations: readonly (DependentOperation & { readonly status?: SyncQueueStatus })[],
): boolean {
  const batch = atomicBatchOf(operation);
  const inBatch = (one: DependentOperation): boolean => batch !== undefined && atomicBatchOf(one) === batch;
  const together = batch === undefined ? [operation] : [operation, ...operations.filter(inBatch)];
  const awaited = new Set(together.flatMap(predecessorsOf));
  if (awaited.size === 0) return true;
  return operations.every(
    (one) =>
      one.operationId === undefined ||
      !awaited.has(one.operationId) ||
      one.status === 'COMPLETED' ||
      inBatch(one),
  );
}

/**
 * The priority that each operation has once what others wait for is raised to theirs, by position in the list. The
 * operations of an atomic batch have the highest of theirs.
 */
export function effectivePriorities(
  operations: readonly (DependentOperation & { readonly priority: SyncPriority })[],
): readonly SyncPriority[] {
  const ranks = effectiveRanks(groupsOf(operations, nodeOf));
  const priorities = new Map(
    [...ranks].flatMap(([{ steps }, rank]) =>
      steps.map(({ operation }) => [operation, SYNC_PRIORITIES[rank] ?? operation.priority] as const),
    ),
  );
  return operations.map((operation) => priorities.get(operation) ?? operation.priority);
}

/**
 * Operations that wait for each other in a circle, each for one that comes after it and the last for the first; those
 * of an atomic batch stand together. undefined: there is none. Predecessors that are not among the nodes close no circle.
 */
export function findCycle<N extends DependencyNode>(nodes: readonly N[]): readonly N[] | undefined {
  const groups = groupsOf(nodes, (node) => node);
  const circle = circleAmong(groups)?.flatMap(({ steps }) => steps);
  // Of a batch in which no order is left, none could be made either.
  const steps = circle ?? circleAmong(groups.flatMap((group) => group.steps));
  return steps?.map(({ operation }) => operation);
}

/**
 * What cannot go on without an operation: all that waits for it, directly or through others, and the other operations of
 * atomic batches that are drawn in, its own among them. In the order of the list, without the operation itself, which
 * need not be in it.
 */
export function descendantsOf<T extends DependentOperation>(
  operationId: UUID,
  operations: readonly T[],
): readonly T[] {
  const groups = groupsOf(operations, nodeOf);
  const successors = new Map<UUID, Group<T>[]>();
  for (const group of groups)
    for (const { operation } of group.steps) {
      const itself = operation.operationId === operationId ? [operationId] : [];
      for (const id of [...predecessorsOf(operation), ...itself]) {
        const known = successors.get(id);
        if (known === undefined) successors.set(id, [group]);
        else known.push(group);
      }
    }
  const reached = new Set<Group<T>>();
  const found = new Set<T>();
  const ids: UUID[] = [operationId];
  for (let id = ids.pop(); id !== undefined; id = ids.pop()) {
    for (const group of successors.get(id) ?? []) {
      if (reached.has(group)) continue;
      reached.add(group);
      for (const { operation } of group.steps) {
        found.add(operation);
        if (operation.operationId !== undefined) ids.push(operation.operationId);
      }
    }
  }
  return operations.filter((one) => found.has(one) && one.operationId !== operationId);
}

/**
 * The contracted graph: a group for each atomic batch and for each other operation, in the order in which they first
 * appear. Predecessors outside the list are passed over; an operation that is there twice is one group.
 */
export function groupsOf<T>(
  operations: readonly T[],
  nodeFor: (operation: T) => DependencyNode,
): readonly Group<T>[] {
  const groups = new Map<string | symbol, { steps: Step<T>[]; waitsFor: Set<Group<T>> }>();
  const known = new Map<UUID, (typeof members)[number]>();
  const members = operations.map((operation) => {
    const node = nodeFor(operation);
    const key = keyOf(node);
    const group = groups.get(key) ?? { steps: [], waitsFor: new Set<Group<T>>() };
    groups.set(key, group);
    const step = { operation, waitsFor: new Set<Step<T>>() };
    group.steps.push(step);
    return { node, group, step };
  });
  for (const member of members) {
    const { operationId } = member.node;
    if (operationId !== undefined && !known.has(operationId)) known.set(operationId, member);
  }
  for (const { node, group, step } of members)
    for (const id of node.predecessors) {
      const before = known.get(id);
      if (before === undefined) continue;
      if (before.group === group) step.waitsFor.add(before.step);
      else group.waitsFor.add(before.group);
    }
  return [...groups.values()];
}

function keyOf({ batchId, operationId }: DependencyNode): string | symbol {
  if (batchId !== null) return `batch ${batchId}`;
  return operationId === undefined ? Symbol() : `operation ${operationId}`;
}

const RANKS: ReadonlyMap<string, number> = new Map(
  SYNC_PRIORITIES.map((priority, rank) => [priority, rank] as const),
);
const NORMAL = SYNC_PRIORITIES.indexOf('NORMAL');

/** The rank of each group, 0 for CRITICAL: its own, or that of the most urgent one that waits for it. */
export function effectiveRanks<T extends { readonly priority: SyncPriority }>(
  groups: readonly Group<T>[],
): ReadonlyMap<Group<T>, number> {
  const own = groups.map((group) => ({
    group,
    rank: group.steps.reduce(
      (least, { operation }) => Math.min(least, RANKS.get(operation.priority) ?? NORMAL),
      Number.POSITIVE_INFINITY,
    ),
  }));
  const ranks = new Map<Group<T>, number>();
  for (const { group, rank } of own.sort((a, b) => a.rank - b.rank)) {
    const raised = [group];
    for (let one = raised.pop(); one !== undefined; one = raised.pop()) {
      if (ranks.has(one)) continue;
      ranks.set(one, rank);
      for (const before of one.waitsFor) raised.push(before);
    }
  }
  return ranks;
}

/**
 * The same vertices, each after all that it waits for and otherwise as they come: what has to be moved stands right
 * before the first that waits for it. Of a circle, what is met first waits for the others.
 */
export function inDependencyOrder<V extends Vertex<V>>(vertices: readonly V[]): readonly V[] {
  const places = new Map(vertices.map((vertex, place) => [vertex, place] as const));
  const placeOf = (vertex: V): number => places.get(vertex) ?? 0;
  const asTheyCome = (vertex: V): readonly V[] =>
    [...vertex.waitsFor].sort((a, b) => placeOf(a) - placeOf(b));
  const ordered: V[] = [];
  for (const visit of depthFirst(vertices, asTheyCome)) if ('done' in visit) ordered.push(visit.done);
  return ordered;
}

function circleAmong<V extends Vertex<V>>(vertices: readonly V[]): readonly V[] | undefined {
  for (const visit of depthFirst(vertices, ({ waitsFor }) => waitsFor)) {
    if ('done' in visit) continue;
    return visit.path.slice(visit.path.indexOf(visit.back));
  }
  return undefined;
}

type Visit<V> = { readonly done: V } | { readonly path: readonly V[]; readonly back: V };

/** Tells each vertex after all that it waits for, and each way back into the path that leads to it. Without recursion. */
function* depthFirst<V>(vertices: Iterable<V>, waitsFor: (vertex: V) => Iterable<V>): Generator<Visit<V>> {
  const states = new Map<V, 'OPEN' | 'DONE'>();
  for (const start of vertices) {
    if (states.has(start)) continue;
    const path: V[] = [];
    const ways: Iterator<V>[] = [];
    const enter = (vertex: V): void => {
      states.set(vertex, 'OPEN');
      path.push(vertex);
      ways.push(waitsFor(vertex)[Symbol.iterator]());
    };
    enter(start);
    for (let way = ways.at(-1); way !== undefined; way = ways.at(-1)) {
      const next = way.next();
      if (next.done !== true) {
        const state = states.get(next.value);
        if (state === undefined) enter(next.value);
        else if (state === 'OPEN') yield { path, back: next.value };
        continue;
      }
      ways.pop();
      for (const vertex of path.splice(-1)) {
        states.set(vertex, 'DONE');
        yield { done: vertex };
      }
    }
  }
}
