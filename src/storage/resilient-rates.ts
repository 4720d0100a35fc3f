import { DataProtectionError } from '../types/errors.ts';
import type { Timing } from './timing.ts';
import { tokenBucket } from './token-bucket.ts';

export interface Rates {
  readonly requestsPerSecond?: number | undefined;
  readonly bytesPerSecond?: number | undefined;
}

export interface RateLimiter {
  /** Resolves when so much may be used, first come first served; rejects with the signal’s reason at once. */
  take(requests: number, bytes: number, signal: AbortSignal | undefined): Promise<void>;
}

/**
 * A second’s worth may come at once; what a larger call uses more than that is paid for by those after it. Rates that
 * are no positive numbers are `CONFIGURATION_INVALID`.
 */
export function rateLimiter({ requestsPerSecond, bytesPerSecond }: Rates, timing: Timing): RateLimiter {
  assertRate('requestsPerSecond', requestsPerSecond);
  assertRate('bytesPerSecond', bytesPerSecond);
  const requestTokens = tokenBucket(requestsPerSecond, timing);
  const byteTokens = tokenBucket(bytesPerSecond, timing);
  return {
    async take(requests, bytes, signal) {
      await requestTokens.take(requests, signal);
      await byteTokens.take(bytes, signal);
    },
  };
}

function assertRate(name: string, rate: number | undefined): void {
  if (rate === undefined || (Number.isFinite(rate) && rate > 0)) return;
  throw new DataProtectionError(
    `resilientStorage: \`${name}\` is a number greater than 0.`,
    'CONFIGURATION_INVALID',
  );
}
