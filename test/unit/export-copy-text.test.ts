import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CopyTextRows } from '../../src/export/copy-text.ts';
import type { ExportSegment, LineLayout } from '../../src/export/export.ts';
import { createRowExporter } from '../../src/export/row-exporter.ts';
import { textDecoder } from '../../src/export/text-encoding.ts';

const UTF8 = textDecoder('UTF8');
const layoutOf = (width: number): LineLayout => ({ width, positions: [...Array(width).keys()] });

/** The rows of a text that comes in these pieces. */
function rowsOf(width: number, ...pieces: readonly Buffer[]) {
  const parser = new CopyTextRows('T', layoutOf(width), UTF8);
  const rows = pieces.flatMap((piece) => [...parser.rows(piece)]);
  return { rows, atRowEnd: parser.atRowEnd };
}

describe('COPY text', () => {
  test('means the same however it is cut, within characters and escapes too (property)', () => {
    const copied = `${String.raw`\N	\\N	a\tb\nc`}\n${String.raw`	字\b\f\r\v\\	\\.`}\n\t\t\u{1F600}\n`;
    const expected = [
      [null, '\\N', 'a\tb\nc'],
      ['', '字\b\f\r\v\\', '\\.'],
      ['', '', '\u{1F600}'],
    ];
    const bytes = Buffer.from(copied);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
        const ends = [...cuts, bytes.length].sort((x, y) => x - y);
        const pieces = ends.map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end));
        expect(rowsOf(3, ...pieces)).toEqual({ rows: expected, atRowEnd: true });
      }),
    );
  });

  test('of a table without columns is empty lines', () => {
    expect(rowsOf(0, Buffer.from('\n\n')).rows).toEqual([[], []]);
    expect(rowsOf(1, Buffer.from('\n')).rows).toEqual([['']]);
  });

  test.each(['a\tb\n', '\n', 'x\\q\ty\tz\n', 'x\ty\tz\\\n', '\\x41\tb\tc\n', 'a\\N\tb\tc\n'])(
    'that COPY does not write is refused, not guessed: %j',
    (text) => {
      expect(() => rowsOf(3, Buffer.from(text))).toThrow(
        expect.objectContaining({ code: 'ARCHIVE_CORRUPT' }),
      );
    },
  );

  test('that is no text is refused, and so is a row without end', () => {
    const refusal = expect.objectContaining({ code: 'EXPORT_ROW_UNSUPPORTED' });
    expect(() => rowsOf(1, Buffer.from([0xff, 0x0a]))).toThrow(refusal);
    expect(() => rowsOf(1, Buffer.from('a'), Buffer.alloc(256 * 2 ** 20))).toThrow(refusal);
  });
});

test.each([
  ['begins within a row that nobody began', [{ text: 'b\n', continues: true }]],
  ['leaves a row that does not go on', [{ text: 'a', continues: false }]],
  [
    'begins anew within a row',
    [
      { text: 'a', continues: false },
      { text: 'b\n', continues: false },
    ],
  ],
])('a segment that %s is refused', async (_, given) => {
  const layout = layoutOf(1);
  const segments = async function* (): AsyncGenerator<ExportSegment> {
    for (const { text, continues } of given) yield { bytes: Buffer.from(text), continues, layout };
  };
  const file = await createRowExporter().open('NDJSON', 'UTF8');
  const all = async (): Promise<void> => {
    for await (const _chunk of file.write(
      { entityType: 'T', columns: [{ name: 'a', type: 'text' }] },
      segments(),
    ));
  };
  await expect(all()).rejects.toMatchObject({ code: 'ARCHIVE_CORRUPT' });
});
