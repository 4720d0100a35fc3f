import { createHash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type ResilientOptions, resilientStorage } from '../../src/storage/resilient.ts';
import { s3Storage } from '../../src/storage/s3.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import { DataProtectionError } from '../../src/types/errors.ts';
import { type FakeS3, startFakeS3 } from '../harness/fake-s3.ts';
import {
  type HttpFault,
  type HttpFaultProxy,
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

let store: TinyObjectStore;
let proxy: HttpFaultProxy;

beforeAll(async () => {
  store = await tinyObjectStore();
  proxy = await httpFaultProxy({ port: store.port });
});

afterAll(async () => {
  await proxy.close();
  await store.close();
});

beforeEach(() => {
  store.clear();
  proxy.plan([]);
});

/** Pauses are noted instead of waited for; the clock of the breaker moves by hand. */
function throughProxy(options: ResilientOptions = {}) {
  const sleeps: number[] = [];
  const time = { now: 0 };
  const timing = {
    ...systemTiming,
    now: () => time.now,
    sleep: async (milliseconds: number) => void sleeps.push(milliseconds),
  };
  const limits = { requestTimeoutMs: 300, putTimeoutMs: 300, getTimeoutMs: 300, attempts: ATTEMPTS };
  const storage = resilientStorage(tinyStorage(proxy.url), { ...limits, timing, ...options });
  return { storage, sleeps, time };
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
  it.each(Object.entries(FAULTS))(
    '%s, at each request in turn, changes nothing',
    { timeout: 60_000 },
    async (_, fault) => {
      const sound = await program(throughProxy().storage);
      const requests = proxy.requests.length;
      expect(requests).toBe(12);
      const after = [...store.objects].map(([key, body]) => `${key} ${digest(body)}`);
      let injected = 0;
      for (let n = 1; n <= requests; n += 1) {
        store.clear();
        proxy.plan([{ request: n, fault }]);
        expect(await program(throughProxy().storage), `request ${n}`).toEqual(sound);
        expect(
          [...store.objects].map(([key, body]) => `${key} ${digest(body)}`),
          `request ${n}`,
        ).toEqual(after);
        // The one more, a listing from its start, and a look at what an ambiguous put has stored.
        expect(proxy.requests.length).toBeLessThanOrEqual(requests + 4);
        injected += proxy.injected.length;
      }
      expect(injected).toBe(requests);
    },
  );

  it('waits as long as the provider asks', async () => {
    proxy.plan([{ request: 1, fault: { effect: 'ANSWER', status: 429, headers: { 'retry-after': '7' } } }]);
    const { storage, sleeps } = throughProxy();
    await storage.put('a', [Buffer.from('x')]);
    expect(sleeps).toEqual([7_000]);
  });

  it('outlasts a slow connection', async () => {
    proxy.plan([{ request: 'every', fault: { effect: 'SLOW', bytesPerSecond: 200_000 } }]);
    const { storage } = throughProxy({ putTimeoutMs: 10_000, getTimeoutMs: 10_000 });
    const body = randomBytes(50_000);
    await storage.put('a', [body]);
    expect(digest(await storage.get('a'))).toBe(digest(body));
    expect(proxy.requests).toHaveLength(2);
  });
});

describe('a fault that stays', () => {
  const writes: HttpFaultRule['only'] = ({ method }) => method === 'PUT';

  it.each(Object.entries(FAULTS))('%s: puts are bounded, and their outcome is true', async (_, fault) => {
    proxy.plan([{ only: writes, request: 'every', fault }]);
    const { storage } = throughProxy();
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
      store.clear();
      proxy.plan([{ request: 'every', fault }]);
      const { storage } = throughProxy();
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
    const { storage, time } = throughProxy();
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

describe('connections', () => {
  it.each<[string, TcpFault]>([
    ['reset', { effect: 'RESET' }],
    ['stalled', { effect: 'STALL' }],
    ['cut in the request', { effect: 'CUT', direction: 'TO_SERVER', afterBytes: 5_000 }],
    ['cut in the answer', { effect: 'CUT', direction: 'TO_CLIENT', afterBytes: 20 }],
  ])('that are %s at first lose nothing', async (_, fault) => {
    const tcp = await tcpFaultProxy({ port: store.port });
    tcp.plan((connection) => (connection <= 3 ? fault : undefined));
    const storage = resilientStorage(tinyStorage(`http://127.0.0.1:${tcp.port}`), {
      putTimeoutMs: 300,
      getTimeoutMs: 300,
      requestTimeoutMs: 300,
      timing: { ...systemTiming, sleep: async () => undefined },
    });
    const body = randomBytes(70_000);
    await storage.put('a', [body]);
    expect(digest(store.objects.get('a') ?? Buffer.alloc(0))).toBe(digest(body));
    expect(digest(await storage.get('a'))).toBe(digest(body));
    expect(tcp.injected()).toBe(3);
    await tcp.close();
  });
});

describe('S3', () => {
  let fake: FakeS3;
  let before: HttpFaultProxy;
  const open = (endpoint: string) =>
    s3Storage({
      bucket: fake.bucketName,
      endpoint,
      region: fake.region,
      credentials: async () => ({ ...fake.keys }),
    });

  async function stateOf(storage: ObjectStorage): Promise<string[]> {
    const state: string[] = [];
    for await (const { key } of storage.list('')) state.push(`${key} ${digest(await storage.get(key))}`);
    return state.sort();
  }

  async function empty(storage: ObjectStorage): Promise<void> {
    for await (const { key } of storage.list('')) await storage.delete(key);
  }

  beforeAll(async () => {
    fake = await startFakeS3();
    before = await httpFaultProxy({ port: Number(new URL(fake.endpoint).port) });
    // Loads the SDK, which takes longer than the time limits of the test.
    const storage = open(fake.endpoint);
    await storage.stat('a');
    await storage.close?.();
  });

  afterAll(async () => {
    await before.close();
    await fake.close();
  });

  it.each(Object.entries(FAULTS))(
    '%s, at some requests in turn, changes nothing',
    { timeout: 60_000 },
    async (_, fault) => {
      const direct = open(fake.endpoint);
      /** What it finds out about the bucket once, it has found out. */
      const through = async () => {
        const inner = open(before.url);
        before.plan([]);
        await inner.put('warm', []);
        await inner.stat('none');
        await inner.delete('warm');
        const limits = { requestTimeoutMs: 500, putTimeoutMs: 500, getTimeoutMs: 500, settleMs: 50 };
        const timing = { ...systemTiming, sleep: async () => undefined };
        return resilientStorage(inner, { ...limits, timing });
      };
      await empty(direct);
      const first = await through();
      before.plan([]);
      const sound = await program(first);
      await first.close?.();
      const after = await stateOf(direct);
      const requests = before.requests.length;
      let injected = 0;
      for (let n = 1; n <= requests; n += 2) {
        await empty(direct);
        const storage = await through();
        before.plan([{ request: n, fault }]);
        expect(await program(storage), `request ${n}`).toEqual(sound);
        await storage.close?.();
        expect(await stateOf(direct), `request ${n}`).toEqual(after);
        expect(before.requests.length).toBeLessThanOrEqual(requests + 2 * ATTEMPTS);
        injected += before.injected.length;
      }
      expect(injected).toBe(Math.ceil(requests / 2));
      await direct.close?.();
    },
  );
});

describe('any faults', () => {
  it('leave no doubt about what is stored', { timeout: 120_000 }, async () => {
    const fault = fc.constantFrom(...Object.values(FAULTS).filter(({ effect }) => effect !== 'STALL'));
    let injected = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.option(fault), { maxLength: 40, size: 'max' }), async (faults) => {
        store.clear();
        proxy.plan(faults.flatMap((each, n) => (each === null ? [] : [{ request: n + 1, fault: each }])));
        const { storage } = throughProxy({
          breakerOpenMs: 0,
          requestTimeoutMs: 10_000,
          putTimeoutMs: 10_000,
        });
        for (const [key, body] of Object.entries(BODIES)) {
          const [outcome] = await Promise.allSettled([storage.put(key, [body])]);
          const stored = store.objects.get(key);
          if (stored !== undefined) expect(digest(stored)).toBe(digest(body));
          if (outcome.status === 'fulfilled') expect(stored).toBeDefined();
          else if (!(outcome.reason instanceof DataProtectionError)) throw outcome.reason;
          else if (outcome.reason.code !== 'STORAGE_UNAVAILABLE') expect(stored).toBeUndefined();
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
