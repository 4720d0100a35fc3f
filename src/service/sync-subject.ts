import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { EntityState } from '../repository/sync-outcome.ts';
import type { UUID } from '../types/ids.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { EntityChange, EntityShape, LoadedEntity } from '../types/sync-handler.ts';
import { rowHash } from './sync-bases.ts';

/** Stands for every column that has no time of its own. */
const WHOLE = '';

/** An entity while operations are applied to it: its row and its version, both locked. */
export class Subject {
  readonly shape: EntityShape;
  #state: EntityState;
  #row: EntityRow | null;
  #presence: 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT';
  readonly branchId: string | null;
  /** As `stateVersion` was before anything was written. */
  readonly loadedVersion: number;
  /** Whether the state is to be written. */
  #changed = false;

  constructor(state: EntityState, loaded: LoadedEntity | undefined, shape: EntityShape) {
    this.shape = shape;
    this.#state = state;
    this.#row = loaded?.visible === true ? loaded.row : null;
    this.#presence = presenceOf(loaded);
    this.branchId = loaded?.visible === true ? loaded.branchId : null;
    if (this.#presence !== 'HIDDEN') this.#notice(loaded);
    this.loadedVersion = this.#state.version;
  }

  /** What the host did to the row without the library raises the version too. */
  #notice(loaded: LoadedEntity | undefined): void {
    const hash = this.#presentHash();
    if (hash === this.#state.rowHash) return;
    const at = Date.parse(loaded?.updatedAt ?? '');
    const times = { [WHOLE]: Number.isNaN(at) ? null : new Date(at).toISOString() };
    // What the host wrote over nobody knows: what took the place of the rest is told rather than not.
    const writers = hash === null || this.#state.deleted ? {} : this.#state.writers;
    this.#move(hash, { times, writers });
  }

  #presentHash(): string | null {
    return this.#presence === 'VISIBLE' && this.#row !== null ? rowHash(this.#row, this.shape) : null;
  }

  #move(hash: string | null, by: Pick<EntityState, 'times' | 'writers'>): void {
    const version = this.#state.version + 1;
    this.#state = { ...this.#state, ...by, version, rowHash: hash, deleted: hash === null };
    this.#changed = true;
  }

  get presence(): 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT' {
    return this.#presence;
  }

  /** The row as it stands; null where there is none that may be seen. */
  get row(): EntityRow | null {
    return this.#row;
  }

  /** 0 also of what may not be seen: to the actor it was never there. */
  get version(): number {
    return this.#presence === 'HIDDEN' ? 0 : this.#state.version;
  }

  /** Also of what may not be seen: never to be shown. */
  get stateVersion(): number {
    return this.#state.version;
  }

  /** When a column last changed, or (an empty text) any of them; null: nobody knows. */
  changedAt(column: string): string | null {
    return changedAt(this.#state, column);
  }

  /**
   * Which operation (its id in the queue) wrote a column last, or (an empty text) deleted the row; undefined: none, or
   * nobody knows.
   */
  writerOf(column: string): UUID | undefined {
    const { writers } = this.#state;
    if (Object.hasOwn(writers, column)) return writers[column];
    return (this.#row?.[column] ?? null) === null ? undefined : writers[WHOLE];
  }

  /** Whether there ever was one. */
  get everExisted(): boolean {
    return this.version > 0;
  }

  /** The state, where it is to be written. */
  get changedState(): EntityState | undefined {
    return this.#changed ? this.#state : undefined;
  }

  /** Notes what was written, by which operation, and when that took effect. */
  write(
    { kind, changed }: Pick<EntityChange, 'kind' | 'changed'>,
    row: EntityRow | null,
    { id, effectiveAt }: Pick<ClaimedOperation, 'id' | 'effectiveAt'>,
  ): void {
    this.#row = row;
    this.#presence = row === null ? 'DELETED' : 'VISIBLE';
    const { times, writers } = this.#state;
    const columns = kind === 'UPDATE' ? changed : [WHOLE];
    const own = <T>(value: T) => Object.fromEntries(columns.map((column) => [column, value]));
    this.#move(this.#presentHash(), {
      times: { ...(kind === 'UPDATE' ? times : {}), ...own(effectiveAt) },
      writers: { ...(kind === 'UPDATE' ? writers : {}), ...own(id) },
    });
  }
}

/** When a column last changed, or (an empty text) any of them; null: nobody knows. */
export function changedAt({ times }: Pick<EntityState, 'times'>, column: string): string | null {
  if (column !== WHOLE) return (Object.hasOwn(times, column) ? times[column] : times[WHOLE]) ?? null;
  const all = Object.values(times);
  return all.includes(null) ? null : (all.toSorted().at(-1) ?? null);
}

function presenceOf(loaded: LoadedEntity | undefined): 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT' {
  if (loaded === undefined) return 'ABSENT';
  if (!loaded.visible) return 'HIDDEN';
  return loaded.deleted ? 'DELETED' : 'VISIBLE';
}
