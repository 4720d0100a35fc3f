import { describe, expect, test } from 'vitest';
import { planRestore } from '../../src/restore/plan.ts';
import type { RestorableSegment } from '../../src/restore/restore.ts';
import type { RelationRecord, SnapshotContents } from '../../src/types/contents.ts';

const MiB = 1024 * 1024;

const relation = (name: string, other: Partial<RelationRecord> = {}): RelationRecord => ({
  schema: 'public',
  name,
  kind: 'TABLE',
  persistence: 'PERMANENT',
  parent: null,
  partitionBound: null,
  partitionKey: null,
  columns: [],
  key: [],
  constraints: [],
  indexes: [],
  rowSecurity: 'OFF',
  policies: [],
  grants: [],
  triggers: [],
  options: [],
  rows: 0,
  bytes: 0,
  ...other,
});

const contentsOf = (
  relations: readonly RelationRecord[],
  other: Partial<SnapshotContents> = {},
): SnapshotContents => ({
  contentsVersion: 1,
  source: {
    serverVersion: 150000,
    encoding: 'UTF8',
    database: '',
    systemIdentifier: null,
    snapshot: '',
    takenAt: '2026-01-01T00:00:00.000Z',
    searchPath: ['public'],
    settings: {},
  },
  scope: {},
  branchIds: null,
  entities: [],
  types: [],
  sequences: [],
  warnings: [],
  relations,
  ...other,
});

/** Segments of one run of part 0: sizes in MiB, negative where it continues a row. */
const run = (sizes: readonly number[], run = 0, part = 0): RestorableSegment[] =>
  sizes.map((size, ordinal) => ({
    part,
    run,
    ordinal,
    rawLength: Math.abs(size) * MiB,
    rows: 10,
    continues: size < 0,
  }));

const total = (segments: readonly RestorableSegment[], part = 0): Pick<RelationRecord, 'rows' | 'bytes'> => {
  const own = segments.filter((segment) => segment.part === part);
  return { rows: own.length * 10, bytes: own.reduce((sum, { rawLength }) => sum + rawLength, 0) };
};

describe('load jobs', () => {
  const jobsOf = (segments: readonly RestorableSegment[], sessions: number): number[][] =>
    planRestore({ contents: contentsOf([relation('a', total(segments))]), segments }, sessions).loads.map(
      (job) => [...job.segments],
    );

  test('a large run is cut into a few jobs a session, each segment once and in order', () => {
    const segments = run(Array.from({ length: 32 }, () => 4));
    const jobs = jobsOf(segments, 2);
    expect(jobs).toHaveLength(8);
    expect(jobs.flat().sort((a, b) => a - b)).toEqual([...segments.keys()]);
    for (const job of jobs) expect(job).toEqual(Array.from(job, (_, i) => (job[0] ?? 0) + i));
  });

  test('a row that spans segments is never cut', () => {
    const segments = run([4, 4, -4, -4, -4, 4, 4, -4]);
    for (const job of jobsOf(segments, 8)) expect(segments[job[0] ?? -1]?.continues).toBe(false);
    expect(
      jobsOf(segments, 8)
        .map((job) => job.length)
        .sort(),
    ).toEqual([1, 1, 2, 4]);
  });

  test('segments are put in the order of their run, however they are listed', () => {
    const segments = run([1, 1, 1]).reverse();
    expect(jobsOf(segments, 1)).toEqual([[2, 1, 0]]);
  });

  test('no segments, no jobs', () => expect(jobsOf([], 4)).toEqual([]));
});

describe('what does not add up is refused', () => {
  const refuses = (segments: RestorableSegment[], relations: RelationRecord[], message: RegExp): void => {
    expect(() => planRestore({ contents: contentsOf(relations), segments }, 2)).toThrow(
      expect.objectContaining({ code: 'ARCHIVE_CORRUPT', message: expect.stringMatching(message) }),
    );
  };
  const three = run([1, 1, 1]);

  test('a missing segment', () =>
    refuses([...three.slice(0, 1), ...three.slice(2)], [relation('a', total(three))], /lacks segment 1/));
  test('a missing last segment', () =>
    refuses(three.slice(0, 2), [relation('a', total(three))], /30 rows of public.a, and segments for 20/));
  test('a run that begins inside a row', () =>
    refuses(run([-1]), [relation('a', total(run([-1])))], /inside a row/));
  test('rows of a part that holds none', () => refuses(run([1], 0, 3), [relation('a')], /part 3/));
  test('a partition before its parent', () =>
    refuses(
      [],
      [relation('leaf', { parent: 1, partitionBound: 'DEFAULT' }), relation('root', { kind: 'PARTITIONED' })],
      /no partitioned table before public.leaf/,
    ));
  test('a table described twice', () => refuses([], [relation('a'), relation('a')], /public.a twice/));
});

test('tables of one name in two schemas are refused, and both named', () => {
  const contents = contentsOf([relation('a'), relation('a', { schema: 'billing' })]);
  expect(() => planRestore({ contents, segments: [] }, 1)).toThrow(
    expect.objectContaining({
      code: 'NOT_SUPPORTED',
      message: expect.stringMatching(/public\.a and billing\.a/),
    }),
  );
});

test('a table and a type of one name in two schemas are refused; a table and its own row type are not', () => {
  const withType = (schema: string): SnapshotContents =>
    contentsOf([relation('a')], { types: [{ schema, name: 'a', kind: 'EXTERNAL', extension: null }] });
  expect(() => planRestore({ contents: withType('billing'), segments: [] }, 1)).toThrow(
    /public\.a and billing\.a/,
  );
  expect(() => planRestore({ contents: withType('public'), segments: [] }, 1)).not.toThrow();
});

test('an index whose name is taken gets another and a warning', () => {
  const indexes = [{ name: 'by_day', unique: false, definition: 'USING btree (day)', inherited: false }];
  const contents = contentsOf([relation('a', { indexes }), relation('b', { schema: 'billing', indexes })]);
  const plan = planRestore({ contents, segments: [] }, 1);
  expect(plan.indexNames.map((names) => names.get('by_day'))).toEqual(['by_day', 'by_day_restored_1']);
  expect(plan.warnings).toMatchObject([
    { code: 'INDEX_RENAMED', message: expect.stringContaining('billing.b') },
  ]);
});

test('partitioned tables come from the leaves upwards, and leaves know their root and entity', () => {
  const partition = { partitionBound: 'DEFAULT' };
  const contents = contentsOf(
    [
      relation('other'),
      relation('root', { kind: 'PARTITIONED' }),
      relation('middle', { kind: 'PARTITIONED', parent: 1, ...partition }),
      relation('leaf', { parent: 2, ...partition }),
    ],
    { entities: [{ type: 'VISIT', relation: 1, classification: {}, rows: 0, bytes: 0, filtered: false }] },
  );
  const plan = planRestore({ contents, segments: [] }, 1);
  expect(plan).toMatchObject({
    partitioned: [2, 1],
    leaves: [0, 3],
    roots: [0, 1, 1, 1],
    entities: [null, 0, 0, 0],
  });
});
