import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDataProtection, type DataProtectionOptions } from '../../src/compose.ts';
import { faultyStorage } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { runChild } from '../harness/kill-process.ts';
import { actorOf, createBench, librarySessions, type ServiceBench } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

let bench: ServiceBench;
const unhandled: unknown[] = [];
const note = (reason: unknown): void => void unhandled.push(reason);

beforeAll(async () => {
  process.on('unhandledRejection', note);
  bench = await createBench(tinyData);
  await bench.protection.close();
});
afterAll(async () => {
  process.off('unhandledRejection', note);
  await bench[Symbol.asyncDispose]();
});

async function expectNoSessions(): Promise<void> {
  for (let tries = 0; tries < 40 && (await librarySessions(bench.database.pool)).length > 0; tries += 1)
    await sleep(50);
  expect(await librarySessions(bench.database.pool)).toEqual([]);
}

test('close waits for a backup that goes on, whose caller learns that it ended well', async () => {
  const slow = faultyStorage(memoryStorage(), [
    { call: 1, effect: 'delay', when: 'before', milliseconds: 600 },
  ]);
  const protection = await bench.open({ openStorage: () => slow });
  const backups = protection.backups(actorOf(TINY_ORGANIZATION));
  const { id } = await backups.createConfiguration({ name: 'closing' });
  const completed: string[] = [];
  protection.on('snapshot.completed', ({ snapshot }) => completed.push(snapshot.id));
  const waiting = backups.createSnapshot({ configurationId: id }, { wait: true });
  while (slow.calls.length === 0) await sleep(10);
  await protection.close();
  const snapshot = await waiting;
  expect(snapshot.status).toBe('COMPLETED');
  expect(completed).toEqual([snapshot.id]);
  await expectNoSessions();
});

test('close can be called twice, and at once', async () => {
  const protection = await bench.open();
  await Promise.all([protection.close(), protection.close()]);
  await protection.close();
  await expectNoSessions();
});

test('after runs that ended well, failed and were cancelled no session is left', async () => {
  const storage = memoryStorage();
  let used = faultyStorage(storage, []);
  const protection = await bench.open({ openStorage: () => used });
  const backups = protection.backups(actorOf(TINY_ORGANIZATION));
  const { id: configurationId } = await backups.createConfiguration({ name: 'ends' });
  const snapshot = await backups.createSnapshot({ configurationId }, { wait: true });
  const back = { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: 'left' } } as const;
  await backups.createRestoreOperation(back, { wait: true });
  await expect(backups.createRestoreOperation(back, { wait: true })).rejects.toMatchObject({
    code: 'RESTORE_TARGET_EXISTS',
  });
  used = faultyStorage(storage, [{ call: 1, effect: 'fail', when: 'before' }]);
  await expect(backups.createSnapshot({ configurationId }, { wait: true })).rejects.toMatchObject({
    code: 'STORAGE_UNAVAILABLE',
  });
  used = faultyStorage(storage, [{ call: 1, effect: 'hang', when: 'before' }]);
  const another = await backups.createConfiguration({ name: 'hangs' });
  const { id } = await backups.createSnapshot({ configurationId: another.id });
  while (used.injected.length === 0) await sleep(10);
  used = faultyStorage(storage, []);
  await backups.cancelSnapshot(id);
  const names = (await librarySessions(bench.database.pool)).map(({ name }) => name);
  expect(names.filter((name) => name !== 'care-backup')).toEqual([]);
  await protection.close();
  await expectNoSessions();
});

test('a failure in the background is nobody’s unhandled rejection', async () => {
  const broken = faultyStorage(memoryStorage(), [
    { operation: 'put', call: 'every', effect: 'fail', when: 'before' },
  ]);
  const protection = await bench.open({ openStorage: () => broken });
  const backups = protection.backups(actorOf(TINY_ORGANIZATION));
  const { id: configurationId } = await backups.createConfiguration({ name: 'broken' });
  const failed = Promise.withResolvers<string>();
  protection.on('snapshot.failed', ({ code }) => failed.resolve(code));
  await backups.createSnapshot({ configurationId });
  expect(await failed.promise).toBe('STORAGE_UNAVAILABLE');
  await protection.close();
  await sleep(50);
  expect(unhandled).toEqual([]);
});

test('listeners and loggers that throw, at once or later, do not touch the run', async () => {
  const thrower = (): never => {
    throw new Error('of the host');
  };
  const logger = { debug: thrower, info: thrower, warn: thrower, error: thrower };
  const protection = await bench.open({ logger, openStorage: () => memory });
  const memory = memoryStorage();
  const backups = protection.backups(actorOf(TINY_ORGANIZATION));
  protection.on('snapshot.started', thrower);
  protection.on('snapshot.completed', async () => thrower());
  const { id: configurationId } = await backups.createConfiguration({ name: 'noisy' });
  expect(await backups.createSnapshot({ configurationId }, { wait: true })).toMatchObject({
    status: 'COMPLETED',
  });
  await protection.close();
  await sleep(50);
  expect(unhandled).toEqual([]);
});

test('a process that is done exits by itself', async () => {
  const { id } = await (await bench.open())
    .backups(actorOf(TINY_ORGANIZATION))
    .createConfiguration({ name: 'exits' });
  const end = await runChild({ url: bench.database.url, folder: bench.folder, configurationId: id });
  expect(end).toMatchObject({ code: 0, signal: null });
  expect(end.output).toContain('DONE');
});

test('a process that forgets to close does not hang on the locks’ timers', async () => {
  const script = `
    import { createSessionLocks } from '${new URL('../../src/repository/advisory-lock.ts', import.meta.url).href}';
    const lock = await createSessionLocks({ connectionString: process.argv[1] }).tryConfiguration('018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e');
    await lock.release();
    await lock.release();`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, bench.database.url], {
    stdio: 'inherit',
  });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  expect(code).toBe(0);
});

describe('a database given as', () => {
  const parts = (): pg.ClientConfig => {
    const { hostname, port, username, password, pathname } = new URL(bench.database.url);
    return { host: hostname, port: Number(port), user: username, password, database: pathname.slice(1) };
  };
  /** What a host has whose pg is another copy than the library's: the same, of another class. */
  const foreign = (pool: pg.Pool): pg.Pool =>
    ({ options: pool.options, totalCount: 0, idleCount: 0, waitingCount: 0 }) as unknown as pg.Pool;
  const pools: pg.Pool[] = [];
  const poolOf = (config: pg.PoolConfig): pg.Pool => {
    const pool = new pg.Pool(config);
    pools.push(pool);
    return pool;
  };
  afterAll(async () => {
    for (const pool of pools) await pool.end();
  });

  const ways: Readonly<Record<string, () => DataProtectionOptions['database']>> = {
    'a connection string': () => bench.database.url,
    'a configuration': parts,
    'a pool by connection string': () => poolOf({ connectionString: bench.database.url }),
    'a pool by parts, whose password pg hides': () => poolOf(parts()),
    'a pool of another copy of pg': () => foreign(poolOf(parts())),
  };
  test.each(Object.keys(ways))('%s', async (name) => {
    const database = ways[name]?.() ?? '';
    await using protection = await createDataProtection({ database, entities: tinyData.entities() });
    await protection.check();
    expect(
      (await protection.backups(actorOf(TINY_ORGANIZATION)).listConfigurations()).items.length,
    ).toBeGreaterThan(0);
  });
});
