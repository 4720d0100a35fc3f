/**
 * Knows what a backup has to hold without asking the library: it copies the organization's rows, by rules of its own,
 * in a session that sees the database as it was at the backup's moment.
 */
import pg from 'pg';
import { type EntityDescription, entities } from '../care-platform/entities.ts';
import { quoted, rowOf, rowsOf, withClient } from './database.ts';

/** A table of the platform as the oracle sees it. */
export interface OracleTable {
  readonly name: string;
  readonly key: readonly string[];
  /** Rows of the organization at the moment that are not soft-deleted: what the backup has to hold. */
  readonly rows: number;
  /** Soft-deleted ones; null where the table does not know soft deletion. */
  readonly deleted: number | null;
}

export const ORACLE_SCHEMA = 'oracle';

/** The condition of the rows of `ORACLE_SCHEMA.<table>` that belong into a backup with the default scope. */
const aliveIn = (table: OracleTable): string => (table.deleted === null ? 'true' : 'deleted_at IS NULL');

/** A session that sees the moment of a backup for as long as it is open. */
export class Moment {
  readonly #client: pg.Client;
  readonly #organization: string;

  private constructor(client: pg.Client, organization: string) {
    this.#client = client;
    this.#organization = organization;
  }

  /** Imports the snapshot of a backup that holds its locks, and takes locks of its own on every table. */
  static async import(url: string, exportedId: string, organization: string): Promise<Moment> {
    const client = new pg.Client(url);
    client.on('error', () => undefined);
    await client.connect();
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await client.query(`SET TRANSACTION SNAPSHOT ${pg.escapeLiteral(exportedId)}`);
    const tables = entities.map(({ table }) => `public.${quoted(table)}`);
    await client.query(`LOCK TABLE ${tables.join(', ')} IN ACCESS SHARE MODE`);
    return new Moment(client, organization);
  }

  /** Copies the organization's rows into `ORACLE_SCHEMA` and closes the session. */
  async copy(onTable: (table: string, done: number, all: number) => void): Promise<OracleTable[]> {
    const client = this.#client;
    try {
      await client.query(`CREATE SCHEMA ${ORACLE_SCHEMA}`);
      const tables: OracleTable[] = [];
      for (const [index, entity] of entities.entries()) {
        onTable(entity.table, index, entities.length);
        tables.push(await this.#copyTable(entity));
      }
      await client.query('COMMIT');
      return tables;
    } finally {
      await this.close();
    }
  }

  async close(): Promise<void> {
    await this.#client.end().catch(() => undefined);
  }

  async #copyTable(entity: EntityDescription): Promise<OracleTable> {
    const client = this.#client;
    const name = quoted(entity.table);
    const copied = await client.query(
      `CREATE TABLE ${ORACLE_SCHEMA}.${name} AS SELECT t.* FROM public.${name} t WHERE ${this.#belongs(entity)}`,
    );
    const { deletable, key } = await rowOf<{ deletable: boolean; key: string[] }>(
      client,
      `SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attname = 'deleted_at') AS deletable,
              ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
                     WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY a.attnum) AS key`,
      [`public.${name}`],
    );
    const all = copied.rowCount ?? 0;
    if (!deletable) return { name: entity.table, key, rows: all, deleted: null };
    const { deleted } = await rowOf<{ deleted: string }>(
      client,
      `SELECT count(*) AS deleted FROM ${ORACLE_SCHEMA}.${name} WHERE deleted_at IS NOT NULL`,
    );
    return { name: entity.table, key, rows: all - Number(deleted), deleted: Number(deleted) };
  }

  #belongs({ organization = 'organization_id' }: EntityDescription): string {
    const own = pg.escapeLiteral(this.#organization);
    if (organization === 'SHARED') return 'true';
    if (typeof organization === 'string') return `t.${quoted(organization)} = ${own}`;
    const owner = entities.find(({ type }) => type === organization.entity);
    if (owner === undefined) throw new Error(`There is no entity ${organization.entity}`);
    return `EXISTS (SELECT FROM public.${quoted(owner.table)} o WHERE o.id = t.${quoted(organization.through)} AND o.organization_id = ${own})`;
  }
}

/** How a restored table differs from the oracle's. */
export interface Comparison {
  readonly table: OracleTable;
  readonly restored: number;
  readonly missing: number;
  readonly extra: number;
  /** Same key, other content in any column. */
  readonly different: number;
  /** Names and types of the columns are the same, in the same order. */
  readonly sameColumns: boolean;
}

export const isEqual = ({ missing, extra, different, sameColumns, restored, table }: Comparison): boolean =>
  missing + extra + different === 0 && sameColumns && restored === table.rows;

/**
 * Compares a restored table with the oracle's, row by row: joined by key from both sides, whole rows with `*=`, which
 * compares the stored bytes of every column, generated ones included.
 */
export async function compareTable(url: string, schema: string, table: OracleTable): Promise<Comparison> {
  const name = quoted(table.name);
  const first = quoted(table.key[0] ?? 'id');
  const joined = table.key.map((column) => `e.${quoted(column)} = r.${quoted(column)}`).join(' AND ');
  return withClient(url, async (client) => {
    // Types that both have are named alike only where neither schema is on the path.
    await client.query("SET search_path = ''");
    const found = await rowOf<{ restored: string; missing: string; extra: string; different: string }>(
      client,
      `SELECT count(r.${first}) AS restored,
              count(*) FILTER (WHERE r.${first} IS NULL) AS missing,
              count(*) FILTER (WHERE e.${first} IS NULL) AS extra,
              count(*) FILTER (WHERE e.${first} IS NOT NULL AND r.${first} IS NOT NULL AND NOT e OPERATOR(pg_catalog.*=) r) AS different
         FROM (SELECT * FROM ${ORACLE_SCHEMA}.${name} WHERE ${aliveIn(table)}) e
         FULL JOIN ${quoted(schema)}.${name} r ON ${joined}`,
    );
    const columns = await rowsOf<{ columns: string }>(
      client,
      `SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
         FROM unnest($1::text[]) AS w(name) JOIN pg_attribute a ON a.attrelid = w.name::regclass
        WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY w.name`,
      [[`${ORACLE_SCHEMA}.${name}`, `${quoted(schema)}.${name}`]],
    );
    return {
      table,
      restored: Number(found.restored),
      missing: Number(found.missing),
      extra: Number(found.extra),
      different: Number(found.different),
      sameColumns: columns.length === 2 && columns[0]?.columns === columns[1]?.columns,
    };
  });
}
