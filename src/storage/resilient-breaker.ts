import {
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  handleWhen,
  type IBackoff,
  type IHalfOpenAfterBackoffContext,
} from 'cockatiel';
import { StorageError } from '../types/errors.ts';
import { verdictOf } from './resilient-errors.ts';

export type BreakerState = 'CLOSED' | 'OPEN' | 'HALF_OPEN';

export interface Breaker {
  state(): BreakerState;
  consecutiveFailures(): number;
  /** One attempt. While open, or while another attempt probes, rejects with `STORAGE_CIRCUIT_OPEN`. */
  run<T>(work: () => Promise<T>): Promise<T>;
}

export interface BreakerOptions {
  readonly failures: number;
  readonly openMs: number;
  readonly now: () => number;
  readonly description: string;
  readonly onChange: (state: BreakerState) => void;
}

/**
 * Cockatiel’s circuit breaker with three rules of ours: whatever the provider answers resets the count; a probe that
 * learnt nothing (its caller gave up) leaves the next attempt to probe; who comes during a probe is refused instead
 * of waiting for it.
 */
export function breaker({ failures, openMs, now, description, onChange }: BreakerOptions): Breaker {
  const count = new ConsecutiveBreaker(failures);
  const policy = circuitBreaker(
    handleWhen((error) => {
      const verdict = verdictOf(error);
      return verdict === 'FAILURE' || (verdict === 'NOTHING' && policy.state === CircuitState.HalfOpen);
    }),
    { breaker: count, halfOpenAfter: { next: pauseAfter } },
  );
  policy.onStateChange(() => onChange(state()));

  /** Cockatiel measures with the wall clock, which may be set back: this answers by ours, whatever it measured. */
  function pauseAfter({ result }: IHalfOpenAfterBackoffContext): IBackoff<IHalfOpenAfterBackoffContext> {
    const learnt = !('error' in result) || verdictOf(result.error) !== 'NOTHING';
    const until = learnt ? now() + openMs : Number.NEGATIVE_INFINITY;
    return {
      get duration() {
        return now() < until ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
      },
      next: pauseAfter,
    };
  }

  function state(): BreakerState {
    if (policy.state === CircuitState.Closed) return 'CLOSED';
    return policy.state === CircuitState.HalfOpen ? 'HALF_OPEN' : 'OPEN';
  }

  return {
    state,
    consecutiveFailures: () => count.state,
    async run(work) {
      if (policy.state === CircuitState.HalfOpen) throw circuitOpen(description);
      let made = false;
      try {
        return await policy.execute(() => {
          made = true;
          return work();
        });
      } catch (error) {
        if (!made) throw circuitOpen(description);
        if (verdictOf(error) === 'ANSWER') count.success();
        throw error;
      }
    },
  };
}

function circuitOpen(description: string): StorageError {
  return new StorageError(
    `${description} failed several times in a row and is left alone for a while.`,
    'STORAGE_CIRCUIT_OPEN',
  );
}
