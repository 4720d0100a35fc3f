import { BackupError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';

interface Running {
  readonly stop: AbortController;
  readonly done: Promise<unknown>;
  readonly atClose: 'WAIT' | 'STOP';
}

/** The runs that go on in this process, so that they can be cancelled and waited for. */
export class RunningWork {
  readonly #running = new Map<UUID, Running>();

  /**
   * Starts a run under an id. Its failure is the caller's to handle through the promise that is given back. `atClose`
   * says what the end of the process does with it: waits for it, or stops it, since it can be done later.
   */
  start<T>(
    id: UUID,
    run: (signal: AbortSignal) => Promise<T>,
    atClose: 'WAIT' | 'STOP' = 'WAIT',
  ): Promise<T> {
    const stop = new AbortController();
    const done = run(stop.signal).finally(() => this.#running.delete(id));
    this.#running.set(id, { stop, done, atClose });
    return done;
  }

  has(id: UUID): boolean {
    return this.#running.has(id);
  }

  /** Aborts a run of this process with the reason, waits for its end, and says whether there was one. */
  async cancel(id: UUID, reason: unknown): Promise<boolean> {
    const entry = this.#running.get(id);
    if (entry === undefined) return false;
    entry.stop.abort(reason);
    await entry.done.catch(() => undefined);
    return true;
  }

  /** Stops what can be done later (`BACKUP_INTERRUPTED`), and waits for the end of everything. */
  async ended(): Promise<void> {
    const reason = new BackupError('The process is closing', 'BACKUP_INTERRUPTED');
    while (this.#running.size > 0) {
      const running = [...this.#running.values()];
      for (const { stop, atClose } of running) if (atClose === 'STOP') stop.abort(reason);
      await Promise.allSettled(running.map(({ done }) => done));
    }
  }
}
