import type { BackupScope, BackupWarning, RestoreScope } from '../types/backup.ts';
import type { SnapshotContents } from '../types/contents.ts';
import type { UUID } from '../types/ids.ts';

/** Where snapshots are taken from: one state of the host's entities, read as COPY text. */
export interface SnapshotSource {
  /** What it is, for logs: a kind and a place, never a credential. */
  readonly description: string;

  /** Compares the entity definitions with the database. Errors: `ENTITY_INVALID`, `DATABASE_*`. */
  inspect(): Promise<void>;

  /**
   * Compares the entity definitions with the database and a scope with the entities, so that what cannot be backed
   * up is said before a run. Errors: `ENTITY_*`, `SOURCE_*`, `DATABASE_*`. Gives the types in the scope.
   */
  check(request: ScopeRequest): Promise<readonly ScopedEntity[]>;

  /**
   * Locks the tables and opens one snapshot over all of them. The caller closes it.
   * Errors: `ENTITY_*`, `SOURCE_*`, `DATABASE_*`, the reason of the signal.
   */
  open(request: SnapshotRequest): Promise<SourceSnapshot>;

  /**
   * Which rows a restore into the live tables is about, and where they stand. Errors: `ENTITY_*`, `VALIDATION_FAILED`,
   * `DATABASE_*`.
   */
  live(request: LiveRequest): Promise<LiveScope>;
}

export interface LiveRequest {
  readonly organizationId: UUID;
  /** The branches whose rows may be restored; null: all. */
  readonly branchIds: readonly UUID[] | null;
  readonly scope: RestoreScope;
  /** What the snapshot holds, and of which rows. */
  readonly snapshot: {
    readonly types: readonly string[];
    readonly scope: BackupScope;
    readonly branchIds: readonly UUID[] | null;
  };
  /** SQL name of the table in which the archived rows of an entity that is restored will stand. */
  readonly staged: (type: string) => string;
}

export interface LiveScope {
  readonly entities: readonly LiveEntity[];
  readonly warnings: readonly BackupWarning[];
}

/** An entity's table, and the conditions that choose its rows: SQL over the alias `t`, values quoted; null: all of them. */
export interface LiveEntity {
  readonly type: string;
  readonly table: { readonly schema: string; readonly name: string };
  readonly key: readonly string[];
  readonly updatedAt: string | null;
  /** Triggers that would alter restored rows. */
  readonly disableTriggers: readonly string[];
  /** The archived rows that are asked for. */
  readonly asked: string | null;
  /** The rows that stand and may be changed. */
  readonly own: string | null;
  /** The rows that stand and that the snapshot would hold, had they stood then. */
  readonly covered: string | null;
  readonly narrow: readonly Narrowing[];
}

/** The column of every row that is asked for holds one of the texts, as COPY writes them. */
export interface Narrowing {
  readonly column: string;
  readonly texts: readonly string[];
}

export interface ScopeRequest {
  readonly organizationId: UUID;
  /** Only rows of these branches; null: all. */
  readonly branchIds: readonly UUID[] | null;
  readonly scope: BackupScope;
}

export interface ScopedEntity {
  readonly type: string;
  readonly phi: boolean;
  readonly pii: boolean;
  readonly financial: boolean;
}

export interface SnapshotRequest extends ScopeRequest {
  /** Sessions that read side by side. */
  readonly maxConcurrency: number;
  /** How long the snapshot may be held before the run fails with `SOURCE_SNAPSHOT_TOO_OLD`. */
  readonly maxSnapshotAgeMs: number;
  readonly signal: AbortSignal;
}

export interface SourceSnapshot {
  readonly entities: readonly ScopedEntity[];
  /** Raw bytes that the rows will take, as the planner estimates. */
  readonly estimatedBytes: number;
  /**
   * Id under which other sessions of the same database see exactly this state (`SET TRANSACTION SNAPSHOT`) until the
   * snapshot is closed.
   */
  readonly exportedId: string;

  /**
   * Reads every row of the scope into the sink. Resolves only when all of it was read under one snapshot whose locks
   * were held to the end and no type changed meanwhile; `bytes` of the contents is what went into the sink.
   * Errors: `SOURCE_*`, `DATABASE_*`, the sink's, the reason of the signal.
   */
  extract(sink: RowSink, onProgress: (progress: ExtractionProgress) => void): Promise<SnapshotContents>;

  /** Ends every session. Safe to call twice and while `extract` runs, which then rejects. */
  close(): Promise<void>;
}

/** Takes rows as they come, in pooled buffers. */
export interface RowSink {
  /** A buffer to fill; waits while all are in use, which is the back-pressure. Rejects once the sink failed. */
  acquire(): Promise<Buffer>;
  /** Gives back a buffer that was not used. */
  release(buffer: Buffer): void;
  /** Takes `buffer` over: rows of relation `part` in the order of stream `run`. */
  add(segment: RowSegment): void;
}

export interface RowSegment {
  readonly part: number;
  readonly run: number;
  readonly buffer: Buffer;
  readonly length: number;
  readonly rows: number;
  /** Begins inside a row that the segment before it in the run began. */
  readonly continues: boolean;
}

export interface ExtractionProgress {
  readonly entity: string | null;
  readonly entitiesCompleted: number;
  readonly rows: number;
  readonly bytes: number;
}
