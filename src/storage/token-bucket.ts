import type { Timing } from './timing.ts';

export interface TokenBucket {
  /** Resolves when so many tokens could be taken, in the order of the calls. An aborted wait takes none. */
  take(tokens: number, signal?: AbortSignal): Promise<void>;
}

/**
 * Fills with `perSecond` tokens a second, up to a second’s worth. Whoever asks for more than it can hold gets them
 * when it is full, and leaves a debt that those after it wait for: the rate holds, and no request waits for ever.
 */
export function tokenBucket(perSecond: number | undefined, timing: Timing): TokenBucket {
  if (perSecond === undefined) return { take: async (_, signal) => signal?.throwIfAborted() };
  const rate = perSecond;
  const capacity = Math.max(rate, 1);
  let level = capacity;
  let filledAt = timing.now();
  let lastTurn: Promise<void> = Promise.resolve();

  function fill(): void {
    const now = timing.now();
    level = Math.min(capacity, level + ((now - filledAt) / 1_000) * rate);
    filledAt = now;
  }

  async function takeInTurn(tokens: number, signal: AbortSignal | undefined): Promise<void> {
    const needed = Math.min(tokens, capacity);
    for (fill(); level < needed; fill()) {
      // Rounded up, so that a wait that is over is never a hair too short.
      await timing.sleep(Math.ceil(((needed - level) / rate) * 1_000), signal);
    }
    level -= tokens;
  }

  return {
    async take(tokens, signal) {
      signal?.throwIfAborted();
      if (tokens === 0) return;
      const before = lastTurn;
      const mine = Promise.withResolvers<void>();
      lastTurn = before.then(() => mine.promise);
      try {
        await unlessAborted(before, signal);
        await takeInTurn(tokens, signal);
      } finally {
        mine.resolve();
      }
    },
  };
}

function unlessAborted(turn: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return turn;
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    signal.addEventListener('abort', end, { once: true });
    void turn.then(() => {
      signal.removeEventListener('abort', end);
      resolve();
    });
  });
}
