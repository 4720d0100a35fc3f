import { describe, expect, test } from 'vitest';
import { healedKey, readChecked } from '../../src/service/copies.ts';
import { faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { multiStorage } from '../../src/storage/multi.ts';
import { prefixed } from '../../src/storage/prefixed.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { ArchiveError, StorageError } from '../../src/types/errors.ts';

const bytes = (text: string): Buffer => Buffer.from(text);
const text = (found: Uint8Array): string => Buffer.from(found).toString();
const DOWN: StorageFault = { call: 'every', effect: 'fail', when: 'before' };

const multi = (minimumConfirmations: number, ...copies: ObjectStorage[]) =>
  multiStorage({ copies, minimumConfirmations });

async function has(storage: ObjectStorage, key: string): Promise<string | undefined> {
  return (await storage.stat(key)) && text(await storage.get(key));
}

async function listed(storage: ObjectStorage): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('')) keys.push(key);
  return keys.sort();
}

test('fewer than two stores, or confirmations that cannot be, are refused', () => {
  const [one, two] = [memoryStorage(), memoryStorage()];
  for (const options of [
    { copies: [one], minimumConfirmations: 1 },
    { copies: [one, two], minimumConfirmations: 0 },
    { copies: [one, two], minimumConfirmations: 3 },
  ]) {
    expect(() => multiStorage(options)).toThrow(expect.objectContaining({ code: 'CONFIGURATION_INVALID' }));
  }
});

describe('put', () => {
  test('goes to as many stores as must have it, the first ones', async () => {
    for (const needed of [1, 2, 3]) {
      const stores = [memoryStorage(), memoryStorage(), memoryStorage()];
      await multi(needed, ...stores).put('a', [bytes('x')]);
      const found = await Promise.all(stores.map((store) => has(store, 'a')));
      expect(found.filter((value) => value === 'x')).toHaveLength(needed);
      expect(found[0]).toBe('x');
    }
  });

  test('passes over a store that is down', async () => {
    for (const dead of [0, 1, 2]) {
      const sound = [memoryStorage(), memoryStorage(), memoryStorage()];
      const stores = sound.map((store, index) => (index === dead ? faultyStorage(store, [DOWN]) : store));
      await multi(2, ...stores).put('a', [bytes('x')]);
      for (const [index, store] of sound.entries()) {
        expect(await has(store, 'a')).toBe(index === dead ? undefined : 'x');
      }
    }
  });

  test('rejects where too few take it, with what the stores said', async () => {
    const full = new StorageError('full', 'STORAGE_FULL');
    const dead = () => faultyStorage(memoryStorage(), [{ ...DOWN, error: full }]);
    await expect(multi(1, dead(), dead()).put('a', [])).rejects.toBe(full);
    await expect(multi(2, memoryStorage(), dead()).put('a', [])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
      cause: full,
      message: expect.stringContaining('1 of 2 stores'),
    });
  });

  test('counts a store whose answer was lost', async () => {
    const lost: StorageFault = { operation: 'put', call: 'every', effect: 'fail', when: 'after' };
    await multi(2, faultyStorage(memoryStorage(), [lost]), memoryStorage()).put('a', [bytes('x')]);
    await multi(2, memoryStorage(), faultyStorage(memoryStorage(), [lost])).put('a', [bytes('x')]);
    await multi(1, faultyStorage(memoryStorage(), [lost]), faultyStorage(memoryStorage(), [lost])).put('a', [
      bytes('x'),
    ]);
  });

  test('does not count a store where somebody else was first', async () => {
    const [one, two] = [memoryStorage(), memoryStorage()];
    await two.put('a', [bytes('other')]);
    await expect(multi(2, one, two).put('a', [bytes('x')])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    expect(await has(two, 'a')).toBe('other');
  });

  test('the first store that answers says whether the key is taken', async () => {
    const [one, two] = [memoryStorage(), memoryStorage()];
    await one.put('a', [bytes('other')]);
    await expect(multi(1, one, two).put('a', [bytes('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(await has(two, 'a')).toBeUndefined();
    const away = faultyStorage(one, [DOWN]);
    await multi(1, away, two).put('a', [bytes('x')]);
    expect(await has(two, 'a')).toBe('x');
  });

  test('of two writers who race, exactly one wins, wherever its object lies', async () => {
    for (let round = 0; round < 20; round += 1) {
      const storage = multi(1 + (round % 2), memoryStorage(), memoryStorage());
      const outcomes = await Promise.allSettled([
        storage.put('a', [bytes('one')]),
        storage.put('a', [bytes('two')]),
      ]);
      expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      const winner = outcomes[0].status === 'fulfilled' ? 'one' : 'two';
      expect(text(await storage.get('a'))).toBe(winner);
    }
  });

  test('stops at an abort, and asks no other store', async () => {
    const stop = new AbortController();
    const hung = faultyStorage(memoryStorage(), [
      { operation: 'put', call: 1, effect: 'hang', when: 'before' },
    ]);
    const second = faultyStorage(memoryStorage(), []);
    const putting = multi(1, hung, second).put('a', [bytes('x')], { signal: stop.signal });
    const reason = new Error('enough');
    stop.abort(reason);
    await expect(putting).rejects.toBe(reason);
    expect(second.calls).toHaveLength(0);
  });
});

describe('reading', () => {
  test('falls over to a store that answers, or has it', async () => {
    for (const first of [faultyStorage(memoryStorage(), [DOWN]), memoryStorage()]) {
      const second = memoryStorage();
      await second.put('a', [bytes('x')]);
      for (const stores of [
        [first, second],
        [second, first],
      ]) {
        const storage = multi(1, ...stores);
        expect(text(await storage.get('a'))).toBe('x');
        expect(await storage.stat('a')).toMatchObject({ size: 1 });
        expect(await listed(storage)).toEqual(['a']);
      }
    }
  });

  test('says that it does not know where a silent store may have it', async () => {
    const storage = multi(1, memoryStorage(), faultyStorage(memoryStorage(), [DOWN]));
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(storage.stat('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    const empty = multi(1, memoryStorage(), memoryStorage());
    await expect(empty.get('a')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
    expect(await empty.stat('a')).toBeUndefined();
  });

  test('a listing gives each object once, and fails where no store answers', async () => {
    const [one, two] = [memoryStorage(), memoryStorage()];
    for (const key of ['a', 'b']) await one.put(key, []);
    for (const key of ['b', 'c']) await two.put(key, []);
    expect(await listed(multi(1, one, two))).toEqual(['a', 'b', 'c']);
    const cut: StorageFault = { operation: 'list', call: 'every', effect: 'fail', when: 'after' };
    expect(await listed(multi(1, faultyStorage(one, [cut]), two))).toEqual(['b', 'c']);
    const dead = faultyStorage(memoryStorage(), [DOWN]);
    await expect(listed(multi(1, dead, dead))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });

  test('asks the store last whose call failed, until it answers', async () => {
    const one = memoryStorage();
    await one.put('a', [bytes('x')]);
    const two = faultyStorage(memoryStorage(), []);
    await two.put('a', [bytes('x')]);
    const flaky = faultyStorage(one, [{ operation: 'get', call: 1, effect: 'fail', when: 'before' }]);
    const storage = multi(1, flaky, two);
    await storage.get('a');
    await storage.get('a');
    expect(flaky.calls).toHaveLength(1);
    expect(storage.copies?.map(({ distance }) => Number.isFinite(distance()))).toEqual([false, true]);
  });

  test('takes the nearer of two that answer', async () => {
    const slow = faultyStorage(memoryStorage(), [
      { operation: 'get', call: 'every', effect: 'delay', when: 'before', milliseconds: 30 },
    ]);
    const quick = faultyStorage(memoryStorage(), []);
    for (const store of [slow, quick]) await store.put('a', [bytes('x')]);
    const storage = multi(1, slow, quick);
    for (const { storage: copy } of storage.copies ?? []) await copy.get('a');
    const before = slow.calls.length;
    for (let count = 0; count < 5; count += 1) await storage.get('a');
    expect(slow.calls).toHaveLength(before);
  });
});

test('a delete reaches every store, and fails where one did', async () => {
  const [one, two] = [memoryStorage(), memoryStorage()];
  for (const store of [one, two]) await store.put('a', []);
  const dead = faultyStorage(memoryStorage(), [DOWN]);
  await expect(multi(1, one, dead, two).delete('a')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  expect([await has(one, 'a'), await has(two, 'a')]).toEqual([undefined, undefined]);
});

/** As a host may write a provider of its own: methods on a prototype, state in private fields. */
class OwnStorage implements ObjectStorage {
  readonly #inner = memoryStorage();
  get description(): string {
    return 'OWN';
  }
  put(...call: Parameters<ObjectStorage['put']>): Promise<void> {
    return this.#inner.put(...call);
  }
  get(...call: Parameters<ObjectStorage['get']>): Promise<Uint8Array> {
    return this.#inner.get(...call);
  }
  stat(...call: Parameters<ObjectStorage['stat']>): ReturnType<ObjectStorage['stat']> {
    return this.#inner.stat(...call);
  }
  list(...call: Parameters<ObjectStorage['list']>): ReturnType<ObjectStorage['list']> {
    return this.#inner.list(...call);
  }
  delete(...call: Parameters<ObjectStorage['delete']>): Promise<void> {
    return this.#inner.delete(...call);
  }
}

test('stores that are instances of classes work, plain and below a prefix', async () => {
  const storage = multi(2, new OwnStorage(), prefixed(new OwnStorage(), 'p'));
  await storage.put('a', [bytes('x')]);
  expect(storage.copies?.map(({ storage: copy }) => copy.description)).toEqual(['OWN', 'OWN p']);
  for (const { storage: copy } of storage.copies ?? []) {
    expect(await has(copy, 'a')).toBe('x');
    expect(await listed(copy)).toEqual(['a']);
    await copy.delete('a');
  }
  expect(await listed(storage)).toEqual([]);
});

describe('readChecked', () => {
  const whole = (found: Uint8Array): string => {
    if (text(found) === 'x') return 'x';
    throw new ArchiveError('damaged', 'ARCHIVE_CORRUPT');
  };
  const states = ['whole', 'damaged', 'missing', 'silent', 'healed', 'healed twice'] as const;
  type State = (typeof states)[number];

  async function inState(state: State): Promise<ObjectStorage> {
    const store = memoryStorage();
    if (state === 'silent') return faultyStorage(store, [DOWN]);
    if (state !== 'missing') await store.put('a', [bytes(state === 'whole' ? 'x' : 'y')]);
    if (state === 'healed') await store.put(healedKey('a', 1), [bytes('x')]);
    if (state === 'healed twice') {
      await store.put(healedKey('a', 2), [bytes('z')]);
      await store.put(healedKey('a', 1), [bytes('x')]);
      await store.put('a.healed-0001', [bytes('no')]);
      await store.put('a.healed-x', [bytes('no')]);
    }
    return store;
  }
  const good = (state: State): boolean => ['whole', 'healed', 'healed twice'].includes(state);

  const pairs = states.flatMap((one) => states.map((two) => [one, two] as const));
  test.each(pairs)('%s and %s', async (one, two) => {
    const storage = multi(1, await inState(one), await inState(two));
    const damaged: number[] = [];
    const reading = readChecked(storage, 'a', {}, whole, ({ index }) => damaged.push(index));
    if (good(one) || good(two)) {
      expect(await reading).toBe('x');
    } else {
      // What does not answer may have it; what is damaged was there.
      const code = [one, two].includes('silent')
        ? 'STORAGE_UNAVAILABLE'
        : [one, two].includes('damaged')
          ? 'ARCHIVE_CORRUPT'
          : 'STORAGE_NOT_FOUND';
      await expect(reading).rejects.toMatchObject({ code });
    }
    if (one === 'damaged') expect(damaged).toContain(0);
  });

  test.each(states)('a single store that is %s', async (state) => {
    const reading = readChecked(await inState(state), 'a', {}, whole);
    if (good(state)) expect(await reading).toBe('x');
    else await expect(reading).rejects.toBeInstanceOf(Error);
  });
});
