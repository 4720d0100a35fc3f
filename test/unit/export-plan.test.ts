import { expect, test } from 'vitest';
import { planExport } from '../../src/service/export-plan.ts';
import type { StoredArchive } from '../../src/service/stored-archive.ts';

const relation = (over: object) => ({
  schema: 'public',
  name: 'visit',
  parent: null,
  columns: [{ name: 'id', type: 'integer', generated: null }],
  rows: 0,
  bytes: 0,
  ...over,
});
const leaf = relation({ name: 'leaf', parent: 0, rows: 3, bytes: 6 });
const segment = (over: object) => ({
  part: 1,
  run: 0,
  ordinal: 0,
  continues: false,
  rows: 3,
  rawLength: 6,
  ...over,
});

/** What is looked at of an archive: VISIT, whose one leaf has three rows. */
const archive = (relations: readonly object[], segments: readonly object[]) =>
  ({
    contents: { entities: [{ type: 'VISIT', relation: 0, classification: {} }], relations },
    manifest: { segments },
  }) as unknown as StoredArchive;

const plan = (relations: readonly object[], segments: readonly object[]) =>
  planExport(archive(relations, segments), {});

test('takes the rows of leaves in the order of their runs', () => {
  const cut = [
    segment({ run: 1, rows: 1, rawLength: 2 }),
    segment({ run: 0, ordinal: 1, rows: 2, rawLength: 2, continues: true }),
    segment({ run: 0, rows: 0, rawLength: 2 }),
  ];
  const { entities } = plan([relation({}), leaf], cut);
  expect(entities).toMatchObject([
    { entityType: 'VISIT', rows: 3, segments: [{ index: 0 }, { index: 2 }, { index: 1 }] },
  ]);
});

test('refuses an archive whose segments are not the rows that it says it has', () => {
  for (const segments of [
    [],
    [segment({ rows: 2 })],
    [segment({ rawLength: 5 })],
    [segment({}), segment({ part: 0, run: 1 })],
  ])
    expect(() => plan([relation({}), leaf], segments)).toThrow(
      expect.objectContaining({ code: 'ARCHIVE_CORRUPT' }),
    );
  for (const parent of [1, 7])
    expect(() => plan([relation({}), { ...leaf, parent }], [segment({})])).toThrow(
      expect.objectContaining({ code: 'ARCHIVE_CORRUPT' }),
    );
});

test('refuses a leaf that lacks a column of its table', () => {
  const generated = {
    ...leaf,
    columns: [{ name: 'id', type: 'integer', generated: { kind: 'STORED', expression: '1' } }],
  };
  expect(() => plan([relation({}), generated], [segment({})])).toThrow(
    expect.objectContaining({ code: 'NOT_SUPPORTED' }),
  );
});
