import { createHash, randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ObjectInfo, ObjectStorage, ResumableUploads, UploadPart } from '../../src/storage/storage.ts';

export interface UploadsContractCapabilities {
  /**
   * SMALL for another configuration of a storage, or a decorator of one, which another run holds to the WHOLE: the same
   * tests with fewer parts.
   */
  readonly extent?: 'WHOLE' | 'SMALL';
  /** Bytes of the parts that the tests send. Left out, the least that the provider takes, 64 KiB or more. */
  readonly partBytes?: number;
  /** Parts in the large listing. Fewer only where a part is paid for, or where fewer are allowed. */
  readonly listedParts?: number;
  /**
   * What `putPart` does to an upload that was aborted or completed. REFUSED: `STORAGE_NOT_FOUND`. UNSEEN: it may
   * resolve where the provider forgets ended uploads, but nothing of it becomes visible.
   */
  readonly putPartAfterEnd?: 'REFUSED' | 'UNSEEN';
  /** Milliseconds that each test may take. */
  readonly timeout?: number;
}

export interface UploadsUnderTest {
  readonly storage: ObjectStorage;
  /** Another client of the same store, as a process that starts after a crash makes it. */
  reopen(): Promise<ObjectStorage>;
  /** What no handle may contain. */
  readonly secrets?: readonly string[];
  close?(): Promise<void>;
}

const KIB = 1024;

/** A list of parts, or one of them, that is not what is stored; the providers have several words for it. */
const NOT_THESE_PARTS = /^(STORAGE_CORRUPT|STORAGE_NOT_FOUND|VALIDATION_FAILED)$/;

/**
 * Holds `storage.uploads` to the contract on `ResumableUploads`. Every test gets a fresh, empty storage from
 * `factory`. To be called at the top of a test file; it registers vitest tests.
 */
export function uploadsContract(
  name: string,
  factory: () => Promise<UploadsUnderTest>,
  capabilities: UploadsContractCapabilities = {},
): void {
  const { extent = 'WHOLE', putPartAfterEnd = 'REFUSED', timeout = 60_000 } = capabilities;
  const { listedParts = extent === 'WHOLE' ? 1_005 : 20 } = capabilities;

  describe(`uploads contract: ${name}`, { timeout }, () => {
    let subject: UploadsUnderTest;
    let storage: ObjectStorage;
    let uploads: ResumableUploads;
    let partBytes: number;

    beforeEach(async () => {
      subject = await factory();
      storage = subject.storage;
      uploads = uploadsOf(storage);
      partBytes = capabilities.partBytes ?? Math.max(uploads.limits.minPartBytes, 64 * KIB);
    });

    afterEach(async () => {
      await subject.close?.();
    });

    async function expectInvisible(key: string): Promise<void> {
      expect(await storage.stat(key)).toBeUndefined();
      await expect(storage.get(key)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
      expect(await keysOf(storage)).toEqual([]);
    }

    async function expectObject(key: string, bytes: Uint8Array, reader = storage): Promise<void> {
      expect(await reader.stat(key)).toMatchObject({ key, size: bytes.byteLength });
      expect(Buffer.compare(await reader.get(key), bytes)).toBe(0);
    }

    it('has limits that fit together', () => {
      const { minPartBytes, maxPartBytes, maxParts } = uploads.limits;
      for (const limit of [minPartBytes, maxPartBytes, maxParts])
        expect(Number.isSafeInteger(limit)).toBe(true);
      expect(minPartBytes).toBeGreaterThan(0);
      expect(maxPartBytes).toBeGreaterThanOrEqual(minPartBytes);
      expect(maxParts).toBeGreaterThan(0);
      expect(partBytes).toBeGreaterThanOrEqual(minPartBytes);
    });

    describe('a whole upload', () => {
      const shapes: readonly (readonly [what: string, full: number, rest: number])[] = [
        ['one part', 0, 1],
        ['one full part', 1, 0],
        ['two full parts', 2, 0],
        ['three parts, the last of one byte', 2, 1],
        ['four parts, the last short', 3, 1_000],
      ];
      it.each(extent === 'WHOLE' ? shapes : shapes.slice(1, 4))('publishes %s', async (_, full, rest) => {
        const bytes = randomBytes(full * partBytes + rest);
        const handle = await uploads.begin('large/object');
        const parts = await sendAll(uploads, handle, cut(bytes, partBytes));
        expect(await uploads.parts(handle)).toEqual(parts);
        await uploads.complete(handle, parts);
        await expectObject('large/object', bytes);
        expect(await keysOf(storage)).toEqual(['large/object']);
      });

      it('takes parts in any order and in parallel', async () => {
        const bytes = randomBytes(4 * partBytes + 17);
        const handle = await uploads.begin('parallel');
        const pieces = cut(bytes, partBytes);
        const order = [4, 1, 3, 0, 2];
        await Promise.all(
          order.map((index) => {
            const piece = pieces[index] ?? new Uint8Array();
            return uploads.putPart(handle, partOf(index + 1, piece), piece);
          }),
        );
        const parts = await uploads.parts(handle);
        expect(parts).toEqual(pieces.map((piece, index) => partOf(index + 1, piece)));
        await uploads.complete(handle, parts);
        await expectObject('parallel', bytes);
      });

      it('reads ranges across the borders of parts', async () => {
        const bytes = randomBytes(2 * partBytes + 100);
        const handle = await uploads.begin('ranged');
        await uploads.complete(handle, await sendAll(uploads, handle, cut(bytes, partBytes)));
        const range = { offset: partBytes - 10, length: partBytes + 50 };
        const answer = await storage.get('ranged', { range });
        expect(digestOf(answer)).toBe(digestOf(bytes.subarray(range.offset, range.offset + range.length)));
      });

      it('replaces a part of the same number', async () => {
        const [first, second, last] = [randomBytes(partBytes), randomBytes(partBytes), randomBytes(9)];
        const handle = await uploads.begin('replaced');
        await uploads.putPart(handle, partOf(1, first), first);
        await uploads.putPart(handle, partOf(2, last), last);
        await uploads.putPart(handle, partOf(1, second), second);
        const parts = [partOf(1, second), partOf(2, last)];
        expect(await uploads.parts(handle)).toEqual(parts);
        await uploads.complete(handle, parts);
        await expectObject('replaced', Buffer.concat([second, last]));
      });

      it('publishes exactly the parts that it is told', async () => {
        const pieces = cut(randomBytes(3 * partBytes), partBytes);
        const handle = await uploads.begin('two-of-three');
        const parts = await sendAll(uploads, handle, pieces);
        await uploads.complete(handle, parts.slice(0, 2));
        await expectObject('two-of-three', Buffer.concat(pieces.slice(0, 2)));
      });

      it('does not change the body, and is not changed with it afterwards', async () => {
        const piece = randomBytes(1_000);
        const before = Buffer.from(piece);
        const handle = await uploads.begin('kept');
        await uploads.putPart(handle, partOf(1, piece), piece);
        expect(piece.equals(before)).toBe(true);
        piece.fill(0);
        await uploads.complete(handle, [partOf(1, before)]);
        await expectObject('kept', before);
      });

      it('stores a view of a larger buffer, and nothing around it', async () => {
        const whole = randomBytes(3_000);
        const view = whole.subarray(1_000, 2_000);
        const handle = await uploads.begin('view');
        await uploads.putPart(handle, partOf(1, view), view);
        await uploads.complete(handle, [partOf(1, view)]);
        await expectObject('view', view);
      });
    });

    describe('going on after a crash', () => {
      it('goes on in another process with the parts that are there', async () => {
        const bytes = randomBytes(3 * partBytes + 5);
        const pieces = cut(bytes, partBytes);
        const handle = await uploads.begin('resumed/object');
        for (const index of [2, 0]) {
          const piece = pieces[index] ?? new Uint8Array();
          await uploads.putPart(handle, partOf(index + 1, piece), piece);
        }
        const reopened = await subject.reopen();
        const later = uploadsOf(reopened);
        const present = await later.parts(handle);
        expect(present.map(({ number }) => number)).toEqual([1, 3]);
        for (const [index, piece] of pieces.entries()) {
          if (index === 1 || index === 3) await later.putPart(handle, partOf(index + 1, piece), piece);
        }
        const parts = await later.parts(handle);
        expect(parts).toEqual(pieces.map((piece, index) => partOf(index + 1, piece)));
        await later.complete(handle, parts);
        await expectObject('resumed/object', bytes, reopened);
        await expectObject('resumed/object', bytes);
        await reopened.close?.();
      });

      it('can be aborted by another process', async () => {
        const handle = await uploads.begin('left-behind');
        await sendAll(uploads, handle, [randomBytes(100)]);
        const reopened = await subject.reopen();
        await uploadsOf(reopened).abort(handle);
        await expect(uploads.parts(handle)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await reopened.close?.();
      });

      it('gives handles that are text without a credential', async () => {
        const handles = [await uploads.begin('one'), await uploads.begin('two'), await uploads.begin('one')];
        expect(new Set(handles).size).toBe(3);
        for (const handle of handles) {
          expect(handle).toMatch(/^[\x20-\x7e]{1,4000}$/);
          for (const secret of subject.secrets ?? []) expect(handle).not.toContain(secret);
        }
      });

      it('has no parts right after begin', async () => {
        expect(await uploads.parts(await uploads.begin('empty'))).toEqual([]);
      });

      it(`lists each of ${listedParts} parts once, by number`, async () => {
        const handle = await uploads.begin('many');
        const numbers = Array.from({ length: listedParts }, (_, index) => index + 1);
        const pieces = numbers.map((number) => Buffer.from(`part ${number}`));
        for (let start = 0; start < numbers.length; start += 20) {
          await Promise.all(
            numbers.slice(start, start + 20).map((number) => {
              const piece = pieces[number - 1] ?? Buffer.alloc(0);
              return uploads.putPart(handle, partOf(number, piece), piece);
            }),
          );
        }
        expect(await uploads.parts(handle)).toEqual(pieces.map((piece, index) => partOf(index + 1, piece)));
      });
    });

    describe('before complete', () => {
      it('shows nothing of the upload', async () => {
        const handle = await uploads.begin('unfinished/object');
        await expectInvisible('unfinished/object');
        await sendAll(uploads, handle, [randomBytes(partBytes), randomBytes(10)]);
        await expectInvisible('unfinished/object');
      });

      it('shows nothing after an abort, and leaves the key free', async () => {
        const handle = await uploads.begin('aborted');
        await sendAll(uploads, handle, [randomBytes(partBytes), randomBytes(10)]);
        await uploads.abort(handle);
        await expectInvisible('aborted');
        await storage.put('aborted', [Buffer.from('another')]);
        await expectObject('aborted', Buffer.from('another'));
      });

      it('keeps two uploads of one key apart', async () => {
        const [a, b] = [randomBytes(1_000), randomBytes(2_000)];
        const [first, second] = [await uploads.begin('same'), await uploads.begin('same')];
        await sendAll(uploads, first, [a]);
        await sendAll(uploads, second, [b]);
        expect(await uploads.parts(first)).toEqual([partOf(1, a)]);
        expect(await uploads.parts(second)).toEqual([partOf(1, b)]);
        await uploads.abort(second);
        await uploads.complete(first, [partOf(1, a)]);
        await expectObject('same', a);
      });
    });

    describe('after the end', () => {
      it('is not found after an abort, which can be repeated', async () => {
        const piece = randomBytes(100);
        const handle = await uploads.begin('gone');
        await sendAll(uploads, handle, [piece]);
        for (let time = 0; time < 3; time += 1) await uploads.abort(handle);
        await expect(uploads.parts(handle)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await expect(uploads.complete(handle, [partOf(1, piece)])).rejects.toMatchObject({
          code: 'STORAGE_NOT_FOUND',
        });
        await expectInvisible('gone');
      });

      it('is not found after complete, and an abort leaves the object alone', async () => {
        const piece = randomBytes(100);
        const handle = await uploads.begin('done');
        await uploads.complete(handle, await sendAll(uploads, handle, [piece]));
        await expect(uploads.parts(handle)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        await uploads.abort(handle);
        await expectObject('done', piece);
      });

      it('keeps the object when complete is repeated', async () => {
        const piece = randomBytes(100);
        const handle = await uploads.begin('once');
        const parts = await sendAll(uploads, handle, [piece]);
        await uploads.complete(handle, parts);
        const [again] = await Promise.allSettled([uploads.complete(handle, parts)]);
        if (again.status === 'rejected') {
          expect(again.reason).toMatchObject({
            code: expect.stringMatching(/^STORAGE_(NOT_FOUND|ALREADY_EXISTS)$/),
          });
        }
        await expectObject('once', piece);
      });

      it.each(['aborted', 'completed'])('takes no part of an upload that was %s', async (end) => {
        const [piece, late] = [randomBytes(100), randomBytes(200)];
        const handle = await uploads.begin('late');
        const parts = await sendAll(uploads, handle, [piece]);
        if (end === 'aborted') await uploads.abort(handle);
        else await uploads.complete(handle, parts);
        const [outcome] = await Promise.allSettled([uploads.putPart(handle, partOf(1, late), late)]);
        if (putPartAfterEnd === 'REFUSED') expect(outcome.status).toBe('rejected');
        if (outcome.status === 'rejected')
          expect(outcome.reason).toMatchObject({ code: 'STORAGE_NOT_FOUND' });
        if (end === 'aborted') await expectInvisible('late');
        else await expectObject('late', piece);
      });
    });

    describe('create-only', () => {
      it('refuses to begin where the key is taken', async () => {
        await storage.put('taken', [Buffer.from('first')]);
        await expect(uploads.begin('taken')).rejects.toMatchObject({
          code: 'STORAGE_ALREADY_EXISTS',
          retryable: false,
        });
      });

      it('refuses to complete where the key was taken since, and keeps the first object', async () => {
        const piece = randomBytes(partBytes);
        const handle = await uploads.begin('taken-since');
        const parts = await sendAll(uploads, handle, [piece]);
        await storage.put('taken-since', [Buffer.from('first')]);
        await expect(uploads.complete(handle, parts)).rejects.toMatchObject({
          code: 'STORAGE_ALREADY_EXISTS',
        });
        await expectObject('taken-since', Buffer.from('first'));
        await uploads.abort(handle);
        await expectObject('taken-since', Buffer.from('first'));
      });

      it('lets exactly one of racing uploads and puts win, with all its bytes', async () => {
        for (let round = 0; round < 3; round += 1) {
          const key = `race/${round}`;
          const bodies = Array.from({ length: 6 }, (_, writer) => Buffer.alloc(1_000 + writer, writer));
          const handles = await Promise.all(bodies.slice(0, 4).map(() => uploads.begin(key)));
          const parts = await Promise.all(
            handles.map((handle, writer) => sendAll(uploads, handle, [bodies[writer] ?? Buffer.alloc(0)])),
          );
          const outcomes = await Promise.allSettled([
            ...handles.map((handle, writer) => uploads.complete(handle, parts[writer] ?? [])),
            ...bodies.slice(4).map((body) => storage.put(key, [body])),
          ]);
          const winners = bodies.filter((_, writer) => outcomes[writer]?.status === 'fulfilled');
          expect(winners).toHaveLength(1);
          await expectObject(key, winners[0] ?? Buffer.alloc(0));
          for (const outcome of outcomes) {
            if (outcome.status === 'fulfilled') continue;
            expect(outcome.reason).toMatchObject({
              // A provider may end the other uploads of a key with the first that completes.
              code: expect.stringMatching(/^STORAGE_(ALREADY_EXISTS|NOT_FOUND)$/),
            });
          }
        }
      });
    });

    describe('what must not be published', () => {
      it('refuses a part whose bytes are not those of its digest', async () => {
        const piece = randomBytes(1_000);
        const altered = Buffer.from(piece);
        altered[500] = (altered[500] ?? 0) ^ 1;
        const handle = await uploads.begin('corrupt');
        await expect(uploads.putPart(handle, partOf(1, piece), altered)).rejects.toMatchObject({
          code: 'STORAGE_CORRUPT',
        });
        expect(await uploads.parts(handle)).toEqual([]);
      });

      it('refuses a part whose size is not that of its body', async () => {
        const piece = randomBytes(1_000);
        const handle = await uploads.begin('short');
        for (const body of [piece.subarray(0, 999), Buffer.concat([piece, Buffer.alloc(1)])]) {
          await expect(uploads.putPart(handle, partOf(1, piece), body)).rejects.toMatchObject({
            code: expect.stringMatching(/^(STORAGE_CORRUPT|VALIDATION_FAILED)$/),
          });
        }
        expect(await uploads.parts(handle)).toEqual([]);
      });

      it('keeps the part that is there when its replacement is refused', async () => {
        const [good, bad] = [randomBytes(1_000), randomBytes(1_000)];
        const handle = await uploads.begin('kept-part');
        await uploads.putPart(handle, partOf(1, good), good);
        await expect(uploads.putPart(handle, partOf(1, good), bad)).rejects.toMatchObject({
          code: 'STORAGE_CORRUPT',
        });
        await uploads.complete(handle, [partOf(1, good)]);
        await expectObject('kept-part', good);
      });

      it('refuses numbers of parts that are none', async () => {
        const piece = randomBytes(10);
        const handle = await uploads.begin('numbers');
        for (const number of [0, -1, 1.5, Number.NaN, uploads.limits.maxParts + 1]) {
          await expect(uploads.putPart(handle, partOf(number, piece), piece)).rejects.toMatchObject({
            code: 'VALIDATION_FAILED',
          });
        }
        expect(await uploads.parts(handle)).toEqual([]);
      });

      it('refuses lists of parts that are not what is stored', async () => {
        const pieces = cut(randomBytes(2 * partBytes + 10), partBytes);
        const handle = await uploads.begin('lists');
        const [one, two, three] = await sendAll(uploads, handle, pieces);
        if (one === undefined || two === undefined || three === undefined) throw new Error('three parts');
        const other = randomBytes(partBytes);
        const lists: Record<string, readonly UploadPart[]> = {
          'no parts': [],
          'a gap': [one, three],
          'no first part': [two, three],
          'a part twice': [one, one, two, three],
          'a part that was never sent': [one, two, three, partOf(4, other)],
          'another digest': [partOf(1, other), two, three],
          'another size': [{ ...one, size: one.size + 1 }, two, three],
        };
        for (const [what, list] of Object.entries(lists)) {
          await expect(uploads.complete(handle, list), what).rejects.toMatchObject({
            code: expect.stringMatching(NOT_THESE_PARTS),
          });
          expect(await storage.stat('lists'), what).toBeUndefined();
        }
        await uploads.complete(handle, [one, two, three]);
        await expectObject('lists', Buffer.concat(pieces));
      });

      it('refuses parts that are too small anywhere but at the end', async () => {
        const { minPartBytes } = uploads.limits;
        const pieces = [randomBytes(minPartBytes - 1), randomBytes(minPartBytes)];
        if (minPartBytes === 1) return;
        const handle = await uploads.begin('too-small');
        const [outcome] = await Promise.allSettled([
          sendAll(uploads, handle, pieces).then((parts) => uploads.complete(handle, parts)),
        ]);
        expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'VALIDATION_FAILED' } });
        await expectInvisible('too-small');
      });
    });

    describe('keys and handles', () => {
      it.each(['', '..', '/a', 'a/', 'a//b', '../a', '.hidden', 'a b', 'ä'])(
        'refuses to begin at %j',
        async (key) => {
          await expect(uploads.begin(key)).rejects.toMatchObject({ code: 'STORAGE_INVALID_KEY' });
        },
      );

      it.each(['', 'nonsense', '{}', '../../etc/passwd', `${'x'.repeat(200)}`])(
        'refuses the handle %j',
        async (handle) => {
          const piece = randomBytes(10);
          const refusal = { code: expect.stringMatching(/^(STORAGE_NOT_FOUND|VALIDATION_FAILED)$/) };
          await expect(uploads.parts(handle)).rejects.toMatchObject(refusal);
          await expect(uploads.putPart(handle, partOf(1, piece), piece)).rejects.toMatchObject(refusal);
          await expect(uploads.complete(handle, [partOf(1, piece)])).rejects.toMatchObject(refusal);
          expect(await keysOf(storage)).toEqual([]);
        },
      );
    });

    describe('abort of a call', () => {
      const reason = new Error('enough');

      it('rejects every call with the reason when it is aborted before', async () => {
        const piece = randomBytes(100);
        const handle = await uploads.begin('signalled');
        const parts = await sendAll(uploads, handle, [piece]);
        const signal = AbortSignal.abort(reason);
        await expect(uploads.begin('other', { signal })).rejects.toBe(reason);
        await expect(uploads.putPart(handle, partOf(2, piece), piece, { signal })).rejects.toBe(reason);
        await expect(uploads.parts(handle, { signal })).rejects.toBe(reason);
        await expect(uploads.complete(handle, parts, { signal })).rejects.toBe(reason);
        await expect(uploads.abort(handle, { signal })).rejects.toBe(reason);
        expect(await uploads.parts(handle)).toEqual(parts);
        await uploads.complete(handle, parts);
        await expectObject('signalled', piece);
      });

      it('stores a part whole or not at all when it is aborted meanwhile', async () => {
        const piece = randomBytes(Math.max(partBytes, 1024 * KIB));
        const handle = await uploads.begin('meanwhile');
        for (const wait of [0, 1, 2, 4, 8]) {
          const controller = new AbortController();
          const timer = setTimeout(() => controller.abort(reason), wait);
          const [outcome] = await Promise.allSettled([
            uploads.putPart(handle, partOf(1, piece), piece, { signal: controller.signal }),
          ]);
          clearTimeout(timer);
          if (outcome.status === 'rejected') expect(outcome.reason).toBe(reason);
          else expect(await uploads.parts(handle)).toEqual([partOf(1, piece)]);
          for (const part of await uploads.parts(handle)) expect(part).toEqual(partOf(1, piece));
        }
        await uploads.putPart(handle, partOf(1, piece), piece);
        await uploads.complete(handle, [partOf(1, piece)]);
        await expectObject('meanwhile', piece);
      });
    });
  });
}

function uploadsOf(storage: ObjectStorage): ResumableUploads {
  if (storage.uploads === undefined) throw new Error(`${storage.description} has no uploads to test.`);
  return storage.uploads;
}

/** The description of a part with these bytes. */
export function partOf(number: number, bytes: Uint8Array): UploadPart {
  return { number, size: bytes.byteLength, digest: digestOf(bytes) };
}

async function sendAll(
  uploads: ResumableUploads,
  handle: string,
  pieces: readonly Uint8Array[],
): Promise<UploadPart[]> {
  const parts: UploadPart[] = [];
  for (const [index, piece] of pieces.entries()) {
    const part = partOf(index + 1, piece);
    await uploads.putPart(handle, part, piece);
    parts.push(part);
  }
  return parts;
}

function cut(bytes: Uint8Array, size: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let offset = 0; offset < bytes.byteLength; offset += size) {
    pieces.push(bytes.subarray(offset, offset + size));
  }
  return pieces;
}

async function keysOf(storage: ObjectStorage): Promise<string[]> {
  const infos: ObjectInfo[] = [];
  for await (const info of storage.list('')) infos.push(info);
  return infos.map(({ key }) => key).sort();
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
