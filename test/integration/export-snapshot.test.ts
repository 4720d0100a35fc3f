import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { defineEntity } from '../../src/source/entity.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ArchiveTiers } from '../../src/storage/storage.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import type { ExportedEntity, ExportSnapshotInput, SnapshotExport } from '../../src/types/export.ts';
import { bytesOf, linesOf, parquetRows } from '../harness/exported.ts';
import { replicated, several, single, TestStores } from '../harness/multi-stores.ts';
import { actorOf, benchKeyring, createBench, type ServiceBench } from '../harness/service-bench.ts';
import {
  BRANCH_A,
  BRANCH_B,
  OTHER_ORGANIZATION,
  PLANTED,
  TINY_ORGANIZATION,
  tinyData,
} from '../harness/service-tiny.ts';

/** VISIT is partitioned, with a leaf whose columns stand in another order; BULK has segments enough to stop between. */
const data = {
  ...tinyData,
  entities: () => [
    ...tinyData.entities(),
    defineEntity({
      type: 'VISIT',
      table: 'visit',
      branch: 'SHARED',
      classification: { columns: { notes: { phi: true }, mood: { phi: true } } },
    }),
    defineEntity({ type: 'BULK', table: 'bulk', organization: 'SHARED', branch: 'SHARED' }),
    defineEntity({
      type: 'DIARY',
      table: 'diary',
      organization: 'SHARED',
      branch: 'SHARED',
      classification: { columns: { id: { phi: true }, line: { phi: true } } },
    }),
  ],
  fill: async (client: pg.Client): Promise<void> => {
    await tinyData.fill(client);
    await client.query(`
      CREATE TABLE visit (id int, organization_id uuid NOT NULL, day date NOT NULL, notes text, mood json,
                          doubled int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
      CREATE TABLE visit_first PARTITION OF visit FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
      CREATE TABLE visit_second (mood json, notes text, day date NOT NULL, organization_id uuid NOT NULL, id int NOT NULL,
                                 doubled int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, day));
      ALTER TABLE visit ATTACH PARTITION visit_second FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
      INSERT INTO visit SELECT n, '${TINY_ORGANIZATION}', '2026-01-10'::date + n, nullif('${PLANTED} ' || n, '${PLANTED} 3'), ('{ "a":' || chr(10) || ' 1.0 }')::json
        FROM generate_series(1, 40) n;
      CREATE TABLE bulk (id int PRIMARY KEY, filler text NOT NULL);
      INSERT INTO bulk SELECT n, (SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, 200) k) FROM generate_series(1, 2000) n;
      CREATE TABLE diary (id int PRIMARY KEY, line text);
      INSERT INTO diary VALUES (1, NULL), (2, '')`);
  },
};

const stores = new TestStores();
const a = stores.get('a');
const b = stores.get('b');
let bench: ServiceBench;
let snapshot: BackupSnapshot;
let storedAtA: ReturnType<typeof memoryStorage>;
beforeAll(async () => {
  bench = await createBench(data, { ...stores.options, thawPollMs: 5 });
  const { id: configurationId } = await bench.configure({ storageDestination: single('a') });
  snapshot = await bench.backups.createSnapshot({ configurationId }, { wait: true });
  storedAtA = a.sound;
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(() => {
  stores.reset();
  a.sound = storedAtA;
});

type Wanted = Omit<ExportSnapshotInput, 'snapshotId'>;
const open = (input: Wanted, signal?: AbortSignal): Promise<SnapshotExport> =>
  bench.backups.exportSnapshot({ snapshotId: snapshot.id, ...input }, signal && { signal });

async function files(input: Wanted): Promise<Map<string, Buffer>> {
  const read = new Map<string, Buffer>();
  for await (const { fileName, chunks } of await open(input)) read.set(fileName, await bytesOf(chunks));
  return read;
}

const bulk = { format: 'NDJSON', scope: { includeEntities: ['BULK'] } } as const;

async function entries(): Promise<{ action: string; details: Record<string, unknown> }[]> {
  const { rows } = await bench.database.pool.query(
    `SELECT action, details FROM care_backup.audit_log WHERE resource_id = $1 AND action LIKE 'snapshot.export%' ORDER BY sequence`,
    [snapshot.id],
  );
  return rows;
}
const lastEntry = async () => (await entries()).at(-1);

describe('what leaves', () => {
  test('is every row of the snapshot that the database has, in each format', async () => {
    const { rows: items } = await bench.database.pool.query(
      `SELECT id::text, organization_id, branch_id, secret FROM item WHERE organization_id = $1 ORDER BY item.id`,
      [TINY_ORGANIZATION],
    );
    const byId = (x: { id?: unknown }, y: { id?: unknown }) => Number(x.id) - Number(y.id);
    const ndjson = await files({ format: 'NDJSON' });
    expect([...ndjson.keys()]).toEqual(
      ['ITEM', 'PART', 'VISIT', 'BULK', 'DIARY'].map((type) => `${type}.ndjson`),
    );
    expect(linesOf(ndjson.get('ITEM.ndjson') ?? Buffer.of()).sort(byId)).toEqual(items);
    const visits = linesOf(ndjson.get('VISIT.ndjson') ?? Buffer.of()).sort(byId);
    expect(visits).toEqual(
      Array.from({ length: 40 }, (_, n) => ({
        id: n + 1,
        organization_id: TINY_ORGANIZATION,
        day: new Date(Date.UTC(2026, 0, 11 + n)).toISOString().slice(0, 10),
        notes: n === 2 ? null : `${PLANTED} ${n + 1}`,
        mood: { a: 1 },
      })),
    );
    expect(String(ndjson.get('VISIT.ndjson'))).toContain('"mood":{ "a":  1.0 }}\n');

    const csv = await files({ format: 'CSV', scope: { includeEntities: ['DIARY', 'Visit'] } });
    expect(String(csv.get('DIARY.csv'))).toBe('id,line\r\n1,\r\n2,""\r\n');
    expect(String(csv.get('VISIT.csv'))).toContain('id,organization_id,day,notes,mood\r\n');

    const parquet = await files({ format: 'PARQUET', scope: { includeEntities: ['VISIT', 'BULK'] } });
    const rows = await parquetRows(parquet.get('VISIT.parquet') ?? Buffer.of());
    expect(rows.sort(byId)).toEqual(visits.map((row) => ({ ...row, mood: '{ "a":\n 1.0 }' })));
    // Row groups of a few megabytes.
    const many = await parquetRows(parquet.get('BULK.parquet') ?? Buffer.of());
    expect(many.map(({ id }) => id).sort((x, y) => Number(x) - Number(y))).toEqual(
      Array.from({ length: 2_000 }, (_, n) => n + 1),
    );
  });

  test('is entered in the audit log, with what it was and how much', async () => {
    const before = (await entries()).length;
    await files({ format: 'CSV', scope: { includeEntities: ['ITEM', 'PART'] } });
    expect((await entries()).slice(before)).toMatchObject([
      {
        action: 'snapshot.export_started',
        details: { format: 'CSV', includePHI: true, entities: ['ITEM', 'PART'] },
      },
      { action: 'snapshot.exported', details: { outcome: 'COMPLETED', entities: { ITEM: 40, PART: 80 } } },
    ]);
  });

  test('holds no health information where that is asked for, and says what is missing', async () => {
    const exported = await open({ format: 'NDJSON', includePHI: false, scope: { includeEntities: ['ALL'] } });
    expect(exported.leftOut).toEqual({
      entities: ['ITEM'],
      columns: [
        { entityType: 'VISIT', column: 'notes' },
        { entityType: 'VISIT', column: 'mood' },
        { entityType: 'DIARY', column: 'id' },
        { entityType: 'DIARY', column: 'line' },
      ],
    });
    const read = new Map<string, Buffer>();
    for await (const { entityType, chunks } of exported) read.set(entityType, await bytesOf(chunks));
    expect([...read.keys()]).toEqual(exported.entities.map(({ entityType }) => entityType));
    expect(Buffer.concat([...read.values()]).includes(PLANTED)).toBe(false);
    expect(linesOf(read.get('VISIT') ?? Buffer.of())).toHaveLength(40);
    expect(String(read.get('DIARY'))).toBe('{}\n{}\n');
    // A file of empty lines would have no rows to most readers.
    await expect(open({ format: 'CSV', includePHI: false })).rejects.toMatchObject({
      code: 'NOT_SUPPORTED',
      message: expect.stringContaining('DIARY'),
    });
    for (const type of ['ITEM', 'NOTHING']) {
      await expect(
        open({ format: 'CSV', includePHI: false, scope: { includeEntities: [type] } }),
      ).rejects.toMatchObject({ code: type === 'ITEM' ? 'ENTITY_SCOPE_UNSUPPORTED' : 'ENTITY_UNKNOWN' });
    }
  });

  test('is of the actor’s branches: another one is not found, nor is another organization’s', async () => {
    const { id: configurationId } = await bench.configure({
      branchIds: [BRANCH_A],
      storageDestination: single('a'),
      scope: { includeEntities: ['ITEM', 'PART'] },
    });
    const { id: snapshotId } = await bench.backups.createSnapshot({ configurationId }, { wait: true });
    const as = (branchIds: string[], organization = TINY_ORGANIZATION) =>
      bench.protection
        .backups(actorOf(organization, { branchIds, permissions: ['backup:restore'] }))
        .exportSnapshot({ snapshotId, format: 'NDJSON', scope: { includeEntities: ['ITEM'] } });
    for await (const { chunks } of await as([BRANCH_A])) {
      const rows = linesOf(await bytesOf(chunks));
      expect(rows.length).toBe(20);
      expect(new Set(rows.map((row) => row.branch_id))).toEqual(new Set([BRANCH_A]));
    }
    await expect(as([BRANCH_B])).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(as([BRANCH_A], OTHER_ORGANIZATION)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('whoever takes the rows', () => {
  test('takes them at its own pace: little is read ahead', async () => {
    let reads = 0;
    a.onCall = (operation) => {
      if (operation === 'get') reads += 1;
    };
    for await (const { chunks } of await open(bulk)) {
      const before = reads;
      for await (const _ of chunks) {
        await sleep(30);
        expect(reads - before).toBeLessThanOrEqual(2);
        break;
      }
    }
    expect(await lastEntry()).toMatchObject({ details: { outcome: 'STOPPED' } });
  });

  test('may stop: what had left is entered, and no read is left behind', async () => {
    let reading = 0;
    a.onCall = () => {
      reading += 1;
    };
    let out = 0;
    for await (const { chunks } of await open(bulk)) {
      for await (const chunk of chunks) {
        out += String(chunk).split('\n').length - 1;
        break;
      }
      break;
    }
    const { details } = (await lastEntry()) ?? {};
    expect(out).toBeGreaterThan(0);
    expect(details).toMatchObject({ outcome: 'STOPPED', entities: { BULK: out } });
    const after = reading;
    await sleep(20);
    expect(reading).toBe(after);
  });

  test('may fail by itself: the file that cannot be written is its error, not a short file', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'care-export-'));
    const write = async (path: (entity: ExportedEntity) => string) => {
      for await (const entity of await open({ format: 'CSV' }))
        await pipeline(entity.chunks, createWriteStream(path(entity)));
    };
    await expect(write(({ fileName }) => join(folder, 'missing', fileName))).rejects.toMatchObject({
      code: 'ENOENT',
    });
    expect(await lastEntry()).toMatchObject({ details: { outcome: 'STOPPED' } });
    await write(({ fileName }) => join(folder, fileName));
    expect(await readFile(join(folder, 'BULK.csv'), 'utf8')).toHaveLength(
      'id,filler\r\n'.length +
        Array.from({ length: 2_000 }, (_, n) => String(n + 1).length + 6403).reduce((x, y) => x + y),
    );
    await rm(folder, { recursive: true });
  });

  test('cannot take rows too late, twice, or of two entities at once', async () => {
    const kept: ExportedEntity[] = [];
    for await (const entity of await open({ format: 'NDJSON' })) kept.push(entity);
    expect(await lastEntry()).toMatchObject({ details: { outcome: 'STOPPED', entities: {} } });
    for (const { chunks } of kept)
      await expect(bytesOf(chunks)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    const together: Promise<unknown>[] = [];
    for await (const { chunks } of await open({
      format: 'NDJSON',
      scope: { includeEntities: ['BULK', 'DIARY'] },
    })) {
      together.push(bytesOf(chunks).then(String, ({ code }: { code: string }) => code));
      await sleep(5);
      await expect(bytesOf(chunks)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    }
    expect((await Promise.all(together))[0]).toBe('INVALID_STATE');
  });

  test('is told of an abort at once, also while it asks for nothing', async () => {
    const stop = new AbortController();
    const reason = new Error('enough');
    const exported = await open(bulk, stop.signal);
    const going = async () => {
      for await (const { chunks } of exported) {
        for await (const _ of chunks) {
          if (!stop.signal.aborted) stop.abort(reason);
          await vi.waitFor(async () =>
            expect(await lastEntry()).toMatchObject({ details: { outcome: 'FAILED' } }),
          );
        }
      }
    };
    await expect(going()).rejects.toBe(reason);
    await expect(open(bulk, stop.signal)).rejects.toBe(reason);
  });

  test('does not keep the library from closing when it never comes back', async () => {
    const other = await bench.open();
    const backups = other.backups(actorOf(TINY_ORGANIZATION));
    const left = (await backups.exportSnapshot({ snapshotId: snapshot.id, ...bulk }))[Symbol.asyncIterator]();
    const { value } = await left.next();
    const chunks = (value as ExportedEntity).chunks[Symbol.asyncIterator]();
    await chunks.next();
    await other.close();
    expect(await lastEntry()).toMatchObject({ details: { outcome: 'FAILED', code: 'BACKUP_INTERRUPTED' } });
    await expect(chunks.next()).rejects.toMatchObject({ code: 'BACKUP_INTERRUPTED' });
    await expect(left.next()).rejects.toMatchObject({ code: 'BACKUP_INTERRUPTED' });
  });
});

describe('what is stored', () => {
  /** Changes a byte of the last object in a store. */
  async function damage(store: typeof a): Promise<void> {
    const keys: string[] = [];
    const whole = store.sound;
    for await (const { key } of whole.list('', {})) keys.push(key);
    const damaged = memoryStorage();
    const last = keys.filter((key) => !key.endsWith('manifest')).at(-1);
    for (const key of keys) {
      const bytes = Buffer.from(await whole.get(key, {}));
      if (key === last) bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 1;
      await damaged.put(key, [bytes], {});
    }
    store.sound = damaged;
  }

  test('may be damaged in one of two stores, not in both: then it is said before the file ends', async () => {
    const { id: configurationId } = await bench.configure({
      storageDestination: several(1, 'a', 'b'),
      scope: { includeEntities: ['BULK'] },
    });
    const { id } = await bench.backups.createSnapshot({ configurationId }, { wait: true });
    await replicated(bench, id);
    const rows = async () => {
      for await (const { chunks } of await bench.backups.exportSnapshot({ snapshotId: id, format: 'NDJSON' }))
        return linesOf(await bytesOf(chunks)).length;
      return 0;
    };
    await damage(a);
    expect(await rows()).toBe(2_000);
    await damage(b);
    await expect(rows()).rejects.toMatchObject({ code: 'ARCHIVE_CORRUPT' });
    const { rows: found } = await bench.database.pool.query(
      `SELECT details FROM care_backup.audit_log WHERE resource_id = $1 AND action = 'snapshot.exported' ORDER BY sequence DESC LIMIT 1`,
      [id],
    );
    expect(found[0]).toMatchObject({ details: { outcome: 'FAILED', code: 'ARCHIVE_CORRUPT' } });
  });

  test('stays closed to another key, and is thawed first where it lies in an archive tier', async () => {
    const stranger = await bench.open({ keys: benchKeyring(Buffer.alloc(32, 7)) });
    await expect(
      stranger.backups(actorOf(TINY_ORGANIZATION)).exportSnapshot({ snapshotId: snapshot.id, ...bulk }),
    ).rejects.toMatchObject({ code: 'KEY_UNAVAILABLE' });

    const asked = new Set<string>();
    const tiers: ArchiveTiers = {
      state: async (key) => (asked.has(key) ? 'READABLE' : 'ARCHIVED'),
      thaw: async (key) => void asked.add(key),
    };
    const cold = await bench.open({ openStorage: () => ({ ...a.storage, tiers }) });
    const exported = await cold
      .backups(actorOf(TINY_ORGANIZATION))
      .exportSnapshot({ snapshotId: snapshot.id, format: 'CSV', scope: { includeEntities: ['DIARY'] } });
    expect(asked.size).toBeGreaterThan(0);
    for await (const { chunks } of exported) expect(await bytesOf(chunks)).toHaveLength(19);
  });

  test('needs a package for Parquet, which is named where it is not there', async () => {
    vi.doMock('hyparquet-writer', () => {
      throw new Error('not installed');
    });
    try {
      await expect(open({ ...bulk, format: 'PARQUET' })).rejects.toMatchObject({
        code: 'DEPENDENCY_MISSING',
        message: expect.stringContaining('npm install hyparquet-writer'),
      });
    } finally {
      vi.doUnmock('hyparquet-writer');
    }
  });
});
