import { setTimeout as timeout } from 'node:timers/promises';

/** Time and chance of the decorators, so that tests need not wait. */
export interface Timing {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Resolves after so many milliseconds; an abort rejects at once with the signal’s reason. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
  /** At least 0, less than 1. */
  random(): number;
}

/**
 * The machine’s own. Its timers keep the process alive: somebody awaits each of them, and a process that ended in
 * the middle of a wait would leave a call unanswered.
 */
export const systemTiming: Timing = {
  now: () => performance.now(),
  random: () => Math.random(),
  async sleep(milliseconds, signal) {
    try {
      await timeout(milliseconds, undefined, signal && { signal });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    }
  },
};
