import type { EntityState } from '../repository/sync-outcome.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { EntityShape, LoadedEntity } from '../types/sync-handler.ts';
import { rowHash } from './sync-bases.ts';

/** An entity while operations are applied to it: its row and its version, both locked. */
export class Subject {
  readonly shape: EntityShape;
  #state: EntityState;
  #row: EntityRow | null;
  #presence: 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT';
  readonly branchId: string | null;
  /** Whether the state is to be written. */
  #changed = false;

  constructor(state: EntityState, loaded: LoadedEntity | undefined, shape: EntityShape) {
    this.shape = shape;
    this.#state = state;
    this.#row = loaded?.visible === true ? loaded.row : null;
    this.#presence = presenceOf(loaded);
    this.branchId = loaded?.visible === true ? loaded.branchId : null;
    if (this.#presence !== 'HIDDEN') this.#notice(loaded);
  }

  /** What the host did to the row without the library raises the version too. */
  #notice(loaded: LoadedEntity | undefined): void {
    const hash = this.#presentHash();
    if (hash === this.#state.rowHash) return;
    this.#move(hash, loaded?.updatedAt ?? null);
  }

  #presentHash(): string | null {
    return this.#presence === 'VISIBLE' && this.#row !== null ? rowHash(this.#row, this.shape) : null;
  }

  #move(hash: string | null, effectiveAt: string | null): void {
    const version = this.#state.version + 1;
    this.#state = { ...this.#state, version, rowHash: hash, deleted: hash === null, effectiveAt };
    this.#changed = true;
  }

  get presence(): 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT' {
    return this.#presence;
  }

  /** The row as it stands; null where there is none that may be seen. */
  get row(): EntityRow | null {
    return this.#row;
  }

  get version(): number {
    return this.#state.version;
  }

  /** When it last changed; null: nobody knows. */
  get effectiveAt(): string | null {
    return this.#state.effectiveAt;
  }

  /** Whether there ever was one. */
  get everExisted(): boolean {
    return this.#state.version > 0;
  }

  /** The state, where it is to be written. */
  get changedState(): EntityState | undefined {
    return this.#changed ? this.#state : undefined;
  }

  /** Notes what was written. */
  write(row: EntityRow | null, effectiveAt: string | null): void {
    this.#row = row;
    this.#presence = row === null ? 'DELETED' : 'VISIBLE';
    this.#move(this.#presentHash(), effectiveAt);
  }
}

function presenceOf(loaded: LoadedEntity | undefined): 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT' {
  if (loaded === undefined) return 'ABSENT';
  if (!loaded.visible) return 'HIDDEN';
  return loaded.deleted ? 'DELETED' : 'VISIBLE';
}
