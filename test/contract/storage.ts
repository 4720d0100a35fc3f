import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ObjectInfo, ObjectStorage } from '../../src/storage/storage.ts';

export interface StorageContractCapabilities {
  /**
   * SMALL for another configuration of a storage, or a decorator of one, which another run holds to the WHOLE: the same
   * tests with fewer objects, rounds and bytes.
   */
  readonly extent?: 'WHOLE' | 'SMALL';
  /** Objects in the large listing. Fewer only where a listing is paid for by the object. */
  readonly listedObjects?: number;
  /** Whether `a` and `a/b` can both be objects; file systems cannot. */
  readonly keyMayBeFolder?: boolean;
  /** Milliseconds that the large tests may take. */
  readonly timeout?: number;
}

export interface StorageUnderTest {
  readonly storage: ObjectStorage;
  close?(): Promise<void>;
}

const KIB = 1024;
const MIB = 1024 * KIB;

const VALID_KEYS = [
  'a',
  '0',
  'manifest.json',
  'trailing.dot.',
  'a..b',
  'UPPER-lower_09.part',
  'seg-ment/with.dots/and-dashes/and_underscores',
  Array.from({ length: 60 }, (_, depth) => `d${depth}`).join('/'),
  'n'.repeat(255),
  [...Array.from({ length: 3 }, (_, i) => `${i}`.repeat(255)), 'x'.repeat(132)].join('/'),
];

const INVALID_KEYS = [
  '',
  '.',
  '..',
  '/',
  '/a',
  'a/',
  'a//b',
  '../a',
  'a/../b',
  'a/..',
  './a',
  'a/./b',
  '.hidden',
  'a/.hidden',
  '-dash',
  '_underscore',
  'a\\b',
  '..\\a',
  'C:\\a',
  'a\0b',
  'a\nb',
  'a\n',
  'a b',
  'a?b',
  'a%2e%2e',
  'ä',
  'a/é',
  'a\u2215b',
  '\ud800',
  'n'.repeat(256),
  `${'a/'.repeat(450)}a`,
];

const UNFINISHED = ['.tmp-uploads', '.tmp-uploads/x', '../', '..', '/', 'a//', 'a/../', 'a\0'];

/**
 * Holds a storage to the contract on `ObjectStorage`. Every test gets a fresh, empty storage from `factory`.
 * To be called at the top of a test file; it registers vitest tests.
 */
export function storageContract(
  name: string,
  factory: () => Promise<StorageUnderTest>,
  capabilities: StorageContractCapabilities = {},
): void {
  const { extent = 'WHOLE', keyMayBeFolder = true, timeout = 60_000 } = capabilities;
  const whole = extent === 'WHOLE';
  const { listedObjects = whole ? 2_500 : 100 } = capabilities;
  /** What large bodies are counted in. */
  const unit = whole ? MIB : 64 * KIB;

  describe(`storage contract: ${name}`, { timeout }, () => {
    let subject: StorageUnderTest;
    let storage: ObjectStorage;

    beforeEach(async () => {
      subject = await factory();
      storage = subject.storage;
    });

    afterEach(async () => {
      await subject.close?.();
    });

    async function keysOf(prefix: string): Promise<string[]> {
      return (await collect(storage.list(prefix))).map((info) => info.key).sort();
    }

    it('has a description', () => {
      expect(storage.description).toMatch(/\S/);
    });

    describe('put and get', () => {
      it.each([
        ...[0, 1, 63, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1],
        ...[4 * unit - 1, 4 * unit, 4 * unit + 1, 9 * MIB],
      ])('gives back an object of %i bytes', async (size) => {
        const bytes = randomBytes(size);
        await storage.put('some/object', [bytes]);
        const answer = await storage.get('some/object');
        expect(answer).toBeInstanceOf(Uint8Array);
        expect(answer.byteLength).toBe(size);
        expect(Buffer.compare(answer, bytes)).toBe(0);
        expect(await storage.stat('some/object')).toMatchObject({ key: 'some/object', size });
      });

      it.each([
        ['no pieces', []],
        ['one empty piece', [0]],
        ['empty pieces between others', [0, 1, 0, 0, 5, 0]],
        ['two pieces', [4 * unit, 3]],
        ['3,000 small pieces', Array.from({ length: 3_000 }, (_, index) => index % 7)],
        ['large and small pieces in turn', [unit, 1, unit + 1, 2, 6 * unit, 3]],
      ])('stores the pieces in order: %s', async (_, sizes) => {
        const pieces = sizes.map((size) => randomBytes(size));
        await storage.put('pieces', pieces);
        expect(Buffer.compare(await storage.get('pieces'), Buffer.concat(pieces))).toBe(0);
      });

      it('stores a view of a larger buffer, and nothing around it', async () => {
        const whole = Uint8Array.from({ length: 100 }, (_, index) => index);
        await storage.put('view', [whole.subarray(10, 20), whole.subarray(90)]);
        expect([...(await storage.get('view'))]).toEqual([...whole.subarray(10, 20), ...whole.subarray(90)]);
      });

      it('does not change the body, and is not changed with it afterwards', async () => {
        const body = Buffer.from('before');
        await storage.put('kept', [body]);
        expect(body.toString()).toBe('before');
        body.fill('x');
        expect(text(await storage.get('kept'))).toBe('before');
      });

      it('gives every reader bytes of its own', async () => {
        await storage.put('mine', [Buffer.from('original')]);
        (await storage.get('mine')).fill(0);
        expect(text(await storage.get('mine'))).toBe('original');
      });

      it('rejects a get of what does not exist', async () => {
        await expect(storage.get('nothing')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await expect(storage.get('no/such/folder/nothing')).rejects.toMatchObject({
          code: 'STORAGE_NOT_FOUND',
        });
        await storage.put('folder/object', [Buffer.from('x')]);
        await expect(storage.get('folder')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await expect(storage.get('folder/object/below')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await expect(storage.get('folder/objec')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
      });
    });

    describe('create-only', () => {
      it('refuses a taken key and keeps the first object, whatever comes second', async () => {
        await storage.put('taken', [Buffer.from('first')]);
        for (const second of ['second', 'first', '']) {
          await expect(storage.put('taken', [Buffer.from(second)])).rejects.toMatchObject({
            code: 'STORAGE_ALREADY_EXISTS',
            retryable: false,
          });
        }
        expect(text(await storage.get('taken'))).toBe('first');
      });

      it('refuses to replace an empty object', async () => {
        await storage.put('empty', []);
        await expect(storage.put('empty', [Buffer.from('x')])).rejects.toMatchObject({
          code: 'STORAGE_ALREADY_EXISTS',
        });
        expect((await storage.get('empty')).byteLength).toBe(0);
      });

      it('lets exactly one of 20 racing writers win, with all its bytes', async () => {
        for (let round = 0; round < (whole ? 5 : 2); round += 1) {
          const key = `race/${round}/manifest`;
          const bodies = Array.from({ length: 20 }, (_, writer) => Buffer.alloc(64 * KIB + writer, writer));
          const outcomes = await Promise.allSettled(bodies.map((body) => storage.put(key, [body])));
          const winners = bodies.filter((_, writer) => outcomes[writer]?.status === 'fulfilled');
          expect(winners).toHaveLength(1);
          for (const outcome of outcomes) {
            if (outcome.status === 'rejected') {
              expect(outcome.reason).toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
            }
          }
          expect(Buffer.compare(await storage.get(key), winners[0] ?? Buffer.alloc(0))).toBe(0);
          expect(await keysOf(`race/${round}/`)).toEqual([key]);
        }
      });

      it('takes the key again after a delete', async () => {
        await storage.put('again', [Buffer.from('1')]);
        await storage.delete('again');
        await storage.put('again', [Buffer.from('2')]);
        expect(text(await storage.get('again'))).toBe('2');
      });
    });

    describe('keys', () => {
      it.each(VALID_KEYS)('takes %j', async (key) => {
        await storage.put(key, [Buffer.from(key)]);
        expect(text(await storage.get(key))).toBe(key);
        expect((await storage.stat(key))?.key).toBe(key);
        expect(await keysOf('')).toEqual([key]);
        expect(await keysOf(key)).toEqual([key]);
        await storage.delete(key);
        expect(await keysOf('')).toEqual([]);
      });

      it.each(INVALID_KEYS)('refuses %j in every operation', async (key) => {
        const refusal = { code: 'STORAGE_INVALID_KEY', retryable: false };
        await expect(storage.put(key, [Buffer.from('x')])).rejects.toMatchObject(refusal);
        await expect(storage.get(key)).rejects.toMatchObject(refusal);
        await expect(storage.stat(key)).rejects.toMatchObject(refusal);
        await expect(storage.delete(key)).rejects.toMatchObject(refusal);
        expect(await keysOf('')).toEqual([]);
      });

      it.each(UNFINISHED)('refuses to list %j, with which no key can start', async (prefix) => {
        await expect(collect(storage.list(prefix))).rejects.toMatchObject({ code: 'STORAGE_INVALID_KEY' });
      });

      it('keeps keys apart that share their beginning', async () => {
        const keys = ['a', 'ab', 'a.b', 'a-b', 'abc/d', 'abc/d.e', 'abcd'];
        await Promise.all(keys.map((key) => storage.put(key, [Buffer.from(key)])));
        for (const key of keys) expect(text(await storage.get(key))).toBe(key);
        await storage.delete('abc/d');
        expect(await keysOf('')).toEqual(keys.filter((key) => key !== 'abc/d').sort());
      });

      it('never damages an object by a key that is its folder, or lies below it', async () => {
        await storage.put('f/object', [Buffer.from('whole')]);
        const [folder, below] = await Promise.allSettled([
          storage.put('f', [Buffer.from('1')]),
          storage.put('f/object/below', [Buffer.from('2')]),
        ]);
        for (const outcome of [folder, below]) {
          expect(outcome.status).toBe(keyMayBeFolder ? 'fulfilled' : 'rejected');
          if (outcome.status === 'rejected') {
            expect(outcome.reason).toMatchObject({ code: 'STORAGE_INVALID_KEY' });
          }
        }
        if (!keyMayBeFolder) {
          expect(await storage.stat('f')).toBeUndefined();
          await storage.delete('f');
          await storage.delete('f/object/below');
          expect(await keysOf('f/object/')).toEqual([]);
          expect(await keysOf('')).toEqual(['f/object']);
        }
        expect(text(await storage.get('f/object'))).toBe('whole');
      });
    });

    describe('ranges', () => {
      const size = 9 * unit + 7;
      const bytes = randomBytes(size);
      /** These tests only read: one storage does for all. */
      let read: StorageUnderTest;

      beforeAll(async () => {
        read = await factory();
        await read.storage.put('ranged', [bytes]);
      }, timeout);

      afterAll(async () => {
        await read?.close?.();
      });

      it.each([
        ['the whole', 0, size],
        ['nothing at the start', 0, 0],
        ['nothing in the middle', 5, 0],
        ['nothing at the end', size, 0],
        ['the first byte', 0, 1],
        ['the last byte', size - 1, 1],
        ['a middle', 1_000, 4 * unit],
        ['a suffix', size - 100, 100],
        ['more than a suffix', size - 100, 1_000_000_000],
        ['past the end', size, 10],
        ['far past the end', Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
        ['everything and more', 0, Number.MAX_SAFE_INTEGER],
      ])('gives %s', async (_, offset, length) => {
        const answer = await read.storage.get('ranged', { range: { offset, length } });
        const expected = bytes.subarray(offset, Math.min(size, offset + length));
        expect(answer.byteLength).toBe(expected.byteLength);
        expect(Buffer.compare(answer, expected)).toBe(0);
      });

      it('gives nothing of an empty object', async () => {
        await storage.put('empty', []);
        expect((await storage.get('empty', { range: { offset: 0, length: 10 } })).byteLength).toBe(0);
      });

      it('refuses a range that is none', async () => {
        await storage.put('ranged', [Buffer.from('abc')]);
        for (const [offset, length] of [
          [-1, 2],
          [0, -1],
          [0.5, 1],
          [0, Number.NaN],
          [Number.POSITIVE_INFINITY, 1],
        ] as const) {
          await expect(storage.get('ranged', { range: { offset, length } })).rejects.toMatchObject({
            code: 'VALIDATION_FAILED',
          });
        }
      });

      it('rejects a range of what does not exist', async () => {
        await expect(storage.get('nothing', { range: { offset: 0, length: 0 } })).rejects.toMatchObject({
          code: 'STORAGE_NOT_FOUND',
        });
      });
    });

    describe('stat', () => {
      it('is undefined for what does not exist', async () => {
        expect(await storage.stat('nothing')).toBeUndefined();
        await storage.put('folder/object', []);
        expect(await storage.stat('folder/object2')).toBeUndefined();
        expect(await storage.stat('folder/object/below')).toBeUndefined();
        expect(await storage.stat('other/object')).toBeUndefined();
      });

      it('tells size and time', async () => {
        await storage.put('timed', [Buffer.from('12345')]);
        const info = await storage.stat('timed');
        expect(info?.size).toBe(5);
        expect(info?.modifiedAt).toBeInstanceOf(Date);
        expect(Math.abs(Date.now() - (info?.modifiedAt.getTime() ?? 0))).toBeLessThan(10 * 60_000);
      });
    });

    describe('list', () => {
      it('is empty for an empty storage', async () => {
        expect(await keysOf('')).toEqual([]);
        expect(await keysOf('some/prefix')).toEqual([]);
      });

      it('takes the prefix as a plain string', async () => {
        const keys = ['a/b', 'a/bc', 'a/b.c', 'a/bd/e', 'a/c', 'ab/b', 'b', 'a.b'];
        await Promise.all(keys.map((key) => storage.put(key, [Buffer.from(key)])));
        for (const prefix of [
          '',
          'a',
          'a/',
          'a/b',
          'a/b.',
          'a/bd/',
          'a/bd/e',
          'a/bd/e/',
          'ab',
          'b',
          'c',
          'a/b/',
        ]) {
          expect(await keysOf(prefix), prefix).toEqual(keys.filter((key) => key.startsWith(prefix)).sort());
        }
      });

      it('agrees with stat', async () => {
        await storage.put('x/y', [Buffer.from('12345')]);
        expect(await collect(storage.list(''))).toEqual([await storage.stat('x/y')]);
      });

      it(`gives each of ${listedObjects} objects once`, async () => {
        const keys = Array.from({ length: listedObjects }, (_, n) =>
          n % 2 ? `many/${n}` : `many/${n % 50}/deep/${n}`,
        );
        // "many/3" would be a folder and an object at once.
        const distinct = keys.map((key, n) => (n % 2 ? `${key}.object` : key));
        await inGroups(distinct, (key) => storage.put(key, [Buffer.from(key)]));
        await storage.put('other', []);
        expect(await keysOf('many/')).toEqual([...distinct].sort());
        expect(await keysOf('')).toEqual([...distinct, 'other'].sort());
      });

      it('can be left early and walked again', async () => {
        await inGroups(['a', 'b/c', 'b/d', 'e'], (key) => storage.put(key, []));
        for await (const info of storage.list('')) {
          expect(info.key).toBeTypeOf('string');
          break;
        }
        expect(await keysOf('')).toEqual(['a', 'b/c', 'b/d', 'e']);
      });

      it('survives that what it walks is deleted, and misses nothing that stays', async () => {
        const keys = Array.from({ length: whole ? 300 : 60 }, (_, n) => `walk/${n % 30}/${n}`);
        await inGroups(keys, (key) => storage.put(key, [Buffer.from('x')]));
        const doomed = keys.filter((_, n) => n % 3 > 0);
        const seen: string[] = [];
        let deletions: Promise<unknown> = Promise.resolve();
        for await (const { key } of storage.list('walk/')) {
          if (seen.length === 10) deletions = inGroups(doomed, (gone) => storage.delete(gone));
          seen.push(key);
          await new Promise((resolve) => setImmediate(resolve));
        }
        await deletions;
        expect(new Set(seen).size).toBe(seen.length);
        expect(seen).toEqual(expect.arrayContaining(keys.filter((key) => !doomed.includes(key))));
      });

      it('never shows an object that is being written, only whole ones', async () => {
        const size = 6 * unit;
        let writing = true;
        const puts = Promise.all(
          [0, 1, 2, 3].map((n) =>
            storage.put(`slow/${n}`, [Buffer.alloc(size / 2, n), Buffer.alloc(size / 2, n)]),
          ),
        ).finally(() => {
          writing = false;
        });
        while (writing) {
          for (const info of await collect(storage.list(''))) {
            expect(info).toMatchObject({ key: expect.stringMatching(/^slow\/[0-3]$/), size });
            expect((await storage.get(info.key)).byteLength).toBe(size);
          }
        }
        await puts;
        expect(await keysOf('')).toEqual(['slow/0', 'slow/1', 'slow/2', 'slow/3']);
      });
    });

    describe('delete', () => {
      it('removes the object, and resolves again when there is none', async () => {
        await storage.put('gone/soon', [Buffer.from('x')]);
        await storage.put('gone/later', [Buffer.from('y')]);
        for (let time = 0; time < 3; time += 1) await storage.delete('gone/soon');
        await storage.delete('never/was/there');
        expect(await storage.stat('gone/soon')).toBeUndefined();
        await expect(storage.get('gone/soon')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        expect(await keysOf('')).toEqual(['gone/later']);
      });

      it('resolves for all of 10 racing deletes', async () => {
        await storage.put('deep/er/object', [Buffer.from('x')]);
        await Promise.all(Array.from({ length: 10 }, () => storage.delete('deep/er/object')));
        expect(await keysOf('')).toEqual([]);
      });

      it('does not disturb puts beside it', async () => {
        const rounds = Array.from({ length: whole ? 40 : 20 }, (_, n) => n);
        await Promise.all(
          [0, 1, 2, 3].map(async (worker) => {
            for (const n of rounds) {
              const key = `shared/deep/folder/${worker}-${n}`;
              await storage.put(key, [Buffer.from(key)]);
              expect(text(await storage.get(key))).toBe(key);
              if (n % 10 > 0) await storage.delete(key);
            }
          }),
        );
        const left = rounds.filter((n) => n % 10 === 0);
        expect(await keysOf('')).toEqual(
          [0, 1, 2, 3].flatMap((worker) => left.map((n) => `shared/deep/folder/${worker}-${n}`)).sort(),
        );
      });
    });

    describe('abort', () => {
      const reason = new Error('enough');

      it('rejects every operation with the reason when it is aborted before', async () => {
        await storage.put('there', [Buffer.from('x')]);
        const signal = AbortSignal.abort(reason);
        await expect(storage.put('new', [Buffer.from('x')], { signal })).rejects.toBe(reason);
        await expect(storage.get('there', { signal })).rejects.toBe(reason);
        await expect(storage.stat('there', { signal })).rejects.toBe(reason);
        await expect(storage.delete('there', { signal })).rejects.toBe(reason);
        await expect(collect(storage.list('', { signal }))).rejects.toBe(reason);
        expect(await keysOf('')).toEqual(['there']);
      });

      it('leaves nothing visible when it is aborted during a put', async () => {
        const body = [Buffer.alloc(16 * MIB, 1), Buffer.alloc(16 * MIB, 2)];
        for (const wait of whole ? [0, 1, 2, 4, 8, 16] : [0, 4]) {
          const key = `aborted/after-${wait}`;
          const controller = new AbortController();
          const timer = setTimeout(() => controller.abort(reason), wait);
          const [outcome] = await Promise.allSettled([storage.put(key, body, { signal: controller.signal })]);
          clearTimeout(timer);
          if (outcome.status === 'rejected') {
            expect(outcome.reason).toBe(reason);
            expect(await storage.stat(key)).toBeUndefined();
            expect(await keysOf('')).toEqual([]);
            await storage.put(key, [Buffer.from('the key is still free')]);
          } else {
            expect((await storage.stat(key))?.size).toBe(32 * MIB);
          }
          await storage.delete(key);
        }
      });

      it('stops a listing', async () => {
        await inGroups(['a', 'b', 'c'], (key) => storage.put(key, []));
        const controller = new AbortController();
        const walked = (async () => {
          for await (const _ of storage.list('', { signal: controller.signal })) controller.abort(reason);
        })();
        await expect(walked).rejects.toBe(reason);
      });

      it('changes nothing after the call has settled', async () => {
        const controller = new AbortController();
        await storage.put('settled', [Buffer.from('x')], { signal: controller.signal });
        controller.abort(reason);
        expect(text(await storage.get('settled'))).toBe('x');
      });
    });
  });
}

async function collect(objects: AsyncIterable<ObjectInfo>): Promise<ObjectInfo[]> {
  const all: ObjectInfo[] = [];
  for await (const info of objects) all.push(info);
  return all;
}

async function inGroups<T>(items: readonly T[], action: (item: T) => Promise<void>): Promise<void> {
  for (let start = 0; start < items.length; start += 50) {
    await Promise.all(items.slice(start, start + 50).map(action));
  }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}
