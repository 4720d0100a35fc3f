import { describe, expect, test } from 'vitest';
import type { StoredArchive } from '../../src/service/stored-archive.ts';
import { thawArchive } from '../../src/service/thaw.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { multiStorage } from '../../src/storage/multi.ts';
import type { ObjectStorage, TierState } from '../../src/storage/storage.ts';
import { StorageError } from '../../src/types/errors.ts';

/** A store whose objects lie in a tier; `thaw` brings one nearer with every look. */
async function tiered(state: TierState | 'ABSENT' | 'SILENT'): Promise<{
  storage: ObjectStorage;
  asked: string[];
}> {
  const inner = memoryStorage();
  if (state !== 'ABSENT') await inner.put('o-000001', [Buffer.of(1)]);
  const asked: string[] = [];
  let now = state;
  return {
    asked,
    storage: {
      ...inner,
      tiers: {
        state: async (key) => {
          if (now === 'SILENT') throw new StorageError('away', 'STORAGE_UNAVAILABLE', { key });
          if (now === 'ABSENT') throw new StorageError('none', 'STORAGE_NOT_FOUND', { key });
          const answer = now;
          if (now === 'THAWING') now = 'READABLE';
          return answer;
        },
        thaw: async (key) => {
          asked.push(key);
          now = 'THAWING';
        },
      },
    },
  };
}

async function untiered(state: 'there' | 'absent'): Promise<ObjectStorage> {
  const storage = memoryStorage();
  if (state === 'there') await storage.put('o-000001', [Buffer.of(1)]);
  return storage;
}

const archiveIn = (storage: ObjectStorage): StoredArchive =>
  ({
    place: { storage, prefix: '', manifestKey: 'manifest' },
    manifest: { header: { objects: [{ name: 'o-000001', size: 1 }] } },
  }) as unknown as StoredArchive;

async function thaw(...copies: ObjectStorage[]): Promise<number[]> {
  const [only] = copies;
  const storage =
    copies.length === 1 && only !== undefined ? only : multiStorage({ copies, minimumConfirmations: 1 });
  const readable: number[] = [];
  await thawArchive(archiveIn(storage), {
    signal: new AbortController().signal,
    days: 3,
    pollMs: 1,
    onProgress: (progress) => readable.push(progress.readable),
  });
  return readable;
}

describe('thawing', () => {
  test('one store: asks once, and waits', async () => {
    const { storage, asked } = await tiered('ARCHIVED');
    expect(await thaw(storage)).toEqual([0, 0, 1]);
    expect(asked).toEqual(['o-000001']);
    expect(await thaw(await untiered('there'))).toEqual([]);
  });

  test('several stores: waits for nothing where one can be read at once', async () => {
    const frozen = await tiered('ARCHIVED');
    expect(await thaw(frozen.storage, await untiered('there'))).toEqual([1]);
    expect(await thaw(frozen.storage, (await tiered('READABLE')).storage)).toEqual([1]);
    expect(frozen.asked).toEqual([]);
  });

  test.each(['ABSENT', 'SILENT'] as const)(
    'a first store that is %s: the second is thawed',
    async (state) => {
      const frozen = await tiered('ARCHIVED');
      expect(await thaw((await tiered(state)).storage, frozen.storage)).toEqual([0, 0, 1]);
      expect(frozen.asked).toEqual(['o-000001']);
      const lone = await tiered('ARCHIVED');
      expect(await thaw(await untiered('absent'), lone.storage)).toEqual([0, 0, 1]);
    },
  );

  test('goes on with a thaw that has begun elsewhere, and leaves what is nowhere to its reader', async () => {
    const first = await tiered('ARCHIVED');
    expect(await thaw(first.storage, (await tiered('THAWING')).storage)).toEqual([0, 1]);
    expect(first.asked).toEqual([]);
    expect(await thaw((await tiered('ABSENT')).storage, (await tiered('ABSENT')).storage)).toEqual([1]);
  });

  test('fails where no store says how it is', async () => {
    await expect(
      thaw((await tiered('SILENT')).storage, (await tiered('ABSENT')).storage),
    ).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
  });
});
