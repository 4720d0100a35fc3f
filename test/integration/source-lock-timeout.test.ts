import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { expectNoSessions, requestOf, sourceOf, take } from '../harness/source-extraction.ts';
import {
  type BackupRole,
  createBackupRole,
  disown,
  setStage,
  stageEntities,
} from '../harness/source-stage.ts';

let database: TestDatabase;
let role: BackupRole;
let connection: pg.ClientConfig;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  role = await createBackupRole(database);
  connection = role.on(database);
});
afterAll(async () => {
  await expectNoSessions(database.pool);
  await disown(database, role);
  await role[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});
beforeEach(() => setStage(database, role.name));

const taking = (more: Partial<Parameters<typeof take>[0]> = {}) =>
  take({ connection, superuser: database.pool, entities: stageEntities, ...more });
const failure = (promise: Promise<unknown>): Promise<{ code: string; message: string; cause: unknown }> =>
  promise.then(
    () => ({ code: 'NONE', message: '', cause: undefined }),
    (error: { code: string; message: string; cause: unknown }) => error,
  );
const source = (entities = stageEntities) => sourceOf({ connection, entities });

describe('locks that others hold', () => {
  test('a holder of ACCESS EXCLUSIVE: SOURCE_LOCK_TIMEOUT, and writers of other tables hardly wait', {
    timeout: 90_000,
  }, async () => {
    const holder = await database.pool.connect();
    const migration = await database.pool.connect();
    try {
      await holder.query('BEGIN; LOCK TABLE stage.visits_24 IN ACCESS EXCLUSIVE MODE');
      const started = performance.now();
      const outcome = failure(source().open(requestOf()));
      let over = false;
      void outcome.then(() => {
        over = true;
      });
      await sleep(300);
      // A migration of a table that the backup may have locked already, and a writer behind it.
      let longest = 0;
      for (let n = 0; n < 3; n += 1) {
        const asked = performance.now();
        await migration.query(
          'BEGIN; ALTER TABLE stage.plain SET (fillfactor = 90); LOCK TABLE stage.plain IN ACCESS EXCLUSIVE MODE; COMMIT',
        );
        await database.pool.query("UPDATE stage.plain SET body = 'w' WHERE id = 1");
        longest = Math.max(longest, performance.now() - asked);
        await sleep(200);
      }
      expect(longest).toBeLessThan(10_000);
      expect(over).toBe(false);
      const { code } = await outcome;
      expect(code).toBe('SOURCE_LOCK_TIMEOUT');
      expect(performance.now() - started).toBeLessThan(60_000);
    } finally {
      await holder.query('ROLLBACK');
      holder.release();
      migration.release();
    }
    await taking();
  });
});
