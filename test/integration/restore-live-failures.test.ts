import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createLiveBench, HOME, type LiveBench, NORTH } from '../harness/live-bench.ts';

let bench: LiveBench;
let id: string;
beforeEach(async () => {
  bench = await createLiveBench({ restoreLockWaitMs: 500 });
  id = await bench.snapshot();
});
afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

/** A restore that is refused, and leaves everything as it was. */
async function expectRefused(input: Parameters<LiveBench['restore']>[1], error: object): Promise<void> {
  const images = () => bench.sql('SELECT count(*) FROM care_backup.restore_images');
  const before = [await bench.state(), await images()];
  await expect(bench.restore(id, input)).rejects.toMatchObject(error);
  expect([await bench.state(), await images()]).toEqual(before);
}

const another = async (): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: bench.database.url });
  await client.connect();
  return client;
};

describe('what stands in the way undoes all of it', () => {
  beforeEach(async () => {
    await bench.sql(
      "UPDATE visit SET note = 'lost' WHERE client_id IN (3, 4); DELETE FROM tag WHERE client_id = 3",
    );
  });

  test('a row that somebody holds; who needs other rows does not wait', async () => {
    const holder = await another();
    await holder.query('BEGIN; SELECT FROM visit WHERE client_id = 3 FOR UPDATE');
    const waiting = expectRefused({}, { code: 'RESTORE_LOCK_TIMEOUT', recoverable: true });
    const started = performance.now();
    while (performance.now() - started < 400) {
      await bench.sql(
        "SET lock_timeout = '3s'; UPDATE heard SET op = op; SELECT FROM visit WHERE client_id = 7 FOR UPDATE",
      );
    }
    await waiting;
    await holder.query('ROLLBACK');
    await holder.end();
    expect(await bench.restore(id)).toMatchObject({ status: 'COMPLETED' });
  });

  test('a constraint that was added since', async () => {
    await bench.sql(
      "ALTER TABLE tag ADD CONSTRAINT no_tabs CHECK (word NOT LIKE '%' || chr(9) || '%') NOT VALID",
    );
    await expectRefused(
      {},
      { code: 'RESTORE_VALIDATION_FAILED', message: expect.stringContaining('no_tabs') },
    );
  });

  test('a byte of the archive that was altered', async () => {
    const objects = (await readdir(bench.folder, { recursive: true })).filter((name) => name.includes('/o-'));
    for (const name of objects) {
      await using file = await open(join(bench.folder, name), 'r+');
      const { size } = await file.stat();
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, Math.floor(size / 2));
      await file.write(Buffer.from([(buffer[0] ?? 0) ^ 4]), 0, 1, Math.floor(size / 2));
    }
    await expectRefused({}, { code: 'ARCHIVE_CORRUPT' });
  });

  test('a connection that is cut in the middle', async () => {
    await bench.sql(`CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
      CREATE TRIGGER cut AFTER INSERT ON tag FOR EACH STATEMENT EXECUTE FUNCTION cut()`);
    await expectRefused({}, { code: 'DATABASE_UNAVAILABLE' });
  });

  test('a trigger that alters what is written, and that nobody has named', async () => {
    await bench.sql(
      'CREATE TRIGGER touch_client BEFORE UPDATE ON client FOR EACH ROW EXECUTE FUNCTION touch()',
    );
    await bench.sql("UPDATE client SET name = 'x' WHERE id = 3");
    await expectRefused(
      {},
      {
        code: 'RESTORE_VALIDATION_FAILED',
        message: expect.stringMatching(/updated_at.*touch_client.*disableTriggers/),
      },
    );
  });

  test('privileges that the role lacks, all of them at once', async () => {
    await bench.sql(`CREATE ROLE clerk LOGIN PASSWORD 'c'; GRANT USAGE ON SCHEMA public, care_backup TO clerk;
      GRANT ALL ON ALL TABLES IN SCHEMA care_backup TO clerk; GRANT SELECT ON ALL TABLES IN SCHEMA public TO clerk; GRANT UPDATE ON client TO clerk`);
    try {
      const url = new URL(bench.database.url);
      url.username = 'clerk';
      url.password = 'c';
      const clerk = (await bench.open({ database: url.href })).backups({
        userId: '00000000-0000-4000-8000-0000000000aa',
        organizationId: HOME,
        branchIds: 'ALL',
        permissions: ['backup:admin'],
      });
      await expect(clerk.planRestore({ snapshotId: id })).rejects.toMatchObject({
        code: 'RESTORE_PRIVILEGE_MISSING',
        message: expect.stringMatching(
          /INSERT on "public"."client".*UPDATE on "public"."plan".*ownership of "public"."visit"/,
        ),
      });
    } finally {
      await bench.sql('DROP OWNED BY clerk; DROP ROLE clerk');
    }
  });

  test('deletes that would take others along, unless that was allowed', async () => {
    await bench.sql(`INSERT INTO client VALUES (77, '${HOME}', '${NORTH}', 'new', NULL, now()); INSERT INTO plan VALUES (770, 77, 'new', now());
      INSERT INTO visit (organization_id, branch_id, client_id, updated_at) VALUES ('${HOME}', '${NORTH}', 3, now());
      INSERT INTO stray SELECT 1, max(id), 's' FROM visit`);
    const input = { deleteNotInBackup: true, scope: { includeEntities: ['CLIENT', 'VISIT'] } } as const;
    await expectRefused(input, {
      code: 'RESTORE_CASCADES',
      message: expect.stringMatching(/1 rows of public.plan.*1 rows of public.stray/),
    });
    const preview = await bench.backups.planRestore({ snapshotId: id, ...input });
    expect(preview.cascades).toMatchObject([
      { table: 'public.plan', action: 'DELETE', rows: 1 },
      { table: 'public.stray', action: 'DELETE', rows: 1 },
    ]);
    const before = await bench.state();
    const restore = await bench.restore(id, { ...input, allowCascades: true });
    expect(restore).toMatchObject({ status: 'COMPLETED_WITH_WARNINGS' });
    expect(await bench.sql('SELECT FROM plan WHERE id = 770')).toEqual([]);
    await bench.backups.rollbackRestore(restore.id);
    expect(await bench.state()).toEqual(before);
  });
});

describe('columns that have changed since', () => {
  beforeEach(async () => {
    await bench.sql("UPDATE visit SET note = 'lost' WHERE client_id = 3");
  });
  const refused = (message: RegExp, input = {}) =>
    expectRefused(input, { code: 'RESTORE_TARGET_INCOMPATIBLE', message: expect.stringMatching(message) });

  test('dropped: named, and left out where that is said', async () => {
    await bench.sql('ALTER TABLE visit DROP COLUMN photo');
    await refused(/VISIT: column photo is not in the table any more.*columnMapping/);
    const restore = await bench.restore(id, { columnMapping: { Visit: { photo: null } } });
    expect(restore.status).toBe('COMPLETED_WITH_WARNINGS');
    expect(restore.warnings).toMatchObject([
      { code: 'COLUMN_LEFT_OUT', message: expect.stringContaining('80 values') },
    ]);
  });

  test('renamed: never guessed, and found where that is said', async () => {
    await bench.sql('ALTER TABLE visit DROP COLUMN length; ALTER TABLE visit RENAME note TO remark');
    await refused(/VISIT: column note/);
    const before = await bench.state();
    await bench.restore(id, { columnMapping: { VISIT: { note: 'remark' } } });
    expect(await bench.sql("SELECT id FROM visit WHERE remark = 'lost'")).toEqual([]);
    expect(await bench.state()).not.toEqual(before);
  });

  test('added: rows that stand keep their values, new ones take the default', async () => {
    await bench.sql(
      "ALTER TABLE visit ADD COLUMN billed text DEFAULT 'no'; UPDATE visit SET billed = 'yes' WHERE client_id = 3; DELETE FROM visit WHERE id = 20",
    );
    await bench.restore(id);
    const rows = await bench.sql(
      'SELECT billed, count(*)::int AS n FROM visit WHERE organization_id = $1 GROUP BY 1 ORDER BY 1',
      [HOME],
    );
    expect(rows).toEqual([
      { billed: 'no', n: 75 },
      { billed: 'yes', n: 5 },
    ]);
    await bench.sql(
      'ALTER TABLE visit ADD COLUMN needed int NOT NULL DEFAULT 1; ALTER TABLE visit ALTER needed DROP DEFAULT',
    );
    await bench.sql("UPDATE visit SET note = 'lost' WHERE client_id = 3");
    await refused(/column needed is new, NOT NULL and has no default/);
  });

  test('of another type: where every value comes back as it was', async () => {
    await bench.sql(
      'ALTER TABLE visit ALTER amount TYPE numeric(14, 4); ALTER TABLE client ALTER id TYPE bigint; ALTER TABLE visit ALTER client_id TYPE bigint',
    );
    await bench.restore(id);
    expect(await bench.sql("SELECT id FROM visit WHERE note = 'lost'")).toEqual([]);
    await bench.sql(
      "ALTER TABLE visit ALTER amount TYPE int; UPDATE visit SET note = 'lost' WHERE client_id = 3",
    );
    await refused(/Turning column amount of VISIT into integer/);
  });

  test('an enum whose label is no more', async () => {
    await bench.sql("ALTER TYPE mood RENAME VALUE 'poor' TO 'bad'");
    await refused(/VISIT/);
  });
});

test('a ring of foreign keys is checked at the end, and stands as it stood', async () => {
  await bench.sql(`ALTER TABLE client ADD COLUMN favourite bigint REFERENCES visit;
    UPDATE client c SET favourite = (SELECT min(id) FROM visit v WHERE v.client_id = c.id)`);
  const snapshot = await bench.snapshot();
  const before = await bench.state();
  const keys = "SELECT conname, condeferrable, condeferred FROM pg_constraint WHERE contype = 'f' ORDER BY 1";
  const declared = await bench.sql(keys);
  await bench.sql(`UPDATE client SET favourite = NULL WHERE id = 3; UPDATE visit SET follows = NULL WHERE client_id = 3; DELETE FROM visit WHERE client_id = 3;
    DELETE FROM tag WHERE client_id = 3; DELETE FROM client WHERE id = 3`);
  await bench.restore(snapshot, { scope: { clientIds: ['3'] } });
  expect(await bench.state()).toEqual(before);
  expect(await bench.sql(keys)).toEqual(declared);
});

test('a rollback leaves what somebody has written since, and says so', async () => {
  await bench.sql("UPDATE visit SET note = 'lost' WHERE client_id IN (3, 4)");
  const restore = await bench.restore(id, { scope: { clientIds: ['3', '4'] } });
  const [first] = await bench.sql('SELECT min(id)::text AS id FROM visit WHERE client_id = 3');
  await bench.sql("UPDATE visit SET note = 'written since' WHERE id = $1", [first?.id]);
  await bench.sql(
    'DELETE FROM stray; UPDATE visit SET follows = NULL WHERE client_id = 4 AND follows IS NOT NULL',
  );
  const undone = await bench.backups.rollbackRestore(restore.id);
  expect(undone).toMatchObject({ status: 'ROLLED_BACK', statusReason: expect.stringContaining('5 rows') });
  expect(await bench.sql('SELECT note FROM visit WHERE id = $1', [first?.id])).toEqual([
    { note: 'written since' },
  ]);
  expect(await bench.sql("SELECT count(*)::int AS n FROM visit WHERE note = 'lost'")).toEqual([{ n: 5 }]);
  const conflicts = await bench.backups.listRestoreConflicts(restore.id);
  expect(conflicts.items.map(({ kind }) => kind)).toEqual(Array(5).fill('CHANGED_SINCE'));
  await expect(bench.backups.rollbackRestore(restore.id)).rejects.toMatchObject({ code: 'INVALID_STATE' });
});

test('writers that go on lose nothing that they have written', async () => {
  const stop = new AbortController();
  const written = new Map<string, string>();
  const write = async (from: number): Promise<void> => {
    const client = await another();
    for (let n = from; !stop.signal.aborted; n += 2) {
      const visit = String(1 + ((n * 37) % 100));
      await client.query('BEGIN');
      const { rows } = await client.query(
        'UPDATE visit SET note = $2 WHERE id = $1 AND id % 2 = $3 RETURNING client_id',
        [visit, `w${n}`, from],
      );
      await client.query('COMMIT');
      if (rows.length > 0) written.set(visit, `w${n}`);
    }
    await client.end();
  };
  const writers = [write(0), write(1)];
  for (let round = 0; round < 6; round += 1) {
    const restore = await bench.restore(id, { scope: { clientIds: ['3', '8'] } });
    expect(restore.status).toBe('COMPLETED');
  }
  stop.abort();
  await Promise.all(writers);
  const rows = await bench.sql('SELECT id::text, client_id AS client, note FROM visit');
  for (const { id: visit, client, note } of rows) {
    const last = written.get(String(visit));
    // A row of the scope holds what was restored, or what was written after that.
    if (client === 3 || client === 8)
      expect([last, `visit ${1 + ((Number(visit) - 1) % 5)}`]).toContain(note);
    else if (last !== undefined) expect(note).toBe(last);
  }
});

test('rows of composite keys are named by all of it; records that are in no snapshot are an error', async () => {
  await bench.sql('DELETE FROM tag WHERE client_id = 3');
  const scope = { includeEntities: ['TAG'], recordIds: ['["3","tab\\tbed"]'] };
  await bench.restore(id, { scope });
  expect(await bench.sql('SELECT word FROM tag WHERE client_id = 3')).toEqual([{ word: 'tab\tbed' }]);
  await expect(
    bench.restore(id, { scope: { includeEntities: ['CLIENT'], recordIds: ['4711'] } }),
  ).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(
    bench.restore(id, { scope: { includeEntities: ['TAG'], recordIds: ['3'] } }),
  ).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  await expect(bench.restore(id, { scope: { clientIds: ['three'] } })).rejects.toMatchObject({
    code: 'ENTITY_SCOPE_UNSUPPORTED',
  });
});
