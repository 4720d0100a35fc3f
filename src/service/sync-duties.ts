import { syncSweep } from '../repository/sync-sweep.ts';
import type { SyncLane } from '../types/offline-sync.ts';
import { type StreamLane, type SyncContext, wakeStreams } from './sync-context.ts';
import { SyncDelays } from './sync-delays.ts';
import { drainStream } from './sync-drain.ts';
import { sweepSync } from './sync-sweeper.ts';

/** What a worker does with offline operations. */
export interface SyncDuties {
  /**
   * Streams that may have something to do in a lane, the oldest first. All of them: what the first of them wait for may
   * be with the last. Throws `DATABASE_*`.
   */
  find(lane: SyncLane): Promise<readonly StreamLane[]>;
  /** One slice of a stream. Throws `DATABASE_UNAVAILABLE`. */
  run(work: StreamLane, signal: AbortSignal): Promise<{ readonly more: boolean; readonly worked: boolean }>;
  /** Asks for the next slice of a stream. */
  again(work: StreamLane): Promise<void>;
  /** Puts right what was left behind, and forgets what is old. Throws `DATABASE_*`. */
  sweep(signal: AbortSignal): Promise<void>;
}

export function createSyncDuties(context: SyncContext): SyncDuties {
  const delays = new SyncDelays();
  return {
    async find(lane) {
      const found = await syncSweep(context.db).streamsWithWork(lane);
      return found.map((stream) => ({ ...stream, lane }));
    },
    async run(work, signal) {
      const { ends, more } = await drainStream(context, work, { until: 'SLICE', signal });
      return { more, worked: ends.some(({ status }) => status !== 'PENDING') };
    },
    async again(work) {
      await wakeStreams(context, [work]);
      await context.onStep('WOKEN');
    },
    sweep: (signal) => sweepSync(context, delays, signal),
  };
}
