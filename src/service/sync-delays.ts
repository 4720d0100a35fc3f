import { syncSweep } from '../repository/sync-sweep.ts';
import type { SyncContext } from './sync-context.ts';

/** The alarm for operations that wait too long: at once, and again whenever as long has passed. */
export class SyncDelays {
  readonly #told = new Map<string, number>();

  async tell({ db, clock, limits, logger, events }: SyncContext): Promise<void> {
    const now = clock.now().getTime();
    const delayed = (await syncSweep(db).oldestWaiting())
      .map((oldest) => ({ ...oldest, waited: now - Date.parse(oldest.queuedAt) }))
      .filter(({ lane, waited }) => waited > limits.alarmMs[lane]);
    const names = new Set(delayed.map(nameOf));
    for (const name of this.#told.keys()) if (!names.has(name)) this.#told.delete(name);
    for (const one of delayed) {
      const { organizationId, lane, queuedAt, waited } = one;
      const last = this.#told.get(nameOf(one));
      if (last !== undefined && now - last < limits.alarmMs[lane]) continue;
      this.#told.set(nameOf(one), now);
      logger.warn({ organizationId, lane, waited }, 'Offline operations wait too long');
      events.emit('sync.delayed', { organizationId, lane, oldestPendingAt: queuedAt, waited });
    }
  }
}

const nameOf = ({ organizationId, lane }: { organizationId: string; lane: string }): string =>
  `${lane} ${organizationId}`;
