import { setTimeout as sleep } from 'node:timers/promises';
import { uuidv7 } from 'uuidv7';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { type ClaimedOperation, type ClaimPlace, syncClaims } from '../repository/sync-claims.ts';
import { type OperationEnd, syncOutcomes } from '../repository/sync-outcome.ts';
import { DataProtectionError, SyncError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { inParallel } from './in-parallel.ts';
import { applyTogether, BatchFailed } from './sync-apply.ts';
import { MOST_AT_ONCE, type StreamLane, type SyncContext } from './sync-context.ts';
import { eventsOf } from './sync-effects.ts';
import { endOf, failedTry, undecided } from './sync-failure.ts';
import { afterEnds } from './sync-follow-up.ts';
import { isPrepared, type Prepared, prepare } from './sync-prepare.ts';
import { inOrder, runsOf, wavesOf } from './sync-waves.ts';

/** How long one turn of a stream lasts before others have theirs. */
const SLICE_MS = 100;
/** Between two tries to reach the database again. */
const OUTAGE_PAUSE_MS = 500;
/** Transactions of a turn at once: while one waits for the database, another's work is done here. */
const SIDE_BY_SIDE = 2;
const NEVER = new AbortController().signal;

/** Every end that came about in a turn. */
export interface Turn {
  readonly ends: readonly OperationEnd[];
  /** Whether there may be more to do at once. */
  readonly more: boolean;
}

/**
 * Applies what is ready in one lane of a stream: a slice of it, or all there is. Whatever becomes of an operation is
 * recorded; throws only where the database cannot be reached (`DATABASE_UNAVAILABLE`), and then nothing is lost: what
 * was taken is taken again once its lease is over.
 */
export async function drainStream(
  context: SyncContext,
  work: StreamLane,
  options: { readonly until: 'SLICE' | 'EMPTY'; readonly signal: AbortSignal },
): Promise<Turn> {
  const started = performance.now();
  const ends: OperationEnd[] = [];
  const claims = syncClaims(context.db);
  // Whoever waits for an answer does not wait for an outage to end; a worker has nothing better to do.
  const patience = {
    signal: options.signal,
    forMs: options.until === 'SLICE' ? Number.POSITIVE_INFINITY : context.limits.leaseMs / 2,
  };
  let place: ClaimPlace | undefined;
  let unready: readonly UUID[] = [];
  for (;;) {
    if (options.signal.aborted) return { ends, more: true };
    const token = uuidv7();
    const request = {
      streamId: work.streamId,
      lane: work.lane,
      token,
      leaseMs: context.limits.leaseMs,
      limit: MOST_AT_ONCE,
      after: place,
      unready,
    };
    await context.onStep('BEFORE_CLAIM');
    let taken: readonly ClaimedOperation[];
    let next: ClaimPlace | undefined;
    try {
      const claim = await claims.claim(request);
      ({ next, operations: taken } = claim);
      if (taken.length === 0 && next === undefined && claim.batch !== undefined) {
        const batch = await claims.claimBatch(request);
        taken = batch.operations;
        unready = [...unready, ...batch.unready];
        next = claim.batch;
      }
    } catch (error) {
      if (!isOutage(error)) throw error;
      // It may have taken some: their lease would have to end first, and it would count against them.
      await persist(() => claims.releaseStream(token, work.streamId), patience);
      continue;
    }
    if (taken.length > 0) {
      await context.onStep('CLAIMED');
      const came = await applyClaimed(context, token, taken, patience);
      ends.push(...came);
      await afterEnds(context, work, taken, came);
    }
    // What has ended may have made ready what was passed over: from the beginning again.
    if (taken.length > 0) {
      place = undefined;
      unready = [];
    } else if (next === undefined) return { ends, more: false };
    else place = next;
    // Only where something was done: what is not ready would be looked at again from the beginning.
    const overdue = performance.now() - started >= SLICE_MS;
    if (options.until === 'SLICE' && ends.length > 0 && (overdue || ends.length >= MOST_AT_ONCE))
      return { ends, more: true };
  }
}

/** What became of claimed operations: each has an end, or is released. */
export async function applyClaimed(
  context: SyncContext,
  token: UUID,
  taken: readonly ClaimedOperation[],
  patience: Patience,
): Promise<readonly OperationEnd[]> {
  return new Attempt(context, token, taken, patience).run();
}

/** How long the end of an outage is waited for. */
export interface Patience {
  readonly signal: AbortSignal;
  readonly forMs: number;
}

/** Our own connection, as against one of the host's. */
const isOutage = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'DATABASE_UNAVAILABLE';

/** Does what must be done as soon as the database can be reached again. */
async function persist<T>(work: () => Promise<T>, { signal, forMs }: Patience): Promise<T> {
  const until = performance.now() + forMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!isOutage(error) || signal.aborted || performance.now() > until) throw error;
      await sleep(OUTAGE_PAUSE_MS, undefined, { signal }).catch(() => undefined);
    }
  }
}

/** One try at operations that were claimed together. */
class Attempt {
  readonly #context: SyncContext;
  readonly #token: UUID;
  readonly #taken: readonly ClaimedOperation[];
  readonly #ends = new Map<UUID, OperationEnd>();
  readonly #patience: Patience;
  #renewedAt = performance.now();

  constructor(context: SyncContext, token: UUID, taken: readonly ClaimedOperation[], patience: Patience) {
    this.#context = context;
    this.#token = token;
    this.#patience = patience;
    this.#taken = inOrder(taken);
  }

  async run(): Promise<readonly OperationEnd[]> {
    try {
      await this.#run();
    } catch (error) {
      const open = this.#taken.filter(({ id }) => !this.#ends.has(id));
      if (!(await this.#isLost(error, open))) throw error;
    }
    return [...this.#ends.values()];
  }

  async #run(): Promise<void> {
    const prepared: Prepared[] = [];
    for (const operation of this.#taken) {
      const one = await this.#prepare(operation);
      if (isPrepared(one)) prepared.push(one);
      else await this.#record([[operation, one]]);
    }
    const atomic = this.#taken[0]?.batchSize !== null;
    if (atomic && prepared.length < this.#taken.length) await this.#failBatch(undefined);
    else if (atomic) await this.#applyAtomic(prepared);
    else {
      for (const run of runsOf(prepared)) await this.#applyRun(run);
    }
  }

  async #prepare(operation: ClaimedOperation): Promise<Prepared | OperationEnd> {
    try {
      return await prepare(this.#context, operation);
    } catch (error) {
      return failedTry(operation, error, this.#context.clock.now());
    }
  }

  /** In one transaction where it may be; else in several, of which two go on side by side where neither waits for another. */
  async #applyRun(run: readonly Prepared[]): Promise<void> {
    const most = this.#context.limits.operationsPerTransaction;
    if (run.length <= most) return this.#apply(run);
    for (const wave of wavesOf(run)) {
      const shares = Array.from({ length: Math.ceil(wave.length / most) }, (_, n) =>
        wave.slice(n * most, (n + 1) * most),
      );
      await inParallel(shares, SIDE_BY_SIDE, NEVER, (share) => this.#apply(share));
    }
  }

  /** Together; where that fails, in halves, so that one that cannot be applied does not keep the others. */
  async #apply(all: readonly Prepared[]): Promise<void> {
    const { ready, others } = this.#sorted(all);
    if (others.length > 0) await this.#release(others);
    if (ready.length === 0) return;
    await this.#renew(ready);
    try {
      for (const end of await applyTogether(this.#context, this.#token, ready)) this.#ends.set(end.id, end);
    } catch (error) {
      await this.#afterFailure(ready, error);
    }
  }

  async #afterFailure(ready: readonly Prepared[], error: unknown): Promise<void> {
    const operations = ready.map(({ operation }) => operation);
    if (await this.#isLost(error, operations)) return;
    const [one] = operations;
    if (operations.length === 1 && one !== undefined) {
      await this.#record([[one, failedTry(one, error, this.#context.clock.now())]]);
      return;
    }
    const half = Math.ceil(ready.length / 2);
    await this.#apply(ready.slice(0, half));
    await this.#apply(ready.slice(half));
  }

  /** Those whose predecessors among the taken have ended well, and those whose have not. */
  #sorted(all: readonly Prepared[]) {
    const byOperation = new Map(this.#taken.map((one) => [one.operationId, one.id]));
    const own = new Set(all.map(({ operation }) => operation.operationId));
    const held = new Set<UUID>();
    // In order: what waits for one that is held is held too.
    for (const { operation } of all) {
      const waits = operation.after.some((id) => {
        const queueId = byOperation.get(id);
        if (own.has(id) || queueId === undefined) return held.has(id);
        return this.#ends.get(queueId)?.status !== 'COMPLETED';
      });
      if (waits) held.add(operation.operationId);
    }
    const isHeld = ({ operation }: Prepared): boolean => held.has(operation.operationId);
    return { ready: all.filter((one) => !isHeld(one)), others: all.filter(isHeld) };
  }

  /**
   * Whether the failure says nothing about the operations: our connection broke, or somebody else has them. After a
   * break at the commit the token tells whether it took place. What the host's code cannot reach is another matter.
   */
  async #isLost(error: unknown, operations: readonly ClaimedOperation[]): Promise<boolean> {
    if (error instanceof SyncError && error.code === 'SYNC_ATTEMPT_LOST') return true;
    if (!isOutage(error)) return false;
    await persist(() => this.#settle(operations), this.#patience);
    return true;
  }

  async #settle(operations: readonly ClaimedOperation[]): Promise<void> {
    const claims = syncClaims(this.#context.db);
    // Waits for a commit that is still under way.
    const ids = operations.map(({ id }) => id);
    const released = new Set(await claims.release(this.#token, ids));
    for (const operation of operations)
      if (released.has(operation.id)) this.#ends.set(operation.id, endOf(operation, 'PENDING', null));
    const others = operations.filter(({ id }) => !released.has(id));
    if (others.length === 0) return;
    await this.#reread(others);
    // The lease was over before the outage was.
    const isUndone = (id: UUID): boolean => (this.#ends.get(id)?.status ?? 'PENDING') === 'PENDING';
    await claims.forgive(others.map(({ id }) => id).filter(isUndone));
  }

  async #reread(operations: readonly ClaimedOperation[]): Promise<void> {
    const [first] = operations;
    if (first === undefined) return;
    const repository = createOfflineSyncRepository(this.#context.db, {
      organizationId: first.organizationId,
      branchIds: 'ALL',
    });
    const states = await repository.operationStates(operations.map(({ operationId }) => operationId));
    const byId = new Map(states.map((state) => [state.operationId, state]));
    for (const operation of operations) {
      const state = byId.get(operation.operationId);
      if (state === undefined || state.status === 'IN_PROGRESS') continue;
      const { status, outcome, appliedVersion, conflictId, superseded } = state;
      this.#ends.set(operation.id, {
        ...endOf(operation, status, null),
        outcome,
        appliedVersion,
        conflictId,
        superseded,
      });
    }
  }

  async #applyAtomic(all: readonly Prepared[]): Promise<void> {
    await this.#renew(all);
    try {
      for (const end of await applyTogether(this.#context, this.#token, all)) this.#ends.set(end.id, end);
    } catch (error) {
      if (await this.#isLost(error, this.#taken)) return;
      await this.#failBatch(error);
    }
  }

  /** What the batch came to is said of the operation that decided it; the others wait for it, or end with it. */
  async #failBatch(error: unknown): Promise<void> {
    const culprit = error instanceof BatchFailed ? error.end : this.#culprit(error);
    const status = culprit.status;
    const rest = this.#taken
      .filter(({ id }) => id !== culprit.id && !this.#ends.has(id))
      .map((operation): [ClaimedOperation, OperationEnd] => [
        operation,
        status === 'PENDING'
          ? endOf(operation, 'PENDING', 'RETRY', {
              retryCount: culprit.retryCount,
              nextRetryAt: culprit.nextRetryAt,
            })
          : status === 'FAILED'
            ? endOf(operation, 'FAILED', 'GROUP_FAILED')
            : endOf(operation, 'BLOCKED', 'GROUP_FAILED'),
      ]);
    const operation = this.#taken.find(({ id }) => id === culprit.id);
    if (operation !== undefined && !this.#ends.has(culprit.id)) rest.unshift([operation, culprit]);
    await this.#record(rest, error instanceof BatchFailed ? error : undefined);
  }

  /** An operation that was not applied at all stands for a batch that failed as a whole. */
  #culprit(error: unknown): OperationEnd {
    const ended = [...this.#ends.values()].find((end) => end.status !== 'COMPLETED');
    const [first] = this.#taken;
    if (ended !== undefined) return ended;
    if (first === undefined) throw error;
    return failedTry(first, error, this.#context.clock.now());
  }

  /** Ends in a transaction of their own, for what could not be applied. */
  async #record(
    pairs: readonly (readonly [ClaimedOperation, OperationEnd])[],
    failed?: BatchFailed,
  ): Promise<void> {
    const [first] = pairs;
    if (first === undefined) return;
    const [{ organizationId }] = first;
    await this.#context.db.withTransaction(async (transaction) => {
      const repository = createOfflineSyncRepository(transaction, { organizationId, branchIds: 'ALL' });
      const operation = pairs.find(([, end]) => end.id === failed?.end.id)?.[0];
      const conflictId =
        failed?.conflict && operation !== undefined
          ? await repository.storeConflict(operation, failed.conflict, failed.end.branchId)
          : null;
      const settled = pairs.map(([one, end]) => {
        const settledEnd = undecided(one, end);
        return [
          one,
          end.id === operation?.id && conflictId !== null ? { ...settledEnd, conflictId } : settledEnd,
        ] as const;
      });
      const ends = settled.map(([, end]) => end);
      for (const [one, end] of settled) {
        if (!end.voided) continue;
        if (end.status === 'WAITING_APPROVAL') await repository.closeConflict(one.id, 'CANCELLED', null);
        else if (end.status !== 'COMPLETED') await repository.reopenConflict(one.id);
      }
      const events = settled.flatMap(([one, end]) => eventsOf(one, end));
      const ended = await syncOutcomes(transaction).finish(organizationId, this.#token, ends, [], events);
      for (const end of ends) if (ended.has(end.id)) this.#ends.set(end.id, end);
    });
  }

  async #release(others: readonly Prepared[]): Promise<void> {
    await this.#record(
      others.map(({ operation }) => [operation, endOf(operation, 'PENDING', 'PREDECESSOR_FAILED')]),
    );
  }

  /** A lease that is half over begins anew, lest somebody else takes over what is still being applied. */
  async #renew(all: readonly Prepared[]): Promise<void> {
    const { leaseMs } = this.#context.limits;
    if (performance.now() - this.#renewedAt < leaseMs / 2) return;
    const ids = all.map(({ operation }) => operation.id);
    await syncClaims(this.#context.db).renew(this.#token, ids, leaseMs);
    this.#renewedAt = performance.now();
  }
}
