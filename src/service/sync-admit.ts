import { uuidv7 } from 'uuidv7';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { bindScope } from '../repository/scope.ts';
import { syncAdmission } from '../repository/sync-admission.ts';
import type { Actor } from '../types/actor.ts';
import { ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { AdmissionAnswer, QueueOptions, SyncLane } from '../types/offline-sync.ts';
import { parseOperation } from '../validation/index.ts';
import { type StreamLane, type SyncContext, wakeStreams } from './sync-context.ts';
import { type Candidate, examine, type Refusal, refusal } from './sync-examine.ts';
import { placeOperations } from './sync-place.ts';

/** Operations in one call. */
const MOST_OPERATIONS = 500;
/** Bytes of JSON in one call. */
const MOST_BYTES = 1024 * 1024;

/** What a transaction of admission came to. */
interface Admitted {
  /** By position in the call. */
  readonly answers: ReadonlyMap<number, AdmissionAnswer>;
  /** Operation ids that were taken before, with the positions that repeat them. */
  readonly repeated: readonly { readonly candidate: Candidate; readonly as: 'SAME' | 'OTHER' | 'FOREIGN' }[];
  readonly streams: readonly StreamLane[];
}

/**
 * Takes operations into the queue: each one is answered, in the order of the call, and a bad one does not touch the
 * others. Resolves when what was accepted is on disk. Throws `VALIDATION_FAILED` where the call as a whole is too
 * large, `DATABASE_*`.
 */
export async function admitOperations(
  context: SyncContext,
  actor: Actor,
  inputs: readonly unknown[],
  options: QueueOptions,
): Promise<readonly AdmissionAnswer[]> {
  if (inputs.length > MOST_OPERATIONS) throw tooLarge(`Holds more than ${MOST_OPERATIONS} operations.`);
  const answers = new Map<number, AdmissionAnswer>();
  const candidates: Candidate[] = [];
  let bytes = 0;
  for (const [position, input] of inputs.entries()) {
    const parsed = parseOperation(input);
    if ('issues' in parsed) {
      const refused = refusal('VALIDATION_FAILED', 'The operation is not valid.', parsed.issues);
      answers.set(position, rejected(parsed.operationId ?? uuidv7(), refused));
      continue;
    }
    bytes += parsed.bytes;
    if (bytes > MOST_BYTES) throw tooLarge(`Holds more than ${MOST_BYTES} bytes.`);
    const operationId = parsed.operation.operationId ?? uuidv7();
    const candidate = await examine(context, actor, parsed.operation, { position, operationId });
    if ('code' in candidate) answers.set(position, rejected(operationId, candidate));
    else candidates.push(candidate);
  }
  if (candidates.length > 0) {
    const admitted = await admit(context, actor, candidates, options);
    for (const [position, answer] of admitted.answers) answers.set(position, answer);
    await context.onStep('ADMITTED');
    await wakeStreams(context, admitted.streams);
    for (const [position, answer] of await answerRepeated(context, actor, admitted.repeated))
      answers.set(position, answer);
  }
  return inputs.flatMap((_, position) => answers.get(position) ?? []);
}

function admit(
  context: SyncContext,
  actor: Actor,
  candidates: readonly Candidate[],
  options: QueueOptions,
): Promise<Admitted> {
  const { organizationId } = actor;
  return context.db.withTransaction(async (db): Promise<Admitted> => {
    const admission = syncAdmission({ ...bindScope(db, { organizationId, branchIds: 'ALL' }), db });
    const { operations, progress, refused } = await placeOperations(
      context,
      actor,
      admission,
      candidates,
      options,
    );
    const answers = new Map<number, AdmissionAnswer>();
    for (const [{ position, operationId }, why] of refused) answers.set(position, rejected(operationId, why));
    const stored = await admission.insert(
      operations.map(({ row }) => row),
      progress,
    );
    const fresh = operations.filter(({ row }) => stored.has(row.id));
    for (const { candidate, row } of fresh) {
      const { operationId, sequenceNumber } = row;
      answers.set(candidate.position, { operationId, status: 'ACCEPTED', sequenceNumber });
    }
    const others = operations.filter(({ row }) => !stored.has(row.id));
    const taken = others.length === 0 ? [] : await admission.taken(others.map(({ row }) => row));
    const known = new Map(taken.map((one) => [one.operationId, one]));
    const repeated = others.flatMap(({ candidate, row }) => {
      const before = known.get(row.operationId);
      if (before !== undefined) {
        const own = before.userId === row.userId;
        const as = !own ? 'FOREIGN' : before.payloadHash === row.payloadHash ? 'SAME' : 'OTHER';
        return [{ candidate, as } as const];
      }
      const why = refusal(
        'SEQUENCE_CONFLICT',
        `Another operation of the stream has the sequence number ${row.sequenceNumber}`,
      );
      answers.set(candidate.position, rejected(row.operationId, why));
      return [];
    });
    const ready = fresh.filter(({ row }) => row.status === 'PENDING');
    const urgent = fresh.filter(
      ({ row }) => row.lane === 'CRITICAL' && (row.previousOperationId !== null || row.dependsOn.length > 0),
    );
    const raised =
      urgent.length === 0 ? [] : await admission.raiseAncestors(urgent.map(({ row }) => row.operationId));
    const streams = new Map<string, StreamLane>();
    const wake = (streamId: UUID, lane: SyncLane): void =>
      void streams.set(`${lane} ${streamId}`, { organizationId, streamId, lane });
    for (const { row } of ready) wake(row.streamId, row.lane);
    for (const streamId of raised) wake(streamId, 'CRITICAL');
    return { answers, repeated, streams: [...streams.values()] };
  });
}

/** What was handed in before is answered with what it came to, as it is now. */
async function answerRepeated(
  context: SyncContext,
  actor: Actor,
  repeated: Admitted['repeated'],
): Promise<ReadonlyMap<number, AdmissionAnswer>> {
  if (repeated.length === 0) return new Map();
  const { organizationId } = actor;
  const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
  const states = await repository.operationStates(repeated.map(({ candidate }) => candidate.operationId));
  const byId = new Map(states.map((state) => [state.operationId, state]));
  return new Map<number, AdmissionAnswer>(
    repeated.map(({ candidate: { position, operationId }, as }) => {
      const state = byId.get(operationId);
      if (as === 'SAME' && state !== undefined) {
        return [position, { operationId, status: 'DUPLICATE', state }] as const;
      }
      const why = refusal('IDEMPOTENCY_MISMATCH', 'The operation id was used before with another content');
      // Of somebody else's operation nothing is told.
      const told = as === 'FOREIGN' || state === undefined ? {} : { state };
      return [position, { ...rejected(operationId, why), ...told }] as const;
    }),
  );
}

function rejected(
  operationId: UUID,
  { code, message, issues }: Refusal,
): AdmissionAnswer & { status: 'REJECTED' } {
  return { operationId, status: 'REJECTED', code, message, issues };
}

function tooLarge(message: string): ValidationError {
  return new ValidationError('The call', [
    { path: 'operations', message, remedy: 'Send them in several calls.' },
  ]);
}
