import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import { checkSchemaName, DEFAULT_SCHEMA, qualify } from './schema-name.ts';

/** A row as the server wrote it: text, whatever type parsers the host has set. */
export type RawRow = Readonly<Record<string, string | null>>;

/** A value of a statement. Arrays become PostgreSQL arrays. */
export type Parameter = string | number | boolean | null | readonly string[];

/** The library's own tables: statements outside or inside a transaction. */
export interface Database {
  readonly clock: Clock;
  /** The quoted, schema-qualified name of one of the library's tables. */
  table(name: string): string;
  /** Runs one statement. Throws DATABASE_UNAVAILABLE or DATABASE_FAILED. */
  query(text: string, values?: readonly Parameter[]): Promise<readonly RawRow[]>;
  /**
   * Runs `work` in one transaction (READ COMMITTED, whatever the host's default): committed when it resolves, rolled
   * back when it throws. Inside a transaction it joins that one. Where the connection is lost at the commit,
   * DATABASE_UNAVAILABLE does not say whether it took place.
   */
  withTransaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T>;
}

/** A `Database` whose statements all belong to one transaction. */
export interface Transaction extends Database {
  readonly inTransaction: true;
}

export interface DatabaseOptions {
  /** The caller owns it, listens to its `error` event and ends it. */
  readonly pool: pg.Pool;
  /** `care_backup` when left out. */
  readonly schema?: string;
  readonly clock: Clock;
}

/** Binds a pool to the library's schema. Throws CONFIGURATION_INVALID. */
export function createDatabase(options: DatabaseOptions): Database {
  const { pool, clock } = options;
  const schema = checkSchemaName(options.schema ?? DEFAULT_SCHEMA);
  const table = (name: string): string => qualify(schema, name);
  return {
    clock,
    table,
    query: (text, values) => run(pool, text, values),
    withTransaction: async (work) => {
      const client = await pool.connect().catch((error: unknown) => {
        throw databaseError(error, 'Connecting');
      });
      // A connection that breaks between two statements emits `error`, which would end the process unheard.
      let broken = false;
      const onError = (): void => {
        broken = true;
      };
      client.on('error', onError);
      let ended = false;
      const transaction: Transaction = {
        inTransaction: true,
        clock,
        table,
        query: async (text, values) => {
          // The connection may be in somebody else's transaction by now.
          if (ended) throw new DataProtectionError('A transaction was used after its end', 'INTERNAL');
          return run(client, text, values);
        },
        withTransaction: (inner) => inner(transaction),
      };
      try {
        await command(client, 'BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE');
        const result = await work(transaction);
        ended = true;
        // PostgreSQL answers COMMIT with ROLLBACK where a statement had failed and the failure was swallowed.
        if ((await command(client, 'COMMIT')) !== 'COMMIT') {
          throw new DataProtectionError(
            'A failed transaction was to be committed; it was rolled back',
            'INTERNAL',
          );
        }
        return result;
      } catch (error) {
        ended = true;
        await client.query('ROLLBACK').catch(onError);
        throw error;
      } finally {
        client.removeListener('error', onError);
        client.release(broken);
      }
    },
  };
}

const RAW: pg.CustomTypesConfig = { getTypeParser: () => (text: string) => text };

async function run(
  connection: pg.Pool | pg.ClientBase,
  text: string,
  values: readonly Parameter[] = [],
): Promise<readonly RawRow[]> {
  try {
    const result = await connection.query<RawRow>({ text, values: [...values], types: RAW });
    return result.rows;
  } catch (error) {
    throw databaseError(error, 'The metadata database');
  }
}

async function command(client: pg.ClientBase, text: string): Promise<string> {
  try {
    return (await client.query(text)).command;
  } catch (error) {
    throw databaseError(error, `The metadata database, ${text.split(' ')[0]}`);
  }
}
