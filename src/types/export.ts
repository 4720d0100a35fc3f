import type { BackupEntityType } from './backup.ts';
import type { UUID } from './ids.ts';

export const EXPORT_FORMATS = ['NDJSON', 'CSV', 'PARQUET'] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

export interface ExportSnapshotInput {
  readonly snapshotId: UUID;
  readonly format: ExportFormat;
  /** Left out: every entity of the snapshot. */
  readonly scope?: { readonly includeEntities?: readonly BackupEntityType[] };
  /**
   * false leaves out the entities and the columns that were classified as PHI when the snapshot was taken; `leftOut`
   * names them. true when left out.
   */
  readonly includePHI?: boolean;
}

/** One file of an export: all rows of an entity. */
export interface ExportedEntity {
  readonly entityType: BackupEntityType;
  /** Such as `VISIT.ndjson`: letters, digits and underscores before the dot. */
  readonly fileName: string;
  /** Rows that the file will hold. */
  readonly rows: number;
  /**
   * The bytes of the file. Nothing is read before they are asked for, and little ahead. They end well only when every row is
   * out. To be read once, before the next entity is asked for: later it is `INVALID_STATE`.
   */
  readonly chunks: AsyncIterable<Uint8Array>;
}

/**
 * An export that is ready to begin: one entity after the other. Going through it again exports again. A caller who stops
 * early, by `break` or by an error of its own, releases everything.
 */
export interface SnapshotExport extends AsyncIterable<ExportedEntity> {
  readonly entities: readonly { readonly entityType: BackupEntityType; readonly rows: number }[];
  /** What `includePHI: false` keeps back. */
  readonly leftOut: {
    readonly entities: readonly BackupEntityType[];
    readonly columns: readonly { readonly entityType: BackupEntityType; readonly column: string }[];
  };
}
