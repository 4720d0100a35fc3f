import type { BackupWarning, RestoreDataMetrics, RestorePhase, ValidationResults } from '../types/backup.ts';
import type { SnapshotContents } from '../types/contents.ts';
import type { UUID } from '../types/ids.ts';

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

/** Puts snapshots back into PostgreSQL. */
export interface RestoreTarget {
  /**
   * Makes `targetSchema` with the snapshot's types, tables, rows, sequences, indexes, constraints, policies and grants.
   * All or nothing: it loads under a hidden name and renames that once everything has been validated; a failure, an
   * abort or the death of the process leaves no `targetSchema`. What a dead process left hidden, `sweep` removes.
   * Errors: `RESTORE_*`, `ARCHIVE_*`, `STORAGE_*`, `KEY_UNAVAILABLE`, `DATABASE_*`.
   */
  restoreToSchema(request: RestoreToSchemaRequest): Promise<RestoreOutcome>;

  /**
   * Removes what dead restores left hidden and says how each ended: DONE when its schema had been renamed already,
   * GONE when not. Restores that are still running are RUNNING and not touched.
   */
  sweep(restoreIds: readonly UUID[]): Promise<ReadonlyMap<UUID, 'DONE' | 'GONE' | 'RUNNING'>>;
}
