import { createHash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { type ResilientOptions, resilientStorage } from '../../src/storage/resilient.ts';
import type { ObjectInfo, ObjectStorage, UploadPart } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import { DataProtectionError, StorageError } from '../../src/types/errors.ts';

const HASTE: ResilientOptions = { timing: { ...systemTiming, sleep: async () => undefined } };

function setUp(plan: readonly StorageFault[], options: ResilientOptions = {}) {
  const inner = memoryStorage();
  const faulty = faultyStorage(inner, plan);
  return { inner, faulty, storage: resilientStorage(faulty, { ...HASTE, ...options }) };
}

type Operation = NonNullable<StorageFault['operation']>;

const lost = (operation: Operation, call: number | 'every'): StorageFault => ({
  operation,
  call,
  effect: 'fail',
  when: 'after',
});
const down = (operation: Operation, call: number | 'every', error?: Error): StorageFault => ({
  operation,
  call,
  effect: 'fail',
  when: 'before',
  ...(error && { error }),
});
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const operations = ({ calls }: { calls: readonly { operation: string }[] }) =>
  calls.map(({ operation }) => operation);

describe('a put whose answer was lost', () => {
  it('succeeds when its own bytes are there', async () => {
    const { storage, inner, faulty } = setUp([lost('put', 1)]);
    await storage.put('a', [Buffer.from('one'), Buffer.from('two')]);
    expect(text(await inner.get('a'))).toBe('onetwo');
    expect(operations(faulty)).toEqual(['put', 'put', 'stat', 'get']);
  });

  it('succeeds when its time was up just after it took effect', async () => {
    const { storage, faulty } = setUp([{ operation: 'put', call: 1, effect: 'hang', when: 'after' }], {
      putTimeoutMs: 20,
    });
    await storage.put('a', [Buffer.from('x')]);
    expect(operations(faulty)).toEqual(['put', 'put', 'stat', 'get']);
  });

  it.each(['STORAGE_THROTTLED', 'STORAGE_NOT_MOUNTED', 'STORAGE_CORRUPT', 'STORAGE_UNTRUSTED'] as const)(
    'succeeds when its own bytes are there after %s',
    async (code) => {
      const error = new StorageError('Answered too late.', code, { retryable: true });
      const { storage, inner } = setUp([{ operation: 'put', call: 1, effect: 'fail', when: 'after', error }]);
      await storage.put('a', [Buffer.from('x')]);
      expect(text(await inner.get('a'))).toBe('x');
      await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
        code: 'STORAGE_ALREADY_EXISTS',
      });
    },
  );

  it.each([0, 1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 20 * 1024 * 1024])(
    'recognizes %i bytes in pieces of any size',
    async (size) => {
      const whole = randomBytes(size);
      const pieces = [];
      for (let offset = 0, length = 1; offset < size; offset += length, length = (length * 7) % 9_999_991) {
        pieces.push(whole.subarray(offset, Math.min(size, offset + length)), new Uint8Array());
      }
      const { storage, inner } = setUp([lost('put', 1)]);
      await storage.put('a', pieces);
      expect(Buffer.compare(await inner.get('a'), whole)).toBe(0);
    },
  );

  it.each([
    ['other bytes of the same size', 'theirs', 'ours!!'],
    ['another size', 'theirs', 'ours'],
    ['a difference in the last byte', 'same-', 'same+'],
  ])('is refused when the key holds %s', async (_, theirs, ours) => {
    const { storage, inner } = setUp([down('put', 1)]);
    await inner.put('a', [Buffer.from(theirs)]);
    await expect(storage.put('a', [Buffer.from(ours)])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(text(await inner.get('a'))).toBe(theirs);
  });

  it('succeeds when the last attempt stored it, though the breaker has opened', async () => {
    const { storage, inner } = setUp([...[1, 2, 3, 4].map((call) => down('put', call)), lost('put', 5)]);
    await storage.put('a', [Buffer.from('x')]);
    expect(text(await inner.get('a'))).toBe('x');
    expect(storage.health().state).toBe('OPEN');
  });

  it('rejects with the ambiguous error when nothing is there after all', async () => {
    const { storage, inner, faulty } = setUp([down('put', 'every')]);
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(await inner.stat('a')).toBeUndefined();
    expect(operations(faulty)).toEqual(['put', 'put', 'put', 'put', 'put', 'stat']);
  });

  it.each(['stat', 'get'] as const)('rejects with the ambiguous error when its %s fails', async (look) => {
    const { storage, faulty } = setUp([lost('put', 1), down(look, 'every')]);
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
      message: expect.stringContaining('put number 1'),
    });
    expect(operations(faulty).filter((operation) => operation === look)).toHaveLength(5);
  });

  it('rejects with the ambiguous error when the object cannot be read for hours, or is read short', async () => {
    const archived = new StorageError('Frozen.', 'OBJECT_ARCHIVED');
    for (const fault of [
      down('get', 'every', archived),
      { operation: 'get', call: 'every', effect: 'cut', length: 1 } as const,
    ]) {
      const { storage } = setUp([lost('put', 1), fault]);
      await expect(storage.put('a', [Buffer.from('xyz')])).rejects.toMatchObject({
        code: 'STORAGE_UNAVAILABLE',
      });
    }
  });

  it('is compared too when a definite error followed', async () => {
    const { storage } = setUp([lost('put', 1), down('put', 2, new StorageError('No.', 'STORAGE_DENIED'))]);
    await storage.put('a', [Buffer.from('x')]);
    const none = setUp([down('put', 1), down('put', 2, new StorageError('No.', 'STORAGE_DENIED'))]);
    await expect(none.storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
  });

  it('rejects with the reason when the caller aborts while it looks', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const { storage } = setUp([
      lost('put', 1),
      { operation: 'stat', call: 1, effect: 'hang', when: 'before' },
    ]);
    setTimeout(() => controller.abort(reason), 20);
    await expect(storage.put('a', [Buffer.from('x')], { signal: controller.signal })).rejects.toBe(reason);
  });
});

describe('a put that was answered', () => {
  it('is never compared when the first answer is that the key is taken, by the same bytes too', async () => {
    const { storage, inner, faulty } = setUp([]);
    await inner.put('a', [Buffer.from('x')]);
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(operations(faulty)).toEqual(['put']);
  });

  it('is not compared after an attempt that was refused for certain', async () => {
    const full = new StorageError('No space.', 'STORAGE_FULL');
    const { storage, inner, faulty } = setUp([down('put', 1, full)]);
    await inner.put('a', [Buffer.from('x')]);
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(operations(faulty)).toEqual(['put', 'put']);
  });
});

describe('uploads', () => {
  const piece = randomBytes(1_000);
  const part: UploadPart = {
    number: 1,
    size: 1_000,
    digest: createHash('sha256').update(piece).digest('hex'),
  };

  it.each(['begin', 'putPart', 'parts', 'abort'] as const)('repeats %s', async (operation) => {
    const { storage, inner, faulty } = setUp([lost(operation, 1)]);
    const handle = (await storage.uploads?.begin('a')) ?? '';
    await storage.uploads?.putPart(handle, part, piece);
    expect(await storage.uploads?.parts(handle)).toEqual([part]);
    await storage.uploads?.abort(handle);
    await expect(inner.uploads?.parts(handle)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
    expect(operations(faulty).filter((name) => name === operation)).toHaveLength(2);
  });

  it('takes a complete whose answer was lost for done when the parts are there', async () => {
    const { storage, inner } = setUp([lost('complete', 1)]);
    const handle = (await storage.uploads?.begin('a')) ?? '';
    await storage.uploads?.putPart(handle, part, piece);
    await storage.uploads?.complete(handle, [part]);
    expect(Buffer.compare(await inner.get('a'), piece)).toBe(0);
  });

  it('refuses a complete when another object took the key', async () => {
    const { storage, inner } = setUp([down('complete', 1)]);
    const handle = (await storage.uploads?.begin('a')) ?? '';
    await storage.uploads?.putPart(handle, part, piece);
    await inner.put('a', [randomBytes(1_000)]);
    await expect(storage.uploads?.complete(handle, [part])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
  });

  it('does not claim to know where another process began the upload', async () => {
    const { storage, inner } = setUp([lost('complete', 1)]);
    const handle = (await inner.uploads?.begin('a')) ?? '';
    await storage.uploads?.putPart(handle, part, piece);
    await expect(storage.uploads?.complete(handle, [part])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
  });
});

describe('list', () => {
  /** Gives so many objects of `keys` in the given order, then fails; n-th call, n-th order. */
  function listing(walks: readonly { readonly order: readonly string[]; readonly failsAfter?: number }[]) {
    let calls = 0;
    const storage: ObjectStorage = {
      ...memoryStorage(),
      async *list() {
        const walk = walks[Math.min(calls, walks.length - 1)];
        calls += 1;
        for (const [index, key] of (walk?.order ?? []).entries()) {
          if (index === walk?.failsAfter) throw new StorageError('Cut.', 'STORAGE_UNAVAILABLE');
          yield { key, size: 1, modifiedAt: new Date(0) };
        }
        if (walk?.failsAfter === walk?.order.length) throw new StorageError('Cut.', 'STORAGE_UNAVAILABLE');
      },
    };
    return { storage, calls: () => calls };
  }

  async function walked(list: AsyncIterable<ObjectInfo>) {
    const keys: string[] = [];
    try {
      for await (const { key } of list) keys.push(key);
      return { keys, error: undefined };
    } catch (error) {
      return { keys, error };
    }
  }

  it('goes on where it failed, in any order, and gives each once', async () => {
    const { storage, calls } = listing([
      { order: ['a', 'b', 'c', 'd'], failsAfter: 2 },
      { order: ['d', 'c', 'b', 'a'], failsAfter: 0 },
      { order: ['c', 'a', 'd', 'b'], failsAfter: 3 },
      { order: ['b', 'd', 'a', 'c', 'e'] },
    ]);
    const { keys, error } = await walked(resilientStorage(storage, HASTE).list(''));
    expect(error).toBeUndefined();
    expect(keys).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(calls()).toBe(4);
  });

  it('never ends as if it were whole', async () => {
    const { storage, calls } = listing([{ order: ['a', 'b', 'c'], failsAfter: 3 }]);
    const { keys, error } = await walked(resilientStorage(storage, HASTE).list(''));
    expect(keys).toEqual(['a', 'b', 'c']);
    expect(error).toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(calls()).toBe(5);
  });

  it('remembers so many keys; one that fails beyond them rejects, and none is given twice', async () => {
    const order = ['a', 'b', 'c', 'd', 'e'];
    const within = listing([{ order, failsAfter: 3 }, { order: [...order].reverse() }]);
    const first = await walked(resilientStorage(within.storage, { ...HASTE, rememberedKeys: 3 }).list(''));
    expect(first).toEqual({ keys: ['a', 'b', 'c', 'e', 'd'], error: undefined });
    const beyond = listing([{ order, failsAfter: 4 }, { order }]);
    const second = await walked(resilientStorage(beyond.storage, { ...HASTE, rememberedKeys: 3 }).list(''));
    expect(second).toMatchObject({ keys: ['a', 'b', 'c', 'd'], error: { code: 'STORAGE_UNAVAILABLE' } });
    expect(beyond.calls()).toBe(1);
  });
});

describe('any faults', () => {
  const operation = fc.constantFrom('put', 'get', 'stat', 'list', undefined);
  const fault: fc.Arbitrary<StorageFault> = fc
    .record({
      operation,
      call: fc.integer({ min: 1, max: 20 }),
      effect: fc.constantFrom('fail', 'hang', 'delay', 'cut'),
      when: fc.constantFrom('before', 'after'),
      code: fc.constantFrom('STORAGE_UNAVAILABLE', 'STORAGE_THROTTLED', 'STORAGE_DENIED', 'STORAGE_FULL'),
    })
    .map(({ operation: only, call, effect, when, code }): StorageFault => {
      const which = { ...(only && { operation: only }), call };
      if (effect === 'cut') return { ...which, effect, length: 1 };
      if (effect === 'delay') return { ...which, effect, when, milliseconds: 1 };
      if (effect === 'hang') return { ...which, effect, when };
      // Only a lost answer may come after the effect.
      const refusal = code === 'STORAGE_DENIED' || code === 'STORAGE_FULL';
      const error = new StorageError('Injected.', when === 'after' && refusal ? 'STORAGE_UNAVAILABLE' : code);
      return { ...which, effect, when, error };
    });

  it('leave no doubt: what resolved is there whole, what was refused for certain is not, listings are whole', async () => {
    let faults = 0;
    let lostAnswers = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fault, { maxLength: 25, size: 'max' }),
        fc.integer({ min: 1, max: 5 }),
        async (plan, attempts) => {
          const { storage, inner, faulty } = setUp(plan, {
            attempts,
            breakerFailures: 4,
            breakerOpenMs: 0,
            requestTimeoutMs: 4,
            putTimeoutMs: 4,
            getTimeoutMs: 4,
          });
          for (let n = 0; n < 6; n += 1) {
            const key = `object/${n}`;
            const body = Buffer.from(`${n}`.repeat(n));
            const [outcome] = await Promise.allSettled([storage.put(key, [body])]);
            const stored = await inner.get(key).catch(() => undefined);
            if (outcome.status === 'fulfilled') expect(stored && text(stored)).toBe(text(body));
            else if (!(outcome.reason instanceof DataProtectionError)) throw outcome.reason;
            else if (/UNAVAILABLE|THROTTLED/.test(outcome.reason.code)) {
              if (stored !== undefined) expect(text(stored)).toBe(text(body));
            } else expect(stored, outcome.reason.code).toBeUndefined();
          }
          const { list } = storage;
          const keys: string[] = [];
          try {
            for await (const { key } of list('')) keys.push(key);
            const all: string[] = [];
            for await (const { key } of inner.list('')) all.push(key);
            expect(keys.sort()).toEqual(all.sort());
          } catch (error) {
            if (!(error instanceof DataProtectionError)) throw error;
          }
          expect(new Set(keys).size).toBe(keys.length);
          faults += faulty.injected.length;
          lostAnswers += faulty.injected.filter(
            (injected) =>
              injected.call.operation === 'put' &&
              'when' in injected.fault &&
              injected.fault.when === 'after',
          ).length;
        },
      ),
      { numRuns: 300 },
    );
    // A property that injected nothing has shown nothing.
    expect(faults).toBeGreaterThan(100);
    expect(lostAnswers).toBeGreaterThan(10);
  }, 60_000);
});
