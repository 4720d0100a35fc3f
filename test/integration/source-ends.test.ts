import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { SourceSnapshot } from '../../src/source/source.ts';
import { createTestDatabase, startPostgres, type TestDatabase } from '../harness/postgres.ts';
import { connectionCutter } from '../harness/service-cut.ts';
import {
  codeOf,
  expectNoSessions,
  keepingSink,
  requestOf,
  rowsOf,
  shared,
  sourceOf,
  take,
} from '../harness/source-extraction.ts';
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
const sql = (text: string) =>
  database.pool.query(text.replaceAll('$role', role.name).replaceAll('$database', database.name));

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

describe('a row that PostgreSQL cannot export', () => {
  beforeEach(async () => {
    await sql(`
      CREATE TABLE stage.damaged (id int, "the 'key" text, organization_id uuid, body text, state stage.state, PRIMARY KEY (id, "the 'key"));
      INSERT INTO stage.damaged SELECT i, 'k''' || i, NULL, repeat(md5(i::text), 10), 'open' FROM generate_series(1, 500) i;
      ALTER TABLE stage.damaged ALTER body SET STORAGE EXTERNAL;
      UPDATE stage.damaged SET body = repeat(md5(id::text), 200) WHERE id % 10 = 0;
      GRANT SELECT ON stage.damaged TO $role`);
  });
  const damage = async (id: number): Promise<string> => {
    const client = await database.pool.connect();
    try {
      await client.query('SET allow_system_table_mods = on');
      const { rows } = await client.query(
        "SELECT reltoastrelid::regclass::text AS toast FROM pg_class WHERE oid = 'stage.damaged'::regclass",
      );
      const { rows: chunks } = await client.query(
        `SELECT pg_column_toast_chunk_id(body) AS chunk FROM stage.damaged WHERE id = ${id}`,
      );
      // TOAST tables take no DELETE: for the moment it is a plain one.
      for (const statement of [
        `UPDATE pg_class SET relkind = 'r' WHERE oid = '${rows[0].toast}'::regclass`,
        `DELETE FROM ${rows[0].toast} WHERE chunk_id = ${chunks[0].chunk}`,
        `UPDATE pg_class SET relkind = 't' WHERE oid = '${rows[0].toast}'::regclass`,
        // Until then the chunk is still found: TOAST is read whatever was deleted.
        'VACUUM (INDEX_CLEANUP on) stage.damaged',
      ])
        await client.query(statement);
      return (await client.query(`SELECT ctid::text FROM stage.damaged WHERE id = ${id}`)).rows[0].ctid;
    } finally {
      client.release(true);
    }
  };
  const reading = async (more: Parameters<typeof shared>[2] = {}) => {
    const snapshot = await source([
      ...stageEntities,
      shared('DAMAGED', 'damaged', { schema: 'stage', ...more }),
    ]).open(requestOf());
    return failure(snapshot.extract(keepingSink(), () => undefined));
  };

  test('is named by its key and place', async () => {
    const place = await damage(250);
    const { code, message } = await reading();
    expect(code).toBe('SOURCE_ROW_UNREADABLE');
    expect(message).toContain(
      `stage.damaged: key "id" '250', "the 'key" 'k''250', stored at stage.damaged ${place}`,
    );
    await expectNoSessions(database.pool);
  });

  test('also where an index gives the order', async () => {
    await damage(250);
    await sql('CREATE INDEX ON stage.damaged (md5(id::text))');
    const snapshot = await source([shared('DAMAGED', 'damaged', { schema: 'stage' })]).open(
      requestOf({
        scope: { customFilters: [{ entityType: 'DAMAGED', column: 'id', operator: '>', value: 240 }] },
      }),
    );
    const { code, message } = await failure(
      snapshot.extract(keepingSink({ bufferSize: 256 }), () => undefined),
    );
    expect([code, message]).toEqual(['SOURCE_ROW_UNREADABLE', expect.stringContaining('"id" \'250\'')]);
  });

  test('only by its place where the key is protected', async () => {
    const place = await damage(120);
    for (const classes of [{ phi: true }, { pii: true }]) {
      const { code, message } = await reading({ classification: { columns: { "the 'key": classes } } });
      expect([code, message]).toEqual([
        'SOURCE_ROW_UNREADABLE',
        expect.stringContaining(`stored at stage.damaged ${place}`),
      ]);
      expect(message).not.toContain('120');
    }
  });

  test('an enum value that the catalog lost', async () => {
    const client = await database.pool.connect();
    try {
      await sql(
        "UPDATE stage.damaged SET state = 'closed' WHERE id = 77; UPDATE stage.plain SET state = 'new'",
      );
      await client.query('SET allow_system_table_mods = on');
      await client.query(
        "DELETE FROM pg_enum WHERE enumlabel = 'closed' AND enumtypid = 'stage.state'::regtype",
      );
    } finally {
      client.release(true);
    }
    const { code, message } = await reading();
    expect([code, message]).toEqual(['SOURCE_ROW_UNREADABLE', expect.stringContaining('"id" \'77\'')]);
  });

  test('while another session asks for the table in exclusive mode', async () => {
    await damage(250);
    const snapshot = await source([shared('DAMAGED', 'damaged', { schema: 'stage' })]).open(requestOf());
    const waiting = database.pool.query('ALTER TABLE stage.damaged ADD COLUMN later int');
    const { code } = await failure(snapshot.extract(keepingSink(), () => undefined));
    expect(code).toBe('SOURCE_ROW_UNREADABLE');
    await waiting;
  });
});

describe('ends', () => {
  const STEPS = ['LISTED', 'LOCKED', 'EXPORTED', 'DESCRIBED', 'OPEN', 'MIDWAY', 'READ'] as const;
  /** Does something at a step, then goes on; gives how it ended and how long that took. */
  async function interrupt(
    step: (typeof STEPS)[number],
    act: (snapshot: SourceSnapshot | undefined) => unknown,
    signal?: AbortSignal,
  ) {
    let acted = 0;
    let snapshot: SourceSnapshot | undefined;
    const when = async (at: string): Promise<void> => {
      if (at !== step || acted > 0) return;
      acted = performance.now();
      await act(snapshot);
    };
    const run = async (): Promise<void> => {
      snapshot = await sourceOf({ connection, entities: stageEntities, onStep: when }).open(
        requestOf(signal === undefined ? {} : { signal }),
      );
      await when('OPEN');
      await snapshot.extract(
        keepingSink({ bufferSize: 512, gate: (n) => (n === 20 ? when('MIDWAY') : undefined) }),
        () => undefined,
      );
    };
    const error = await failure(run());
    expect(acted, `${step} was reached`).toBeGreaterThan(0);
    const took = performance.now() - acted;
    await expectNoSessions(database.pool);
    return { error, took };
  }
  const terminate = (which: string) =>
    database.pool.query(
      'SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() LIMIT 1',
      [which],
    );

  test('abort at any step: the signal’s reason within a second, and no session left', async () => {
    for (const step of STEPS) {
      const controller = new AbortController();
      const reason = Object.assign(new Error('enough'), { code: 'STOPPED' });
      const { error, took } = await interrupt(step, () => controller.abort(reason), controller.signal);
      expect(error, step).toBe(reason);
      expect(took, step).toBeLessThan(10_000);
    }
    expect(
      await failure(source().open(requestOf({ signal: AbortSignal.abort(new Error('before')) }))),
    ).toMatchObject({ message: 'before' });
  });

  test('abort while a buffer is awaited, and while a lock is', async () => {
    const controller = new AbortController();
    const snapshot = await source().open(requestOf({ signal: controller.signal }));
    const never = keepingSink({
      bufferSize: 512,
      gate: (n) => (n === 9 ? new Promise(() => undefined) : undefined),
    });
    const extraction = failure(snapshot.extract(never, () => undefined));
    await sleep(200);
    controller.abort(new Error('enough'));
    expect(await extraction).toMatchObject({ message: 'enough' });

    const holder = await database.pool.connect();
    await holder.query('BEGIN; LOCK TABLE stage.plain IN ACCESS EXCLUSIVE MODE');
    const other = new AbortController();
    const opening = failure(source().open(requestOf({ signal: other.signal })));
    await sleep(300);
    const aborted = performance.now();
    other.abort(new Error('enough'));
    expect(await opening).toMatchObject({ message: 'enough' });
    expect(performance.now() - aborted).toBeLessThan(10_000);
    // The server too has noticed: its session does not wait for the lock any more.
    await expectNoSessions(database.pool, 1_500);
    await holder.query('ROLLBACK');
    holder.release();
  });

  test('close while rows are read: BACKUP_CANCELLED; twice is as good as once', async () => {
    const { error } = await interrupt('MIDWAY', async (snapshot) => {
      await snapshot?.close();
      await snapshot?.close();
    });
    expect(error.code).toBe('BACKUP_CANCELLED');
  });

  test('the leader’s session is terminated: DATABASE_UNAVAILABLE, at once', async () => {
    for (const step of ['LOCKED', 'EXPORTED', 'DESCRIBED', 'OPEN', 'MIDWAY', 'READ'] as const) {
      const { error } = await interrupt(step, () => terminate('care-backup snapshot'));
      expect(error.code, step).toBe('DATABASE_UNAVAILABLE');
    }
  });

  test('a reader’s session is terminated: DATABASE_UNAVAILABLE', async () => {
    for (const step of ['DESCRIBED', 'OPEN', 'MIDWAY'] as const) {
      const { error } = await interrupt(step, () => terminate('care-backup extraction'));
      expect(error.code, step).toBe('DATABASE_UNAVAILABLE');
    }
  });

  test('the sink’s error comes through as it is, whatever it looks like', async () => {
    for (const code of ['ECONNRESET', 'XX001', '57P01']) {
      const broken = Object.assign(new Error('Connection terminated unexpectedly'), {
        code,
        severity: 'ERROR',
      });
      for (const method of ['acquire', 'add'] as const) {
        const snapshot = await source().open(requestOf());
        const sink = keepingSink({ bufferSize: 512 });
        const extraction = snapshot.extract(
          {
            ...sink,
            [method]:
              method === 'acquire'
                ? () => Promise.reject(broken)
                : () => {
                    throw broken;
                  },
          },
          () => undefined,
        );
        expect(await failure(extraction), `${method} ${code}`).toBe(broken);
      }
      await expectNoSessions(database.pool);
    }
  });

  test('a connection that is cut at whatever statement: DATABASE_UNAVAILABLE, or every row', {
    timeout: 600_000,
  }, async () => {
    const { rows } = await take({ connection, superuser: database.pool, entities: stageEntities });
    using cutter = connectionCutter();
    const run = async (at?: number): Promise<number> => {
      cutter.arm(at);
      const read = async (): Promise<void> => {
        const sink = keepingSink({ bufferSize: 2048 });
        const contents = await (await source().open(requestOf())).extract(sink, () => undefined);
        expect(rowsOf(sink.segments, contents)).toEqual(rows);
      };
      const code = await codeOf(read());
      const steps = cutter.steps.length;
      cutter.arm();
      expect(code, `step ${at}: ${JSON.stringify(cutter.cut)}`).toMatch(
        at === undefined ? /^NONE$/ : /^(NONE|DATABASE_UNAVAILABLE)$/,
      );
      return steps;
    };
    const steps = await run();
    const each = process.env.CARE_SOAK === '1' ? 1 : 9;
    for (let at = 1 + (Date.now() % each); at <= steps; at += each) await run(at);
    // The end of a session that has read its rows, and the last look at the leader's.
    for (let at = steps - 12; at <= steps; at += 2) await run(at);
    await expectNoSessions(database.pool);
  });

  test('abort while a connection is being made', async () => {
    const mute = createServer((peer) => void peer.on('error', () => undefined).resume());
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const address = mute.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const controller = new AbortController();
    const remote = sourceOf({ connection: { host: '127.0.0.1', port, user: 'x' }, entities: stageEntities });
    const opening = failure(remote.open(requestOf({ signal: controller.signal })));
    await sleep(200);
    const aborted = performance.now();
    controller.abort(new Error('enough'));
    expect(await opening).toMatchObject({ message: 'enough' });
    expect(performance.now() - aborted).toBeLessThan(10_000);
    await new Promise((resolve) => mute.close(resolve));
  });

  test('held for too long: SOURCE_SNAPSHOT_TOO_OLD, before and while it is read; the database is let go', async () => {
    const snapshot = await source().open(requestOf({ maxSnapshotAgeMs: 700 }));
    await sleep(900);
    await expectNoSessions(database.pool);
    expect(await codeOf(snapshot.extract(keepingSink(), () => undefined))).toBe('SOURCE_SNAPSHOT_TOO_OLD');
    const slow = await source().open(requestOf({ maxSnapshotAgeMs: 700 }));
    expect(
      await codeOf(slow.extract(keepingSink({ bufferSize: 256, gate: () => sleep(50) }), () => undefined)),
    ).toBe('SOURCE_SNAPSHOT_TOO_OLD');
    // setTimeout takes no more than 2^31 - 1 and would fire at once.
    await taking({ request: requestOf({ maxSnapshotAgeMs: 2 ** 40 }) });
  });

  test('the server goes down in mid-run: DATABASE_UNAVAILABLE, and so is a server that is not there', {
    timeout: 60_000,
  }, async () => {
    await using server = await startPostgres();
    const admin = new pg.Client({ connectionString: server.url });
    admin.on('error', () => undefined);
    await admin.connect();
    await admin.query(
      "CREATE TABLE public.big AS SELECT i AS id, repeat('x', 500) AS body FROM generate_series(1, 20000) i; ALTER TABLE public.big ADD PRIMARY KEY (id)",
    );
    const remote = sourceOf({
      connection: { connectionString: server.url },
      entities: [shared('BIG', 'big')],
    });
    const snapshot = await remote.open(requestOf());
    const sink = keepingSink({ bufferSize: 65_536, gate: (n) => (n === 3 ? server.crash() : undefined) });
    expect(await codeOf(snapshot.extract(sink, () => undefined))).toBe('DATABASE_UNAVAILABLE');
    expect(await codeOf(remote.open(requestOf()))).toBe('DATABASE_UNAVAILABLE');
    await admin.end().catch(() => undefined);
  });
});
