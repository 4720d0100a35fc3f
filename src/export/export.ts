import type { ExportFormat } from '../types/export.ts';

/** A file to be written: one entity's rows. */
export interface ExportTable {
  /** For errors. */
  readonly entityType: string;
  /** Types as `format_type` gives them. */
  readonly columns: readonly ExportColumn[];
}

export interface ExportColumn {
  readonly name: string;
  readonly type: string;
}

/** How the lines of one stored table are made up: its partitions may hold the columns in another order. */
export interface LineLayout {
  /** Fields of a line. */
  readonly width: number;
  /** Which field of the line each column of the file is. */
  readonly positions: readonly number[];
}

/** A part of a stored table: COPY text. Rows may go on in the next one of the same layout. */
export interface ExportSegment {
  readonly layout: LineLayout;
  /** Whether it begins within a row. */
  readonly continues: boolean;
  readonly bytes: Buffer;
}

export interface ExportChunk {
  readonly bytes: Uint8Array;
  /** Rows that are out with it. */
  readonly rows: number;
}

export interface RowFormat {
  /** Of file names, without the dot. */
  readonly extension: string;
  /** Throws `NOT_SUPPORTED` where the format cannot hold the rows of the table. */
  requireWritable(table: ExportTable): void;
  /**
   * Writes a file. Asks for a segment when it needs one, and ends the iteration when it is ended itself. Errors: those of
   * the segments, `ARCHIVE_CORRUPT` for what is no COPY text, `EXPORT_ROW_UNSUPPORTED`.
   */
  write(table: ExportTable, segments: AsyncIterable<ExportSegment>): AsyncGenerator<ExportChunk>;
}

export interface RowExporter {
  /** `encoding`: PostgreSQL's name. Throws `NOT_SUPPORTED` for one that it cannot decode, `DEPENDENCY_MISSING`. */
  open(format: ExportFormat, encoding: string): Promise<RowFormat>;
}
