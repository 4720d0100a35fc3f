import type pg from 'pg';
import type { LiveEntity } from '../source/source.ts';
import type {
  BackupWarning,
  ColumnMapping,
  ConflictResolutionStrategy,
  EntityChanges,
  RestoreCascade,
  RestoreDataMetrics,
  RestorePhase,
  RestorePreview,
  ValidationResults,
} from '../types/backup.ts';
import type { SnapshotContents } from '../types/contents.ts';
import type { Timestamp, UUID } from '../types/ids.ts';

/** What a restore needs of an archive; the service makes it from the reader and the storage. */
export interface RestorableSnapshot {
  readonly contents: SnapshotContents;
  readonly segments: readonly RestorableSegment[];
  /**
   * The raw rows of a segment, COPY text, whole and checked (digest, tag, length). Rejects with `ARCHIVE_*`,
   * `STORAGE_*` or `KEY_UNAVAILABLE`; never gives bytes that are not those that were written.
   */
  read(segment: number, signal: AbortSignal): Promise<Buffer>;
}

export interface RestorableSegment {
  /** Index into `contents.relations`. */
  readonly part: number;
  /** Stream of the extraction that it belongs to, and its place in it. */
  readonly run: number;
  readonly ordinal: number;
  readonly rawLength: number;
  readonly rows: number;
  /** Begins inside a row that the segment before it in the run began. */
  readonly continues: boolean;
}

export interface RestoreToSchemaRequest {
  readonly restoreId: UUID;
  readonly snapshot: RestorableSnapshot;
  /** The schema to make; it must not exist. */
  readonly targetSchema: string;
  /** Sessions that load side by side. */
  readonly maxConcurrency: number;
  /** FULL reads everything back and compares it with the archive; COUNTS compares numbers of rows only. */
  readonly validation: 'FULL' | 'COUNTS';
  readonly signal: AbortSignal;
  readonly onProgress: (progress: RestoreStep) => void;
}

export interface RestoreStep {
  readonly phase: RestorePhase;
  /** Index into `contents.entities`, or null between them. */
  readonly entity: number | null;
  readonly entitiesCompleted: number;
  readonly records: number;
  readonly bytes: number;
}

export interface RestoreOutcome {
  readonly metrics: RestoreDataMetrics;
  readonly validation: ValidationResults;
  readonly warnings: readonly BackupWarning[];
}

/** The library's own tables that a restore into the live ones writes to, quoted and qualified; in the same database. */
export interface RestoreRecords {
  readonly tables: string;
  readonly images: string;
  readonly conflicts: string;
}

/** What happens in the transaction of the rows, last: what it rejects with undoes everything. */
type Finish = (client: pg.ClientBase, outcome: LiveOutcome) => Promise<void>;

export interface LiveRestoreRequest {
  readonly restoreId: UUID;
  readonly organizationId: UUID;
  readonly snapshot: RestorableSnapshot;
  readonly entities: readonly LiveEntity[];
  /** The scope names records: finding none of them is an error. */
  readonly namesRecords: boolean;
  readonly strategy: ConflictResolutionStrategy;
  readonly deleteNotInBackup: boolean;
  readonly allowCascades: boolean;
  readonly columnMapping: ColumnMapping;
  /** Keeps what the rows were, so that it can be rolled back. */
  readonly keepImages: boolean;
  readonly records: RestoreRecords;
  readonly now: Timestamp;
  readonly signal: AbortSignal;
  readonly onRead: (entityType: string | null, rows: number, bytes: number) => void;
  readonly finish: Finish;
}

export interface LiveOutcome {
  readonly entities: readonly EntityChanges[];
  readonly cascades: readonly RestoreCascade[];
  /** Conflicts that were stored. */
  readonly conflicts: number;
  readonly warnings: readonly BackupWarning[];
}

export type LivePreview = Omit<RestorePreview, 'segments' | 'bytes'>;

export interface RollbackRequest {
  readonly restoreId: UUID;
  readonly organizationId: UUID;
  /** The entities as they are defined now, for their triggers. */
  readonly entities: readonly LiveEntity[];
  readonly records: RestoreRecords;
  readonly now: Timestamp;
  readonly signal: AbortSignal;
  readonly finish: Finish;
}

export interface DecisionRequest {
  readonly restoreId: UUID;
  readonly organizationId: UUID;
  readonly entity: LiveEntity;
  /** The key as texts. */
  readonly key: readonly string[];
  /** The columns to write, as texts; null: the row is to go. */
  readonly values: { readonly [column: string]: string | null } | null;
  /** The version (xmin) of the row that the person saw; null: there was none. */
  readonly version: string | null;
  readonly keepImages: boolean;
  readonly records: RestoreRecords;
  readonly signal: AbortSignal;
  readonly finish: (client: pg.ClientBase) => Promise<void>;
}

/** SQL name of the table in which the archived rows of the n-th entity of a snapshot stand while they are compared. */
export const stageName = (index: number): string => `pg_temp."care_stage_${index}"`;

/** Puts snapshots back into PostgreSQL. */
export interface RestoreTarget {
  /**
   * Makes `targetSchema` with the snapshot's types, tables, rows, sequences, indexes, constraints, policies and grants.
   * All or nothing: it loads under a hidden name and renames that once everything has been validated; a failure, an
   * abort or the death of the process leaves no `targetSchema`. What a dead process left hidden, `sweep` removes.
   * Errors: `RESTORE_*`, `ARCHIVE_*`, `STORAGE_*`, `KEY_UNAVAILABLE`, `DATABASE_*`.
   */
  restoreToSchema(request: RestoreToSchemaRequest): Promise<RestoreOutcome>;

  /** What a restore into the live tables would do at this moment. Changes nothing. Errors as `restoreLive`. */
  previewLive(request: Omit<LiveRestoreRequest, 'finish'>): Promise<LivePreview>;

  /**
   * Restores rows into tables that are in use, all or nothing. Rows are read, checked, staged and compared before anything
   * is locked; one short transaction writes those that differ, reads them back and calls `finish`. Only rows that are in
   * scope both in the archive and as they stand are changed. Every restored row equals the archived one, column by
   * column. A connection that is lost at the commit does not say whether it took place: `finish` leaves the trace.
   * Errors: `RESTORE_*`, `ENTITY_UNKNOWN`, `NOT_FOUND`, `ARCHIVE_*`, `STORAGE_*`, `KEY_UNAVAILABLE`, `DATABASE_*`.
   */
  restoreLive(request: LiveRestoreRequest): Promise<LiveOutcome>;

  /**
   * Puts back what a restore changed, all or nothing: rows that nobody has written since are exactly as they were. The
   * others stay, and are conflicts. Errors: `RESTORE_*`, `DATABASE_*`.
   */
  rollbackLive(request: RollbackRequest): Promise<LiveOutcome>;

  /**
   * Carries out what a person decided about one row, where it is still the one that he saw. Errors: `CONFLICT_STALE`,
   * `RESTORE_*`, `DATABASE_*`.
   */
  decideLive(request: DecisionRequest): Promise<void>;

  /**
   * Removes what dead restores left hidden and says how each ended: DONE when its schema had been renamed already,
   * GONE when not. Restores that are still running are RUNNING and not touched.
   */
  sweep(restoreIds: readonly UUID[]): Promise<ReadonlyMap<UUID, 'DONE' | 'GONE' | 'RUNNING'>>;
}
