import { parquetReadObjects } from 'hyparquet';
import type { ExportSegment } from '../../src/export/export.ts';
import { createRowExporter } from '../../src/export/row-exporter.ts';
import type { ExportFormat } from '../../src/types/export.ts';
import type { Taken } from './source-extraction.ts';

/** What a table that was read from a source is as a file. */
export async function exportTaken({ contents, segments }: Taken, format: ExportFormat): Promise<Buffer> {
  const relation = contents.relations[0];
  if (relation === undefined) throw new Error('no table');
  const columns = relation.columns.filter(({ generated }) => generated === null);
  const layout = { width: columns.length, positions: [...columns.keys()] };
  const given = async function* (): AsyncGenerator<ExportSegment> {
    for (const { bytes, continues } of segments.toSorted((a, b) => a.run - b.run))
      yield { bytes, continues, layout };
  };
  const file = await createRowExporter().open(format, contents.source.encoding);
  const chunks: Uint8Array[] = [];
  let rows = 0;
  for await (const chunk of file.write({ entityType: 'TABLE', columns }, given())) {
    chunks.push(chunk.bytes);
    rows += chunk.rows;
  }
  if (rows !== relation.rows) throw new Error(`${rows} rows instead of ${relation.rows}`);
  return Buffer.concat(chunks);
}

/** Every chunk of a file. */
export async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return Buffer.concat(all);
}

export const linesOf = (ndjson: Buffer): Record<string, unknown>[] =>
  ndjson
    .toString()
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The rows of a Parquet file, by another library than the one that wrote it. */
export function parquetRows(file: Uint8Array): Promise<Record<string, unknown>[]> {
  const bytes = new Uint8Array(file).buffer;
  return parquetReadObjects({
    file: { byteLength: bytes.byteLength, slice: async (from, to) => bytes.slice(from, to) },
    // Its own leaves out what looks like a byte order mark.
    parsers: { stringFromBytes: (value) => value && text.decode(value) },
  });
}
