import type { BackupEvents } from '../types/events.ts';
import type { Logger } from '../types/logger.ts';

type Listener<Name extends keyof BackupEvents> = (event: BackupEvents[Name]) => unknown;

/** Typed events of the services, delivered synchronously in the order of subscription. */
export class EventBus {
  readonly #listeners = new Map<keyof BackupEvents, Set<(event: never) => unknown>>();
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** Subscribes; the function that it gives ends the subscription. */
  on<Name extends keyof BackupEvents>(name: Name, listener: Listener<Name>): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  emit<Name extends keyof BackupEvents>(name: Name, event: BackupEvents[Name]): void {
    const failed = (error: unknown): void =>
      this.#logger.error(
        { event: name, error: error instanceof Error ? error.name : 'unknown' },
        'A listener failed',
      );
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        // An async listener gives a promise, whose rejection nobody else would hear.
        Promise.resolve((listener as Listener<Name>)(event)).catch(failed);
      } catch (error) {
        failed(error);
      }
    }
  }
}
