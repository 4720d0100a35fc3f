import type pg from 'pg';
import type { DataProtectionOptions } from '../../src/compose.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { defineEntity } from '../../src/source/entity.ts';
import type { CreateRestoreOperationInput, RestoreOperation } from '../../src/types/backup.ts';
import { actorOf, createBench, type ServiceBench } from './service-bench.ts';

export const HOME = '00000000-0000-4000-8000-000000000001';
export const ELSEWHERE = '00000000-0000-4000-8000-000000000002';
export const NORTH = '00000000-0000-4000-8000-00000000000a';
export const SOUTH = '00000000-0000-4000-8000-00000000000b';
/** Who decides on restores; `backups` of the bench requests them. */
const SECOND = '00000000-0000-4000-8000-0000000000bb';

/** Clients, their plans, visits that refer to both and to each other, tags of a composite key, and a trigger that meddles. */
const TABLES = `
  CREATE TYPE mood AS ENUM ('good', 'poor');
  CREATE TABLE client (id int PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL, name text NOT NULL, email text UNIQUE,
    updated_at timestamptz NOT NULL, deleted_at timestamptz);
  CREATE TABLE plan (id int PRIMARY KEY, client_id int NOT NULL REFERENCES client ON DELETE CASCADE, goal text, updated_at timestamptz NOT NULL);
  CREATE TABLE visit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL,
    client_id int NOT NULL REFERENCES client, plan_id int REFERENCES plan ON DELETE SET NULL, follows bigint REFERENCES visit,
    day date, note text, amount numeric(12, 2), mood mood, extra jsonb, raw json, span int4range, photo bytea, tags text[],
    length int GENERATED ALWAYS AS (char_length(coalesce(note, ''))) STORED, updated_at timestamptz NOT NULL);
  CREATE TABLE tag (client_id int NOT NULL REFERENCES client, word text NOT NULL, weight double precision, updated_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, word));
  CREATE TABLE stray (id int PRIMARY KEY, visit_id bigint NOT NULL REFERENCES visit ON DELETE CASCADE, text text);
  CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
  CREATE TABLE heard (at timestamptz NOT NULL DEFAULT clock_timestamp(), visit_id bigint NOT NULL, op text NOT NULL);
  CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO heard (visit_id, op) VALUES (coalesce(NEW.id, OLD.id), TG_OP); RETURN NULL; END $$;
  CREATE TRIGGER hear AFTER INSERT OR UPDATE OR DELETE ON visit FOR EACH ROW EXECUTE FUNCTION hear();
  INSERT INTO client SELECT n, CASE WHEN n % 5 = 0 THEN '${ELSEWHERE}' ELSE '${HOME}' END::uuid, CASE WHEN n % 2 = 0 THEN '${NORTH}' ELSE '${SOUTH}' END::uuid,
    'client ' || n, 'c' || n || '@x', timestamptz '2026-01-01' + n * interval '1 hour', NULL FROM generate_series(1, 20) n;
  INSERT INTO plan SELECT n, 1 + n % 20, 'goal ' || n, timestamptz '2026-01-02' FROM generate_series(1, 40) n;
  INSERT INTO visit (organization_id, branch_id, client_id, plan_id, day, note, amount, mood, extra, raw, span, photo, tags, updated_at)
    SELECT c.organization_id, c.branch_id, c.id, (SELECT min(p.id) FROM plan p WHERE p.client_id = c.id), date '2026-02-01' + n, 'visit ' || n,
      n / 3.0, CASE WHEN n % 2 = 0 THEN 'good' ELSE 'poor' END::mood, jsonb_build_object('n', n), '{"b": 1,  "b": 2}',
      int4range(n, n + 5), decode(lpad(to_hex(n), 4, '0'), 'hex'), ARRAY['a', NULL, 'x"' || n], timestamptz '2026-01-03' + n * interval '1 minute'
      FROM client c, generate_series(1, 5) n ORDER BY c.id, n;
  UPDATE visit SET follows = id - 1 WHERE id % 5 <> 1;
  UPDATE visit SET updated_at = timestamptz '2026-01-03' + id * interval '1 minute';
  INSERT INTO tag SELECT c.id, w, c.id / 7.0, timestamptz '2026-01-04' FROM client c, unnest(ARRAY['red', 'tab	bed', 'back\\\\slash']) w;
  CREATE TRIGGER touch BEFORE UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION touch();
  TRUNCATE heard;`;

const content = {
  entities: () => [
    defineEntity({ type: 'CLIENT', table: 'client', client: 'id' }),
    defineEntity({
      type: 'CARE_PLAN',
      table: 'plan',
      client: 'client_id',
      organization: { through: 'client_id', entity: 'CLIENT' },
      branch: { through: 'client_id', entity: 'CLIENT' },
    }),
    defineEntity({ type: 'VISIT', table: 'visit', date: 'day', restore: { disableTriggers: ['touch'] } }),
    defineEntity({
      type: 'TAG',
      table: 'tag',
      organization: { through: 'client_id', entity: 'CLIENT' },
      branch: { through: 'client_id', entity: 'CLIENT' },
    }),
  ],
  organizations: [HOME, ELSEWHERE] as const,
  branches: [[NORTH, SOUTH], []] as const,
  scope: { includeSoftDeleted: true },
  fill: async (client: pg.Client): Promise<void> => {
    await client.query(TABLES);
  },
};

/** A service bench whose data has what makes restores into live tables hard. */
export interface LiveBench extends ServiceBench {
  /** Another person, who may approve. */
  readonly second: BackupService;
  readonly sql: (text: string, values?: readonly unknown[]) => Promise<Record<string, unknown>[]>;
  /** Every row of every table as text, in the order of keys, by table. */
  state(): Promise<Record<string, string[]>>;
  /** A snapshot of all that there is, with its id. */
  snapshot(): Promise<string>;
  restore(
    snapshotId: string,
    input?: Omit<CreateRestoreOperationInput, 'snapshotId'>,
  ): Promise<RestoreOperation>;
}

const HOSTS = ['client', 'plan', 'visit', 'tag', 'stray'] as const;

export async function createLiveBench(over: Partial<DataProtectionOptions> = {}): Promise<LiveBench> {
  const bench = await createBench(content, over);
  const { pool } = bench.database;
  const sql = async (text: string, values: readonly unknown[] = []) =>
    (await pool.query<Record<string, unknown>>(text, [...values])).rows;
  return {
    ...bench,
    second: bench.protection.backups(actorOf(HOME, { userId: SECOND })),
    sql,
    async state() {
      const tables: Record<string, string[]> = {};
      for (const table of HOSTS) {
        const rows = await sql(`SELECT t::text AS row FROM ${table} t ORDER BY t::text COLLATE "C"`);
        tables[table] = rows.map(({ row }) => String(row));
      }
      return tables;
    },
    async snapshot() {
      const { id } = await bench.configure();
      return (await bench.backups.createSnapshot({ configurationId: id }, { wait: true })).id;
    },
    restore: (snapshotId, input = {}) =>
      bench.backups.createRestoreOperation({ snapshotId, requiresApproval: false, ...input }, { wait: true }),
    [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose](),
  };
}
