import { uuidv7 } from 'uuidv7';
import type {
  LockedStream,
  NewOperation,
  StreamKey,
  StreamProgress,
  SyncAdmission,
} from '../repository/sync-admission.ts';
import { correct, observe } from '../sync/clock.ts';
import { findCycle } from '../sync/dependencies.ts';
import { defaultPriority, dueAt } from '../sync/priority.ts';
import type { Actor } from '../types/actor.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import type { QueueOptions, SyncLane, SyncPriority } from '../types/offline-sync.ts';
import type { SyncContext } from './sync-context.ts';
import { type Candidate, type Refusal, refusal } from './sync-examine.ts';

/** An operation with its place in its stream. */
export interface Placed {
  readonly candidate: Candidate;
  readonly row: NewOperation;
}

export interface Placement {
  readonly operations: readonly Placed[];
  readonly progress: readonly StreamProgress[];
  readonly refused: ReadonlyMap<Candidate, Refusal>;
}

interface Numbered {
  readonly candidate: Candidate;
  readonly stream: LockedStream;
  readonly sequenceNumber: number;
}

/** Operations that others wait for already, with the lane that waits. */
type WaitedFor = ReadonlyMap<UUID, SyncLane>;

const DEFAULT_RETRIES = 5;

/**
 * Gives operations their places: number, time, predecessors and lane. Locks their streams first, so that what is read
 * of them holds until the transaction ends.
 */
export async function placeOperations(
  context: SyncContext,
  actor: Actor,
  admission: SyncAdmission,
  candidates: readonly Candidate[],
  options: QueueOptions,
): Promise<Placement> {
  const refused = new Map<Candidate, Refusal>();
  const streams = await lockStreams(admission, candidates);
  await lockEnds(admission, candidates);
  const numbered = number(candidates, streams, refused);
  const within = await withinBatches(admission, numbered, refused);
  const previous = await previousOperations(admission, within);
  const waited = await admission.waitedFor(within.map(({ candidate }) => candidate.operationId));
  const acyclic = await refuseCycles(admission, within, { previous, waited }, refused);
  const lanes = lanesOf(acyclic, waited);
  const times = timesOf(context, acyclic, options);
  const operations = acyclic.map((one) => ({
    candidate: one.candidate,
    row: rowOf(context, actor, one, {
      previousOperationId: previous.get(one.candidate) ?? null,
      lane: lanes.get(one.candidate) ?? 'NORMAL',
      time: times.of.get(one.candidate) ?? NO_TIME,
    }),
  }));
  const progress = [...streams.values()].map((stream): StreamProgress => {
    const own = acyclic.filter((one) => one.stream === stream);
    const clock = times.streams.get(stream);
    return {
      id: stream.id,
      numberedBy: own[0] === undefined ? null : numbering(own[0].candidate),
      lastSequence: Math.max(stream.lastSequence, ...own.map(({ sequenceNumber }) => sequenceNumber)),
      clock: clock?.clock ?? stream.clock,
      clockSkewMs: clock?.skewMs ?? null,
      lastEffectiveAt: clock?.lastEffectiveAt ?? stream.lastEffectiveAt,
    };
  });
  return { operations, progress, refused };
}

const nameOf = ({ userId, installationId, epoch }: StreamKey): string =>
  JSON.stringify([userId, installationId, epoch]);

async function lockStreams(
  admission: SyncAdmission,
  candidates: readonly Candidate[],
): Promise<ReadonlyMap<string, LockedStream>> {
  const keys = new Map(candidates.map(({ key }) => [nameOf(key), key]));
  const locked = await admission.lockStreams([...keys.values()]);
  return new Map([...keys.keys()].flatMap((name, i) => (locked[i] === undefined ? [] : [[name, locked[i]]])));
}

/** Two admissions that lead to each other's operations must not miss each other. */
async function lockEnds(admission: SyncAdmission, candidates: readonly Candidate[]): Promise<void> {
  const crossing = candidates.filter(({ operation }) => operation.dependsOn.length > 0);
  if (crossing.length === 0) return;
  await admission.lockOperations([
    ...new Set(crossing.flatMap(({ operationId, operation }) => [operationId, ...operation.dependsOn])),
  ]);
}

const numbering = ({ operation }: Candidate): 'CLIENT' | 'SERVER' =>
  operation.sequenceNumber === undefined ? 'SERVER' : 'CLIENT';

/** The operations in the order of their streams. */
function number(
  candidates: readonly Candidate[],
  streams: ReadonlyMap<string, LockedStream>,
  refused: Map<Candidate, Refusal>,
): readonly Numbered[] {
  const next = new Map<LockedStream, { by: string; last: number }>();
  const numbered = candidates.flatMap((candidate): Numbered[] => {
    const stream = streams.get(nameOf(candidate.key));
    if (stream === undefined) return [];
    const by = numbering(candidate);
    const state = next.get(stream) ?? { by: stream.numberedBy ?? by, last: stream.lastSequence };
    next.set(stream, state);
    if (state.by !== by) {
      refused.set(
        candidate,
        refusal('VALIDATION_FAILED', 'The operation is not valid.', [
          {
            path: 'sequenceNumber',
            message: by === 'CLIENT' ? 'Is given here only.' : 'Is missing here only.',
            remedy:
              'Send it with every operation of a stream or with none; begin a new `epoch` to change that.',
          },
        ]),
      );
      return [];
    }
    state.last += 1;
    return [{ candidate, stream, sequenceNumber: candidate.operation.sequenceNumber ?? state.last }];
  });
  return numbered.toSorted((a, b) => a.sequenceNumber - b.sequenceNumber);
}

/** Refuses what would make an atomic batch larger than it says, or says another size. */
async function withinBatches(
  admission: SyncAdmission,
  numbered: readonly Numbered[],
  refused: Map<Candidate, Refusal>,
): Promise<readonly Numbered[]> {
  const members = numbered.filter(({ candidate }) => candidate.operation.batchSize !== undefined);
  if (members.length === 0) return numbered;
  const asked = new Map(
    members.map(({ stream, candidate }) => [
      `${stream.id} ${candidate.operation.batchId}`,
      { streamId: stream.id, batchId: candidate.operation.batchId ?? '' },
    ]),
  );
  const known = await admission.batches([...asked.values()]);
  const batches = new Map(known.map((one) => [`${one.streamId} ${one.batchId}`, { ...one }]));
  // Of a repetition the members are counted already.
  const taken = await admission.taken(
    members.map(({ candidate, stream, sequenceNumber }) => ({
      operationId: candidate.operationId,
      streamId: stream.id,
      sequenceNumber,
    })),
  );
  const repeated = new Set(taken.map(({ operationId }) => operationId));
  return numbered.filter(({ candidate, stream }) => {
    const { batchId, batchSize } = candidate.operation;
    if (batchSize === undefined || batchId === undefined || repeated.has(candidate.operationId)) return true;
    const name = `${stream.id} ${batchId}`;
    const batch = batches.get(name) ?? { streamId: stream.id, batchId, size: batchSize, taken: 0 };
    batches.set(name, batch);
    const fits = batch.size === batchSize && batch.taken < batch.size;
    if (fits) batch.taken += 1;
    else {
      refused.set(
        candidate,
        refusal('VALIDATION_FAILED', 'The operation is not valid.', [
          {
            path: 'batchSize',
            message:
              batch.size === batchSize
                ? 'The batch has as many operations already.'
                : 'Is another than before.',
            remedy: 'Give every operation of an atomic batch the number of them all.',
          },
        ]),
      );
    }
    return fits;
  });
}

/** The operation before each one on its entity in its stream: what it says itself, else the last one there. */
async function previousOperations(
  admission: SyncAdmission,
  numbered: readonly Numbered[],
): Promise<ReadonlyMap<Candidate, UUID>> {
  const previous = new Map<Candidate, UUID>();
  const last = new Map<string, UUID>();
  const first: Numbered[] = [];
  for (const one of numbered) {
    const { candidate, stream } = one;
    const { entityType, entityId, previousOperationId } = candidate.operation;
    const name = JSON.stringify([stream.id, entityType, entityId]);
    const before = last.get(name);
    if (previousOperationId === null) {
      last.set(name, candidate.operationId);
      continue;
    }
    if (previousOperationId !== undefined) previous.set(candidate, previousOperationId);
    else if (before === undefined && stream.lastSequence > 0) first.push(one);
    else if (before !== undefined && before !== candidate.operationId) previous.set(candidate, before);
    last.set(name, candidate.operationId);
  }
  if (first.length === 0) return previous;
  const found = await admission.lastOnEntities(
    first.map(({ candidate, stream }) => ({
      streamId: stream.id,
      entityType: candidate.operation.entityType,
      entityId: candidate.operation.entityId,
    })),
  );
  const stored = new Map(
    found.map((one) => [JSON.stringify([one.streamId, one.entityType, one.entityId]), one]),
  );
  for (const { candidate, stream, sequenceNumber } of first) {
    const { entityType, entityId } = candidate.operation;
    const before = stored.get(JSON.stringify([stream.id, entityType, entityId]));
    if (before === undefined || before.sequenceNumber >= sequenceNumber) continue;
    if (before.operationId !== candidate.operationId) previous.set(candidate, before.operationId);
  }
  return previous;
}

/**
 * Refuses the operations that would close a circle. There can be one only where somebody already waits for an operation
 * that comes now, where one of this call waits for a later one, or through the other operations of an atomic batch.
 */
async function refuseCycles(
  admission: SyncAdmission,
  numbered: readonly Numbered[],
  { previous, waited }: { readonly previous: ReadonlyMap<Candidate, UUID>; readonly waited: WaitedFor },
  refused: Map<Candidate, Refusal>,
): Promise<readonly Numbered[]> {
  const before = (candidate: Candidate): readonly UUID[] => [
    ...candidate.operation.dependsOn,
    ...(previous.has(candidate) ? [previous.get(candidate) ?? ''] : []),
  ];
  const arrived = new Set<UUID>();
  const own = new Set(numbered.map(({ candidate }) => candidate.operationId));
  let forward = false;
  for (const { candidate } of numbered) {
    forward ||= before(candidate).some((id) => own.has(id) && !arrived.has(id));
    arrived.add(candidate.operationId);
  }
  const members = numbered.filter(({ candidate }) => candidate.operation.batchSize !== undefined);
  if (!forward && members.length === 0 && waited.size === 0) return numbered;
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

const priorityOf = ({ operation, entity }: Candidate): SyncPriority =>
  operation.priority ?? entity?.options.priority ?? defaultPriority(operation.entityType);

/** CRITICAL for what is, for what something critical waits for, and for what shares an atomic batch with such. */
function lanesOf(numbered: readonly Numbered[], waited: WaitedFor): ReadonlyMap<Candidate, SyncLane> {
  const critical = new Set(
    numbered
      .map(({ candidate }) => candidate)
      .filter(
        (candidate) =>
          priorityOf(candidate) === 'CRITICAL' || waited.get(candidate.operationId) === 'CRITICAL',
      ),
  );
  const batches = new Set(
    [...critical].flatMap(({ operation }) =>
      operation.batchSize === undefined || operation.batchId === undefined ? [] : [operation.batchId],
    ),
  );
  return new Map(
    numbered.map(({ candidate }) => {
      const { batchId, batchSize } = candidate.operation;
      const inBatch = batchSize !== undefined && batchId !== undefined && batches.has(batchId);
      return [candidate, critical.has(candidate) || inBatch ? 'CRITICAL' : 'NORMAL'];
    }),
  );
}

interface OperationTime {
  readonly effectiveAt: Timestamp | null;
  readonly skewMs: number | null;
}
const NO_TIME: OperationTime = { effectiveAt: null, skewMs: null };

/** When each operation took place by the server's clock, as far as the device's clocks tell. */
function timesOf(context: SyncContext, numbered: readonly Numbered[], { sentAt }: QueueOptions) {
  const receivedAt = context.clock.now().toISOString();
  const of = new Map<Candidate, OperationTime>();
  const streams = new Map<
    LockedStream,
    { clock: LockedStream['clock'] } & OperationTime & { lastEffectiveAt: Timestamp | null }
  >();
  for (const { candidate, stream } of numbered) {
    const before = streams.get(stream) ?? {
      clock: sentAt === undefined ? stream.clock : observe(stream.clock, sentAt, receivedAt),
      lastEffectiveAt: stream.lastEffectiveAt,
      ...NO_TIME,
    };
    const { lastEffectiveAt } = before;
    const time = correct(before.clock, candidate.operation.stamp, { receivedAt, lastEffectiveAt });
    of.set(candidate, time);
    streams.set(stream, {
      ...before,
      skewMs: time.skewMs ?? before.skewMs,
      lastEffectiveAt: time.effectiveAt ?? lastEffectiveAt,
    });
  }
  return { of, streams };
}

function rowOf(
  context: SyncContext,
  actor: Actor,
  { candidate, stream, sequenceNumber }: Numbered,
  place: { readonly previousOperationId: UUID | null; readonly lane: SyncLane; readonly time: OperationTime },
): NewOperation {
  const { operation, entity, key } = candidate;
  const { payload } = operation;
  const now = context.clock.now();
  const priority = priorityOf(candidate);
  const occurredAt = operation.occurredAt ?? operation.stamp?.wallTime ?? now.toISOString();
  const effectiveAt = place.time.effectiveAt;
  const old = now.getTime() - Date.parse(effectiveAt ?? occurredAt) > context.limits.maxOfflineMs;
  const held = candidate.held ?? (old ? 'TOO_OLD' : null);
  const approval =
    operation.requiresApproval === true ||
    entity?.options.requiresApproval?.({
      operation: operation.operation,
      entityId: operation.entityId,
      payload,
      userId: actor.userId,
    }) === true;
  const waits = approval && priority !== 'CRITICAL';
  return {
    id: uuidv7(),
    streamId: stream.id,
    userId: key.userId,
    deviceId: key.deviceId,
    branchId: operation.branchId ?? null,
    operationId: candidate.operationId,
    sequenceNumber,
    batchId: operation.batchId ?? null,
    batchSize: operation.batchSize ?? null,
    sessionId: operation.sessionId ?? stream.sessionId,
    operation: operation.operation,
    entityType: operation.entityType,
    entityId: operation.entityId,
    schemaVersion: operation.schemaVersion,
    payload,
    payloadHash: candidate.payloadHash,
    previousVersion: operation.previousVersion ?? null,
    baseTrusted: candidate.baseTrusted,
    fields:
      operation.operation === 'PATCH' || operation.operation === 'UPDATE' ? Object.keys(payload) : ['*'],
    dependsOn: operation.dependsOn,
    previousOperationId: place.previousOperationId,
    disjointProceeds: entity?.options.disjointProceed === true && operation.batchSize === undefined,
    occurredAt,
    effectiveAt,
    clockSkewMs: place.time.skewMs,
    clientStamp: operation.stamp ?? null,
    status: held !== null ? 'PARKED' : waits ? 'WAITING_APPROVAL' : 'PENDING',
    statusReason: held ?? (waits ? 'APPROVAL' : null),
    priority,
    lane: place.lane,
    dueAt: dueAt(now.toISOString(), priority),
    expiresAt: operation.expiresAt ?? null,
    maxRetries: operation.maxRetries ?? DEFAULT_RETRIES,
    requiresApproval: approval,
    reviewRequired: approval && !waits,
    actor: { branchIds: actor.branchIds, permissions: actor.permissions },
    metadata: operation.metadata ?? {},
  };
}
