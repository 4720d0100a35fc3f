import { createHash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { type ResilientOptions, resilientStorage } from '../../src/storage/resilient.ts';
import { s3Storage } from '../../src/storage/s3.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import { DataProtectionError } from '../../src/types/errors.ts';
import { type FakeS3, startFakeS3 } from '../harness/fake-s3.ts';
import {
  type HttpFault,
  type HttpFaultRule,
  httpFaultProxy,
  type TcpFault,
  tcpFaultProxy,
} from '../harness/fault-proxy.ts';
import { type TinyObjectStore, tinyObjectStore, tinyStorage } from '../harness/fault-proxy-store.ts';

const ATTEMPTS = 5;

/** Every kind of fault that passes. A stalled request ends by the time limit. */
const FAULTS: Record<string, HttpFault> = {
  'cut before the request': { effect: 'CUT_BEFORE_REQUEST' },
  'cut at once in the request body': { effect: 'CUT_REQUEST_BODY', afterBytes: 0 },
  'cut in the request body': { effect: 'CUT_REQUEST_BODY', afterBytes: 100 },
  'answer dropped': { effect: 'CUT_BEFORE_RESPONSE' },
  'cut at once in the response body': { effect: 'CUT_RESPONSE_BODY', afterBytes: 0 },
  'cut in the response body': { effect: 'CUT_RESPONSE_BODY', afterBytes: 10 },
  '200 with a cut body': { effect: 'SHORTEN_RESPONSE_BODY', bytes: 10 },
  'stalled before': { effect: 'STALL', when: 'BEFORE' },
  'stalled after': { effect: 'STALL', when: 'AFTER' },
  '503': { effect: 'ANSWER', status: 503, body: 'Slow down' },
  '429': { effect: 'ANSWER', status: 429, headers: { 'retry-after': '2' } },
};

/** Only what stalls waits for the limit; whatever else is slow, is slow because the machine is busy. */
const limitOf = ({ effect }: HttpFault): number => (effect === 'STALL' ? 1_000 : 15_000);

/** A store of its own behind a proxy of its own, so that tests and rounds wait side by side. */
async function behindProxy() {
  const store = await tinyObjectStore();
  const proxy = await httpFaultProxy({ port: store.port });
  /** Pauses are noted instead of waited for; the clock of the breaker moves by hand. */
  const throughProxy = (limitMs: number, options: ResilientOptions = {}) => {
    const sleeps: number[] = [];
    const time = { now: 0 };
    const timing = {
      ...systemTiming,
      now: () => time.now,
      sleep: async (milliseconds: number) => void sleeps.push(milliseconds),
    };
    const limits = { requestTimeoutMs: limitMs, putTimeoutMs: limitMs, getTimeoutMs: limitMs };
    const storage = resilientStorage(tinyStorage(proxy.url), {
      ...limits,
      attempts: ATTEMPTS,
      timing,
      ...options,
    });
    return { storage, sleeps, time };
  };
  const close = async () => {
    await proxy.close();
    await store.close();
  };
  return { store, proxy, throughProxy, [Symbol.asyncDispose]: close };
}

const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

const BODIES: Record<string, Buffer> = Object.fromEntries(
  [200, 0, 70_000].map((size, n) => [`object/${n}`, randomBytes(size)]),
);

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
  return { read, part, size, listed, gone: await storage.stat('object/0') };
}

describe('one fault at a time', () => {
  const stateOf = ({ objects }: TinyObjectStore) =>
    [...objects].map(([key, body]) => `${key} ${digest(body)}`);

  it.each(Object.entries(FAULTS))(
    '%s, at each request in turn, changes nothing',
    { timeout: 60_000 },
    async (_, fault) => {
      await using without = await behindProxy();
      const sound = await program(without.throughProxy(15_000).storage);
      const requests = without.proxy.requests.length;
      expect(requests).toBe(12);
      const after = stateOf(without.store);
      const at = async (request: number) => {
        await using behind = await behindProxy();
        const { store, proxy, throughProxy } = behind;
        proxy.plan([{ request, fault }]);
        expect(await program(throughProxy(limitOf(fault)).storage), `request ${request}`).toEqual(sound);
        expect(stateOf(store), `request ${request}`).toEqual(after);
        // The one more, a listing from its start, and a look at what an ambiguous put has stored.
        expect(proxy.requests.length).toBeLessThanOrEqual(requests + 4);
        expect(proxy.injected).toHaveLength(1);
      };
      await Promise.all(Array.from({ length: requests }, (_request, index) => at(index + 1)));
    },
  );

  it('waits as long as the provider asks', async () => {
    await using behind = await behindProxy();
    const { proxy, throughProxy } = behind;
    proxy.plan([{ request: 1, fault: { effect: 'ANSWER', status: 429, headers: { 'retry-after': '7' } } }]);
    const { storage, sleeps } = throughProxy(15_000);
    await storage.put('a', [Buffer.from('x')]);
    expect(sleeps).toEqual([7_000]);
  });

  it('outlasts a slow connection', async () => {
    await using behind = await behindProxy();
    const { proxy, throughProxy } = behind;
    proxy.plan([{ request: 'every', fault: { effect: 'SLOW', bytesPerSecond: 200_000 } }]);
    const { storage } = throughProxy(15_000);
    const body = randomBytes(50_000);
    await storage.put('a', [body]);
    expect(digest(await storage.get('a'))).toBe(digest(body));
    expect(proxy.requests).toHaveLength(2);
  });
});

describe.concurrent('a fault that stays', () => {
  /** No request that this limits would be answered otherwise. */
  const limitOfAll = ({ effect }: HttpFault): number => (effect === 'STALL' ? 300 : 15_000);
  const writes: HttpFaultRule['only'] = ({ method }) => method === 'PUT';

  it.each(Object.entries(FAULTS))('%s: puts are bounded, and their outcome is true', async (_, fault) => {
    await using behind = await behindProxy();
    const { store, proxy, throughProxy } = behind;
    proxy.plan([{ only: writes, request: 'every', fault }]);
    const { storage } = throughProxy(15_000, { putTimeoutMs: limitOfAll(fault) });
    const [outcome] = await Promise.allSettled([storage.put('a', [Buffer.from('a body of some bytes')])]);
    const stored = store.objects.get('a');
    expect(outcome.status === 'fulfilled').toBe(stored !== undefined);
    if (stored !== undefined) expect(stored.toString()).toBe('a body of some bytes');
    expect(proxy.requests.filter(writes ?? (() => true)).length).toBeLessThanOrEqual(ATTEMPTS);
    expect(proxy.requests.length).toBeLessThanOrEqual(ATTEMPTS + 2);
    expect(proxy.injected.length).toBeGreaterThan(0);
  });

  it.each(Object.entries(FAULTS))(
    '%s everywhere: nothing is claimed that is not known',
    async (name, fault) => {
      await using behind = await behindProxy();
      const { store, proxy, throughProxy } = behind;
      proxy.plan([{ request: 'every', fault }]);
      const { storage } = throughProxy(limitOfAll(fault));
      const [put] = await Promise.allSettled([storage.put('a', [randomBytes(200)])]);
      if (put.status === 'rejected') {
        expect(put.reason).toMatchObject({
          code: expect.stringMatching(/^STORAGE_(UNAVAILABLE|THROTTLED|CORRUPT)$/),
        });
        expect(put.reason).toMatchObject({ retryable: true });
        if (name === '429') expect(store.objects.size).toBe(0);
      } else {
        expect(store.objects.get('a')?.byteLength).toBe(200);
      }
      // A put, and the look after it: a stat and a get.
      expect(proxy.requests.length).toBeLessThanOrEqual(3 * ATTEMPTS);
      // A listing is whole or rejects.
      const listed: string[] = [];
      try {
        for await (const { key } of storage.list('')) listed.push(key);
        expect(listed).toEqual([...store.objects.keys()]);
      } catch (error) {
        expect(error).toBeInstanceOf(DataProtectionError);
      }
      expect(proxy.requests.length).toBeLessThanOrEqual(4 * ATTEMPTS);
    },
  );

  it('opens the breaker, keeps the provider in peace, and closes it again', async () => {
    await using behind = await behindProxy();
    const { store, proxy, throughProxy } = behind;
    const { storage, time } = throughProxy(15_000);
    proxy.plan([{ request: 'every', fault: { effect: 'CUT_BEFORE_REQUEST' } }]);
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(storage.health()).toMatchObject({ state: 'OPEN', consecutiveFailures: 5 });
    proxy.plan([]);
    for (let n = 1; n <= 20; n += 1) {
      await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
        code: 'STORAGE_CIRCUIT_OPEN',
      });
    }
    expect(proxy.requests).toHaveLength(0);
    time.now += 60_000;
    const calls = await Promise.allSettled(
      ['a', 'b', 'c'].map((key) => storage.put(key, [Buffer.from(key)])),
    );
    expect(calls.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(proxy.requests).toHaveLength(1);
    expect(storage.health().state).toBe('CLOSED');
    await storage.put('d', [Buffer.from('d')]);
    expect(store.objects.size).toBe(2);
  });
});

describe.concurrent('connections', () => {
  it.each<[string, TcpFault]>([
    ['reset', { effect: 'RESET' }],
    ['stalled', { effect: 'STALL' }],
    ['cut in the request', { effect: 'CUT', direction: 'TO_SERVER', afterBytes: 5_000 }],
    ['cut in the answer', { effect: 'CUT', direction: 'TO_CLIENT', afterBytes: 20 }],
  ])('that are %s at first lose nothing', async (_, fault) => {
    const store = await tinyObjectStore();
    const tcp = await tcpFaultProxy({ port: store.port });
    tcp.plan((connection) => (connection <= 3 ? fault : undefined));
    const storage = resilientStorage(tinyStorage(`http://127.0.0.1:${tcp.port}`), {
      putTimeoutMs: 500,
      getTimeoutMs: 500,
      requestTimeoutMs: 500,
      timing: { ...systemTiming, sleep: async () => undefined },
    });
    const body = randomBytes(70_000);
    await storage.put('a', [body]);
    expect(digest(store.objects.get('a') ?? Buffer.alloc(0))).toBe(digest(body));
    expect(digest(await storage.get('a'))).toBe(digest(body));
    expect(tcp.injected()).toBe(3);
    await tcp.close();
    await store.close();
  });
});

describe('S3', () => {
  const open = (fake: FakeS3, endpoint: string) =>
    s3Storage({
      bucket: fake.bucketName,
      endpoint,
      region: fake.region,
      credentials: async () => ({ ...fake.keys }),
    });

  const stateOf = ({ bucket }: FakeS3) =>
    [...bucket.objects]
      .map(([key, [version]]) => `${key} ${digest(version?.bytes ?? Buffer.alloc(0))}`)
      .sort();

  /** A client that has found out what it finds out about the bucket once: the requests that it makes then are counted. */
  async function through(limitMs: number) {
    const fake = await startFakeS3();
    const proxy = await httpFaultProxy({ port: Number(new URL(fake.endpoint).port) });
    const inner = open(fake, proxy.url);
    const close = async () => {
      await inner.close?.();
      await proxy.close();
      await fake.close();
    };
    await inner.put('warm', []);
    await inner.stat('none');
    await inner.delete('warm');
    proxy.plan([]);
    const limits = { requestTimeoutMs: limitMs, putTimeoutMs: limitMs, getTimeoutMs: limitMs, settleMs: 50 };
    const timing = { ...systemTiming, sleep: async () => undefined };
    const storage = resilientStorage(inner, { ...limits, timing });
    return { fake, proxy, storage, [Symbol.asyncDispose]: close };
  }

  beforeAll(async () => {
    // Loads the SDK, which takes longer than the time limits of the tests.
    const fake = await startFakeS3();
    const storage = open(fake, fake.endpoint);
    await storage.stat('a');
    await storage.close?.();
    await fake.close();
  });

  it.each(Object.entries(FAULTS))(
    '%s, at some requests in turn, changes nothing',
    { timeout: 60_000 },
    async (_, fault) => {
      await using without = await through(15_000);
      const sound = await program(without.storage);
      const after = stateOf(without.fake);
      const requests = without.proxy.requests.length;
      const at = async (request: number) => {
        await using faulty = await through(limitOf(fault));
        const { fake, proxy, storage } = faulty;
        proxy.plan([{ request, fault }]);
        expect(await program(storage), `request ${request}`).toEqual(sound);
        expect(stateOf(fake), `request ${request}`).toEqual(after);
        expect(proxy.requests.length).toBeLessThanOrEqual(requests + 2 * ATTEMPTS);
        expect(proxy.injected).toHaveLength(1);
      };
      const odd = Array.from({ length: Math.ceil(requests / 2) }, (_request, index) => 2 * index + 1);
      await Promise.all(odd.map(at));
    },
  );
});

/** What a put may reject with although the object is stored: see the contract. */
const LOST = ['STORAGE_UNAVAILABLE', 'STORAGE_THROTTLED', 'STORAGE_CORRUPT'];

describe('any faults', () => {
  it('leave no doubt about what is stored', { timeout: 120_000 }, async () => {
    await using behind = await behindProxy();
    const { store, proxy, throughProxy } = behind;
    const fault = fc.constantFrom(...Object.values(FAULTS).filter(({ effect }) => effect !== 'STALL'));
    let injected = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.option(fault), { maxLength: 40, size: 'max' }), async (faults) => {
        store.clear();
        proxy.plan(faults.flatMap((each, n) => (each === null ? [] : [{ request: n + 1, fault: each }])));
        const { storage } = throughProxy(15_000, { breakerOpenMs: 0 });
        for (const [key, body] of Object.entries(BODIES)) {
          const [outcome] = await Promise.allSettled([storage.put(key, [body])]);
          const stored = store.objects.get(key);
          if (stored !== undefined) expect(digest(stored)).toBe(digest(body));
          if (outcome.status === 'fulfilled') expect(stored).toBeDefined();
          else if (!(outcome.reason instanceof DataProtectionError)) throw outcome.reason;
          else if (!LOST.includes(outcome.reason.code)) expect(stored).toBeUndefined();
        }
        const listed: string[] = [];
        try {
          for await (const { key } of storage.list('')) listed.push(key);
          expect(listed.sort()).toEqual([...store.objects.keys()].sort());
        } catch (error) {
          if (!(error instanceof DataProtectionError)) throw error;
        }
        injected += proxy.injected.length;
      }),
      { numRuns: 30 },
    );
    expect(injected).toBeGreaterThan(50);
  });
});
