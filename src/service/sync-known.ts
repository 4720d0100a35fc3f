import type { LockedStream, StreamKey, SyncAdmission } from '../repository/sync-admission.ts';
import type { AdmissionFinding, AdmissionQuestion } from '../repository/sync-look.ts';
import type { Actor } from '../types/actor.ts';
import type { UUID } from '../types/ids.ts';
import type { Candidate, Identity } from './sync-examine.ts';

/** An operation whose id was taken before: by the same, by another of the user's, or by somebody else's. */
export interface Repeated {
  readonly operation: Identity;
  readonly as: 'SAME' | 'OTHER' | 'FOREIGN';
}

/** What was there of operations before, by their places in the call. */
export type Findings = ReadonlyMap<number, AdmissionFinding>;

/** Tells an outbox from others. */
export const nameOf = ({ userId, installationId, epoch }: StreamKey): string =>
  JSON.stringify([userId, installationId, epoch]);

/** By `nameOf`. */
export type Streams = ReadonlyMap<string, LockedStream>;

/** The highest number that a stream has; none that it took is above. */
export const highest = ({ numberedBy, lastSequence }: LockedStream): number =>
  numberedBy === null ? -1 : lastSequence;

/**
 * What is there of the operations, by their places in the call. What leads to operations that the streams do not have is
 * locked before, and looked at again: of two admissions that lead to each other's operations one sees the other.
 */
export async function look(
  admission: SyncAdmission,
  { candidates, unfit }: { readonly candidates: readonly Candidate[]; readonly unfit: readonly Identity[] },
  streams: Streams,
): Promise<Findings> {
  const call = new Set(candidates.map(({ operationId }) => operationId));
  const questions = [
    ...unfit.map(({ position, operationId }) => ({ position, operationId, stream: null })),
    ...questionsOf(candidates, streams),
  ];
  const ask = async () => new Map((await admission.look(questions)).map((one) => [one.position, one]));
  const found = await ask();
  const ends = candidates.flatMap(({ position, operationId, operation }) => {
    const { previousOperationId: previous, dependsOn } = operation;
    const finding = found.get(position);
    if ((finding?.taken ?? null) !== null) return [];
    const missing = previous != null && !call.has(previous) && (finding?.previous ?? null) === null;
    const others = [...dependsOn, ...(missing ? [previous] : [])];
    return others.length === 0 ? [] : [operationId, ...others];
  });
  if (ends.length === 0) return found;
  await admission.lockOperations([...new Set(ends)]);
  return ask();
}

/** As little as is needed: of a new stream nothing, around a number only where the stream has come so far. */
function questionsOf(candidates: readonly Candidate[], streams: Streams): readonly AdmissionQuestion[] {
  return candidates.map(({ position, operationId, operation, key }): AdmissionQuestion => {
    const stream = streams.get(nameOf(key));
    if (stream === undefined) return { position, operationId, stream: null };
    const { entityType, entityId, sequenceNumber, previousOperationId, sessionId } = operation;
    const before = sequenceNumber ?? null;
    const asksLast = previousOperationId == null && stream.numberedBy !== null;
    return {
      position,
      operationId,
      stream: {
        id: stream.id,
        lateNumber: before !== null && before <= highest(stream) ? before : null,
        lastOf: asksLast ? { entityType, entityId, before, open: previousOperationId === null } : null,
        previousOperationId: previousOperationId ?? null,
        sessionId: sessionId ?? null,
      },
    };
  });
}

/**
 * What was taken before, and what stands twice in the call. What may not be stored is one of these only where it is the
 * actor's own; else what it is refused for is told.
 */
export function repetitions(
  actor: Actor,
  { candidates, unfit }: { readonly candidates: readonly Identity[]; readonly unfit: readonly Identity[] },
  found: Findings,
): readonly Repeated[] {
  const first = new Map<UUID, Identity>();
  const repeated = (operation: Identity): readonly Repeated[] => {
    const taken = found.get(operation.position)?.taken ?? null;
    if (taken !== null) return [{ operation, as: comparison(actor, operation, taken) }];
    const before = first.get(operation.operationId);
    first.set(operation.operationId, before ?? operation);
    if (before === undefined) return [];
    return [{ operation, as: before.payloadHash === operation.payloadHash ? 'SAME' : 'OTHER' }];
  };
  const ofUnfit = unfit.flatMap((operation): readonly Repeated[] => {
    const taken = found.get(operation.position)?.taken ?? null;
    if (taken === null || taken.userId !== actor.userId) return [];
    return [{ operation, as: comparison(actor, operation, taken) }];
  });
  return [...candidates.flatMap(repeated), ...ofUnfit];
}

/** How an operation compares to the one that has its id. */
export function comparison(
  actor: Actor,
  { payloadHash }: Identity,
  taken: NonNullable<AdmissionFinding['taken']>,
): Repeated['as'] {
  if (taken.userId !== actor.userId) return 'FOREIGN';
  return taken.payloadHash === payloadHash ? 'SAME' : 'OTHER';
}
