/** Lets a number of tasks run at once, in the order in which they came, and each only once at a time. */
export class Slots {
  readonly #limit: number;
  readonly #tasks = new Map<string, Promise<void>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Whether a task that is given now begins at once. */
  get free(): boolean {
    return this.#running < this.#limit && this.#waiting.length === 0;
  }

  /** Runs a task when there is room. One whose id waits or runs already is that one: resolves with its end. */
  run(id: string, task: () => Promise<void>): Promise<void> {
    const known = this.#tasks.get(id);
    if (known !== undefined) return known;
    const running = this.#enter()
      .then(task)
      .finally(() => {
        this.#tasks.delete(id);
        const next = this.#waiting.shift();
        // The room goes on to the next, so that nobody else takes it in between.
        if (next === undefined) this.#running -= 1;
        else next();
      });
    this.#tasks.set(id, running);
    return running;
  }

  /** Resolves when nothing runs or waits. */
  async empty(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.allSettled([...this.#tasks.values()]);
  }

  async #enter(): Promise<void> {
    if (this.#running < this.#limit) this.#running += 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
