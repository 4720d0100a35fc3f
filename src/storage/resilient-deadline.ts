import { DataProtectionError, StorageError } from '../types/errors.ts';

/** A call that did not even end when it was aborted. It may still be running, and may still read its body. */
export class AbandonedCall extends StorageError {}

export interface Deadline {
  readonly timeoutMs: number;
  /** How long a call may take to end after an abort before it is left to itself. */
  readonly settleMs: number;
  readonly signal: AbortSignal | undefined;
  /** For messages: the operation and the storage. */
  readonly what: string;
}

/**
 * Runs `work` with a signal that aborts when the caller’s does or when the time is up, and waits for its end: so a
 * put is over when its promise is. Only what does not end within `settleMs` after that is abandoned. An answer that
 * comes after all counts, also a late one. (Cockatiel’s timeout either never abandons or never waits.)
 */
export async function withDeadline<T>(
  { timeoutMs, settleMs, signal, what }: Deadline,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const controller = new AbortController();
  const abandoned = Promise.withResolvers<never>();
  const late = () =>
    new StorageError(`${what} did not answer within ${timeoutMs} ms.`, 'STORAGE_UNAVAILABLE');

  let timedOut: StorageError | undefined;
  let settling: NodeJS.Timeout | undefined;
  const end = (reason: unknown) => {
    controller.abort(reason);
    settling ??= setTimeout(() => {
      const message = `${what} did not end within ${settleMs} ms after it was aborted and was left to itself.`;
      abandoned.reject(new AbandonedCall(message, 'STORAGE_UNAVAILABLE'));
    }, settleMs);
  };
  const onAbort = () => end(signal?.reason);
  const timer = setTimeout(() => {
    timedOut = late();
    end(timedOut);
  }, timeoutMs);
  signal?.addEventListener('abort', onAbort, { once: true });

  try {
    return await Promise.race([work(controller.signal), abandoned.promise]);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    // A word of the provider says more than the time that it took; a socket’s or the abort’s own does not.
    throw timedOut !== undefined && !(error instanceof DataProtectionError) ? timedOut : error;
  } finally {
    clearTimeout(timer);
    clearTimeout(settling);
    signal?.removeEventListener('abort', onAbort);
  }
}
