import type { Clock } from '../types/clock.ts';
import type { ErrorCode } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import type { Breaker, BreakerState } from './resilient-breaker.ts';

/** How the connection to a storage does. */
export interface StorageHealth {
  readonly description: string;
  /** CLOSED: in use. OPEN: left alone after failures. HALF_OPEN: one call tries whether it is well again. */
  readonly state: BreakerState;
  /** Attempts without an answer since the last answer: what opens the breaker. */
  readonly consecutiveFailures: number;
  /** Calls since the start; a retried one and a whole listing count once. */
  readonly calls: number;
  /** Attempts that failed because of the provider or the way to it; a denied, full or throttled one counts here too. */
  readonly failures: number;
  /** Attempts after the first of their call. */
  readonly retries: number;
  readonly lastFailure: { readonly code: ErrorCode; readonly at: Timestamp } | null;
  readonly lastSuccessAt: Timestamp | null;
  /** Moving average of the attempts that succeeded, in milliseconds; null before the first. */
  readonly latencyMs: number | null;
  /** Since when the storage is left alone; null while CLOSED. */
  readonly openedAt: Timestamp | null;
}

/** The weight of the newest attempt in the moving average. */
const LATENCY_WEIGHT = 0.1;

export interface HealthRecord {
  snapshot(breaker: Breaker): StorageHealth;
  called(): void;
  retried(): void;
  succeeded(milliseconds: number): void;
  failed(code: ErrorCode): void;
  stateChanged(state: BreakerState): void;
}

export function healthRecord(description: string, clock: Clock): HealthRecord {
  let calls = 0;
  let failures = 0;
  let retries = 0;
  let lastFailure: StorageHealth['lastFailure'] = null;
  let lastSuccessAt: Timestamp | null = null;
  let latencyMs: number | null = null;
  let openedAt: Timestamp | null = null;
  const timestamp = () => clock.now().toISOString();

  return {
    snapshot: (breaker) => ({
      description,
      state: breaker.state(),
      consecutiveFailures: breaker.consecutiveFailures(),
      calls,
      failures,
      retries,
      lastFailure,
      lastSuccessAt,
      latencyMs,
      openedAt,
    }),
    called() {
      calls += 1;
    },
    retried() {
      retries += 1;
    },
    succeeded(milliseconds) {
      lastSuccessAt = timestamp();
      latencyMs = latencyMs === null ? milliseconds : latencyMs + (milliseconds - latencyMs) * LATENCY_WEIGHT;
    },
    failed(code) {
      failures += 1;
      lastFailure = { code, at: timestamp() };
    },
    stateChanged(state) {
      if (state === 'CLOSED') openedAt = null;
      else openedAt ??= timestamp();
    },
  };
}
