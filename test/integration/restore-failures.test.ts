import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RestorableSnapshot } from '../../src/restore/restore.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { StorageError } from '../../src/types/errors.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  hiddenSchemas,
  newId,
  ORGANIZATION,
  request,
  schemaExists,
  takeSnapshot,
  targetOn,
} from './restore-support.ts';

let database: TestDatabase;
let snapshot: RestorableSnapshot;
const ITEM = defineEntity({ type: 'ITEM', table: 'item', organization: 'organization_id' });

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  await database.pool.query(`
    CREATE TABLE item (id serial PRIMARY KEY, organization_id uuid, note text, CONSTRAINT noted CHECK (note <> ''));
    INSERT INTO item (organization_id, note) SELECT '${ORGANIZATION}', 'note ' || i || repeat('x', 50) FROM generate_series(1, 10000) i;
    CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN IF $1 = 5 THEN PERFORM pg_sleep(60); END IF; RETURN $1; END';
  `);
  snapshot = await takeSnapshot(database.url, [ITEM], { segmentBytes: 64 * 1024 });
});
afterAll(() => database[Symbol.asyncDispose]());

/** Whatever failed: nothing half-visible, nothing hidden, no session left. */
afterEach(async () => {
  expect(await hiddenSchemas(database.pool)).toEqual([]);
  for (const schema of ['restored', 'second']) {
    await database.pool.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`);
  }
  await expect
    .poll(async () => {
      const { rows } = await database.pool.query(
        "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'care-backup-restore%' AND datname = current_database()",
      );
      return rows;
    })
    .toEqual([]);
});

const restore = (options: Parameters<typeof request>[1] = {}, url = database.url): Promise<unknown> =>
  targetOn(url).restoreToSchema(request(snapshot, options));

describe('a process that is killed', () => {
  const kill = async (step: string): Promise<string> => {
    const restoreId = newId();
    const script = fileURLToPath(new URL('./restore-child.ts', import.meta.url));
    const child = spawn(process.execPath, [script, database.url, restoreId, 'restored', step], {
      stdio: 'inherit',
    });
    const [, signal] = await once(child, 'exit');
    expect(signal).toBe('SIGKILL');
    return restoreId;
  };

  test.each(['INITIALIZING', 'LOADING', 'BUILDING_INDEXES', 'VALIDATING', 'FINALIZING'])(
    'at %s leaves no target, and the sweep removes the rest',
    async (step) => {
      const restoreId = await kill(step);
      expect(await schemaExists(database.pool, 'restored')).toBe(false);
      await database.pool.query('SELECT pg_sleep(0.1)');
      const target = targetOn(database.url);
      const [first, second] = await Promise.all([target.sweep([restoreId]), target.sweep([restoreId])]);
      expect([first.get(restoreId), second.get(restoreId)]).toEqual(['GONE', 'GONE']);
      expect(await schemaExists(database.pool, 'restored')).toBe(false);
      expect(await hiddenSchemas(database.pool)).toEqual([]);
      await restore();
    },
  );

  test('after the rename is done', async () => {
    const restoreId = await kill('renamed');
    expect(await schemaExists(database.pool, 'restored')).toBe(true);
    expect(await targetOn(database.url).sweep([restoreId, newId()])).toEqual(
      new Map([
        [restoreId, 'DONE'],
        [expect.any(String), 'GONE'],
      ]),
    );
    const { rows } = await database.pool.query('SELECT count(*)::int AS n FROM restored.item');
    expect(rows).toEqual([{ n: 10000 }]);
  });
});

test('a restore that runs is RUNNING and goes on', async () => {
  const restoreId = newId();
  let swept: unknown;
  const running = targetOn(database.url).restoreToSchema(
    request(
      {
        ...snapshot,
        read: async (index, signal) => {
          if (index === 3) swept = (await targetOn(database.url).sweep([restoreId])).get(restoreId);
          return snapshot.read(index, signal);
        },
      },
      { restoreId },
    ),
  );
  await running;
  expect(swept).toBe('RUNNING');
  expect((await targetOn(database.url).sweep([restoreId])).get(restoreId)).toBe('DONE');
});

test('of two restores to one schema at once one wins and the other fails clean', async () => {
  const outcomes = await Promise.allSettled([restore(), restore()]);
  expect(outcomes.map((outcome) => outcome.status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(outcomes.find((outcome) => outcome.status === 'rejected')?.reason).toMatchObject({
    code: 'RESTORE_TARGET_EXISTS',
  });
  expect((await database.pool.query('SELECT count(*)::int AS n FROM restored.item')).rows).toEqual([
    { n: 10000 },
  ]);
});

test('one restore id runs once', async () => {
  const restoreId = newId();
  const outcomes = await Promise.allSettled([
    restore({ restoreId }),
    restore({ restoreId, targetSchema: 'second' }),
  ]);
  expect(outcomes.find((outcome) => outcome.status === 'rejected')?.reason).toMatchObject({
    code: 'INVALID_STATE',
  });
  expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1);
});

describe('segments that fail or lie', () => {
  const lies: Record<string, [(bytes: Buffer) => Buffer, string]> = {
    'too short': [(bytes) => bytes.subarray(1), 'ARCHIVE_CORRUPT'],
    'a row fewer': [
      (bytes) => Buffer.from(bytes).fill(0x78, bytes.indexOf(10), bytes.indexOf(10) + 1),
      'RESTORE_VALIDATION_FAILED',
    ],
    'a row more': [
      (bytes) => {
        const lie = Buffer.from(bytes);
        lie.write('\n5\t\\N\tq', bytes.indexOf('xxxxxxxxxx'));
        return lie;
      },
      'RESTORE_VALIDATION_FAILED',
    ],
    'not of the type': [
      (bytes) => Buffer.concat([Buffer.from('x'), bytes.subarray(1)]),
      'RESTORE_TARGET_INCOMPATIBLE',
    ],
  };
  test.each(Object.keys(lies))('%s', async (name) => {
    const [lie, code] = lies[name] ?? [(bytes: Buffer) => bytes, ''];
    const read: RestorableSnapshot['read'] = async (index, signal) => {
      const bytes = await snapshot.read(index, signal);
      return index === snapshot.segments.length - 2 ? lie(bytes) : bytes;
    };
    const failed = targetOn(database.url).restoreToSchema(request({ ...snapshot, read }));
    await expect(failed).rejects.toMatchObject({ code });
    await expect(failed).rejects.not.toThrow(/xxx/);
    expect(await schemaExists(database.pool, 'restored')).toBe(false);
  });

  test('the reader’s own error is kept', async () => {
    const read = async (index: number, signal: AbortSignal): Promise<Buffer> => {
      if (index === 4) throw new StorageError('down', 'STORAGE_UNAVAILABLE');
      return snapshot.read(index, signal);
    };
    await expect(
      targetOn(database.url).restoreToSchema(request({ ...snapshot, read })),
    ).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
  });

  test('a manifest that lacks a segment is refused before anything is made', async () => {
    const segments = snapshot.segments.slice(0, -1);
    await expect(
      targetOn(database.url).restoreToSchema(request({ ...snapshot, segments })),
    ).rejects.toMatchObject({ code: 'ARCHIVE_CORRUPT' });
  });
});

describe('cancelled', () => {
  const cancelled = async (
    running: (signal: AbortSignal, abort: () => void) => Promise<unknown>,
  ): Promise<number> => {
    const controller = new AbortController();
    let at = 0;
    const abort = (): void => {
      at = performance.now();
      controller.abort();
    };
    await expect(running(controller.signal, abort)).rejects.toMatchObject({ code: 'RESTORE_CANCELLED' });
    return performance.now() - at;
  };

  test('while it loads, and a reader hangs', async () => {
    const took = await cancelled((signal, abort) => {
      const read: RestorableSnapshot['read'] = async (index, stop) => {
        if (index !== 4) return snapshot.read(index, stop);
        setTimeout(abort, 50);
        return new Promise(() => {});
      };
      return targetOn(database.url).restoreToSchema(request({ ...snapshot, read }, { signal }));
    });
    expect(took).toBeLessThan(10_000);
  });

  test('in the middle of an index', async () => {
    const slow = structuredClone({ contents: snapshot.contents, segments: snapshot.segments });
    const relation = slow.contents.relations[0];
    const indexes = [{ name: 'slow', unique: false, definition: 'USING btree (slow(id))', inherited: false }];
    const contents = {
      ...slow.contents,
      relations: [{ ...relation, indexes }],
    } as RestorableSnapshot['contents'];
    const took = await cancelled(async (signal, abort) => {
      setTimeout(abort, 1200);
      return targetOn(database.url).restoreToSchema(
        request({ ...slow, contents, read: snapshot.read }, { signal }),
      );
    });
    expect(took).toBeLessThan(10_000);
  });

  test('before it began', async () => {
    const took = await cancelled((signal, abort) => {
      abort();
      return restore({ signal });
    });
    expect(took).toBeLessThan(10_000);
  });
});

test('the loss of the session that holds the lock ends the restore', async () => {
  const read: RestorableSnapshot['read'] = async (index, signal) => {
    if (index === 3) {
      await database.pool.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'care-backup-restore%-lock'",
      );
      await sleep(100);
    }
    return snapshot.read(index, signal);
  };
  await expect(targetOn(database.url).restoreToSchema(request({ ...snapshot, read }))).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
    retryable: true,
  });
});

test('rows that the target altered are found', async () => {
  await database.pool.query(`
    CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id = 77 THEN NEW.note := ''other''; END IF; RETURN NEW; END';
    CREATE FUNCTION meddling() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN
      FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' LOOP
        EXECUTE format('CREATE TRIGGER m BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION public.meddle()', r.object_identity);
      END LOOP; END $$;
    CREATE EVENT TRIGGER meddling ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION meddling()`);
  try {
    await expect(restore()).rejects.toMatchObject({
      code: 'RESTORE_VALIDATION_FAILED',
      message: expect.stringMatching(/content of ITEM.*\(item\)/),
    });
  } finally {
    await database.pool.query('DROP EVENT TRIGGER meddling');
  }
});

test('a constraint that the rows violate is named, the row is not', async () => {
  const [relation] = snapshot.contents.relations;
  if (relation === undefined) throw new Error('no relation');
  const constraints = relation.constraints.map((constraint) =>
    constraint.name === 'noted'
      ? { ...constraint, definition: `CHECK (note <> 'note 1${'x'.repeat(50)}')` }
      : constraint,
  );
  const contents = { ...snapshot.contents, relations: [{ ...relation, constraints }] };
  const failed = targetOn(database.url).restoreToSchema(request({ ...snapshot, contents }));
  await expect(failed).rejects.toMatchObject({
    code: 'RESTORE_VALIDATION_FAILED',
    message: expect.stringContaining('noted'),
  });
  await expect(failed).rejects.not.toThrow(/xxx/);
});

test('a role that may not create schemas is told so', async () => {
  const role = `restore_poor_${process.pid}`;
  await database.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'`);
  try {
    const url = new URL(database.url);
    url.username = role;
    url.password = 'x';
    await expect(restore({}, url.href)).rejects.toMatchObject({
      code: 'RESTORE_TARGET_INCOMPATIBLE',
      message: expect.stringContaining('permission denied for database'),
    });
  } finally {
    await database.pool.query(`DROP ROLE ${role}`);
  }
});

test.each([
  ['', 'VALIDATION_FAILED'],
  ['x'.repeat(64), 'VALIDATION_FAILED'],
  ['pg_mine', 'VALIDATION_FAILED'],
])('the name %j is refused', async (targetSchema, code) => {
  await expect(restore({ targetSchema })).rejects.toMatchObject({ code });
});

test('no server', async () => {
  await expect(restore({}, 'postgresql://postgres@127.0.0.1:1/postgres')).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
  });
});
