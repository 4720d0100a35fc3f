import { createHash } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { expect } from 'vitest';
import { defineEntity } from '../../src/source/entity.ts';
import type { StepHook } from '../../src/source/leader.ts';
import { createPostgresSource } from '../../src/source/postgres-source.ts';
import type { RowSegment, RowSink, SnapshotRequest, SourceSnapshot } from '../../src/source/source.ts';
import type { SnapshotContents } from '../../src/types/contents.ts';
import type { EntityInput } from '../../src/types/entity.ts';

export const ORGANIZATION = '0b0d1e5a-0000-4000-8000-000000000001';
export const OTHER_ORGANIZATION = '0b0d1e5a-0000-4000-8000-000000000002';

/** An entity whose rows all belong to everyone: extraction without a condition. */
export const shared = (type: string, table: string, more: Partial<EntityInput> = {}): EntityInput => ({
  type,
  table,
  organization: 'SHARED',
  branch: 'SHARED',
  ...more,
});

/** A segment as it was when it was handed over. */
export interface KeptSegment extends Omit<RowSegment, 'buffer' | 'length'> {
  readonly bytes: Buffer;
}

export interface KeepingSink extends RowSink {
  readonly segments: KeptSegment[];
  /** Buffers that are with the extraction. */
  readonly out: () => number;
}

export interface SinkOptions {
  readonly bufferSize?: number;
  /** Awaited before each buffer is given, with how many were given before. */
  readonly gate?: (given: number) => Promise<void> | undefined;
}

/** A sink that keeps what it gets. Buffers are overwritten once they are given back, as pooled ones are. */
export function keepingSink({ bufferSize = 64 * 1024, gate }: SinkOptions = {}): KeepingSink {
  const segments: KeptSegment[] = [];
  const free: Buffer[] = [];
  let given = 0;
  let out = 0;
  return {
    segments,
    out: () => out,
    async acquire() {
      await gate?.(given);
      given += 1;
      out += 1;
      return free.pop() ?? Buffer.alloc(bufferSize);
    },
    release(buffer) {
      out -= 1;
      free.push(buffer.fill(0xee));
    },
    add({ buffer, length, ...segment }) {
      out -= 1;
      segments.push({ ...segment, bytes: Buffer.from(buffer.subarray(0, length)) });
      free.push(buffer.fill(0xee));
    },
  };
}

/** Rows by `schema.name`, sorted: what went out or should have. */
export type RowsByTable = ReadonlyMap<string, readonly string[]>;

const SETTINGS = `SET search_path = ''; SET row_security = off; SET extra_float_digits = 3; SET DateStyle = 'ISO, YMD';
  SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET bytea_output = hex; SET xmloption = content;
  SET lc_monetary = 'C'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10s'`;

export interface OracleOptions {
  /** A superuser's connection string, or connections that are there already. */
  readonly superuser: string | pg.Pool;
  /** Tables (of `public` where no schema is named) with the condition that their rows must fulfil, over the alias t. */
  readonly tables: Readonly<Record<string, string>>;
}

/** What PostgreSQL itself gives for the tables in a session that imported the snapshot: through pg-copy-streams. */
async function oracle(exportedId: string, { superuser, tables }: OracleOptions): Promise<RowsByTable> {
  const pool =
    typeof superuser === 'string' ? new pg.Pool({ connectionString: superuser, max: 1 }) : superuser;
  const client = await pool.connect();
  try {
    await client.query(SETTINGS);
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await client.query(`SET TRANSACTION SNAPSHOT '${exportedId}'`);
    const {
      rows: [encoding],
    } = await client.query('SHOW server_encoding');
    const found = new Map<string, readonly string[]>();
    for (const [root, condition] of Object.entries(tables)) {
      const { rows: leaves } = await client.query<{ oid: string; name: string; label: string }>(
        `WITH RECURSIVE tree(oid) AS (
           SELECT $1::regclass::oid UNION ALL
           SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid WHERE NOT i.inhdetachpending)
         SELECT t.oid, t.oid::regclass::text AS name, n.nspname || '.' || c.relname AS label
           FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'`,
        [root.includes('.') ? root : `public.${root}`],
      );
      for (const { oid, name, label } of leaves) {
        const { rows: columns } = await client.query<{ list: string | null }>(
          `SELECT string_agg('t.' || quote_ident(attname), ', ' ORDER BY attnum) AS list FROM pg_attribute
            WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`,
          [oid],
        );
        const sql = `COPY (SELECT ${columns[0]?.list ?? ''} FROM ONLY ${name} t WHERE ${condition || 'true'}) TO STDOUT (ENCODING '${encoding.server_encoding}')`;
        found.set(label, linesOf(await copyText(client, sql)));
      }
    }
    await client.query('COMMIT; RESET ALL');
    return found;
  } catch (error) {
    await client.query('ROLLBACK; RESET ALL').catch(() => undefined);
    throw error;
  } finally {
    client.release();
    if (pool !== superuser) await pool.end();
  }
}

/** The rows that a COPY TO STDOUT gives under the pins, sorted. */
export async function copiedRows(pool: pg.Pool, sql: string): Promise<string[]> {
  const client = await pool.connect();
  try {
    await client.query(SETTINGS);
    return linesOf(await copyText(client, sql));
  } finally {
    client.release(true);
  }
}

/** By another way than the library's: pg-copy-streams. */
async function copyText(client: pg.ClientBase, sql: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await pipeline(client.query(copyTo(sql)), async (source: AsyncIterable<Buffer>) => {
    for await (const chunk of source) chunks.push(chunk);
  });
  return Buffer.concat(chunks);
}

/** Rows of COPY text, sorted. Long ones stand as their digest. */
function linesOf(text: Buffer): string[] {
  const lines = text.toString('latin1').split('\n');
  if (lines.pop() !== '') throw new Error('COPY text ends in the middle of a row');
  return lines
    .map((line) => (line.length < 4096 ? line : createHash('sha256').update(line, 'latin1').digest('base64')))
    .sort();
}

/** The segments of each part put together by run, after checking what they say of themselves. */
export function rowsOf(segments: readonly KeptSegment[], contents: SnapshotContents): RowsByTable {
  const runs = Map.groupBy(segments, (segment) => `${segment.part} ${segment.run}`);
  const byPart = new Map<number, { rows: number; bytes: number; lines: string[] }>();
  for (const run of runs.values()) {
    let open = false;
    for (const { bytes, rows, continues } of run) {
      expect(continues, 'continues says whether the segment before ended inside a row').toBe(open);
      expect(bytes.length).toBeGreaterThan(0);
      expect(rows, 'rows that end in the segment').toBe(bytes.filter((byte) => byte === 10).length);
      open = bytes.at(-1) !== 10;
      if (open) expect(rows, 'only a row larger than a buffer is cut').toBe(0);
    }
    expect(open, 'a run ends with a row').toBe(false);
    const text = Buffer.concat(run.map(({ bytes }) => bytes));
    const part = byPart.get(run[0]?.part ?? -1) ?? { rows: 0, bytes: 0, lines: [] };
    byPart.set(run[0]?.part ?? -1, {
      rows: part.rows + run.reduce((sum, segment) => sum + segment.rows, 0),
      bytes: part.bytes + text.length,
      lines: [...part.lines, ...linesOf(text)],
    });
  }
  const found = new Map<string, string[]>();
  for (const [part, relation] of contents.relations.entries()) {
    const got = byPart.get(part) ?? { rows: 0, bytes: 0, lines: [] };
    expect({ rows: relation.rows, bytes: relation.bytes }).toEqual({ rows: got.rows, bytes: got.bytes });
    if (relation.kind === 'TABLE') found.set(`${relation.schema}.${relation.name}`, got.lines.sort());
    else expect(got.rows).toBe(0);
  }
  for (const entity of contents.entities) {
    const parts = contents.relations.filter((_, part) => rootOf(contents, part) === entity.relation);
    expect(entity.rows).toBe(parts.reduce((sum, relation) => sum + relation.rows, 0));
    expect(entity.bytes).toBe(parts.reduce((sum, relation) => sum + relation.bytes, 0));
  }
  return found;
}

function rootOf(contents: SnapshotContents, part: number): number {
  const parent = contents.relations[part]?.parent ?? null;
  return parent === null ? part : rootOf(contents, parent);
}

export interface TakeOptions extends SinkOptions {
  readonly connection: pg.ClientConfig;
  /** For the oracle. */
  readonly superuser: string | pg.Pool;
  readonly entities: readonly EntityInput[];
  readonly request?: Partial<SnapshotRequest>;
  /** The oracle's tables; without: the tables of the entities, every row. */
  readonly tables?: Readonly<Record<string, string>>;
  readonly onStep?: StepHook;
  /** Awaited with the open snapshot once the oracle has read. */
  readonly beforeExtract?: (snapshot: SourceSnapshot) => Promise<unknown>;
}

export interface Taken {
  readonly contents: SnapshotContents;
  readonly rows: RowsByTable;
  readonly expected: RowsByTable;
  readonly segments: readonly KeptSegment[];
}

export const requestOf = (request: Partial<SnapshotRequest> = {}): SnapshotRequest => ({
  organizationId: ORGANIZATION,
  branchIds: null,
  scope: {},
  maxConcurrency: 2,
  maxSnapshotAgeMs: 60_000,
  signal: new AbortController().signal,
  ...request,
});

export const sourceOf = (
  options: Pick<TakeOptions, 'connection' | 'entities' | 'onStep'>,
): ReturnType<typeof createPostgresSource> =>
  createPostgresSource({
    connection: options.connection,
    entities: options.entities.map(defineEntity),
    ...(options.onStep === undefined ? {} : { onStep: options.onStep }),
  });

/** Takes a snapshot and demands that it is, to the row, what the oracle sees under the same snapshot. */
export async function take(options: TakeOptions): Promise<Taken> {
  const snapshot = await sourceOf(options).open(requestOf(options.request));
  try {
    const tables =
      options.tables ??
      Object.fromEntries(
        options.entities.map(({ schema = 'public', table }) => [
          `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(table)}`,
          '',
        ]),
      );
    const expected = await oracle(snapshot.exportedId, { superuser: options.superuser, tables });
    await options.beforeExtract?.(snapshot);
    const sink = keepingSink(options);
    const contents = await snapshot.extract(sink, () => undefined);
    const rows = rowsOf(sink.segments, contents);
    expect(sink.out(), 'buffers that were not given back').toBe(0);
    expect(Object.fromEntries(rows)).toEqual(Object.fromEntries(expected));
    return { contents, rows, expected, segments: sink.segments };
  } finally {
    await snapshot.close();
  }
}

/** Rows over all tables. */
export const countOf = (rows: RowsByTable): number =>
  [...rows.values()].reduce((sum, lines) => sum + lines.length, 0);

/** Waits until no session of the library is left in a database; says which are if some stay. */
export async function expectNoSessions(pool: pg.Pool, withinMs = 5_000): Promise<void> {
  const end = performance.now() + withinMs;
  for (;;) {
    const { rows } = await pool.query(
      `SELECT application_name, state, query FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'care-backup%'`,
    );
    if (rows.length === 0) return;
    if (performance.now() > end) throw new Error(`Sessions are left: ${JSON.stringify(rows)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The code of the error that a promise rejects with, or 'NONE'. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'NONE',
    (error: unknown) =>
      error instanceof Error && 'code' in error && typeof error.code === 'string'
        ? error.code
        : `untyped: ${error}`,
  );
}
