import { describe, expect, it } from 'vitest';
import { memoryStorage } from '../../src/storage/memory.ts';
import { resilientStorage } from '../../src/storage/resilient.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { StorageError } from '../../src/types/errors.ts';

/** Time that moves only when everybody waits: the sleeper who wakes first moves it. */
function simulatedTime() {
  let now = 0;
  const sleepers: { until: number; wake: () => void }[] = [];
  return {
    now: () => now,
    timing: {
      now: () => now,
      random: () => 0,
      sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
        return new Promise((resolve, reject) => {
          const sleeper = { until: now + milliseconds, wake: resolve };
          sleepers.push(sleeper);
          signal?.addEventListener('abort', () => {
            sleepers.splice(sleepers.indexOf(sleeper), 1);
            reject(signal.reason);
          });
        });
      },
    },
    /** Runs until nobody sleeps any more. */
    async run(): Promise<void> {
      for (;;) {
        await new Promise((resolve) => setImmediate(resolve));
        const next = sleepers.sort((a, b) => a.until - b.until).shift();
        if (next === undefined) return;
        now = next.until;
        next.wake();
      }
    },
  };
}

/** Memory that notes when each call reached it. */
function noted(now: () => number): { storage: ObjectStorage; at: [string, number][] } {
  const inner = memoryStorage();
  const at: [string, number][] = [];
  const noting = <T>(name: string, answer: () => T): T => {
    at.push([name, now()]);
    return answer();
  };
  return {
    at,
    storage: {
      ...inner,
      put: (key, body, call) => noting(key, () => inner.put(key, body, call)),
      stat: (key, call) => noting(key, () => inner.stat(key, call)),
      delete: (key, call) => noting(key, () => inner.delete(key, call)),
    },
  };
}

describe('rates of resilientStorage', () => {
  it('lets a second’s worth of requests through at once, and then the rate, in order', async () => {
    const time = simulatedTime();
    const { storage: inner, at } = noted(time.now);
    const storage = resilientStorage(inner, { requestsPerSecond: 2, timing: time.timing });
    const calls = ['a', 'b', 'c', 'd', 'e', 'f'].map((key) => storage.stat(key));
    await time.run();
    await Promise.all(calls);
    expect(at).toEqual([
      ['a', 0],
      ['b', 0],
      ['c', 500],
      ['d', 1_000],
      ['e', 1_500],
      ['f', 2_000],
    ]);
  });

  it('serves who came first, also when the next would need less', async () => {
    const time = simulatedTime();
    const { storage: inner, at } = noted(time.now);
    const storage = resilientStorage(inner, { bytesPerSecond: 1_000, timing: time.timing });
    const calls = [1_000, 900, 1].map((size, n) => storage.put(`${n}`, [Buffer.alloc(size)]));
    await time.run();
    await Promise.all(calls);
    expect(at).toEqual([
      ['0', 0],
      ['1', 900],
      ['2', 901],
    ]);
  });

  it('takes a body larger than a second’s worth when the bucket is full, and lets the next pay', async () => {
    const time = simulatedTime();
    const { storage: inner, at } = noted(time.now);
    const storage = resilientStorage(inner, { bytesPerSecond: 100, timing: time.timing });
    const calls = [350, 50].map((size, n) => storage.put(`${n}`, [Buffer.alloc(size)]));
    await time.run();
    await Promise.all(calls);
    expect(at).toEqual([
      ['0', 0],
      ['1', 3_000],
    ]);
  });

  it('counts what is got, and parts of uploads, against the same rate', async () => {
    const time = simulatedTime();
    const inner = memoryStorage();
    await inner.put('a', [Buffer.alloc(100)]);
    const storage = resilientStorage(inner, { bytesPerSecond: 100, timing: time.timing });
    const answered: [string, number][] = [];
    const get = (name: string) => storage.get('a').then(() => answered.push([name, time.now()]));
    const calls: Promise<unknown>[] = [get('first'), get('second')];
    const handle = (await inner.uploads?.begin('b')) ?? '';
    const body = Buffer.alloc(50);
    const digest = 'cc2786e1f9910a9d811400edcddaf7075195f7a16b216dcbefba3bc7c4f2ae51';
    const part = { number: 1, size: 50, digest };
    const sent = storage.uploads?.putPart(handle, part, body).then(() => answered.push(['part', time.now()]));
    await time.run();
    await Promise.all([...calls, sent]);
    expect(answered.map(([name]) => name).sort()).toEqual(['first', 'part', 'second']);
    expect(Math.max(...answered.map(([, at]) => at))).toBe(1_500);
  });

  it('ends a wait at once when it is aborted, whether it is next or further behind, and takes nothing', async () => {
    const time = simulatedTime();
    const { storage: inner, at } = noted(time.now);
    const storage = resilientStorage(inner, { requestsPerSecond: 1, timing: time.timing });
    const reason = new Error('enough');
    const next = new AbortController();
    const behind = new AbortController();
    const calls = [
      storage.stat('a'),
      storage.stat('b', { signal: next.signal }),
      storage.stat('c', { signal: behind.signal }),
      storage.stat('d'),
    ];
    const [, b, c] = calls;
    await new Promise((resolve) => setImmediate(resolve));
    behind.abort(reason);
    await expect(c).rejects.toBe(reason);
    next.abort(reason);
    await expect(b).rejects.toBe(reason);
    await time.run();
    await Promise.allSettled(calls);
    expect(at).toEqual([
      ['a', 0],
      ['d', 1_000],
    ]);
    await expect(storage.stat('e', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  it('does not save up more than a second’s worth', async () => {
    const time = simulatedTime();
    const { storage: inner, at } = noted(time.now);
    const storage = resilientStorage(inner, { requestsPerSecond: 2, timing: time.timing });
    const idle = time.timing.sleep(3_600_000);
    await time.run();
    await idle;
    const calls = ['a', 'b', 'c'].map((key) => storage.delete(key));
    await time.run();
    await Promise.all(calls);
    expect(at.map(([, when]) => when - 3_600_000)).toEqual([0, 0, 500]);
  });

  it('takes one request for every 1,000 objects of a listing', async () => {
    const time = simulatedTime();
    const inner = memoryStorage();
    for (let n = 0; n < 2_500; n += 1) await inner.put(`k/${n}`, []);
    const storage = resilientStorage(inner, { requestsPerSecond: 1, timing: time.timing });
    let listed = 0;
    const walk = (async () => {
      for await (const { size } of storage.list('')) listed += 1 + size;
    })();
    await time.run();
    await walk;
    expect(listed).toBe(2_500);
    expect(time.now()).toBe(2_000);
  });

  it('counts its own waits in no time limit, and blames nobody for them', async () => {
    const storage = resilientStorage(memoryStorage(), {
      requestsPerSecond: 20,
      bytesPerSecond: 10_000,
      requestTimeoutMs: 50,
      putTimeoutMs: 50,
      getTimeoutMs: 50,
      attempts: 1,
      breakerFailures: 1,
    });
    await storage.put('a', [Buffer.alloc(10_000)]);
    const stats = Array.from({ length: 25 }, () => storage.stat('a'));
    await Promise.all([...stats, storage.put('b', [Buffer.alloc(2_000)])]);
    expect(await storage.get('b')).toHaveLength(2_000);
    expect(storage.health()).toMatchObject({ state: 'CLOSED', consecutiveFailures: 0, failures: 0 });
  });

  it('is refused by an open breaker without a wait', async () => {
    const time = simulatedTime();
    const down = async () => {
      throw new StorageError('Down.', 'STORAGE_UNAVAILABLE');
    };
    const storage = resilientStorage(
      { ...memoryStorage(), stat: down },
      { requestsPerSecond: 1, attempts: 1, breakerFailures: 1, timing: time.timing },
    );
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_CIRCUIT_OPEN' });
    expect(time.now()).toBe(0);
  });

  it('lets everything through where no rate is set', async () => {
    const time = simulatedTime();
    const storage = resilientStorage(memoryStorage(), { timing: time.timing });
    await storage.put('a', [Buffer.alloc(1_000_000)]);
    expect(await storage.get('a')).toHaveLength(1_000_000);
    expect(time.now()).toBe(0);
  });

  it.each([
    { requestsPerSecond: 0 },
    { requestsPerSecond: -1 },
    { bytesPerSecond: Number.NaN },
    { bytesPerSecond: Number.POSITIVE_INFINITY },
  ])('refuses %j', (options) => {
    expect(() => resilientStorage(memoryStorage(), options)).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
    );
  });
});
