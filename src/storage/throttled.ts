import { DataProtectionError } from '../types/errors.ts';
import type { ObjectStorage, ResumableUploads } from './storage.ts';
import { systemTiming, type Timing } from './timing.ts';
import { tokenBucket } from './token-bucket.ts';

export interface ThrottledOptions {
  /** Calls per second; a listing costs one more for every 1,000 objects. Left out, as many as come. */
  readonly requestsPerSecond?: number;
  /** Bytes per second that are put and got, together. Left out, as many as come. */
  readonly bytesPerSecond?: number;
  readonly timing?: Timing;
}

/** About what providers put on a page of a listing. */
const LISTED_PER_REQUEST = 1_000;

/**
 * A storage that is used at a limited rate, first come first served. A second’s worth may come at once; what a larger
 * call uses more than that is paid for by those after it. Bytes of a put are waited for before it, those of a get,
 * whose size nobody knows before, after it. Waits end at once with the reason when their signal is aborted.
 * Retries belong outside of it, so that they are throttled too: `resilientStorage(throttledStorage(...))`; give the time
 * limits there room for the waits.
 *
 * Rates that are no positive numbers are `CONFIGURATION_INVALID`.
 */
export function throttledStorage(inner: ObjectStorage, options: ThrottledOptions): ObjectStorage {
  const { requestsPerSecond, bytesPerSecond, timing = systemTiming } = options;
  assertRate('requestsPerSecond', requestsPerSecond);
  assertRate('bytesPerSecond', bytesPerSecond);
  const requests = tokenBucket(requestsPerSecond, timing);
  const bytes = tokenBucket(bytesPerSecond, timing);

  return {
    description: inner.description,

    async put(key, body, put) {
      await requests.take(1, put?.signal);
      await bytes.take(sizeOf(body), put?.signal);
      await inner.put(key, body, put);
    },

    async get(key, get) {
      await requests.take(1, get?.signal);
      const answer = await inner.get(key, get);
      await bytes.take(answer.byteLength, get?.signal);
      return answer;
    },

    async stat(key, call) {
      await requests.take(1, call?.signal);
      return inner.stat(key, call);
    },

    async *list(prefix, call) {
      await requests.take(1, call?.signal);
      let listed = 0;
      for await (const info of inner.list(prefix, call)) {
        yield info;
        listed += 1;
        if (listed % LISTED_PER_REQUEST === 0) await requests.take(1, call?.signal);
      }
    },

    async delete(key, call) {
      await requests.take(1, call?.signal);
      await inner.delete(key, call);
    },

    ...(inner.uploads && { uploads: throttledUploads(inner.uploads) }),
    ...(inner.tiers && { tiers: throttledTiers(inner.tiers) }),
    ...(inner.retention && { retention: throttledRetention(inner.retention) }),
    ...(inner.copies && { copies: inner.copies }),
    ...(inner.close && { close: () => inner.close?.() ?? Promise.resolve() }),
  };

  function throttledUploads(uploads: ResumableUploads): ResumableUploads {
    return {
      limits: uploads.limits,
      async begin(key, call) {
        await requests.take(1, call?.signal);
        return uploads.begin(key, call);
      },
      async putPart(handle, part, body, call) {
        await requests.take(1, call?.signal);
        await bytes.take(body.byteLength, call?.signal);
        await uploads.putPart(handle, part, body, call);
      },
      async parts(handle, call) {
        await requests.take(1, call?.signal);
        return uploads.parts(handle, call);
      },
      async complete(handle, parts, call) {
        await requests.take(1, call?.signal);
        await uploads.complete(handle, parts, call);
      },
      async abort(handle, call) {
        await requests.take(1, call?.signal);
        await uploads.abort(handle, call);
      },
    };
  }

  function throttledTiers(tiers: NonNullable<ObjectStorage['tiers']>): NonNullable<ObjectStorage['tiers']> {
    return {
      async state(key, call) {
        await requests.take(1, call?.signal);
        return tiers.state(key, call);
      },
      async thaw(key, call) {
        await requests.take(1, call.signal);
        await tiers.thaw(key, call);
      },
    };
  }

  function throttledRetention(
    retention: NonNullable<ObjectStorage['retention']>,
  ): NonNullable<ObjectStorage['retention']> {
    return {
      async retain(key, until, call) {
        await requests.take(1, call?.signal);
        await retention.retain(key, until, call);
      },
      async hold(key, state, call) {
        await requests.take(1, call?.signal);
        await retention.hold(key, state, call);
      },
      async state(key, call) {
        await requests.take(1, call?.signal);
        return retention.state(key, call);
      },
    };
  }
}

function sizeOf(body: readonly Uint8Array[]): number {
  return body.reduce((sum, piece) => sum + piece.byteLength, 0);
}

function assertRate(name: string, rate: number | undefined): void {
  if (rate === undefined || (Number.isFinite(rate) && rate > 0)) return;
  throw new DataProtectionError(
    `throttledStorage: \`${name}\` is a number greater than 0.`,
    'CONFIGURATION_INVALID',
  );
}
