import type { FileFormat } from './file.ts';
import { TextFile } from './text-file.ts';

/**
 * RFC 4180 with a header, values as PostgreSQL writes them, NULL as nothing and the empty string as `""`: what
 * `COPY ... (FORMAT csv, HEADER)` reads back.
 */
export const csv: FileFormat = {
  extension: 'csv',
  emptyRows: 'NO',
  begin: (columns) => new TextFile(record(columns.map(({ name }) => name)), record),
};

const record = (row: readonly (string | null)[]): string => `${row.map(field).join(',')}\r\n`;

function field(text: string | null): string {
  if (text === null) return '';
  return NEEDS_QUOTES.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Also nothing, which would be NULL, and `\.`, which ends the data where PostgreSQL before 18 reads it. */
const NEEDS_QUOTES = /[",\r\n]|^$|^\\\.$/;
