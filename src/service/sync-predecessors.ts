import type { LockedStream, NewOperation, SyncAdmission } from '../repository/sync-admission.ts';
import { type Ahead, MOST_AHEAD } from '../repository/sync-look.ts';
import { findCycle } from '../sync/dependencies.ts';
import type { UUID } from '../types/ids.ts';
import { type Candidate, type Identity, notValid, type Refusal, refusal } from './sync-examine.ts';
import type { Findings } from './sync-known.ts';

/** An operation with its number in its stream. */
export interface Numbered {
  readonly candidate: Candidate;
  readonly stream: LockedStream;
  readonly sequenceNumber: number;
}

/** The place of an operation among the others on its entity. */
export type EntityPlace = Pick<NewOperation, 'previousOperationId' | 'after' | 'disjointProceeds'>;

const entityName = (stream: LockedStream, { operation }: Candidate): string =>
  JSON.stringify([stream.id, operation.entityType, operation.entityId]);

/**
 * Refuses what builds on an operation of another installation, or on one of another entity. An earlier epoch's is its
 * own: an outbox that begins anew goes on from there. `call`: all operations of the call.
 */
export function refuseElsewhere(
  numbered: readonly Numbered[],
  { call, findings }: { readonly call: readonly Candidate[]; readonly findings: Findings },
  refused: Map<Identity, Refusal>,
): readonly Numbered[] {
  const own = new Map(call.map((candidate) => [candidate.operationId, candidate]));
  return numbered.filter(({ candidate }) => {
    const { previousOperationId } = candidate.operation;
    if (previousOperationId == null) return true;
    const here = own.get(previousOperationId);
    const before =
      here === undefined
        ? findings.get(candidate.position)?.previous
        : { ...here.key, ...entityOf(here.operation) };
    if (before == null) return true;
    const { entityType, entityId } = candidate.operation;
    const { userId, installationId } = candidate.key;
    if (
      before.userId === userId &&
      before.installationId === installationId &&
      (before.entityType === null || (before.entityType === entityType && before.entityId === entityId))
    )
      return true;
    refused.set(
      candidate,
      notValid({
        path: 'previousOperationId',
        message: 'Names an operation of another installation, another user or another entity.',
        remedy: 'Name the one before it on the same entity; what else it waits for belongs in `dependsOn`.',
      }),
    );
    return false;
  });
}

const entityOf = ({ entityType, entityId }: Candidate['operation']) => ({ entityType, entityId });

/**
 * The place of each one on its entity: behind what it names, else behind the last one in its stream; where it names nothing
 * (null), behind all that are open there. What its predecessor may have passed is ahead of it too. One may pass others
 * itself only where all are known that are ahead of it, and nothing waits for it that does not know them.
 */
export function placesOf(
  numbered: readonly Numbered[],
  findings: Findings,
): ReadonlyMap<Candidate, EntityPlace> {
  const places = new Map<Candidate, EntityPlace>();
  const placed = new Map<UUID, Ahead>();
  const before = new Map<string, readonly Placed[]>();
  const awaited = new Set<UUID>();
  for (const { candidate, stream, sequenceNumber } of numbered) {
    const { operation, operationId, entity, position } = candidate;
    const finding = findings.get(position);
    const name = entityName(stream, candidate);
    const here = before.get(name) ?? [];
    const previous = previousOf(operation.previousOperationId, finding?.last ?? undefined, here.at(-1));
    const known: Ahead | undefined =
      previous === null
        ? {
            done: false,
            disjointProceeds:
              (finding?.open.disjointProceeds ?? true) &&
              here.every((one) => placed.get(one.operationId)?.disjointProceeds === true),
            ahead: [...(finding?.open.ahead ?? []), ...here.map((one) => one.operationId)],
          }
        : (placed.get(previous) ?? finding?.previous ?? finding?.last ?? undefined);
    const after = previous === null || known?.disjointProceeds === true ? (known?.ahead ?? []) : [];
    const ahead = previous === null ? after : [previous, ...after];
    const disjointProceeds =
      entity?.options.disjointProceed === true &&
      operation.batchSize === undefined &&
      (finding?.waitedIn ?? null) === null &&
      !awaited.has(operationId) &&
      known !== undefined &&
      (known.done || known.disjointProceeds) &&
      ahead.length <= MOST_AHEAD;
    places.set(candidate, {
      previousOperationId: previous,
      after: after.slice(-MOST_AHEAD - 1),
      disjointProceeds,
    });
    placed.set(operationId, { done: false, disjointProceeds, ahead });
    before.set(name, [...here, { operationId, sequenceNumber }]);
    for (const id of [...ahead, ...operation.dependsOn]) awaited.add(id);
  }
  return places;
}

interface Placed {
  readonly operationId: UUID;
  readonly sequenceNumber: number;
}

/** What an operation builds on: what it names, null for nothing; else the last one before it, stored or of the call. */
function previousOf(
  named: UUID | null | undefined,
  stored: Placed | undefined,
  here: Placed | undefined,
): UUID | null {
  if (named !== undefined) return named;
  const last =
    here === undefined || (stored !== undefined && stored.sequenceNumber > here.sequenceNumber)
      ? stored
      : here;
  return last?.operationId ?? null;
}

/**
 * Refuses the operations that would close a circle. There can be one only where somebody already waits for an operation
 * that comes now, where one of this call waits for a later one, or through the other operations of an atomic batch.
 */
export async function refuseCycles(
  admission: SyncAdmission,
  numbered: readonly Numbered[],
  { places, findings }: { readonly places: ReadonlyMap<Candidate, EntityPlace>; readonly findings: Findings },
  refused: Map<Identity, Refusal>,
): Promise<readonly Numbered[]> {
  const before = (candidate: Candidate): readonly UUID[] => {
    const { previousOperationId = null, after = [] } = places.get(candidate) ?? {};
    return [
      ...candidate.operation.dependsOn,
      ...(previousOperationId === null ? [] : [previousOperationId]),
      ...after,
    ];
  };
  const arrived = new Set<UUID>();
  const own = new Set(numbered.map(({ candidate }) => candidate.operationId));
  let possible = false;
  for (const { candidate } of numbered) {
    possible ||= before(candidate).some((id) => own.has(id) && !arrived.has(id));
    possible ||= (findings.get(candidate.position)?.waitedIn ?? null) !== null;
    arrived.add(candidate.operationId);
  }
  const members = numbered.filter(({ candidate }) => candidate.operation.batchSize !== undefined);
  if (!possible && members.length === 0) return numbered;
  const mates = await admission.batchMates(
    members.map(({ candidate, stream }) => ({
      streamId: stream.id,
      batchId: candidate.operation.batchId ?? '',
    })),
  );
  const edges = await admission.edgesFrom([
    ...new Set([...mates, ...numbered.flatMap(({ candidate }) => before(candidate))]),
  ]);
  const graph = new Map<UUID, { operationId: UUID; batchId: UUID | null; predecessors: UUID[] }>();
  for (const { successor, predecessor, batchId } of edges) {
    const node = graph.get(successor) ?? { operationId: successor, batchId, predecessors: [] };
    if (predecessor !== null) node.predecessors.push(predecessor);
    graph.set(successor, node);
  }
  const nodeOf = (candidate: Candidate) => {
    const { batchId, batchSize } = candidate.operation;
    const { operationId } = candidate;
    return {
      operationId,
      batchId: batchSize === undefined ? null : (batchId ?? null),
      predecessors: [...before(candidate)],
    };
  };
  const whole = new Map(graph);
  for (const { candidate } of numbered) whole.set(candidate.operationId, nodeOf(candidate));
  if (findCycle([...whole.values()]) === undefined) return numbered;
  return numbered.filter(({ candidate }) => {
    graph.set(candidate.operationId, nodeOf(candidate));
    if (findCycle([...graph.values()]) === undefined) return true;
    graph.delete(candidate.operationId);
    refused.set(
      candidate,
      refusal('DEPENDENCY_CYCLE', 'The operation would wait for itself', [
        {
          path: 'dependsOn',
          message: 'Leads back to the operation.',
          remedy: 'Correct `dependsOn` or `previousOperationId`.',
        },
      ]),
    );
    return false;
  });
}
