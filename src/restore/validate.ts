import type pg from 'pg';
import { copyOut } from '../postgres/copy-out.ts';
import { quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { type Definitions, inSchema } from './ddl.ts';
import { restoreError } from './errors.ts';
import { at, storedColumns } from './plan.ts';
import { addDigests, NO_ROWS, RowDigester, type RowsDigest } from './row-digest.ts';
import type { Job, WorkSessions } from './sessions.ts';

export interface ReadBackOptions {
  readonly sessions: WorkSessions;
  readonly definitions: Definitions;
  readonly leaves: readonly number[];
}

/** The number of rows in each leaf. */
export async function countRows(options: ReadBackOptions): Promise<ReadonlyMap<number, number>> {
  const { sessions, definitions, leaves } = options;
  const counts = new Map<number, number>();
  await sessions.run(
    leaves.map((leaf): Job => {
      const { name } = at(definitions.contents.relations, leaf);
      return {
        run: async (client) => {
          const sql = `SELECT count(*)::bigint AS rows FROM ONLY ${inSchema(definitions, name)}`;
          const [row] = await selectRows<{ rows: number }>(client, sql).catch((error: unknown) => {
            throw restoreError(error, `Counting ${name}`);
          });
          counts.set(leaf, row?.rows ?? -1);
        },
      };
    }),
  );
  return counts;
}

/** Two a session: one is filled while the other's row ends are found. */
const BUFFER_BYTES = 1024 * 1024;
const RANGE_BYTES = 64 * 1024 * 1024;

/**
 * Reads every leaf back, under the settings that its rows were written under, and digests its rows. Leaves are read in
 * ranges of 64 MiB, so that several sessions share a large one.
 */
export async function readBack(options: ReadBackOptions): Promise<ReadonlyMap<number, RowsDigest>> {
  const { sessions, definitions, leaves } = options;
  const digests = new Map<number, RowsDigest>(leaves.map((leaf) => [leaf, NO_ROWS]));
  const add = (leaf: number, digest: RowsDigest): void => {
    digests.set(leaf, addDigests(digests.get(leaf) ?? NO_ROWS, digest));
  };
  const jobs: Job[] = [];
  for (const leaf of leaves) {
    for (const range of await ranges(options, leaf)) {
      jobs.push({ run: async (client) => add(leaf, await readRange(client, definitions, leaf, range)) });
    }
  }
  await sessions.run(jobs);
  return digests;
}

async function readRange(
  client: pg.Client,
  definitions: Definitions,
  leaf: number,
  range: string,
): Promise<RowsDigest> {
  const relation = at(definitions.contents.relations, leaf);
  const select = `SELECT ${storedColumns(relation)} FROM ONLY ${inSchema(definitions, relation.name)}${range}`;
  const encoding = quoteLiteral(definitions.contents.source.encoding);
  const digester = new RowDigester();
  const free: Buffer[] = [];
  await copyOut(client, `COPY (${select}) TO STDOUT (FORMAT text, ENCODING ${encoding})`, {
    acquire: async () => free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES),
    release: (buffer) => void free.push(buffer),
    add: ({ buffer, length }) => {
      digester.update(buffer.subarray(0, length));
      free.push(buffer);
    },
  }).catch((error: unknown) => {
    throw restoreError(error, `Reading ${relation.name} back`);
  });
  return digester.digest();
}

/** Conditions that cut a leaf into ranges of its pages, the last one open. */
async function ranges({ sessions, definitions }: ReadBackOptions, leaf: number): Promise<string[]> {
  const { name } = at(definitions.contents.relations, leaf);
  const [size] = await selectRows<{ bytes: number; block: number }>(
    sessions.first,
    `SELECT pg_catalog.pg_relation_size($1::regclass)::bigint AS bytes, pg_catalog.current_setting('block_size')::int AS block`,
    [inSchema(definitions, name)],
  );
  if (size === undefined || size.bytes <= RANGE_BYTES) return [''];
  const step = Math.floor(RANGE_BYTES / size.block);
  const pages = Math.ceil(size.bytes / size.block);
  const count = Math.ceil(pages / step);
  return Array.from({ length: count }, (_, i) => {
    const below = i === count - 1 ? '' : ` AND ctid < '(${(i + 1) * step},0)'::tid`;
    return ` WHERE ctid >= '(${i * step},0)'::tid${below}`;
  });
}
