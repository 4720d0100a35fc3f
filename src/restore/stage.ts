import type pg from 'pg';
import { copyIn } from '../postgres/copy-in.ts';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { BackupWarning } from '../types/backup.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import { restoreError } from './errors.ts';
import { execute } from './execute.ts';
import { at } from './plan.ts';
import type { RestorableSnapshot } from './restore.ts';
import { RowFilter } from './row-filter.ts';
import { declared, type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

export interface StageOptions {
  readonly client: pg.Client;
  readonly snapshot: RestorableSnapshot;
  readonly staged: readonly StagedEntity[];
  /** What the snapshot does not hold is to be deleted: every key that it holds has to be known. */
  readonly deletes: boolean;
  readonly signal: AbortSignal;
  readonly onRead: (entity: number, rows: number, bytes: number) => void;
}

/**
 * Brings the archived rows that are asked for into temporary tables, typed as the live columns are. Reads the segments of
 * these entities only, and hands on only rows that the scope can mean. Errors: those of `read`, `ARCHIVE_CORRUPT`,
 * `RESTORE_TARGET_INCOMPATIBLE`, `DATABASE_*`.
 */
export async function stageRows(options: StageOptions): Promise<readonly BackupWarning[]> {
  const { client, staged } = options;
  const warnings: BackupWarning[] = [];
  for (const one of staged) {
    await client.query(createStage(one));
    await client.query(`CREATE TEMPORARY TABLE ${unqualified(one.spared)} (${declared(one.key)})`);
  }
  for (const one of staged) await loadStage(options, one);
  for (const one of staged) {
    await convertRetyped(client, one);
    warnings.push(...(await countLeftOut(client, one)));
    await generateColumns(client, one);
  }
  for (const one of staged) await indexStage(client, one);
  // All are chosen before any goes: an entity may find its owner through another one's archived rows.
  for (const one of staged) {
    const { asked } = one.entity;
    if (asked === null) continue;
    const key = one.key.map(({ sql }) => `t.${sql}`).join(', ');
    const sql = `INSERT INTO ${one.spared} SELECT ${key} FROM ${one.stage} t WHERE (${asked}) IS NOT TRUE`;
    await execute(client, { sql, doing: `Choosing the rows of ${one.entity.type}` });
  }
  for (const one of staged) {
    const { rowCount } = await client.query(
      `DELETE FROM ${one.stage} t USING ${one.spared} p WHERE ${sameKey(one, 't', 'p')}`,
    );
    if (rowCount !== 0) await client.query(`ANALYZE ${one.stage}`);
  }
  return warnings;
}

async function indexStage(client: pg.Client, one: StagedEntity): Promise<void> {
  const key = one.key.map(({ sql }) => sql).join(', ');
  await client.query(`CREATE UNIQUE INDEX ON ${one.stage} (${key})`).catch((error: unknown) => {
    throw restoreError(error, `Reading the keys of ${one.entity.type}`);
  });
  await client.query(`ANALYZE ${one.stage}`);
}

const leftOut = (index: number): string => quoteIdent(`care_left_out_${index}`);

function createStage({ stage, match }: StagedEntity): string {
  const columns = match.staged.map(({ live, retyped }, i) => {
    if (live === null) return `${leftOut(i)} text`;
    return retyped ? `${live.sql} text` : `${live.sql} ${live.type} ${live.collate}`;
  });
  return `CREATE TEMPORARY TABLE ${unqualified(stage)} (${columns.join(', ')})`;
}

async function loadStage(options: StageOptions, one: StagedEntity): Promise<void> {
  const { client, snapshot, staged } = options;
  const { contents, segments } = snapshot;
  const encoding = quoteLiteral(contents.source.encoding);
  const parts = contents.relations.flatMap((relation, part) =>
    relation.kind === 'TABLE' && rootOf(snapshot, part) === one.root ? [part] : [],
  );
  for (const part of parts) {
    const relation = at(contents.relations, part);
    const lines = relation.columns.filter(({ generated }) => generated === null).map(({ name }) => name);
    const names = lines.map((name) => {
      const i = one.match.staged.findIndex(({ archived }) => archived === name);
      const column = one.match.staged[i];
      if (column === undefined) {
        throw new ArchiveError(
          `The manifest has a partition with another column, ${name}`,
          'ARCHIVE_CORRUPT',
        );
      }
      return column.live === null ? leftOut(i) : column.live.sql;
    });
    const list = names.length === 0 ? '' : ` (${names.join(', ')})`;
    const sql = `COPY ${one.stage}${list} FROM STDIN (FORMAT text, ENCODING ${encoding})`;
    const runs = [...Map.groupBy(segments.keys(), (index) => at(segments, index).run)]
      .map(([, run]) => run.filter((index) => at(segments, index).part === part))
      .filter((run) => run.length > 0)
      .map((run) => run.toSorted((a, b) => at(segments, a).ordinal - at(segments, b).ordinal));
    const filter = options.deletes ? undefined : filterOf(one, lines, contents.source.encoding);
    const entity = staged.indexOf(one);
    const rows =
      filter === undefined
        ? wholeRows(options, entity, runs.flat())
        : chosenRows(options, entity, runs.flat(), filter);
    const taken = await copyIn(client, sql, rows).catch((error: unknown) => {
      throw restoreError(error, `Reading the rows of ${one.entity.type}`);
    });
    const expected = filter === undefined ? relation.rows : filter.kept;
    if (taken !== expected || (filter !== undefined && (filter.seen !== relation.rows || !filter.atRowEnd))) {
      throw new DataProtectionError(
        `Reading ${relation.name} took ${taken} rows where the archive has ${expected}`,
        'RESTORE_VALIDATION_FAILED',
      );
    }
  }
}

function rootOf({ contents }: RestorableSnapshot, part: number): number {
  let root = part;
  for (let up = at(contents.relations, root).parent; up !== null; up = at(contents.relations, root).parent)
    root = up;
  return root;
}

/** Looks at the columns only whose text is one value's: where bytes differ, so do the values. */
function filterOf(one: StagedEntity, lines: readonly string[], encoding: string): RowFilter | undefined {
  const wanted = one.entity.narrow.flatMap(({ column, texts }) => {
    const staged = one.match.staged.find(({ live }) => live?.name === column);
    const position = lines.indexOf(staged?.archived ?? '');
    const sameBytes = encoding === 'UTF8' || texts.every((text) => /^[\x20-\x7e]*$/.test(text));
    if (staged?.live?.deterministic !== true || staged.retyped || position < 0 || !sameBytes) return [];
    return [{ column: position, texts }];
  });
  return wanted.length === 0 ? undefined : new RowFilter(wanted);
}

async function* wholeRows(
  options: StageOptions,
  entity: number,
  segments: readonly number[],
): AsyncGenerator<Buffer> {
  for await (const { buffer, rows } of readAhead(options, segments)) {
    yield buffer;
    options.onRead(entity, rows, buffer.length);
  }
}

/** Kept rows leave in pieces of some size: each is a message to the server. */
const PIECE_BYTES = 256 * 1024;

async function* chosenRows(
  options: StageOptions,
  entity: number,
  segments: readonly number[],
  filter: RowFilter,
): AsyncGenerator<Buffer> {
  let piece: Buffer[] = [];
  let size = 0;
  for await (const { buffer, rows } of readAhead(options, segments)) {
    for (const row of filter.keep(buffer)) {
      piece.push(row);
      size += row.length;
      if (size < PIECE_BYTES) continue;
      yield Buffer.concat(piece);
      piece = [];
      size = 0;
    }
    // What was kept does not keep the whole segment in memory.
    if (size > 0) piece = [Buffer.concat(piece)];
    options.onRead(entity, rows, buffer.length);
  }
  if (size > 0) yield Buffer.concat(piece);
}

/** Segments on their way at once: one is looked at, the next are fetched and opened meanwhile. */
const AHEAD = 3;

async function* readAhead(
  { snapshot, signal }: StageOptions,
  segments: readonly number[],
): AsyncGenerator<{ readonly buffer: Buffer; readonly rows: number }> {
  const coming: Promise<Buffer>[] = [];
  let next = 0;
  for (const index of segments) {
    for (; next < segments.length && coming.length < AHEAD; next += 1) {
      const reading = snapshot.read(at(segments, next), signal);
      // It is awaited when its turn comes, which it may not.
      reading.catch(() => undefined);
      coming.push(reading);
    }
    const buffer = await (coming.shift() as Promise<Buffer>);
    const { rawLength, rows } = at(snapshot.segments, index);
    if (buffer.length !== rawLength) {
      throw new ArchiveError(
        `Segment ${index} has ${buffer.length} bytes instead of ${rawLength}`,
        'ARCHIVE_CORRUPT',
      );
    }
    yield { buffer, rows };
  }
}

/** Types between which numbers are the same numbers, whatever zeros stand behind the point. */
const NUMBERS = /^(smallint|integer|bigint|numeric(\(\d+,-?\d+\))?)$/;

/**
 * Turns the texts of a column that has another type now into that type, where every value comes back as it was: equal as
 * text, or as a number. Anything else would be a guess. `RESTORE_TARGET_INCOMPATIBLE` names the column.
 */
async function convertRetyped(client: pg.Client, one: StagedEntity): Promise<void> {
  const relation = one.match.staged;
  for (const { live, retyped } of relation) {
    if (live === null || !retyped) continue;
    const doing = `Turning column ${live.name} of ${one.entity.type} into ${live.type}`;
    const value = `t.${live.sql}`;
    const back = `pg_catalog.format('%s', CAST(${value} AS ${live.type}))`;
    const asNumber = NUMBERS.test(live.archivedAs)
      ? ` AND CAST(${value} AS pg_catalog.numeric) IS DISTINCT FROM CAST(${back} AS pg_catalog.numeric)`
      : '';
    const [row] = await selectRows<{ changed: string }>(
      client,
      `SELECT count(*)::text AS changed FROM ${one.stage} t WHERE ${value} IS NOT NULL AND ${back} <> ${value}${asNumber}`,
    ).catch((error: unknown) => {
      throw restoreError(error, doing);
    });
    if (row?.changed !== '0') {
      throw new DataProtectionError(
        `${doing} would change ${row?.changed} values: map it to null in \`columnMapping\` to leave it out`,
        'RESTORE_TARGET_INCOMPATIBLE',
      );
    }
    const sql = `ALTER TABLE ${one.stage} ALTER COLUMN ${live.sql} TYPE ${live.type} ${live.collate} USING CAST(${live.sql} AS ${live.type})`;
    await execute(client, { sql, doing });
  }
}

/** Columns that PostgreSQL computes are not in the archive; a scope may ask for them all the same. */
async function generateColumns(client: pg.Client, one: StagedEntity): Promise<void> {
  for (const { name, sql, type, generated } of one.table.columns.values()) {
    if (generated === null || one.entity.asked?.includes(sql) !== true) continue;
    await execute(client, {
      sql: `ALTER TABLE ${one.stage} ADD COLUMN ${sql} ${type} GENERATED ALWAYS AS (${generated}) STORED`,
      doing: `Computing column ${name} of the archived rows of ${one.entity.type}`,
    });
  }
}

async function countLeftOut(client: pg.Client, one: StagedEntity): Promise<BackupWarning[]> {
  const warnings: BackupWarning[] = [];
  for (const [i, { archived, live }] of one.match.staged.entries()) {
    if (live !== null) continue;
    const [row] = await selectRows<{ values: string }>(
      client,
      `SELECT count(${leftOut(i)})::text AS values FROM ${one.stage}`,
    );
    const message = `Column ${archived} of ${one.entity.type} is left out, as asked: ${row?.values} values stay in the snapshot`;
    warnings.push({ code: 'COLUMN_LEFT_OUT', message });
    await client.query(`ALTER TABLE ${one.stage} DROP COLUMN ${leftOut(i)}`);
  }
  return warnings;
}
