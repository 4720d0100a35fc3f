import type { ExportColumn } from './export.ts';
import type { FileFormat } from './file.ts';
import { TextFile } from './text-file.ts';

/** One JSON object per line, with the columns' names: see `docs/export.md`. */
export const ndjson: FileFormat = {
  extension: 'ndjson',
  emptyRows: 'YES',
  begin: (columns) => {
    const fields = columns.map(({ name, type }, index) => ({
      name: `${index === 0 ? '' : ','}${JSON.stringify(name)}:`,
      json: VALUES[type] ?? JSON.stringify,
    }));
    return new TextFile('', (row) => {
      let line = '{';
      fields.forEach(({ name, json }, index) => {
        const text = row[index] ?? null;
        line += name + (text === null ? 'null' : json(text));
      });
      return `${line}}\n`;
    });
  },
};

const unchanged = (text: string): string => text;
/** NaN and the infinities are no JSON. */
const float = (text: string): string => (/[Ny]/.test(text) ? JSON.stringify(text) : text);
/** In `json` line breaks can only stand between tokens: inside of strings they are escaped. */
const document = (text: string): string => text.replace(/[\r\n]/g, ' ');

/** By type; what is not here is written as a string. */
const VALUES: Readonly<Record<ExportColumn['type'], (text: string) => string>> = {
  smallint: unchanged,
  integer: unchanged,
  real: float,
  'double precision': float,
  boolean: (text) => (text === 't' ? 'true' : 'false'),
  json: document,
  jsonb: unchanged,
};
