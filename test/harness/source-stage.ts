import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { EntityInput } from '../../src/types/entity.ts';
import { createTestDatabase, type TestDatabase } from './postgres.ts';
import { shared } from './source-extraction.ts';

/** A role that takes backups as the documentation says: no superuser, SELECT and BYPASSRLS. */
export interface BackupRole extends AsyncDisposable {
  readonly name: string;
  readonly on: (database: TestDatabase) => pg.ClientConfig;
}

export async function createBackupRole(database: TestDatabase): Promise<BackupRole> {
  const name = `backup_${randomBytes(4).toString('hex')}`;
  const password = randomBytes(8).toString('hex');
  await database.pool.query(`CREATE ROLE ${name} LOGIN BYPASSRLS PASSWORD '${password}'`);
  return {
    name,
    on: ({ url }) => {
      const { hostname, port, pathname } = new URL(url);
      return {
        host: hostname,
        port: Number(port || 5432),
        user: name,
        password,
        database: pathname.slice(1),
      };
    },
    [Symbol.asyncDispose]: async () => {
      await database.pool.query(`DROP ROLE IF EXISTS ${name}`);
    },
  };
}

/** Takes the role's rights away, so that it can be dropped. */
export const disown = (database: TestDatabase, role: BackupRole): Promise<unknown> =>
  database.pool.query(`DROP OWNED BY ${role.name}`);

/**
 * Tables that every kind of change can be tried on: a plain one, a partitioned one, one under row-level security,
 * one whose column is another table's row type, and a spare schema with the same tables and other rows.
 */
export async function setStage(database: TestDatabase, role: string): Promise<void> {
  await database.pool.query(`
    DROP SCHEMA IF EXISTS stage CASCADE; DROP SCHEMA IF EXISTS spare CASCADE; DROP SCHEMA IF EXISTS kept CASCADE;
    CREATE SCHEMA stage; CREATE SCHEMA spare;
    CREATE TYPE stage.state AS ENUM ('new', 'open', 'closed');
    CREATE TYPE stage.place AS (street text, number int);
    CREATE DOMAIN stage.score AS int CHECK (VALUE >= 0);
    CREATE TABLE stage.plain (id int PRIMARY KEY, amount int NOT NULL, state stage.state, place stage.place, score stage.score, body text);
    INSERT INTO stage.plain SELECT i, i, (ARRAY['new', 'open', 'closed'])[1 + i % 3]::stage.state, ROW('s' || i, i)::stage.place, i, repeat('b', 100)
      FROM generate_series(1, 400) i;
    CREATE INDEX plain_amount ON stage.plain (amount);
    CREATE TABLE stage.visits (id int, day date, state stage.state[], PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE stage.visits_23 PARTITION OF stage.visits FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE stage.visits_24 PARTITION OF stage.visits FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE stage.visits_25 (id int NOT NULL, day date NOT NULL, state stage.state[]);
    INSERT INTO stage.visits SELECT i, date '2023-01-01' + i % 700, ARRAY['new']::stage.state[] FROM generate_series(1, 300) i;
    INSERT INTO stage.visits_25 SELECT i, date '2025-01-01' + i, NULL FROM generate_series(1, 50) i;
    CREATE TABLE stage.secured (id int PRIMARY KEY, body text);
    INSERT INTO stage.secured SELECT i, repeat('c', 50) FROM generate_series(1, 100) i;
    ALTER TABLE stage.secured ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON stage.secured USING (id % 2 = 1);
    CREATE TYPE stage.mood AS ENUM ('well', 'ill'); CREATE TABLE stage.inner_row (id int, mood stage.mood);
    CREATE TABLE stage.outer_row (id serial PRIMARY KEY, held stage.inner_row);
    INSERT INTO stage.outer_row (held) SELECT ROW(i, 'well')::stage.inner_row FROM generate_series(1, 100) i;
    CREATE TABLE spare.plain (LIKE stage.plain, CONSTRAINT spare_key PRIMARY KEY (id)); INSERT INTO spare.plain SELECT * FROM stage.plain WHERE id < 50;
    GRANT USAGE ON SCHEMA stage, spare TO ${role}; GRANT SELECT ON ALL TABLES IN SCHEMA stage, spare TO ${role};
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA stage TO ${role};
    ALTER ROLE ${role} BYPASSRLS;
  `);
}

export const stageEntities: readonly EntityInput[] = ['plain', 'visits', 'secured', 'outer_row'].map(
  (table) => shared(table.toUpperCase(), table, { schema: 'stage' }),
);

/** Statements in a session of their own, one after the other. */
export class Disturbance {
  readonly #client: Promise<pg.PoolClient>;
  #done: Promise<unknown> = Promise.resolve();
  /** What PostgreSQL said to the statements, if they failed. */
  error: unknown;

  constructor(database: TestDatabase) {
    this.#client = database.pool.connect();
  }

  /** Starts them and waits until they are done or stand still for a lock; says whether they do. */
  async run(statements: readonly string[], database: TestDatabase): Promise<boolean> {
    const client = await this.#client;
    const pid = (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid;
    let over = false;
    this.#done = (async () => {
      for (const statement of statements) await client.query(statement);
    })()
      .catch((error: unknown) => {
        this.error = error;
      })
      .finally(() => {
        over = true;
      });
    for (let seen = 0; !over && seen < 3; ) {
      await Promise.race([this.#done, sleep(10)]);
      if (over) break;
      const { rows } = await database.pool.query(
        "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'",
        [pid],
      );
      seen = rows.length > 0 ? seen + 1 : 0;
    }
    return !over;
  }

  async end(): Promise<void> {
    await this.#done;
    (await this.#client).release();
  }
}

/** As many databases as there are cases to try side by side. */
export async function createDatabases(count: number): Promise<TestDatabase[]> {
  const databases: TestDatabase[] = [];
  for (let i = 0; i < count; i += 1) databases.push(await createTestDatabase({ migrated: false }));
  return databases;
}
