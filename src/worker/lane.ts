import type { FoundWork } from '../repository/work-finder.ts';
import { Slots } from './slots.ts';

/** Work of one kind in this process: what it is told of in the order it comes, and between, what was found waiting. */
export class Lane {
  readonly #slots: Slots;
  readonly #task: (work: FoundWork, signal: AbortSignal) => Promise<void>;
  readonly #stop: AbortSignal;
  #found: readonly FoundWork[] = [];

  /** `task` never rejects. `stop` ends what runs. */
  constructor(
    limit: number,
    task: (work: FoundWork, signal: AbortSignal) => Promise<void>,
    stop: AbortSignal,
  ) {
    this.#slots = new Slots(limit);
    this.#task = task;
    this.#stop = stop;
  }

  /** Runs it when there is room; resolves with its end. */
  run(work: FoundWork, signal: AbortSignal): Promise<void> {
    return this.#slots
      .run(work.id, () => this.#task(work, AbortSignal.any([signal, this.#stop])))
      .finally(() => this.#fill());
  }

  /** What was found waiting, in place of what was found before: taken up one by one as there is room. */
  offer(found: readonly FoundWork[]): void {
    this.#found = found;
    this.#fill();
  }

  /** Resolves when nothing runs or waits. */
  empty(): Promise<void> {
    return this.#slots.empty();
  }

  #fill(): void {
    while (this.#slots.free) {
      const [next, ...rest] = this.#found;
      if (next === undefined) return;
      this.#found = rest;
      void this.run(next, this.#stop);
    }
  }
}
