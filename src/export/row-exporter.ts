import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import type { ExportFormat } from '../types/export.ts';
import { CopyTextRows } from './copy-text.ts';
import { csv } from './csv.ts';
import type { ExportChunk, ExportSegment, ExportTable, LineLayout, RowExporter } from './export.ts';
import type { FileFormat } from './file.ts';
import { ndjson } from './ndjson.ts';
import { parquet } from './parquet.ts';
import { type DecodeText, textDecoder } from './text-encoding.ts';

/** Writes rows in every format of `EXPORT_FORMATS`. */
export function createRowExporter(): RowExporter {
  return {
    async open(format, encoding) {
      const decode = textDecoder(encoding);
      const file = await FORMATS[format]();
      return {
        extension: file.extension,
        requireWritable: (table) => requireWritable(file, table),
        write: (table, segments) => write(file, decode, table, segments),
      };
    },
  };
}

const FORMATS: Readonly<Record<ExportFormat, () => Promise<FileFormat>>> = {
  NDJSON: async () => ndjson,
  CSV: async () => csv,
  PARQUET: parquet,
};

function requireWritable({ emptyRows, extension }: FileFormat, { entityType, columns }: ExportTable): void {
  if (emptyRows === 'YES' || columns.length > 0) return;
  throw new DataProtectionError(
    `${entityType} has no column to export, and .${extension} cannot hold rows without any: leave it out, or export NDJSON`,
    'NOT_SUPPORTED',
  );
}

async function* write(
  format: FileFormat,
  decode: DecodeText,
  table: ExportTable,
  segments: AsyncIterable<ExportSegment>,
): AsyncGenerator<ExportChunk> {
  const { entityType, columns } = table;
  const file = format.begin(columns);
  let current: { readonly layout: LineLayout; readonly rows: CopyTextRows } | undefined;
  for await (const { layout, continues, bytes } of segments) {
    if (current?.layout !== layout) {
      requireRowEnd(current?.rows, entityType);
      current = { layout, rows: new CopyTextRows(entityType, layout, decode) };
    }
    if (continues === current.rows.atRowEnd) throw brokenRow(entityType);
    yield* converted(current.rows, bytes, file, entityType);
  }
  requireRowEnd(current?.rows, entityType);
  yield file.end();
}

function* converted(
  rows: CopyTextRows,
  bytes: Buffer,
  file: ReturnType<FileFormat['begin']>,
  entityType: string,
): Generator<ExportChunk> {
  try {
    for (const row of rows.rows(bytes)) {
      const chunk = file.add(row);
      if (chunk !== undefined) yield chunk;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new DataProtectionError(
      `A row of ${entityType} is longer than this runtime’s longest string once it is written`,
      'EXPORT_ROW_UNSUPPORTED',
    );
  }
}

function requireRowEnd(rows: CopyTextRows | undefined, entityType: string): void {
  if (rows?.atRowEnd === false) throw brokenRow(entityType);
}

const brokenRow = (entityType: string): ArchiveError =>
  new ArchiveError(`A row of ${entityType} does not go on in the archive where it should`, 'ARCHIVE_CORRUPT');
