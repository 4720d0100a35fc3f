import type { Clock } from '../types/clock.ts';
import { StorageError } from '../types/errors.ts';
import { breaker } from './resilient-breaker.ts';
import { withDeadline } from './resilient-deadline.ts';
import { mayRetry, troubleOf, wasRefused } from './resilient-errors.ts';
import { healthRecord, type StorageHealth } from './resilient-health.ts';
import type { RateLimiter } from './resilient-rates.ts';
import { slots } from './slots.ts';
import type { Timing } from './timing.ts';

export interface CallLimits {
  readonly attempts: number;
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
  readonly maxRetryAfterMs: number;
  readonly settleMs: number;
  readonly breakerFailures: number;
  readonly breakerOpenMs: number;
  readonly concurrency: number;
  readonly queue: number;
}

export interface CallParts {
  readonly description: string;
  readonly limits: CallLimits;
  readonly rates: RateLimiter;
  readonly timing: Timing;
  readonly clock: Clock;
  readonly onHealthChange: (health: StorageHealth) => void;
}

export interface Call {
  /** For messages: the operation, and the key where there is one. */
  readonly what: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
  /** What an attempt uses of the rates: 1 request and no bytes. What is got is added when it is there. */
  readonly requests?: number;
  readonly bytes?: number;
  /** BYPASSED: asks also while the breaker is open. For the look after a write whose outcome is not known. */
  readonly breaker?: 'BYPASSED';
}

export type Work<T> = (signal: AbortSignal) => Promise<T>;

/** The way to one provider: everything that calls of it share. */
export interface Calls {
  /** One attempt: waits for its turn, passes the breaker, waits for its rate, has its own time. Rejects with a caller’s abort at once. */
  attempt<T>(call: Call, work: Work<T>): Promise<T>;
  /** Attempts with pauses. `onFailure` learns of every attempt that was made and failed. */
  retried<T>(call: Call, work: Work<T>, onFailure?: (error: unknown) => void): Promise<T>;
  /** Waits before the attempt that follows the n-th, which failed so. */
  pause(call: Call, n: number, error: unknown): Promise<void>;
  /** Counts a call of the storage. */
  called(): void;
  health(): StorageHealth;
}

/**
 * From the outside in: retry, turn, breaker, rate, deadline. A pause between attempts holds no turn, every attempt has
 * a time of its own, and the breaker sees each of them, the last of a listing too. The wait for the rate is ours, not the
 * provider's: no deadline counts it, and an open breaker refuses without it.
 */
export function resilientCalls(parts: CallParts): Calls {
  const { description, limits, rates, timing, clock, onHealthChange } = parts;
  const record = healthRecord(description, clock);
  const turns = slots(
    limits.concurrency,
    limits.queue,
    () => new StorageError(`Too many calls wait for ${description}.`, 'STORAGE_BUSY'),
  );
  const circuit = breaker({
    failures: limits.breakerFailures,
    openMs: limits.breakerOpenMs,
    now: timing.now,
    description,
    onChange(state) {
      record.stateChanged(state);
      changed();
    },
  });
  const health = () => record.snapshot(circuit);
  let failuresTold = 0;

  function changed(): void {
    failuresTold = circuit.consecutiveFailures();
    try {
      onHealthChange(health());
    } catch (error) {
      process.emitWarning(`A listener to the health of a storage threw: ${String(error)}`);
    }
  }

  async function measured<T>(call: Call, work: Work<T>): Promise<T> {
    const start = timing.now();
    const { timeoutMs, signal } = call;
    const what = `${description}: ${call.what}`;
    try {
      const answer = await withDeadline({ timeoutMs, settleMs: limits.settleMs, signal, what }, work);
      record.succeeded(timing.now() - start);
      return answer;
    } catch (error) {
      const code = troubleOf(error);
      if (code !== undefined) record.failed(code);
      throw error;
    }
  }

  async function attempt<T>(call: Call, work: Work<T>): Promise<T> {
    try {
      return await turns.run(call.signal, async () => {
        const { requests = 1, bytes = 0, signal } = call;
        const paced = async () => {
          await rates.take(requests, bytes, signal);
          return measured(call, work);
        };
        const answer = await (call.breaker === 'BYPASSED' ? paced() : circuit.run(paced));
        if (answer instanceof Uint8Array) await rates.take(0, answer.byteLength, signal);
        return answer;
      });
    } finally {
      if (circuit.consecutiveFailures() !== failuresTold) changed();
    }
  }

  async function pause(call: Call, n: number, error: unknown): Promise<void> {
    record.retried();
    await timing.sleep(delayBefore(n, error, limits, timing.random()), call.signal);
  }

  async function retried<T>(call: Call, work: Work<T>, onFailure?: (error: unknown) => void): Promise<T> {
    let failure: unknown;
    for (let n = 1; ; n += 1) {
      try {
        return await attempt(call, work);
      } catch (error) {
        if (call.signal?.aborted) throw call.signal.reason;
        // What went wrong says more than that nothing more is tried.
        if (n > 1 && wasRefused(error)) throw failure;
        if (!wasRefused(error)) onFailure?.(error);
        if (n >= limits.attempts || !mayRetry(error)) throw error;
        failure = error;
        await pause(call, n, error);
      }
    }
  }

  return { attempt, retried, pause, called: record.called, health };
}

/** Full jitter (AWS, “Exponential Backoff And Jitter”, 2015), or what the provider asked for where that is longer. */
function delayBefore(n: number, error: unknown, limits: CallLimits, random: number): number {
  const jittered = random * Math.min(limits.maxDelayMs, limits.baseDelayMs * 2 ** (n - 1));
  const asked = error instanceof StorageError ? (error.retryAfterMs ?? 0) : 0;
  return Math.max(jittered, Math.min(asked, limits.maxRetryAfterMs));
}
