import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { type LargeUpload, uploadLarge } from '../../src/storage/large-upload.ts';
import { planParts } from '../../src/storage/large-upload-plan.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { StorageError } from '../../src/types/errors.ts';
import { contentOf, serveUploads } from './storage-large-upload-remote.ts';

const KEY = 'large/object';
const PART = 1_000;

function upload(bytes: Uint8Array, more: Partial<LargeUpload> = {}): LargeUpload {
  return {
    key: KEY,
    size: bytes.byteLength,
    read: async (offset, length) => bytes.subarray(offset, offset + length),
    partBytes: PART,
    ...more,
  };
}

function setUp(plan: readonly StorageFault[] = []) {
  const inner = memoryStorage({ uploadLimits: { minPartBytes: 100, maxPartBytes: 10_000, maxParts: 50 } });
  const storage = faultyStorage(inner, plan);
  const sent = () => storage.calls.filter(({ operation }) => operation === 'putPart').length;
  return { inner, storage, sent };
}

/** Uploads until the n-th part fails, and gives the handle to go on with. */
async function interrupted(bytes: Uint8Array, partsBefore: number) {
  const { inner } = setUp();
  const cut = faultyStorage(inner, [
    { operation: 'putPart', call: partsBefore + 1, effect: 'fail', when: 'before' },
  ]);
  let handle: string | undefined;
  const begun = uploadLarge(
    cut,
    upload(bytes, {
      parallel: 1,
      onHandle: (given) => {
        handle = given;
      },
    }),
  );
  await expect(begun).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  const storage = faultyStorage(inner, []);
  const sent = () => storage.calls.filter(({ operation }) => operation === 'putPart').length;
  return { inner, storage, sent, handle };
}

const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

describe('uploadLarge', () => {
  it.each([100, 999, 1_000, 1_001, 9_999, 10_000, 50_000])('stores %i bytes whole', async (size) => {
    const bytes = randomBytes(size);
    const { inner, storage, sent } = setUp();
    const result = await uploadLarge(storage, upload(bytes));
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
    expect(result).toEqual({ partsSent: Math.ceil(size / PART), partsFound: 0 });
    expect(sent()).toBe(result.partsSent);
  });

  it.each([0, 1, 99])('puts %i bytes in one piece', async (size) => {
    const bytes = randomBytes(size);
    const { inner, storage } = setUp();
    await uploadLarge(storage, upload(bytes));
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
    expect(storage.calls.map(({ operation }) => operation)).toEqual(['put']);
  });

  it('puts in one piece where there are no uploads, up to 64 MiB', async () => {
    const { uploads: _, ...bare } = memoryStorage();
    const bytes = randomBytes(100_000);
    await uploadLarge(bare, upload(bytes));
    expect(digest(await bare.get(KEY))).toBe(digest(bytes));
    const size = 64 * 1024 * 1024 + 1;
    await expect(uploadLarge(bare, { ...upload(bytes), key: 'b', size })).rejects.toMatchObject({
      code: 'NOT_SUPPORTED',
    });
  });

  it('never holds more parts than are sent at a time', async () => {
    const { inner, storage } = setUp();
    const bytes = randomBytes(40_000);
    let held = 0;
    let most = 0;
    const { uploads } = storage;
    if (uploads === undefined) throw new Error('uploads');
    const slow = {
      ...storage,
      uploads: {
        ...uploads,
        putPart: async (...call: Parameters<typeof uploads.putPart>) => {
          await new Promise((resolve) => setImmediate(resolve));
          await uploads.putPart(...call);
          held -= 1;
        },
      },
    };
    const read = async (offset: number, length: number) => {
      held += 1;
      most = Math.max(most, held);
      return bytes.subarray(offset, offset + length);
    };
    await uploadLarge(slow, upload(bytes, { parallel: 3, read }));
    expect(most).toBe(3);
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('tells its progress', async () => {
    const seen: unknown[] = [];
    let now = 0;
    const { storage } = setUp();
    await uploadLarge(
      storage,
      upload(randomBytes(2_500), {
        parallel: 1,
        timing: {
          now() {
            now += 500;
            return now;
          },
        },
        onProgress: (progress) => seen.push(progress),
      }),
    );
    expect(seen).toEqual([
      {
        uploadedBytes: 1_000,
        totalBytes: 2_500,
        parts: 1,
        partsTotal: 3,
        bytesPerSecond: 2_000,
        estimatedTimeRemainingMs: 750,
      },
      expect.objectContaining({ uploadedBytes: 2_000, parts: 2, bytesPerSecond: 2_000 }),
      expect.objectContaining({ uploadedBytes: 2_500, parts: 3, estimatedTimeRemainingMs: 0 }),
    ]);
  });

  it('refuses a key that is taken, and leaves it alone', async () => {
    const { inner, storage } = setUp();
    await inner.put(KEY, [Buffer.from('first')]);
    await expect(uploadLarge(storage, upload(randomBytes(5_000)))).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect((await inner.get(KEY)).byteLength).toBe(5);
  });

  it('refuses a source that is not of its size, and publishes nothing', async () => {
    const { inner, storage } = setUp();
    const bytes = randomBytes(4_500);
    await expect(uploadLarge(storage, { ...upload(bytes), size: 5_000 })).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
    expect(await inner.stat(KEY)).toBeUndefined();
  });

  it('refuses numbers that are none', async () => {
    const { storage } = setUp();
    for (const wrong of [{ size: -1 }, { size: 1.5 }, { parallel: 0 }, { partBytes: 0 }]) {
      await expect(uploadLarge(storage, upload(randomBytes(500), wrong))).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
      });
    }
  });

  it('stops all parts with the first that fails, before it rejects', async () => {
    let running = 0;
    const { storage } = setUp();
    const { uploads } = storage;
    if (uploads === undefined) throw new Error('uploads');
    const failing = {
      ...storage,
      uploads: {
        ...uploads,
        putPart: async (...[, part, , call]: Parameters<typeof uploads.putPart>) => {
          running += 1;
          try {
            if (part.number === 3) throw new StorageError('Down.', 'STORAGE_UNAVAILABLE');
            await new Promise((_, reject) =>
              call?.signal?.addEventListener('abort', () => reject(call.signal?.reason)),
            );
          } finally {
            running -= 1;
          }
        },
      },
    };
    await expect(uploadLarge(failing, upload(randomBytes(9_000)))).rejects.toMatchObject({
      message: 'Down.',
    });
    expect(running).toBe(0);
  });

  it('rejects with the reason when it is aborted, and can go on', async () => {
    const { inner, storage } = setUp([{ operation: 'putPart', call: 3, effect: 'hang', when: 'before' }]);
    const bytes = randomBytes(5_000);
    const controller = new AbortController();
    const reason = new Error('enough');
    let handle: string | undefined;
    const onProgress = () => setImmediate(() => controller.abort(reason));
    const first = upload(bytes, {
      parallel: 1,
      signal: controller.signal,
      onProgress,
      onHandle: (given) => {
        handle = given;
      },
    });
    await expect(uploadLarge(storage, first)).rejects.toBe(reason);
    expect(await inner.stat(KEY)).toBeUndefined();
    const result = await uploadLarge(inner, upload(bytes, { handle }));
    expect(result.partsFound).toBeGreaterThan(0);
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('leaves nothing behind when the handle cannot be kept', async () => {
    const { inner, storage } = setUp();
    let handle = '';
    const onHandle = async (given: string) => {
      handle = given;
      throw new Error('the database is away');
    };
    await expect(uploadLarge(storage, upload(randomBytes(5_000), { onHandle }))).rejects.toThrow('is away');
    await expect(inner.uploads?.parts(handle)).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
  });
});

describe('going on', () => {
  it('sends only what is missing', async () => {
    const bytes = randomBytes(9_500);
    const { inner, storage, sent, handle } = await interrupted(bytes, 6);
    let begun = 0;
    const result = await uploadLarge(
      storage,
      upload(bytes, {
        handle,
        onHandle: () => {
          begun += 1;
        },
      }),
    );
    expect(result).toEqual({ partsSent: 4, partsFound: 6 });
    expect([sent(), begun]).toEqual([4, 0]);
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('sends again what changed in the source, and publishes no mixture', async () => {
    const bytes = randomBytes(9_500);
    const { inner, storage, handle } = await interrupted(bytes, 6);
    const changed = Buffer.from(bytes);
    changed[2_500] = (changed[2_500] ?? 0) ^ 1;
    const result = await uploadLarge(storage, upload(changed, { handle }));
    expect(result).toEqual({ partsSent: 5, partsFound: 5 });
    expect(digest(await inner.get(KEY))).toBe(digest(changed));
  });

  it.each([3_200, 6_000, 12_345])('publishes a source that now has %i bytes whole', async (size) => {
    const bytes = randomBytes(9_500);
    const { inner, storage, handle } = await interrupted(bytes, 6);
    const changed = Buffer.concat([bytes, randomBytes(5_000)]).subarray(0, size);
    await uploadLarge(storage, upload(changed, { handle }));
    expect(digest(await inner.get(KEY))).toBe(digest(changed));
  });

  it('sends all again in parts of another size', async () => {
    const bytes = randomBytes(9_500);
    const { inner, storage, handle } = await interrupted(bytes, 6);
    const result = await uploadLarge(storage, upload(bytes, { handle, partBytes: 700 }));
    expect(result.partsFound).toBe(0);
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('begins anew when the upload has expired, and tells the new handle', async () => {
    const bytes = randomBytes(9_500);
    const { inner, storage, handle } = await interrupted(bytes, 6);
    await inner.uploads?.abort(handle ?? '');
    const handles: string[] = [];
    const result = await uploadLarge(
      storage,
      upload(bytes, { handle, onHandle: (given) => void handles.push(given) }),
    );
    expect(result).toEqual({ partsSent: 10, partsFound: 0 });
    expect(handles).toHaveLength(1);
    expect(handles).not.toContain(handle);
  });

  it('knows its object when the run that published it died right after', async () => {
    const bytes = randomBytes(9_500);
    const { storage, sent, handle } = await interrupted(bytes, 6);
    await uploadLarge(storage, upload(bytes, { handle }));
    const before = sent();
    expect(await uploadLarge(storage, upload(bytes, { handle }))).toEqual({ partsSent: 0, partsFound: 10 });
    expect(sent()).toBe(before);
    const other = Buffer.from(bytes);
    other[9_499] = (other[9_499] ?? 0) ^ 1;
    await expect(uploadLarge(storage, upload(other, { handle }))).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
  });

  it('takes a complete whose answer was lost for done when the bytes are there', async () => {
    const { inner, storage } = setUp([{ operation: 'complete', call: 1, effect: 'fail', when: 'after' }]);
    const bytes = randomBytes(9_500);
    await uploadLarge(storage, upload(bytes));
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('knows its object where complete finds it published, and another’s for what it is', async () => {
    const taken = new StorageError('Taken.', 'STORAGE_ALREADY_EXISTS');
    const { inner, storage } = setUp([
      { operation: 'complete', call: 1, effect: 'fail', when: 'after', error: taken },
    ]);
    const bytes = randomBytes(9_500);
    await uploadLarge(storage, upload(bytes));
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));

    const other = setUp();
    const theirs = randomBytes(9_500);
    const onHandle = () => other.inner.put(KEY, [theirs]);
    await expect(uploadLarge(other.storage, upload(bytes, { onHandle }))).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(digest(await other.inner.get(KEY))).toBe(digest(theirs));
  });

  it('leaves it to complete to compare the parts, and publishes no mixture with another run', async () => {
    const bytes = randomBytes(2_500);
    const { storage } = setUp();
    await uploadLarge(storage, upload(bytes, { parallel: 1 }));
    const operations = storage.calls.map(({ operation }) => operation);
    expect(operations).toEqual(['begin', 'putPart', 'putPart', 'putPart', 'complete', 'stat']);

    const { inner } = setUp();
    const theirs = randomBytes(PART);
    let handle = '';
    const replaced = upload(bytes, {
      parallel: 1,
      onHandle: (given) => {
        handle = given;
      },
      read: async (offset, length) => {
        const part = { number: 1, size: PART, digest: digest(theirs) };
        if (offset === 2_000) await inner.uploads?.putPart(handle, part, theirs);
        return bytes.subarray(offset, offset + length);
      },
    });
    await expect(uploadLarge(inner, replaced)).rejects.toMatchObject({ code: 'STORAGE_CORRUPT' });
    expect(await inner.stat(KEY)).toBeUndefined();
  });

  it('rejects with the error of complete when nothing is there, or nobody can tell', async () => {
    const down: StorageFault = { operation: 'complete', call: 1, effect: 'fail', when: 'before' };
    const blind: StorageFault = { operation: 'stat', call: 'every', effect: 'fail', when: 'before' };
    for (const plan of [[down], [{ ...down, when: 'after' as const }, blind]]) {
      const { storage } = setUp(plan);
      await expect(uploadLarge(storage, upload(randomBytes(5_000)))).rejects.toMatchObject({
        message: expect.stringContaining('complete number 1'),
      });
    }
  });

  it('lets two runs of one upload end well', async () => {
    const bytes = randomBytes(9_500);
    const { inner, storage, handle } = await interrupted(bytes, 3);
    const outcomes = await Promise.allSettled([
      uploadLarge(storage, upload(bytes, { handle })),
      uploadLarge(storage, upload(bytes, { handle })),
    ]);
    expect(outcomes.map(({ status }) => status)).toContain('fulfilled');
    expect(digest(await inner.get(KEY))).toBe(digest(bytes));
  });

  it('notices that what was published has another size', async () => {
    const { inner, storage } = setUp();
    const lying = { ...storage, stat: async () => ({ key: KEY, size: 1, modifiedAt: new Date() }) };
    await expect(uploadLarge(lying, upload(randomBytes(5_000)))).rejects.toMatchObject({
      code: 'STORAGE_CORRUPT',
    });
    expect(await inner.stat(KEY)).toBeDefined();
  });
});

describe('planParts', () => {
  const limits = { minPartBytes: 100, maxPartBytes: 1_000, maxParts: 10 };

  it.each([
    [1_000, 100, 10, 100],
    [1_001, 100, 10, 101],
    [1_000, 1, 10, 100],
    [5_000, 5_000, 5, 1_000],
    [10_000, 100, 10, 1_000],
    [50, 400, 1, 50],
  ])('cuts %i bytes, parts of %i wanted, into %i of %i', (size, wanted, count, first) => {
    const plan = planParts(size, wanted, limits);
    expect(plan).toHaveLength(count);
    expect(plan[0]?.length).toBe(first);
    let end = 0;
    for (const { offset, length } of plan) {
      expect(offset).toBe(end);
      end += length;
    }
    expect(end).toBe(size);
  });

  it('refuses what is larger than the provider takes', () => {
    expect(() => planParts(10_001, 100, limits)).toThrow(expect.objectContaining({ code: 'NOT_SUPPORTED' }));
  });
});

describe('a process that is killed', () => {
  const children: ReturnType<typeof spawn>[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });

  function run(url: string, handle: string, size: number, partBytes: number) {
    const file = fileURLToPath(new URL('./storage-large-upload-child.ts', import.meta.url));
    const child = spawn(process.execPath, [file, url, handle, `${size}`, `${partBytes}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    const ended = new Promise<string>((resolve) => child.on('close', () => resolve(output)));
    return { child, ended, output: () => output };
  }

  it.each([1, 7, 19])('after %i parts is followed by one that sends only the rest', async (killAt) => {
    const [size, partBytes, total] = [20 * 64 * 1024 - 5, 64 * 1024, 20];
    const process = Promise.withResolvers<ReturnType<typeof run>>();
    // The part is stored, its answer never sent: the process dies without knowing.
    const server = await serveUploads(async (stored) => {
      if (stored === killAt) (await process.promise).child.kill('SIGKILL');
      if (stored >= killAt && !resumed) await new Promise(() => undefined);
    });
    let resumed = false;
    const first = run(server.url, '', size, partBytes);
    process.resolve(first);
    expect(await first.ended).not.toContain('DONE');
    const handle = /HANDLE (\S+)/.exec(first.output())?.[1] ?? '';
    expect(await server.storage.stat('large/object')).toBeUndefined();
    const present = (await server.uploads.parts(handle)).length;
    expect(present).toBeGreaterThanOrEqual(killAt);
    // Two at a time: one more may have been under way.
    expect(present).toBeLessThanOrEqual(killAt + 1);

    resumed = true;
    const before = server.stored();
    const second = run(server.url, handle, size, partBytes);
    expect(await second.ended).toBe(`DONE ${total - present} ${present}\n`);
    expect(server.stored() - before).toBe(total - present);
    expect(digest(await server.storage.get('large/object'))).toBe(digest(contentOf(size)));
    await server.close();
  });
});
