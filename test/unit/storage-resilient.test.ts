import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { type ResilientOptions, resilientStorage, type StorageHealth } from '../../src/storage/resilient.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { DataProtectionError, StorageError } from '../../src/types/errors.ts';

/** A clock that only sleeping moves, and the sleeps. */
function simulatedTime(random = 0.5) {
  const sleeps: number[] = [];
  let now = 0;
  return {
    sleeps,
    advance(milliseconds: number) {
      now += milliseconds;
    },
    clock: { now: () => new Date(Date.UTC(2026, 0, 1) + now) },
    timing: {
      now: () => now,
      random: () => random,
      async sleep(milliseconds: number, signal?: AbortSignal) {
        signal?.throwIfAborted();
        sleeps.push(milliseconds);
        now += milliseconds;
      },
    },
  };
}

function setUp(plan: readonly StorageFault[], options: ResilientOptions = {}) {
  const time = simulatedTime();
  const inner = memoryStorage();
  const faulty = faultyStorage(inner, plan);
  const storage = resilientStorage(faulty, { ...time, ...options });
  return { time, inner, faulty, storage };
}

const fail = (call: number | 'every', error?: Error): StorageFault => ({
  call,
  effect: 'fail',
  when: 'before',
  ...(error && { error }),
});
const bytes = (text: string) => [Buffer.from(text)];
const unavailable = new StorageError('Down.', 'STORAGE_UNAVAILABLE');

async function keysOf(storage: ObjectStorage, signal?: AbortSignal): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('', { signal })) keys.push(key);
  return keys;
}

describe('retry', () => {
  it('repeats what is retryable, with full jitter that doubles', async () => {
    const { storage, faulty, time } = setUp([1, 2, 3, 4].map((call) => fail(call)));
    expect(await storage.stat('a')).toBeUndefined();
    expect(faulty.calls).toHaveLength(5);
    expect(time.sleeps).toEqual([250, 500, 1_000, 2_000]);
    expect(storage.health()).toMatchObject({ calls: 1, failures: 4, retries: 4, consecutiveFailures: 0 });
  });

  it('gives up after the last attempt, with its error', async () => {
    const { storage, faulty } = setUp([fail('every')], { breakerFailures: 100 });
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(faulty.calls).toHaveLength(5);
  });

  it('caps the pause', async () => {
    const { storage, time } = setUp([fail('every')], { attempts: 12, breakerFailures: 100 });
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(time.sleeps).toHaveLength(11);
    expect(Math.max(...time.sleeps)).toBe(15_000);
  });

  it.each([
    [7_000, 7_000],
    [3_600_000, 60_000],
    [1, 250],
  ])('waits as long as the provider asks: %i ms become %i', async (retryAfterMs, slept) => {
    const throttled = new StorageError('Slow down.', 'STORAGE_THROTTLED', { retryAfterMs });
    const { storage, time } = setUp([fail(1, throttled)]);
    await storage.put('a', bytes('x'));
    expect(time.sleeps).toEqual([slept]);
  });

  it.each([
    new StorageError('No.', 'STORAGE_DENIED'),
    new StorageError('Gone.', 'STORAGE_NOT_FOUND'),
    new StorageError('Frozen.', 'OBJECT_ARCHIVED'),
    new StorageError('Once.', 'STORAGE_UNAVAILABLE', { retryable: false }),
    new DataProtectionError('Wrong.', 'CONFIGURATION_INVALID'),
    new TypeError('A bug.'),
  ])('does not repeat %s', async (error) => {
    const { storage, faulty } = setUp([fail('every', error)]);
    await expect(storage.get('a')).rejects.toBe(error);
    expect(faulty.calls).toHaveLength(1);
  });

  it('ends a pause at once when the caller aborts, with the reason', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const faulty = faultyStorage(memoryStorage(), [fail('every')]);
    const storage = resilientStorage(faulty, { baseDelayMs: 1e9, maxDelayMs: 1e9 });
    const call = storage.get('a', { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await expect(call).rejects.toBe(reason);
    expect(faulty.calls).toHaveLength(1);
  });
});

it('keeps the process alive while a call waits for its next attempt', () => {
  const program = `
    import { faultyStorage } from './src/storage/faulty.ts';
    import { memoryStorage } from './src/storage/memory.ts';
    import { resilientStorage } from './src/storage/resilient.ts';
    const fault = { operation: 'put', call: 1, effect: 'fail', when: 'before' };
    const storage = resilientStorage(faultyStorage(memoryStorage(), [fault]), { baseDelayMs: 200 });
    storage.put('a', []).then(() => console.log('stored'));
  `;
  const output = execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    encoding: 'utf8',
  });
  expect(output).toBe('stored\n');
});

describe('deadlines', () => {
  it.each(['put', 'get', 'stat', 'delete', 'list'] as const)(
    'cuts a %s that hangs, and tries again',
    async (operation) => {
      const inner = memoryStorage();
      if (operation !== 'put') await inner.put('a', bytes('x'));
      const faulty = faultyStorage(inner, [{ operation, call: 1, effect: 'hang', when: 'before' }]);
      const storage = resilientStorage(faulty, {
        requestTimeoutMs: 20,
        putTimeoutMs: 20,
        getTimeoutMs: 20,
        baseDelayMs: 0,
      });
      if (operation === 'put') await storage.put('a', bytes('x'));
      if (operation === 'get') expect(await storage.get('a')).toHaveLength(1);
      if (operation === 'stat') expect(await storage.stat('a')).toMatchObject({ size: 1 });
      if (operation === 'delete') await storage.delete('a');
      if (operation === 'list') expect(await keysOf(storage)).toEqual(['a']);
      expect((await inner.stat('a')) === undefined).toBe(operation === 'delete');
      expect(faulty.calls.filter((call) => call.operation === operation)).toHaveLength(2);
      expect(storage.health().lastFailure?.code).toBe('STORAGE_UNAVAILABLE');
    },
  );

  it('leaves a call to itself that ignores its abort, and tries again', async () => {
    let calls = 0;
    const deaf: ObjectStorage = {
      ...memoryStorage(),
      put: () => {
        calls += 1;
        return new Promise(() => undefined);
      },
    };
    const storage = resilientStorage(deaf, { putTimeoutMs: 5, settleMs: 5, baseDelayMs: 0, attempts: 2 });
    await expect(storage.put('a', bytes('x'))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(calls).toBe(2);
    const reason = new Error('enough');
    const controller = new AbortController();
    const given = storage.put('a', bytes('x'), { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 1);
    await expect(given).rejects.toBe(reason);
    await expect(storage.put('a', bytes('x'), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(calls).toBe(3);
  });

  it('waits for a put that ends after its abort, so that its body is free afterwards', async () => {
    let ended = 0;
    const slow: ObjectStorage = {
      ...memoryStorage(),
      put: (_key, _body, { signal } = {}) =>
        new Promise((_, reject) => {
          signal?.addEventListener('abort', () => {
            setTimeout(() => {
              ended += 1;
              reject(signal.reason);
            }, 30);
          });
        }),
    };
    const storage = resilientStorage(slow, { putTimeoutMs: 5, baseDelayMs: 0, attempts: 2 });
    await expect(storage.put('a', bytes('x'))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(ended).toBe(2);
  });
});

describe('breaker', () => {
  it('opens after failures in a row, refuses, probes once, and closes', async () => {
    const states: string[] = [];
    const { storage, faulty, time } = setUp(
      [1, 2, 3, 4, 5].map((call) => fail(call)),
      { attempts: 1, onHealthChange: ({ state }) => states.push(state) },
    );
    for (let n = 1; n <= 5; n += 1)
      await expect(storage.stat('a')).rejects.toMatchObject(codeOf(unavailable));
    expect(storage.health()).toMatchObject({ state: 'OPEN', consecutiveFailures: 5 });
    expect(storage.health().openedAt).not.toBeNull();
    time.advance(59_999);
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_CIRCUIT_OPEN' });
    expect(faulty.calls).toHaveLength(5);
    time.advance(1);
    const probe = storage.stat('a');
    await expect(storage.stat('b')).rejects.toMatchObject({ code: 'STORAGE_CIRCUIT_OPEN' });
    await probe;
    expect(faulty.calls).toHaveLength(6);
    expect(storage.health()).toMatchObject({ state: 'CLOSED', consecutiveFailures: 0, openedAt: null });
    expect(new Set(states)).toEqual(new Set(['CLOSED', 'OPEN', 'HALF_OPEN']));
    expect(states.at(-1)).toBe('CLOSED');
  });

  it('opens again when the probe fails, for the whole time', async () => {
    const { storage, faulty, time } = setUp([fail('every')], { attempts: 1 });
    for (let n = 1; n <= 5; n += 1)
      await expect(storage.stat('a')).rejects.toMatchObject(codeOf(unavailable));
    for (let round = 1; round <= 3; round += 1) {
      time.advance(60_000);
      await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      time.advance(59_999);
      await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_CIRCUIT_OPEN' });
      time.advance(-59_999);
    }
    expect(faulty.calls).toHaveLength(8);
  });

  it('is not opened by answers, and is reset by them', async () => {
    const missing = new StorageError('None.', 'STORAGE_NOT_FOUND');
    const denied = new StorageError('No.', 'STORAGE_DENIED');
    const pattern = [unavailable, unavailable, unavailable, unavailable, missing];
    const plan = Array.from({ length: 20 }, (_, n) => fail(n + 1, pattern[n % 5]));
    const { storage } = setUp([...plan, ...[21, 22, 23, 24, 25, 26].map((call) => fail(call, denied))], {
      attempts: 1,
    });
    for (let n = 1; n <= 26; n += 1) await expect(storage.get('a')).rejects.not.toMatchObject(circuitOpen);
    expect(storage.health()).toMatchObject({ state: 'CLOSED', consecutiveFailures: 0 });
  });

  it('is not opened by callers that give up, nor closed by a probe that is aborted', async () => {
    const hang = (call: number): StorageFault => ({ call, effect: 'hang', when: 'before' });
    const { storage, faulty, time } = setUp(
      [...[1, 2, 3, 4, 5, 6].map(hang), ...[7, 8, 9, 10, 11].map((call) => fail(call)), hang(12), fail(13)],
      { attempts: 1 },
    );
    const reason = new Error('enough');
    const aborted = async () => {
      const controller = new AbortController();
      const call = storage.stat('a', { signal: controller.signal });
      // By then it has reached the storage, which hangs.
      setImmediate(() => controller.abort(reason));
      await expect(call).rejects.toBe(reason);
    };
    for (let n = 1; n <= 6; n += 1) await aborted();
    expect(storage.health()).toMatchObject({ state: 'CLOSED', consecutiveFailures: 0, failures: 0 });
    for (let n = 7; n <= 11; n += 1)
      await expect(storage.stat('a')).rejects.toMatchObject(codeOf(unavailable));
    time.advance(60_000);
    await aborted();
    expect(storage.health().state).toBe('OPEN');
    // The next attempt is the probe, at once.
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(storage.stat('a')).rejects.toMatchObject(circuitOpen);
    expect(faulty.calls).toHaveLength(13);
  });

  it('tells what went wrong when it opens in the middle of a call', async () => {
    const { storage, faulty } = setUp([fail('every')], { breakerFailures: 2 });
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(faulty.calls).toHaveLength(2);
    await expect(storage.get('a')).rejects.toMatchObject(circuitOpen);
  });
});

describe('bulkhead', () => {
  it('runs so many at a time, lets so many wait in order, and refuses the rest', async () => {
    const inner = memoryStorage();
    const gate = Promise.withResolvers<void>();
    let running = 0;
    let most = 0;
    const order: string[] = [];
    const slow: ObjectStorage = {
      ...inner,
      async put(key, body) {
        running += 1;
        most = Math.max(most, running);
        order.push(key);
        await gate.promise;
        running -= 1;
        await inner.put(key, body);
      },
    };
    const storage = resilientStorage(slow, { concurrency: 2, queue: 3 });
    const puts = ['a', 'b', 'c', 'd', 'e'].map((key) => storage.put(key, bytes(key)));
    await expect(storage.put('f', bytes('f'))).rejects.toMatchObject({ code: 'STORAGE_BUSY' });
    gate.resolve();
    await Promise.all(puts);
    expect(most).toBe(2);
    expect(order).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(storage.health()).toMatchObject({ failures: 0, consecutiveFailures: 0, state: 'CLOSED' });
  });

  it('lets an aborted call leave the queue at once, and gives its place to another', async () => {
    const gate = Promise.withResolvers<void>();
    const slow: ObjectStorage = { ...memoryStorage(), delete: () => gate.promise };
    const storage = resilientStorage(slow, { concurrency: 1, queue: 1 });
    const first = storage.delete('a');
    const controller = new AbortController();
    const reason = new Error('enough');
    const second = storage.delete('b', { signal: controller.signal });
    await expect(storage.delete('c')).rejects.toMatchObject({ code: 'STORAGE_BUSY' });
    controller.abort(reason);
    await expect(second).rejects.toBe(reason);
    const third = storage.delete('d');
    gate.resolve();
    await Promise.all([first, third]);
  });

  it('does not block who deletes while it lists', async () => {
    const inner = memoryStorage();
    for (const key of ['a', 'b', 'c']) await inner.put(key, []);
    const storage = resilientStorage(inner, { concurrency: 1, queue: 0 });
    for await (const { key } of storage.list('')) await storage.delete(key);
    expect(await keysOf(inner)).toEqual([]);
  });
});

describe('health', () => {
  it('tells what happened and when', async () => {
    const changes: StorageHealth[] = [];
    const { storage } = setUp([fail(2)], { onHealthChange: (health) => changes.push(health) });
    expect(storage.health()).toEqual({
      description: 'faulty(MEMORY)',
      state: 'CLOSED',
      consecutiveFailures: 0,
      calls: 0,
      failures: 0,
      retries: 0,
      lastFailure: null,
      lastSuccessAt: null,
      latencyMs: null,
      openedAt: null,
    });
    await storage.put('a', bytes('x'));
    await storage.get('a');
    expect(storage.health()).toMatchObject({
      calls: 2,
      failures: 1,
      retries: 1,
      lastFailure: { code: 'STORAGE_UNAVAILABLE', at: '2026-01-01T00:00:00.000Z' },
      lastSuccessAt: '2026-01-01T00:00:00.250Z',
      latencyMs: 0,
    });
    expect(changes.map(({ consecutiveFailures }) => consecutiveFailures)).toEqual([1, 0]);
  });

  it('shows a provider that refuses, though the breaker stays closed', async () => {
    const { storage } = setUp([fail(1, new StorageError('No.', 'STORAGE_DENIED'))]);
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    expect(storage.health()).toMatchObject({ failures: 1, lastFailure: { code: 'STORAGE_DENIED' } });
  });

  it('does not let a listener that throws disturb the storage', async () => {
    const { storage } = setUp([fail(1)], {
      onHealthChange: () => {
        throw new Error('a listener’s bug');
      },
    });
    const warnings: string[] = [];
    const hear = (warning: Error) => warnings.push(warning.message);
    process.on('warning', hear);
    await storage.put('a', bytes('x'));
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', hear);
    expect(warnings.join()).toContain('a listener’s bug');
  });
});

describe('options and facets', () => {
  it.each([
    { attempts: 0 },
    { attempts: 1.5 },
    { concurrency: 0 },
    { queue: -1 },
    { putTimeoutMs: 0 },
    { baseDelayMs: Number.NaN },
  ])('refuses %j', (options) => {
    expect(() => resilientStorage(memoryStorage(), options)).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
    );
  });

  it('has the facets that the storage has, and retries them', async () => {
    const inner = memoryStorage();
    const { uploads, ...bare } = inner;
    expect(uploads).toBeDefined();
    const plain = resilientStorage(bare);
    for (const facet of ['uploads', 'tiers', 'retention', 'copies', 'close'] as const) {
      expect(facet in plain, facet).toBe(false);
    }
    const asked: string[] = [];
    const once = async <T>(name: string, answer: T): Promise<T> => {
      asked.push(name);
      if (asked.filter((other) => other === name).length === 1) throw unavailable;
      return answer;
    };
    const { timing } = simulatedTime();
    const copies: ObjectStorage['copies'] = [];
    const storage = resilientStorage(
      {
        ...bare,
        tiers: {
          state: () => once('tier', 'READABLE' as const),
          thaw: (key, { days }) => once(`thaw ${key} ${days}`, undefined),
        },
        retention: {
          retain: (key, until) => once(`retain ${key} ${until.toISOString()}`, undefined),
          hold: (key, state) => once(`hold ${key} ${state}`, undefined),
          state: () => once('retention', { retainUntil: null, legalHold: true, versionId: 'v' }),
        },
        copies,
        close: async () => {
          asked.push('close');
        },
      },
      { timing },
    );
    expect(await storage.tiers?.state('a')).toBe('READABLE');
    await storage.tiers?.thaw('a', { days: 3 });
    await storage.retention?.retain('a', new Date(0));
    await storage.retention?.hold('a', 'ON');
    expect(await storage.retention?.state('a')).toEqual({
      retainUntil: null,
      legalHold: true,
      versionId: 'v',
    });
    expect(storage.copies).toBe(copies);
    await storage.close?.();
    expect(asked).toEqual([
      ...['tier', 'tier', 'thaw a 3', 'thaw a 3'],
      ...['retain a 1970-01-01T00:00:00.000Z', 'retain a 1970-01-01T00:00:00.000Z'],
      ...['hold a ON', 'hold a ON', 'retention', 'retention', 'close'],
    ]);
  });
});

const circuitOpen = { code: 'STORAGE_CIRCUIT_OPEN', retryable: true };

function codeOf({ code }: StorageError) {
  return { code };
}
