import type { UUID } from '../types/ids.ts';

/** The runs that go on in this process, so that they can be cancelled and waited for. */
export class RunningWork {
  readonly #running = new Map<UUID, { readonly stop: AbortController; readonly done: Promise<unknown> }>();

  /** Starts a run under an id. Its failure is the caller's to handle through the promise that is given back. */
  start<T>(id: UUID, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const stop = new AbortController();
    const done = run(stop.signal).finally(() => this.#running.delete(id));
    this.#running.set(id, { stop, done });
    return done;
  }

  /** Aborts a run of this process with the reason, waits for its end, and says whether there was one. */
  async cancel(id: UUID, reason: unknown): Promise<boolean> {
    const entry = this.#running.get(id);
    if (entry === undefined) return false;
    entry.stop.abort(reason);
    await entry.done.catch(() => undefined);
    return true;
  }

  async ended(): Promise<void> {
    while (this.#running.size > 0)
      await Promise.allSettled([...this.#running.values()].map(({ done }) => done));
  }
}
