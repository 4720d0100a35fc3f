import type { Row } from './copy-text.ts';
import type { ExportChunk, ExportColumn } from './export.ts';

/** A file that is being written. */
export interface ExportFile {
  /** Takes a row, and gives the bytes that are ready once there are enough of them. */
  add(row: Row): ExportChunk | undefined;
  /** The rest of the bytes. */
  end(): ExportChunk;
}

export interface FileFormat {
  readonly extension: string;
  /** Whether it has rows without columns. */
  readonly emptyRows: 'YES' | 'NO';
  begin(columns: readonly ExportColumn[]): ExportFile;
}
