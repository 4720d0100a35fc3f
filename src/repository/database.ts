import type pg from 'pg';
import { databaseError, isConnectionLoss } from '../postgres/errors.ts';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { HostTransaction } from '../types/sync-handler.ts';
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
  /**
   * Runs one statement. With a `name` the session keeps its plan: for statements that run all the time, over session
   * connections only. Throws DATABASE_UNAVAILABLE or DATABASE_FAILED.
   */
  query(text: string, values?: readonly Parameter[], name?: string): Promise<readonly RawRow[]>;
  /**
   * Runs `work` in one transaction (READ COMMITTED, whatever the host's default): committed when it resolves, rolled
   * back when it throws. Inside a transaction it joins that one. Where the connection is lost at the commit,
   * DATABASE_UNAVAILABLE does not say whether it took place.
   *
   * AT_ONCE: over a client that pipelines, what `work` asks first is sent behind the BEGIN without waiting for its answer,
   * which takes one round trip less. Where the BEGIN fails `work` hears of nothing else, but what it had asked may have run
   * outside of a transaction: only for work that begins with locks and reads.
   */
  withTransaction<T>(
    work: (transaction: Transaction) => Promise<T>,
    settings?: TransactionSettings,
    start?: 'WHEN_BEGUN' | 'AT_ONCE',
  ): Promise<T>;
}

/** Settings of the server that hold for one transaction, such as `{ lock_timeout: '5s' }`. */
export type TransactionSettings = Readonly<Record<string, string>>;

/** A `Database` whose statements all belong to one transaction. */
export interface Transaction extends Database {
  readonly inTransaction: true;
  /** The same transaction, for the host's code. */
  readonly host: HostTransaction;
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
    query: (text, values, name) => run(pool, text, values, name),
    withTransaction: async (work, settings = {}, start = 'WHEN_BEGUN') => {
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
      const begun = command(
        client,
        ['BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE', ...local(settings)].join('; '),
      );
      /** Nothing is told of what was asked in a transaction that never was. */
      const within = async <T>(asked: () => Promise<T>): Promise<T> => {
        refuseEnded();
        const [answer] = await Promise.all([asked(), begun]);
        return answer;
      };
      const transaction: Transaction = {
        inTransaction: true,
        clock,
        table,
        query: (text, values, name) => within(() => run(client, text, values, name)),
        withTransaction: (inner) => inner(transaction),
        host: {
          query: <Row extends object>(statement: string, values: readonly unknown[] = [], name?: string) =>
            within(async () => {
              const named = name === undefined ? {} : { name };
              const query = { ...named, text: statement, values: [...values] };
              const { rows, rowCount } = await client.query<Row>(query).catch((error: unknown) => {
                // pg says it without a code; whatever else went wrong is the host's to see as it is.
                throw isConnectionLoss(error) ? databaseError(error, 'The database of the entities') : error;
              });
              return { rows, rowCount };
            }),
        },
      };
      /** The connection may be in somebody else's transaction by now. */
      const refuseEnded = (): void => {
        if (ended) throw new DataProtectionError('A transaction was used after its end', 'INTERNAL');
      };
      try {
        if (start === 'WHEN_BEGUN' || !isPipelined(client)) await begun;
        const [result] = await Promise.all([work(transaction), begun]);
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

/** Binds a transaction that somebody else has begun, and ends, to the library's schema. Throws CONFIGURATION_INVALID. */
export function transactionOver(client: pg.ClientBase, options: Omit<DatabaseOptions, 'pool'>): Transaction {
  const schema = checkSchemaName(options.schema ?? DEFAULT_SCHEMA);
  const transaction: Transaction = {
    inTransaction: true,
    clock: options.clock,
    table: (name) => qualify(schema, name),
    query: (text, values, name) => run(client, text, values, name),
    withTransaction: (inner) => inner(transaction),
    host: {
      query: async <Row extends object>(statement: string, values: readonly unknown[] = []) => {
        const { rows, rowCount } = await client.query<Row>({ text: statement, values: [...values] });
        return { rows, rowCount };
      },
    },
  };
  return transaction;
}

function local(settings: TransactionSettings): readonly string[] {
  return Object.entries(settings).map(
    ([name, value]) => `SET LOCAL ${name.split('.').map(quoteIdent).join('.')} = ${quoteLiteral(value)}`,
  );
}

const isPipelined = (client: pg.ClientBase): boolean => 'pipeline' in client && client.pipeline === true;

/** What statements say for a schema, made once: for those that are many and run all the time. */
export function perSchema<T>(make: (db: Pick<Database, 'table'>) => T): (db: Pick<Database, 'table'>) => T {
  const made = new Map<string, T>();
  return (db) => {
    const schema = db.table('');
    const texts = made.get(schema) ?? make(db);
    made.set(schema, texts);
    return texts;
  };
}

const RAW: pg.CustomTypesConfig = { getTypeParser: () => (text: string) => text };

async function run(
  connection: pg.Pool | pg.ClientBase,
  text: string,
  values: readonly Parameter[] = [],
  name?: string,
): Promise<readonly RawRow[]> {
  try {
    const named = name === undefined ? {} : { name };
    const result = await connection.query<RawRow>({ ...named, text, values: [...values], types: RAW });
    return result.rows;
  } catch (error) {
    throw databaseError(error, 'The metadata database');
  }
}

async function command(client: pg.ClientBase, text: string): Promise<string> {
  try {
    return (await client.query(text)).command;
  } catch (error) {
    throw databaseError(error, `The metadata database, ${text.split(/\W/)[0]}`);
  }
}
