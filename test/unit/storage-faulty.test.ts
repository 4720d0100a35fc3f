import { describe, expect, it } from 'vitest';
import { faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';

const bytes = (text: string) => [Buffer.from(text)];

async function keysOf(storage: ObjectStorage, signal?: AbortSignal): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('', { signal })) keys.push(key);
  return keys;
}

/** A program that makes one call of each kind. */
async function program(storage: ObjectStorage): Promise<void> {
  await storage.put('a', bytes('abc'));
  await storage.stat('a');
  await storage.get('a');
  await keysOf(storage);
  await storage.delete('a');
}

describe('faultyStorage', () => {
  it('counts calls over all operations and by operation', async () => {
    const storage = faultyStorage(memoryStorage(), []);
    await program(storage);
    await storage.put('b', []);
    expect(
      storage.calls.map(({ index, operation, indexOfOperation, key }) => [
        index,
        operation,
        indexOfOperation,
        key,
      ]),
    ).toEqual([
      [1, 'put', 1, 'a'],
      [2, 'stat', 1, 'a'],
      [3, 'get', 1, 'a'],
      [4, 'list', 1, ''],
      [5, 'delete', 1, 'a'],
      [6, 'put', 2, 'b'],
    ]);
    expect(storage.injected).toEqual([]);
  });

  it.each([1, 2, 3, 4, 5])('fails call %i of a program, before and after its effect', async (call) => {
    for (const when of ['before', 'after'] as const) {
      const storage = faultyStorage(memoryStorage(), [{ call, effect: 'fail', when }]);
      await expect(program(storage)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: true });
      expect(storage.calls).toHaveLength(call);
      expect(storage.injected).toHaveLength(1);
      expect(storage.injected[0]?.call.index).toBe(call);
    }
  });

  it('stores nothing when a put fails before its effect, and the object when its answer is lost', async () => {
    const inner = memoryStorage();
    const storage = faultyStorage(inner, [
      { operation: 'put', call: 1, effect: 'fail', when: 'before' },
      { operation: 'put', call: 2, effect: 'fail', when: 'after' },
    ]);
    await expect(storage.put('a', bytes('1'))).rejects.toThrow('before');
    expect(await inner.stat('a')).toBeUndefined();
    await expect(storage.put('a', bytes('2'))).rejects.toThrow('after');
    expect(Buffer.from(await inner.get('a')).toString()).toBe('2');
    await expect(storage.put('a', bytes('3'))).rejects.toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
  });

  it('fails with the error of the plan, every time if it says so', async () => {
    const error = new Error('of the plan');
    const storage = faultyStorage(memoryStorage(), [
      { operation: 'stat', call: 'every', effect: 'fail', when: 'before', error },
    ]);
    for (let n = 0; n < 3; n += 1) await expect(storage.stat('a')).rejects.toBe(error);
    await storage.put('a', []);
    expect(storage.injected).toHaveLength(3);
  });

  it('ends a listing with an error after its last object', async () => {
    const inner = memoryStorage();
    await inner.put('a', []);
    const storage = faultyStorage(inner, [{ call: 1, effect: 'fail', when: 'after' }]);
    const seen: string[] = [];
    const walked = (async () => {
      for await (const { key } of storage.list('')) seen.push(key);
    })();
    await expect(walked).rejects.toThrow('Injected');
    expect(seen).toEqual(['a']);
  });

  it('cuts and alters what get gives, and only that', async () => {
    const inner = memoryStorage();
    await inner.put('a', bytes('abcdef'));
    const read = async (faults: StorageFault[]) => {
      const storage = faultyStorage(inner, faults);
      const answer = Buffer.from(await storage.get('a')).toString();
      return [answer, storage.injected.length];
    };
    expect(await read([{ call: 1, effect: 'cut', length: 2 }])).toEqual(['ab', 1]);
    expect(await read([{ call: 1, effect: 'cut', length: 0 }])).toEqual(['', 1]);
    expect(await read([{ call: 1, effect: 'alter', offset: 1 }])).toEqual(['accdef', 1]);
    expect(await read([{ call: 2, effect: 'cut', length: 2 }])).toEqual(['abcdef', 0]);
    expect(await read([{ call: 1, effect: 'cut', length: 6 }])).toEqual(['abcdef', 0]);
    expect(await read([{ call: 1, effect: 'alter', offset: 6 }])).toEqual(['abcdef', 0]);
    expect(Buffer.from(await inner.get('a')).toString()).toBe('abcdef');
  });

  it('delays', async () => {
    const storage = faultyStorage(memoryStorage(), [
      { operation: 'put', call: 1, effect: 'delay', when: 'before', milliseconds: 30 },
    ]);
    const start = performance.now();
    await storage.put('a', []);
    expect(performance.now() - start).toBeGreaterThan(25);
  });

  it.each(['delay', 'hang'] as const)('an abort ends a %s with the signal’s reason', async (effect) => {
    for (const when of ['before', 'after'] as const) {
      const inner = memoryStorage();
      const fault = { operation: 'put', call: 1, when } as const;
      const storage = faultyStorage(inner, [
        effect === 'hang' ? { ...fault, effect } : { ...fault, effect, milliseconds: 60_000 },
      ]);
      const reason = new Error('enough');
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), 5);
      await expect(storage.put('a', [], { signal: controller.signal })).rejects.toBe(reason);
      expect((await inner.stat('a')) !== undefined).toBe(when === 'after');
    }
  });

  it('a hang without an abort does not answer', async () => {
    const storage = faultyStorage(memoryStorage(), [{ call: 1, effect: 'hang', when: 'before' }]);
    const late = new Promise((resolve) => setTimeout(resolve, 20, 'late'));
    expect(await Promise.race([storage.stat('a'), late])).toBe('late');
  });
});
