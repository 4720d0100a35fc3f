import { setTimeout as sleep } from 'node:timers/promises';

/** Settles as the work does, or with `late` after `ms`. Work that is given up may settle later: nobody is told. */
export async function within<T>(work: Promise<T>, ms: number): Promise<T | 'late'> {
  work.catch(() => {});
  const timer = new AbortController();
  try {
    return await Promise.race([work, sleep(ms, 'late' as const, { signal: timer.signal })]);
  } finally {
    timer.abort();
  }
}

/** Waits, but not past the abort. Never rejects. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}

/** Resolves when the signal aborts. */
export function aborted(signal: AbortSignal): Promise<'aborted'> {
  if (signal.aborted) return Promise.resolve('aborted');
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve('aborted'), { once: true });
  });
}
