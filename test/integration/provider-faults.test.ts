import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BackupService } from '../../src/service/backup-service.ts';
import { createStorages, type Storages } from '../../src/storage/open-storage.ts';
import { resilientStorage } from '../../src/storage/resilient.ts';
import { s3Storage } from '../../src/storage/s3.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import type { StorageDestination } from '../../src/types/backup.ts';
import { systemClock } from '../../src/utils/clock.ts';
import { type HttpFault, type HttpFaultProxy, httpFaultProxy } from '../harness/fault-proxy.ts';
import { PROVIDERS, type Provider } from '../harness/provider-bench.ts';
import { actorOf, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { schemaThere } from '../harness/service-compare.ts';
import { expectSettled, isGood } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const FAULTS: Readonly<Record<string, HttpFault>> = {
  'cut before the request': { effect: 'CUT_BEFORE_REQUEST' },
  'cut in the request body': { effect: 'CUT_REQUEST_BODY', afterBytes: 100 },
  'answer dropped': { effect: 'CUT_BEFORE_RESPONSE' },
  'cut in the response body': { effect: 'CUT_RESPONSE_BODY', afterBytes: 10 },
  '200 with a cut body': { effect: 'SHORTEN_RESPONSE_BODY', bytes: 10 },
  '503': { effect: 'ANSWER', status: 503, body: 'Slow down' },
  '429': { effect: 'ANSWER', status: 429, headers: { 'retry-after': '0' } },
};
const RESTORE_FAULTS = ['cut in the response body', '200 with a cut body', '503'].flatMap(
  (name) => FAULTS[name] ?? [],
);
const STALLS: Readonly<Record<string, HttpFault>> = {
  'stalled before': { effect: 'STALL', when: 'BEFORE' },
  'stalled after': { effect: 'STALL', when: 'AFTER' },
};
const SLOW: HttpFault = { effect: 'SLOW', bytesPerSecond: 400_000 };
const ATTEMPTS = 5;
const LIMIT_MS = 1_000;

const SOAK = process.env.CARE_SOAK === '1';
const CLOUDS = ['AWS_S3', 'AZURE_BLOB', 'GOOGLE_CLOUD_STORAGE'] as const;
/** Requests of a backup that a fault meets now and then. */
const NOW_AND_THEN = [[1, 3], [2]];
/** Of how many requests one meets a fault, where each is met by itself. */
const EACH = SOAK ? 2 : 4;

/** Without CARE_SOAK one of the two in turn, so that each fault meets both, on one cloud or another. */
const requestsFor = (cloud: (typeof CLOUDS)[number], fault: string): readonly (readonly number[])[] => {
  const turn = CLOUDS.indexOf(cloud) + Object.keys(FAULTS).indexOf(fault);
  return SOAK ? NOW_AND_THEN : NOW_AND_THEN.slice(turn % 2, (turn % 2) + 1);
};

const silent = () => undefined;
const LOGGER = { debug: silent, info: silent, warn: silent, error: silent };
const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

let bench: ServiceBench;

beforeAll(async () => {
  bench = await createBench(tinyData);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

describe.each(CLOUDS)('%s', { timeout: 60_000 }, (name) => {
  let provider: Provider;
  let proxy: HttpFaultProxy;
  let storages: Storages;
  /** What is stored, by a way without faults. */
  let direct: ObjectStorage;
  let backups: BackupService;
  let soundRequests = 0;

  /** The provider's own storage, without the decorators. */
  const bare = (destination: StorageDestination): { storage: ObjectStorage; close: () => Promise<void> } => {
    const opened = createStorages({
      own: undefined,
      credentials: () => provider.credential ?? {},
      limits: { attempts: 1, requestTimeoutMs: 60_000, breakerFailures: 1_000_000 },
      clock: systemClock,
      logger: LOGGER,
    });
    return { storage: opened.open(destination).storage, close: opened.close };
  };

  beforeAll(async () => {
    provider = await PROVIDERS[name]();
    proxy = await httpFaultProxy({ port: provider.port });
    storages = createStorages({
      own: undefined,
      credentials: () => provider.credential ?? {},
      limits: undefined,
      clock: systemClock,
      logger: LOGGER,
    });
    direct = storages.open(provider.destination).storage;
    // Loads the SDK, which takes longer than the time limits below.
    await direct.stat('a');
    const protection = await bench.open({
      storageDestination: provider.at(proxy.url),
      credentials: () => provider.credential ?? {},
      storageLimits: {
        requestTimeoutMs: LIMIT_MS,
        putTimeoutMs: LIMIT_MS,
        getTimeoutMs: LIMIT_MS,
        attempts: ATTEMPTS,
        baseDelayMs: 1,
        maxDelayMs: 5,
        breakerFailures: 10,
        breakerOpenMs: 1,
      },
    });
    backups = protection.backups(actorOf(TINY_ORGANIZATION));
    proxy.plan([]);
    await run();
    proxy.plan([]);
    expect((await run()).status).toBe('COMPLETED');
    soundRequests = proxy.requests.length;
  });
  afterAll(async () => {
    await storages.close();
    await proxy.close();
    await provider[Symbol.asyncDispose]();
  });

  async function run() {
    const { id } = await backups.createConfiguration({ name: `c-${crypto.randomUUID()}`, scope: {} });
    const outcome = await backups.createSnapshot({ configurationId: id }, { wait: true }).then(
      ({ status, id: snapshotId }) => ({ status, snapshotId, code: undefined }),
      (error: { code?: string }) => ({ status: 'FAILED', snapshotId: undefined, code: error.code }),
    );
    return { id, ...outcome };
  }

  async function settled(id: string): Promise<void> {
    proxy.plan([]);
    await expectSettled(backups, id, direct);
  }

  it.each(Object.entries(FAULTS))('%s, now and then: the backup is whole', async (text, fault) => {
    for (const requests of requestsFor(name, text)) {
      proxy.plan(requests.map((request) => ({ request, fault })));
      const { snapshotId = '', status, code } = await run();
      expect({ status, code }, `requests ${requests}`).toEqual({ status: 'COMPLETED', code: undefined });
      expect(proxy.injected).toHaveLength(requests.length);
      // Each repeats one call, and a lost write is looked for.
      expect(proxy.requests.length).toBeLessThanOrEqual(soundRequests + 4 * requests.length);
      expect(await backups.verifySnapshot(snapshotId)).toMatchObject({ passed: true });
    }
  });

  it.each(Object.entries(FAULTS))(
    '%s, always: nothing counts',
    async (text, fault) => {
      proxy.plan([{ request: 'every', fault }]);
      const { id, status, code } = await run();
      expect(code ?? status).toMatch(/^STORAGE_(UNAVAILABLE|THROTTLED|CORRUPT|CIRCUIT_OPEN)$/);
      expect(proxy.injected.length).toBeGreaterThan(0);
      // The object, then the claim of the attempt and the look for it: each is given up after its attempts.
      expect(proxy.requests.length).toBeLessThanOrEqual(8 * ATTEMPTS);
      const { items } = await backups.listSnapshots({ configurationId: id });
      expect(items.filter(isGood), text).toEqual([]);
      await settled(id);
    },
    60_000,
  );

  it.each(['answer dropped', '503', 'cut in the request body'])(
    '%s, of every write: the outcome is true',
    async (text) => {
      const fault = FAULTS[text];
      if (fault === undefined) throw new Error(text);
      proxy.plan([{ only: ({ method }) => method === 'PUT' || method === 'POST', request: 'every', fault }]);
      const { id, status, code } = await run();
      proxy.plan([]);
      const { items } = await backups.listSnapshots({ configurationId: id });
      if (status === 'COMPLETED') {
        expect(await backups.verifySnapshot(items[0]?.id ?? '')).toMatchObject({ passed: true });
      } else {
        expect(code).toMatch(/^STORAGE_/);
        expect(items.filter(isGood)).toEqual([]);
      }
      // A write that took place is known to have: only its answer was lost.
      if (text === 'answer dropped') expect(status).toBe('COMPLETED');
      await settled(id);
    },
  );

  it('a slow connection is outlasted', async () => {
    proxy.plan([{ request: 'every', fault: SLOW }]);
    const { id, status } = await run();
    expect(status).toBe('COMPLETED');
    await settled(id);
  });

  it('a stalled connection costs the time limit, and no more', { timeout: 60_000 }, async () => {
    for (const fault of Object.values(STALLS)) {
      proxy.plan([{ only: ({ method }) => method === 'GET', request: 1, fault }]);
      const { id, status } = await run();
      expect(status).toBe('COMPLETED');
      expect(proxy.injected).toHaveLength(1);
      await settled(id);
    }
  });

  it('restores exactly through faults, or leaves nothing', { timeout: 60_000 }, async () => {
    proxy.plan([]);
    const { snapshotId = '' } = await run();
    const { pool } = bench.database;
    for (const [index, fault] of RESTORE_FAULTS.entries()) {
      const schemaName = `${name}_${index}`.toLowerCase();
      const restore = () =>
        backups.createRestoreOperation(
          { snapshotId, restoreDestination: { type: 'TEST', schemaName }, validationEnabled: false },
          { wait: true },
        );
      proxy.plan([{ request: 'every', fault }]);
      await expect(restore()).rejects.toMatchObject({ code: expect.stringMatching(/^(STORAGE|ARCHIVE)_/) });
      expect(await schemaThere(pool, schemaName)).toBe(false);
      proxy.plan([1, 3, 4].map((request) => ({ request, fault })));
      expect((await restore()).status).toBe('COMPLETED');
      expect(await tinyDifferences(pool, schemaName)).toBe(0);
    }
  });

  it('opens its breaker, tells it, and closes it', async () => {
    proxy.plan([]);
    const protection = await bench.open({
      storageDestination: provider.at(proxy.url),
      credentials: () => provider.credential ?? {},
      storageLimits: { attempts: 3, baseDelayMs: 1, maxDelayMs: 2, breakerFailures: 3, breakerOpenMs: 400 },
    });
    const own = protection.backups(actorOf(TINY_ORGANIZATION));
    const { id: configurationId } = await own.createConfiguration({ name: crypto.randomUUID(), scope: {} });
    const once = () => own.createSnapshot({ configurationId }, { wait: true });
    await once();
    proxy.plan([{ request: 'every', fault: { effect: 'CUT_BEFORE_REQUEST' } }]);
    await expect(once()).rejects.toMatchObject({ code: expect.stringMatching(/^STORAGE_/) });
    const [broken] = protection.storageHealth();
    expect(broken).toMatchObject({ state: 'OPEN', lastFailure: { code: 'STORAGE_UNAVAILABLE' } });
    proxy.plan([]);
    await sleep(500);
    expect((await once()).status).toBe('COMPLETED');
    expect(protection.storageHealth()).toMatchObject([{ state: 'CLOSED', consecutiveFailures: 0 }]);
    await protection.close();
  });

  const BODIES = {
    'object/0': randomBytes(200),
    'object/1': Buffer.alloc(0),
    'object/2': randomBytes(70_000),
  };

  /** Uses every call; what it learns must be the same with and without faults. */
  async function program(storage: ObjectStorage): Promise<unknown> {
    for (const [key, body] of Object.entries(BODIES)) await storage.put(key, [body]);
    const read: Record<string, string> = {};
    for (const key of Object.keys(BODIES)) read[key] = digest(await storage.get(key));
    const part = digest(await storage.get('object/2', { range: { offset: 1_000, length: 2_000 } }));
    const size = (await storage.stat('object/2'))?.size;
    const listed: string[] = [];
    for await (const info of storage.list('object/')) listed.push(`${info.key} ${info.size}`);
    await storage.delete('object/0');
    return { read, part, size, listed: listed.sort(), gone: await storage.stat('object/0') };
  }

  async function empty(): Promise<void> {
    for await (const { key } of direct.list('object/')) await direct.delete(key);
  }

  /** Every `EACH`th request, from another one for each fault. */
  const requestsMet = (fault: string, requests: number): number[] => {
    const names = Object.keys({ ...FAULTS, ...STALLS });
    const from = SOAK ? 0 : names.indexOf(fault) % EACH;
    return Array.from({ length: requests }, (_, index) => index + 1).filter(
      (request) => (request - 1) % EACH === from,
    );
  };

  // S3 call by call is in storage-faults-proxy.test.ts.
  if (name === 'AWS_S3') return;
  it.each(Object.entries({ ...FAULTS, ...STALLS }))(
    'call by call: %s changes nothing',
    { timeout: 60_000 },
    async (text, fault) => {
      const inner = bare(provider.at(proxy.url));
      const limits = { requestTimeoutMs: 200, putTimeoutMs: 200, getTimeoutMs: 200, settleMs: 50 };
      const timing = { ...systemTiming, sleep: async () => undefined };
      const storage = resilientStorage(inner.storage, { ...limits, breakerFailures: 100, timing });
      proxy.plan([]);
      await storage.stat('none');
      await empty();
      proxy.plan([]);
      const sound = await program(storage);
      const requests = proxy.requests.length;
      const met = requestsMet(text, requests);
      expect(met.length).toBeGreaterThan(1);
      let injected = 0;
      for (const n of met) {
        await empty();
        proxy.plan([{ request: n, fault }]);
        expect(await program(storage), `request ${n}`).toEqual(sound);
        expect(proxy.requests.length).toBeLessThanOrEqual(requests + 2 * ATTEMPTS);
        injected += proxy.injected.length;
      }
      expect(injected).toBe(met.length);
      await empty();
      await inner.close();
    },
  );
});

describe('the create-only probe of S3', { timeout: 60_000 }, () => {
  let provider: Provider;
  let proxy: HttpFaultProxy;

  beforeAll(async () => {
    provider = await PROVIDERS.AWS_S3();
    proxy = await httpFaultProxy({ port: provider.port });
  });
  afterAll(async () => {
    await proxy.close();
    await provider[Symbol.asyncDispose]();
  });

  const open = (): ObjectStorage => {
    const { cloudStorage } = provider.at(proxy.url);
    return s3Storage({
      bucket: cloudStorage?.bucketName ?? '',
      region: cloudStorage?.region ?? '',
      endpoint: proxy.url,
      credentials: async () => provider.credential ?? {},
    });
  };
  const reached = async (requests: number): Promise<void> => {
    for (let tries = 0; proxy.requests.length < requests && tries < 1_000; tries += 1) await sleep(10);
    expect(proxy.requests.length).toBe(requests);
  };

  it('ends with the last put that waits for it, and the next put begins another', async () => {
    const storage = open();
    await storage.stat('none');
    proxy.plan([{ request: 'every', fault: { effect: 'STALL', when: 'BEFORE' } }]);
    const stops = [new AbortController(), new AbortController()];
    const puts = stops.map(({ signal }, n) => storage.put(`stalled/${n}`, [], { signal }));
    for (const put of puts) put.catch(() => undefined);
    await reached(1);
    stops[0]?.abort('first');
    await expect(puts[0]).rejects.toBe('first');
    // The probe still serves the other.
    expect(await Promise.race([puts[1]?.catch(() => 'ENDED'), sleep(50, 'WAITS')])).toBe('WAITS');
    stops[1]?.abort('second');
    await expect(puts[1]).rejects.toBe('second');

    proxy.plan([]);
    await storage.put('stalled/0', [Buffer.from('x')]);
    expect(Buffer.from(await storage.get('stalled/0')).toString()).toBe('x');
    const before = proxy.requests.length;
    await storage.put('stalled/1', []);
    // Proven once is proven.
    expect(proxy.requests.length).toBe(before + 1);
    await storage.close?.();
  });

  it('goes on for who still waits when another gives up', async () => {
    const storage = open();
    await storage.stat('none');
    proxy.plan([{ request: 1, fault: { effect: 'SLOW', bytesPerSecond: 20 } }]);
    const stop = new AbortController();
    const left = storage.put('left', [], { signal: stop.signal });
    left.catch(() => undefined);
    const stays = storage.put('stays', [Buffer.from('y')]);
    await reached(1);
    stop.abort('left');
    await expect(left).rejects.toBe('left');
    await stays;
    expect(await storage.stat('left')).toBeUndefined();
    expect(Buffer.from(await storage.get('stays')).toString()).toBe('y');
    await storage.close?.();
  });

  it('behind a connection that stalls once delays a put by one time limit', async () => {
    const inner = open();
    await inner.stat('none');
    const storage = resilientStorage(inner, { putTimeoutMs: 300, baseDelayMs: 1, maxDelayMs: 1 });
    proxy.plan([{ request: 1, fault: { effect: 'STALL', when: 'BEFORE' } }]);
    await storage.put('delayed', [Buffer.from('z')]);
    expect(storage.health()).toMatchObject({ failures: 1, retries: 1 });
    await storage.close?.();
  });
});
