import type { KeyObject } from 'node:crypto';

/** A derived key, or the promise of one. */
export interface DerivedKey {
  readonly key: Promise<KeyObject>;
  /** Set when the key has opened something: it is the right one. */
  proven: boolean;
}

interface DerivedKeys {
  has(id: string): boolean;
  /** The key of this id: derived at the first call, by `derive`, however many ask meanwhile. Failures are not kept. */
  get(id: string, derive: () => Promise<KeyObject>): DerivedKey;
  /** Drops the key, unless it was proven, or is another one by now. */
  doubt(id: string, key: DerivedKey): void;
}

/**
 * The keys that were derived last. At most `size` are kept, besides the one of `pinned`, which stays whatever is asked.
 */
export function derivedKeys(size: number, pinned: string | undefined): DerivedKeys {
  const known = new Map<string, DerivedKey>();

  function drop(id: string, key: DerivedKey): void {
    if (known.get(id) === key) known.delete(id);
  }

  function makeRoom(): void {
    const most = pinned !== undefined && known.has(pinned) ? size + 1 : size;
    for (const id of known.keys()) {
      if (known.size < most) return;
      if (id !== pinned) known.delete(id);
    }
  }

  return {
    has: (id) => known.has(id),
    get(id, derive) {
      const held = known.get(id);
      if (held !== undefined) {
        // Into the place of the newest.
        known.delete(id);
        known.set(id, held);
        return held;
      }
      const made: DerivedKey = { key: derive(), proven: false };
      made.key.catch(() => drop(id, made));
      makeRoom();
      known.set(id, made);
      return made;
    },
    doubt(id, key) {
      if (!key.proven) drop(id, key);
    },
  };
}

/** Runs one task after the other, in the order in which they were given. */
export function oneAtATime(): <T>(task: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (task) => {
    const run = last.then(task);
    last = run.catch(() => undefined);
    return run;
  };
}
