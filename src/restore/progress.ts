import type { RestorePhase } from '../types/backup.ts';
import { at, type RestorePlan } from './plan.ts';
import type { RestorableSnapshot, RestoreStep } from './restore.ts';

/** Counts what was loaded and says how far a restore is; once a phase and once a segment. */
export class RestoreProgressCounter {
  readonly #plan: RestorePlan;
  readonly #emit: (step: RestoreStep) => void;
  /** Rows and segments of each entity that are still to come. */
  readonly #left: number[];
  #records = 0;
  #bytes = 0;

  constructor(snapshot: RestorableSnapshot, plan: RestorePlan, emit: (step: RestoreStep) => void) {
    this.#plan = plan;
    this.#emit = emit;
    this.#left = snapshot.contents.entities.map(() => 0);
    for (const segment of snapshot.segments) this.#count(segment.part, 1);
  }

  phase(phase: RestorePhase): void {
    this.#step(phase, null);
  }

  loaded(relation: number, rows: number, bytes: number): void {
    this.#records += rows;
    this.#bytes += bytes;
    this.#count(relation, -1);
    this.#step('LOADING', at(this.#plan.entities, relation));
  }

  #count(relation: number, by: number): void {
    const entity = at(this.#plan.entities, relation);
    if (entity !== null) this.#left[entity] = (this.#left[entity] ?? 0) + by;
  }

  #step(phase: RestorePhase, entity: number | null): void {
    this.#emit({
      phase,
      entity,
      entitiesCompleted: phase === 'INITIALIZING' ? 0 : this.#left.filter((left) => left === 0).length,
      records: this.#records,
      bytes: this.#bytes,
    });
  }
}
