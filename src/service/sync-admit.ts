import { uuidv7 } from 'uuidv7';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { bindScope } from '../repository/scope.ts';
import { type SyncAdmission, syncAdmission } from '../repository/sync-admission.ts';
import type { Actor } from '../types/actor.ts';
import { ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { AdmissionAnswer, QueueOptions, SyncLane } from '../types/offline-sync.ts';
import { parseOperation } from '../validation/index.ts';
import { type StreamLane, type SyncContext, wakeStreams } from './sync-context.ts';
import { type Candidate, examine, type Refusal, type RefusedOperation, refusal } from './sync-examine.ts';
import { comparison, type Repeated } from './sync-known.ts';
import { type Placed, placeOperations } from './sync-place.ts';

/** Operations in one call. */
const MOST_OPERATIONS = 500;
/** Bytes of JSON in one call. */
const MOST_BYTES = 1024 * 1024;

/** What a transaction of admission came to. */
interface Admitted {
  /** By position in the call. */
  readonly answers: ReadonlyMap<number, AdmissionAnswer>;
  /** What was handed in before, or stands twice in the call. */
  readonly repeated: readonly Repeated[];
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
  const unfit: RefusedOperation[] = [];
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
    const examined = await examine(context, actor, parsed.operation, { position, operationId });
    if ('refusal' in examined) unfit.push(examined);
    else candidates.push(examined);
  }
  if (candidates.length > 0 || unfit.length > 0) {
    const admitted = await admit(context, actor, { candidates, unfit }, options);
    for (const [position, answer] of admitted.answers) answers.set(position, answer);
    await context.onStep('ADMITTED');
    await wakeStreams(context, admitted.streams);
    for (const [position, answer] of await answerRepeated(context, actor, admitted)) {
      answers.set(position, answer);
    }
  }
  return inputs.flatMap((_, position) => answers.get(position) ?? []);
}

function admit(
  context: SyncContext,
  actor: Actor,
  asked: { readonly candidates: readonly Candidate[]; readonly unfit: readonly RefusedOperation[] },
  options: QueueOptions,
): Promise<Admitted> {
  const { organizationId } = actor;
  return context.db.withTransaction(async (db): Promise<Admitted> => {
    const admission = syncAdmission({ ...bindScope(db, { organizationId, branchIds: 'ALL' }), db });
    const { operations, progress, refused, ...placed } = await placeOperations(
      context,
      actor,
      admission,
      asked,
      options,
    );
    const answers = new Map<number, AdmissionAnswer>();
    for (const [{ position, operationId }, why] of refused) answers.set(position, rejected(operationId, why));
    const stored =
      progress.length === 0
        ? new Set()
        : await admission.insert(
            operations.map(({ row }) => row),
            progress,
          );
    const fresh = operations.filter(({ row }) => stored.has(row.id));
    for (const { candidate, row } of fresh) {
      const { operationId, sequenceNumber } = row;
      answers.set(candidate.position, { operationId, status: 'ACCEPTED', sequenceNumber });
    }
    const others = operations.filter(({ row }) => !stored.has(row.id)).map(({ candidate }) => candidate);
    const repeated = [...placed.repeated, ...(await takenMeanwhile(actor, admission, others))];
    const ready = fresh.filter(({ row }) => row.status === 'PENDING');
    const waits = ({ row }: Placed): boolean =>
      row.previousOperationId !== null ||
      row.after.length > 0 ||
      row.dependsOn.length > 0 ||
      row.batchSize !== null;
    const urgent = fresh.filter((one) => one.row.lane === 'CRITICAL' && waits(one));
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

/** Operations whose ids another stream took while they were being placed. */
async function takenMeanwhile(
  actor: Actor,
  admission: SyncAdmission,
  operations: readonly Candidate[],
): Promise<readonly Repeated[]> {
  if (operations.length === 0) return [];
  const questions = operations.map(({ position, operationId }) => ({ position, operationId, stream: null }));
  const found = new Map((await admission.look(questions)).map((one) => [one.position, one.taken]));
  return operations.map((operation) => {
    const taken = found.get(operation.position) ?? null;
    return { operation, as: taken === null ? 'FOREIGN' : comparison(actor, operation, taken) };
  });
}

/**
 * What was handed in before is answered with what it came to, as it is now. What stands twice in the call and was not
 * taken the first time is refused for the same.
 */
async function answerRepeated(
  context: SyncContext,
  actor: Actor,
  { repeated, answers }: Pick<Admitted, 'repeated' | 'answers'>,
): Promise<ReadonlyMap<number, AdmissionAnswer>> {
  if (repeated.length === 0) return new Map();
  const { organizationId } = actor;
  const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
  const states = await repository.operationStates(repeated.map(({ operation }) => operation.operationId));
  const byId = new Map(states.map((state) => [state.operationId, state]));
  const inCall = new Map([...answers.values()].map((answer) => [answer.operationId, answer]));
  return new Map<number, AdmissionAnswer>(
    repeated.map(({ operation: { position, operationId }, as }) => {
      const state = byId.get(operationId);
      const first = inCall.get(operationId);
      if (as === 'SAME' && state === undefined && first !== undefined) return [position, first] as const;
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
