import type { ExtractionProgress } from '../source/source.ts';
import type { BackupPhase, BackupProgress } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';

/** What share of a run each phase has come to when it begins; BACKING_UP_DATA takes what lies between. */
const PHASE_START: Readonly<Record<BackupPhase, number>> = {
  INITIALIZING: 0,
  COLLECTING_METADATA: 1,
  BACKING_UP_DATA: 2,
  COMPRESSING: 90,
  ENCRYPTING: 90,
  UPLOADING: 90,
  VERIFYING: 94,
  FINALIZING: 98,
};

/** Counts what a run does and says how far it is. Rates are averages since the rows began to flow. */
export class SnapshotProgress {
  readonly #clock: Clock;
  #phase: BackupPhase = 'INITIALIZING';
  #reading: ExtractionProgress = { entity: null, entitiesCompleted: 0, rows: 0, bytes: 0 };
  #entitiesTotal = 0;
  #bytesTotal = 0;
  #bytesStored = 0;
  #flowingSince: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  enter(phase: BackupPhase): void {
    this.#phase = phase;
    if (phase === 'BACKING_UP_DATA') this.#flowingSince = this.#clock.now().getTime();
  }

  expect(entities: number, bytes: number): void {
    this.#entitiesTotal = entities;
    this.#bytesTotal = Math.round(bytes);
  }

  read(progress: ExtractionProgress): void {
    this.#reading = progress;
  }

  stored(bytes: number): void {
    this.#bytesStored = bytes;
  }

  now(): BackupProgress {
    const now = this.#clock.now();
    const { entity, entitiesCompleted, rows, bytes } = this.#reading;
    const elapsed = this.#flowingSince === undefined ? 0 : Math.max(1, now.getTime() - this.#flowingSince);
    const rate = elapsed === 0 ? 0 : (bytes * 1000) / elapsed;
    const total = Math.max(this.#bytesTotal, bytes);
    const flowing = this.#phase === 'BACKING_UP_DATA';
    const share = flowing && total > 0 ? bytes / total : 0;
    return {
      phase: this.#phase,
      percentage: Math.floor(
        PHASE_START[this.#phase] + share * (PHASE_START.UPLOADING - PHASE_START.BACKING_UP_DATA),
      ),
      currentEntity: flowing ? entity : null,
      entitiesTotal: this.#entitiesTotal,
      entitiesCompleted,
      recordsProcessed: rows,
      bytesProcessed: bytes,
      bytesTotal: total,
      bytesStored: this.#bytesStored,
      bytesPerSecond: Math.round(rate),
      estimatedTimeRemainingMs: flowing && rate > 0 ? Math.round(((total - bytes) * 1000) / rate) : null,
      updatedAt: now.toISOString(),
    };
  }
}
