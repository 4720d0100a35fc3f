import { uuidv7 } from 'uuidv7';
import type {
  LockedStream,
  NewOperation,
  StreamProgress,
  SyncAdmission,
} from '../repository/sync-admission.ts';
import { type CorrectedTime, correct, observe } from '../sync/clock.ts';
import { admittedPriority, defaultPriority, dueAt } from '../sync/priority.ts';
import type { Actor } from '../types/actor.ts';
import type { Timestamp } from '../types/ids.ts';
import type { QueueOptions, SyncPriority } from '../types/offline-sync.ts';
import type { SyncContext } from './sync-context.ts';
import { touchedColumns } from './sync-entities.ts';
import {
  type Candidate,
  type Identity,
  notOwn,
  notValid,
  type Refusal,
  type RefusedOperation,
  refusal,
} from './sync-examine.ts';
import {
  type Findings,
  highest,
  look,
  nameOf,
  type Repeated,
  repetitions,
  type Streams,
} from './sync-known.ts';
import {
  type EntityPlace,
  type Numbered,
  placesOf,
  refuseCycles,
  refuseElsewhere,
} from './sync-predecessors.ts';

/** An operation with its place in its stream. */
export interface Placed {
  readonly candidate: Candidate;
  readonly row: NewOperation;
}

export interface Placement {
  readonly operations: readonly Placed[];
  readonly progress: readonly StreamProgress[];
  readonly refused: ReadonlyMap<Identity, Refusal>;
  readonly repeated: readonly Repeated[];
}

const DEFAULT_RETRIES = 5;

/**
 * Gives operations their places: number, time, predecessors and lane. Locks their streams first, so that what is read
 * of them holds until the transaction ends. What was taken before is told apart first, and no other is measured by it.
 */
export async function placeOperations(
  context: SyncContext,
  actor: Actor,
  admission: SyncAdmission,
  asked: { readonly candidates: readonly Candidate[]; readonly unfit: readonly RefusedOperation[] },
  options: QueueOptions,
): Promise<Placement> {
  const { candidates, unfit } = asked;
  const refused = new Map<Identity, Refusal>();
  const streams = await lockStreams(admission, candidates);
  const findings = await look(admission, asked, streams);
  const repeated = repetitions(actor, asked, findings);
  const known = new Set(repeated.map(({ operation }) => operation));
  for (const one of unfit) if (!known.has(one)) refused.set(one, one.refusal);
  const own = refuseSessions(
    candidates.filter((one) => !known.has(one)),
    findings,
    refused,
  );
  const numbered = number(own, { streams, findings }, refused);
  const within = await withinBatches(admission, numbered, refused);
  const here = refuseElsewhere(within, { call: candidates, findings }, refused);
  const places = placesOf(here, findings);
  const acyclic = await refuseCycles(admission, here, { places, findings }, refused);
  const urgency = urgencyOf(acyclic, findings);
  const times = timesOf(context, acyclic, { findings, streams, options });
  const operations = acyclic.map((one) => ({
    candidate: one.candidate,
    row: rowOf(context, actor, one, {
      ...(places.get(one.candidate) ?? NO_PLACE),
      urgency: urgency.get(one.candidate) ?? null,
      time: times.of.get(one.candidate) ?? NO_TIME,
    }),
  }));
  const progress = [...streams.values()].map((stream): StreamProgress => {
    const taken = acyclic.filter((one) => one.stream === stream);
    const clock = times.streams.get(stream);
    return {
      id: stream.id,
      numberedBy: taken[0] === undefined ? null : numbering(taken[0].candidate),
      lastSequence: Math.max(stream.lastSequence, ...taken.map(({ sequenceNumber }) => sequenceNumber)),
      clock: clock?.clock ?? stream.clock,
      clockSkewMs: clock?.skewMs ?? null,
      lastEffectiveAt: clock?.lastEffectiveAt ?? stream.lastEffectiveAt,
    };
  });
  return { operations, progress, refused, repeated };
}

async function lockStreams(admission: SyncAdmission, candidates: readonly Candidate[]): Promise<Streams> {
  const keys = new Map(candidates.map(({ key }) => [nameOf(key), key]));
  const locked = await admission.lockStreams([...keys.values()]);
  return new Map([...keys.keys()].flatMap((name, i) => (locked[i] === undefined ? [] : [[name, locked[i]]])));
}

/** Refuses what names somebody else's session. One that is not known is nobody's. */
function refuseSessions(
  candidates: readonly Candidate[],
  findings: Findings,
  refused: Map<Identity, Refusal>,
): readonly Candidate[] {
  return candidates.filter((candidate) => {
    if (candidate.operation.sessionId === undefined) return true;
    if (findings.get(candidate.position)?.sessionUserId === candidate.key.userId) return true;
    refused.set(candidate, notOwn('sessionId'));
    return false;
  });
}

const numbering = ({ operation }: Candidate): 'CLIENT' | 'SERVER' =>
  operation.sequenceNumber === undefined ? 'SERVER' : 'CLIENT';

/** The operations in the order of their streams. */
function number(
  candidates: readonly Candidate[],
  { streams, findings }: { readonly streams: Streams; readonly findings: Findings },
  refused: Map<Identity, Refusal>,
): readonly Numbered[] {
  const next = new Map<LockedStream, { by: string; last: number; readonly used: Set<number> }>();
  const numbered = candidates.flatMap((candidate): Numbered[] => {
    const stream = streams.get(nameOf(candidate.key));
    if (stream === undefined) return [];
    const by = numbering(candidate);
    const state = next.get(stream) ?? {
      by: stream.numberedBy ?? by,
      last: stream.lastSequence,
      used: new Set(),
    };
    next.set(stream, state);
    if (state.by !== by) {
      refused.set(
        candidate,
        notValid({
          path: 'sequenceNumber',
          message: by === 'CLIENT' ? 'Is given here only.' : 'Is missing here only.',
          remedy:
            'Send it with every operation of a stream or with none; begin a new `epoch` to change that.',
        }),
      );
      return [];
    }
    const sequenceNumber = candidate.operation.sequenceNumber ?? state.last + 1;
    if (findings.get(candidate.position)?.numberTaken === true || state.used.has(sequenceNumber)) {
      const message = `Another operation of the stream has the sequence number ${sequenceNumber}`;
      refused.set(candidate, refusal('SEQUENCE_CONFLICT', message));
      return [];
    }
    state.used.add(sequenceNumber);
    state.last += 1;
    return [{ candidate, stream, sequenceNumber }];
  });
  return numbered.toSorted((a, b) => a.sequenceNumber - b.sequenceNumber);
}

/** Refuses what would make an atomic batch larger than it says, or says another size. */
async function withinBatches(
  admission: SyncAdmission,
  numbered: readonly Numbered[],
  refused: Map<Identity, Refusal>,
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
  return numbered.filter(({ candidate, stream }) => {
    const { batchId, batchSize } = candidate.operation;
    if (batchSize === undefined || batchId === undefined) return true;
    const name = `${stream.id} ${batchId}`;
    const batch = batches.get(name) ?? { streamId: stream.id, batchId, size: batchSize, taken: 0 };
    batches.set(name, batch);
    const fits = batch.size === batchSize && batch.taken < batch.size;
    if (fits) batch.taken += 1;
    else {
      refused.set(
        candidate,
        notValid({
          path: 'batchSize',
          message:
            batch.size === batchSize
              ? 'The batch has as many operations already.'
              : 'Is another than before.',
          remedy: 'Give every operation of an atomic batch the number of them all.',
        }),
      );
    }
    return fits;
  });
}

const priorityOf = ({ operation, entity }: Candidate): SyncPriority =>
  admittedPriority(operation.priority, entity?.options.priority ?? defaultPriority(operation.entityType));

/** Whose CRITICAL operation it is, or waits for it: only its author's waives an approval. null: nobody's. */
type Urgency = 'OWN' | 'OTHERS' | null;

/** Also of what shares an atomic batch with such. */
function urgencyOf(numbered: readonly Numbered[], findings: Findings): ReadonlyMap<Candidate, Urgency> {
  const alone = (candidate: Candidate): Urgency => {
    const finding = findings.get(candidate.position);
    if (priorityOf(candidate) === 'CRITICAL' || finding?.waives === true) return 'OWN';
    return finding?.waitedIn === 'CRITICAL' ? 'OTHERS' : null;
  };
  const batchOf = ({ operation }: Candidate): string | undefined =>
    operation.batchSize === undefined ? undefined : operation.batchId;
  const candidates = numbered.map(({ candidate }) => candidate);
  const batches = new Map(
    (['OTHERS', 'OWN'] as const).flatMap((urgency) =>
      candidates.filter((one) => alone(one) === urgency).map((one) => [batchOf(one), urgency] as const),
    ),
  );
  return new Map(
    candidates.map((candidate) => {
      const batch = batchOf(candidate);
      return [candidate, (batch === undefined ? undefined : batches.get(batch)) ?? alone(candidate)];
    }),
  );
}

const NO_PLACE: EntityPlace = { previousOperationId: null, after: [], disjointProceeds: false };
const NO_TIME: CorrectedTime = { effectiveAt: null, measuredAt: null, skewMs: null };

interface StreamTime {
  readonly clock: LockedStream['clock'];
  readonly skewMs: number | null;
  /** Of all that the stream has. */
  readonly lastEffectiveAt: Timestamp | null;
  /** Of what was looked at, in the order of the numbers. */
  readonly reached: Timestamp | null;
}

/**
 * When each operation took place by the server's clock, as far as the device's clocks tell: not before what has a smaller
 * number in its stream, nor after what has a greater, in whatever order they arrive.
 */
function timesOf(
  context: SyncContext,
  numbered: readonly Numbered[],
  given: { readonly findings: Findings; readonly streams: Streams; readonly options: QueueOptions },
) {
  const { findings, options } = given;
  const receivedAt = context.clock.now().toISOString();
  const { sentAt } = options;
  const of = new Map<Candidate, CorrectedTime>();
  const streams = new Map<LockedStream, StreamTime>(
    [...given.streams.values()].map((stream) => [
      stream,
      {
        clock: sentAt === undefined ? stream.clock : observe(stream.clock, sentAt, receivedAt),
        lastEffectiveAt: stream.lastEffectiveAt,
        skewMs: null,
        reached: null,
      },
    ]),
  );
  for (const { candidate, stream, sequenceNumber } of numbered) {
    const before = streams.get(stream);
    if (before === undefined) continue;
    const finding = findings.get(candidate.position);
    const late = sequenceNumber <= highest(stream);
    const time = correct(before.clock, candidate.operation.stamp, {
      receivedAt,
      lastEffectiveAt: latest(before.reached, late ? finding?.effectiveBefore : stream.lastEffectiveAt),
      nextEffectiveAt: late ? (finding?.effectiveAfter ?? null) : null,
    });
    of.set(candidate, time);
    streams.set(stream, {
      clock: before.clock,
      skewMs: time.skewMs ?? before.skewMs,
      lastEffectiveAt: latest(before.lastEffectiveAt, time.effectiveAt),
      reached: latest(before.reached, time.effectiveAt),
    });
  }
  return { of, streams };
}

const latest = (a: Timestamp | null, b: Timestamp | null | undefined): Timestamp | null =>
  a === null || (b != null && b > a) ? (b ?? null) : a;

function rowOf(
  context: SyncContext,
  actor: Actor,
  { candidate, stream, sequenceNumber }: Numbered,
  place: EntityPlace & { readonly urgency: Urgency; readonly time: CorrectedTime },
): NewOperation {
  const { operation, entity, key } = candidate;
  const { payload } = operation;
  // As it is applied: an older version may have other names for what it touches.
  const current = entity?.current(operation.operation, payload, operation.schemaVersion);
  const now = context.clock.now();
  const priority = priorityOf(candidate);
  const occurredAt = operation.occurredAt ?? operation.stamp?.wallTime ?? now.toISOString();
  const { effectiveAt, measuredAt, skewMs } = place.time;
  const old = now.getTime() - Date.parse(measuredAt ?? occurredAt) > context.limits.maxOfflineMs;
  const held = candidate.held ?? (old ? 'TOO_OLD' : null);
  const approval =
    operation.requiresApproval === true ||
    entity?.asksApproval({
      operation: operation.operation,
      entityId: operation.entityId,
      payload: current ?? payload,
      userId: actor.userId,
    }) === true;
  const approvalWaived = place.urgency === 'OWN';
  const waits = approval && !approvalWaived;
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
    fields: touchedColumns(operation.operation, current),
    dependsOn: operation.dependsOn,
    previousOperationId: place.previousOperationId,
    after: place.after,
    disjointProceeds: place.disjointProceeds,
    occurredAt,
    effectiveAt,
    clockSkewMs: skewMs,
    clientStamp: operation.stamp ?? null,
    status: held !== null ? 'PARKED' : waits ? 'WAITING_APPROVAL' : 'PENDING',
    statusReason: held ?? (waits ? 'APPROVAL' : null),
    priority,
    lane: place.urgency === null || waits ? 'NORMAL' : 'CRITICAL',
    dueAt: dueAt(now.toISOString(), priority),
    expiresAt: operation.expiresAt ?? null,
    maxRetries: operation.maxRetries ?? DEFAULT_RETRIES,
    requiresApproval: approval,
    approvalWaived,
    reviewRequired: approval && !waits,
    unchecked: candidate.held !== null,
    actor: { branchIds: actor.branchIds, permissions: actor.permissions },
    metadata: operation.metadata ?? {},
  };
}
