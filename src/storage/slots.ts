/**
 * At most `limit` pieces of work at a time; up to `queueLimit` more wait, first come first served. Whoever is aborted
 * while it waits leaves the queue at once. (Cockatiel’s bulkhead notices an abort only when the turn comes, and may
 * refuse what already waits.)
 */
export interface Slots {
  /** Rejects with what `refusal` gives when the queue is full, and with the signal’s reason when it is aborted. */
  run<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T>;
}

export function slots(limit: number, queueLimit: number, refusal: () => Error): Slots {
  let free = limit;
  const waiting = new Set<() => void>();

  function enter(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (free > 0) {
      free -= 1;
      return Promise.resolve();
    }
    if (waiting.size >= queueLimit) throw refusal();
    return new Promise((resolve, reject) => {
      const turn = () => {
        signal?.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        waiting.delete(turn);
        reject(signal?.reason);
      };
      waiting.add(turn);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }

  function exit(): void {
    const [next] = waiting;
    if (next === undefined) {
      free += 1;
    } else {
      waiting.delete(next);
      next();
    }
  }

  return {
    async run(signal, work) {
      await enter(signal);
      try {
        return await work();
      } finally {
        exit();
      }
    },
  };
}
