import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { createPostgresQueue } from '../../src/jobs/postgres-queue.ts';
import {
  backupJob,
  JobsChild,
  type LogLine,
  loggerInto,
  TEST_TIMING,
  taking,
  until,
} from '../contract/jobs.ts';
import { createTestDatabase } from '../harness/postgres.ts';

describe('the job queue on PostgreSQL', () => {
  it('makes its schema once when 10 processes start at once, and all of them work', {
    timeout: 60_000,
  }, async () => {
    await using database = await createTestDatabase({ migrated: false });
    const place = { kind: 'postgres', url: database.url, schema: 'care_backup_queue' } as const;
    const children = Array.from(
      { length: 10 },
      () => new JobsChild({ place, timing: TEST_TIMING, mode: 'take' }),
    );
    try {
      await Promise.all(children.map((child) => child.said('ready')));
      const { rows } = await database.pool.query<{ versions: number; distinct: number }>(
        `SELECT count(*)::int AS versions, count(DISTINCT version)::int AS distinct
         FROM care_backup_queue.migration`,
      );
      expect(rows[0]?.versions).toBeGreaterThan(0);
      expect(rows[0]?.versions).toBe(rows[0]?.distinct);
      await using queue = createPostgresQueue({
        connection: { connectionString: database.url },
        schema: 'care_backup_queue',
        logger: loggerInto([]),
        timing: TEST_TIMING,
      });
      const jobs = Array.from({ length: 30 }, () => backupJob());
      for (const job of jobs) await queue.add(job);
      const got = (): string[] => children.flatMap((child) => child.got());
      await until('30 jobs', () => got().length >= jobs.length);
      expect(got().toSorted()).toEqual(jobs.map(({ data }) => data.snapshotId).toSorted());
      // `ready` alone would also be said by one that goes on trying.
      for (const child of children) expect(child.output).not.toMatch(/problem|does not answer/);
    } finally {
      await Promise.all(children.map((child) => child.kill()));
    }
  });

  it('needs no right to create where the schema is there', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const role = `${database.name}_queue`;
    const schema = 'care_backup_queue';
    const base = { schema, timing: TEST_TIMING };
    await using owner = createPostgresQueue({
      ...base,
      connection: { connectionString: database.url },
      logger: loggerInto([]),
    });
    await owner.add(backupJob());
    await database.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'geheim'`);
    try {
      await database.pool.query(`
        GRANT USAGE ON SCHEMA ${schema} TO ${role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ${schema} TO ${role};
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA ${schema} TO ${role}`);
      const url = new URL(database.url);
      url.username = role;
      url.password = 'geheim';
      const lines: LogLine[] = [];
      const queue = createPostgresQueue({
        ...base,
        connection: { connectionString: url.href },
        logger: loggerInto(lines),
      });
      expect(queue.description).not.toContain('geheim');
      const got: string[] = [];
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      const job = backupJob('later', 50);
      await queue.add(job);
      await until('both jobs', () => got.length === 2);
      await queue.close();
      expect(lines).toEqual([]);
    } finally {
      await owner.close();
      await database.pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  it('says why, and rejects the add, where it may not create the schema', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const role = `${database.name}_nobody`;
    await database.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'geheim'`);
    try {
      const url = new URL(database.url);
      url.username = role;
      url.password = 'geheim';
      const lines: LogLine[] = [];
      await using queue = createPostgresQueue({
        connection: { connectionString: url.href },
        schema: 'care_backup_queue',
        logger: loggerInto(lines),
        timing: TEST_TIMING,
      });
      await expect(queue.add(backupJob())).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
      expect(lines.map(({ fields }) => fields.code)).toEqual(['42501']);
      expect(JSON.stringify(lines)).not.toContain('geheim');
    } finally {
      await database.pool.query(`DROP ROLE ${role}`);
    }
  });

  it('takes 2 sessions per kind and up to 2 for adding, and leaves none', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const queue = createPostgresQueue({
      connection: { connectionString: database.url },
      schema: 'care_backup_queue',
      logger: loggerInto([]),
      timing: TEST_TIMING,
    });
    const sessions = async (): Promise<string[]> => {
      const { rows } = await database.pool.query<{ name: string }>(
        `SELECT application_name AS name FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      );
      return rows.map(({ name }) => name).filter((name) => name !== '');
    };
    let handled = 0;
    const handle = async (): Promise<void> => {
      handled += 1;
    };
    const handler = { concurrency: 4, handle };
    await queue.work({ BACKUP: handler, VERIFICATION: handler, REPLICATION: handler });
    await Promise.all(Array.from({ length: 50 }, () => queue.add(backupJob())));
    await until('50 jobs', () => handled === 50);
    const open = await sessions();
    expect(open.filter((name) => name === 'care-backup-queue-work').length).toBeLessThanOrEqual(6);
    expect(open.filter((name) => name === 'care-backup-queue-add').length).toBeLessThanOrEqual(2);
    expect(open.length).toBeLessThanOrEqual(8);
    await queue.close();
    for (let tries = 0; tries < 100 && (await sessions()).length > 0; tries += 1) await sleep(20);
    expect(await sessions()).toEqual([]);
  });

  it('refuses a schema that is no plain identifier', () => {
    for (const schema of ['', 'Care', 'a-b', 'x'.repeat(64), 'a"; DROP']) {
      expect(() => createPostgresQueue({ connection: {}, schema, logger: loggerInto([]) })).toThrow(
        expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
      );
    }
  });
});
