import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import type { TestDatabase } from '../harness/postgres.ts';
import { codeOf, expectNoSessions, requestOf, shared, sourceOf, take } from '../harness/source-extraction.ts';
import { otherPostgres, startOtherPostgres } from '../harness/source-other-postgres.ts';
import { createBackupRole, disown, setStage, stageEntities } from '../harness/source-stage.ts';

describe.skipIf(otherPostgres.length === 0)('on the other PostgreSQL servers of this machine', () => {
  test.each(otherPostgres)('PostgreSQL $version', { timeout: 120_000 }, async ({ version, bin }) => {
    await using server = await startOtherPostgres(bin);
    const pool = new pg.Pool({ connectionString: server.url });
    pool.on('error', () => undefined);
    const database: TestDatabase = {
      url: server.url,
      name: 'postgres',
      pool,
      [Symbol.asyncDispose]: async () => undefined,
    };
    const role = await createBackupRole(database);
    const connection = role.on(database);
    const taking = (more: Partial<Parameters<typeof take>[0]> = {}) =>
      take({ connection, superuser: pool, entities: stageEntities, bufferSize: 1024, ...more });
    try {
      await setStage(database, role.name);
      const { contents, rows } = await taking();
      expect(Math.floor(contents.source.serverVersion / 10_000)).toBe(version);
      expect(rows.get('stage.plain')).toHaveLength(400);

      for (const setting of [
        "DateStyle = 'SQL, DMY'",
        'extra_float_digits = -15',
        "statement_timeout = '9ms'",
        "idle_session_timeout = '50ms'",
      ])
        await pool.query(`ALTER ROLE ${role.name} SET ${setting}`);
      expect((await taking()).rows).toEqual(rows);

      for (const [change, code] of [
        ["ALTER TYPE stage.state RENAME VALUE 'open' TO 'ajar'", 'SOURCE_CHANGED'],
        ['ALTER TYPE stage.place ADD ATTRIBUTE town text', 'SOURCE_CHANGED'],
        ['ALTER SCHEMA stage RENAME TO kept', 'SOURCE_CHANGED'],
        [`ALTER ROLE ${role.name} NOBYPASSRLS`, 'SOURCE_FILTERED'],
        [`REVOKE SELECT ON stage.plain FROM ${role.name}`, 'SOURCE_PRIVILEGE_MISSING'],
        [
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'care-backup snapshot'",
          'DATABASE_UNAVAILABLE',
        ],
      ] as const) {
        await setStage(database, role.name);
        expect(await codeOf(taking({ beforeExtract: () => pool.query(change) })), change).toBe(code);
      }

      // What waits for the backup's locks waits, and takes nothing away.
      for (const step of ['LOCKED', 'EXPORTED', 'OPEN'] as const) {
        await setStage(database, role.name);
        const waiting: Promise<unknown>[] = [];
        const truncate = async (at: string): Promise<void> => {
          if (at !== step || waiting.length > 0) return;
          waiting.push(pool.query('TRUNCATE stage.plain'));
          await sleep(200);
        };
        const taken = await taking({ onStep: truncate, beforeExtract: () => truncate('OPEN') });
        expect(taken.rows.get('stage.plain')).toHaveLength(step === 'OPEN' ? 400 : 0);
        await Promise.all(waiting);
      }

      await pool.query('CREATE TABLE public.forms (id int PRIMARY KEY, d date, n numeric)');
      const forms = sourceOf({
        connection: { connectionString: server.url },
        entities: [shared('FORM', 'forms', { date: 'd' })],
      });
      const scope = {
        dateRangeStart: '2024-01-01T00:00:00.000Z',
        customFilters: [{ entityType: 'FORM', column: 'n', operator: '>', value: 'x' }],
      } as const;
      expect(await codeOf(forms.open(requestOf({ scope })))).toBe('ENTITY_SCOPE_UNSUPPORTED');
      await expectNoSessions(pool);
    } finally {
      await disown(database, role).catch(() => undefined);
      await pool.end();
    }
  });
});
