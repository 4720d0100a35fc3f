import type { Calls } from './resilient-calls.ts';
import { lookForParts, writeOnce } from './resilient-outcome.ts';
import type { ObjectStorage, ResumableUploads } from './storage.ts';

export interface UploadTimes {
  readonly requestTimeoutMs: number;
  readonly putTimeoutMs: number;
  readonly getTimeoutMs: number;
}

/** Uploads that are begun and not ended, of which the key is remembered. */
const REMEMBERED_UPLOADS = 1_000;

/**
 * Parts replace each other, so they are simply sent again. `complete` is decided like a put where this process began
 * the upload; where it did not, the key is not known to it and the ambiguous error stands.
 */
export function resilientUploads(
  storage: ObjectStorage,
  inner: ResumableUploads,
  calls: Calls,
  { requestTimeoutMs, putTimeoutMs, getTimeoutMs }: UploadTimes,
): ResumableUploads {
  const keys = new Map<string, string>();

  function remember(handle: string, key: string): void {
    keys.set(handle, key);
    const [oldest] = keys.keys();
    if (keys.size > REMEMBERED_UPLOADS && oldest !== undefined) keys.delete(oldest);
  }

  return {
    limits: inner.limits,

    async begin(key, options = {}) {
      calls.called();
      const call = { what: `begin an upload of ${key}`, timeoutMs: requestTimeoutMs, signal: options.signal };
      const handle = await calls.retried(call, (signal) => inner.begin(key, { ...options, signal }));
      remember(handle, key);
      return handle;
    },

    putPart(handle, part, body, { signal } = {}) {
      calls.called();
      const call = { what: `part ${part.number}`, timeoutMs: putTimeoutMs, signal, bytes: body.byteLength };
      return calls.retried(call, (attempt) => inner.putPart(handle, part, body, { signal: attempt }));
    },

    parts(handle, { signal } = {}) {
      calls.called();
      return calls.retried({ what: 'parts of an upload', timeoutMs: requestTimeoutMs, signal }, (attempt) =>
        inner.parts(handle, { signal: attempt }),
      );
    },

    async complete(handle, parts, { signal } = {}) {
      calls.called();
      const key = keys.get(handle);
      await writeOnce(
        calls,
        // Providers put the parts together before they answer.
        { what: 'complete an upload', timeoutMs: putTimeoutMs, signal },
        key,
        (attempt) => inner.complete(handle, parts, { signal: attempt }),
        async () => {
          if (key === undefined) return 'UNKNOWN';
          const look = { storage, key, statMs: requestTimeoutMs, getMs: getTimeoutMs, signal };
          return lookForParts(calls, look, parts);
        },
      );
      keys.delete(handle);
    },

    async abort(handle, { signal } = {}) {
      calls.called();
      await calls.retried({ what: 'abort an upload', timeoutMs: requestTimeoutMs, signal }, (attempt) =>
        inner.abort(handle, { signal: attempt }),
      );
      keys.delete(handle);
    },
  };
}
