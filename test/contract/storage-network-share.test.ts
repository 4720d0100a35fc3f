import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { networkShareStorage } from '../../src/storage/network-share.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { storageContract } from './storage.ts';

/** A mount that every Linux has, and that whoever runs the tests can write to. */
const ALWAYS_MOUNTED = '/dev/shm';
const MARKER = '.care-backup-share';
const NOT_MOUNTED = { code: 'STORAGE_NOT_MOUNTED', retryable: true };

storageContract(
  'network share',
  async () => {
    const folder = await mkdtemp(join(ALWAYS_MOUNTED, 'care-share-'));
    return {
      storage: networkShareStorage({ path: join(folder, 'not/made/yet'), mountPoint: ALWAYS_MOUNTED }),
      close: () => rm(folder, { recursive: true, force: true }),
    };
  },
  { keyMayBeFolder: false },
);

async function keysOf(of: ObjectStorage, prefix = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of of.list(prefix)) keys.push(key);
  return keys.sort();
}

/** Every operation, by name. */
function operations(storage: ObjectStorage): readonly (readonly [string, () => Promise<unknown>])[] {
  return [
    ['put', () => storage.put('new/object', [Buffer.from('x')])],
    ['get', () => storage.get('kept/object')],
    ['stat', () => storage.stat('kept/object')],
    ['list', () => keysOf(storage)],
    ['delete', () => storage.delete('kept/object')],
  ];
}

describe('a folder that is on no share', () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'care-share-'));
  });

  afterEach(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  it('is refused by every operation, and nothing is written', async () => {
    for (const options of [
      { path: folder },
      { path: folder, mountPoint: folder },
      { path: join(folder, 'a') },
    ]) {
      for (const [name, call] of operations(networkShareStorage(options))) {
        await expect(call(), name).rejects.toMatchObject(NOT_MOUNTED);
      }
    }
    expect(await readdir(folder)).toEqual([]);
  });

  it('is refused where the share is mounted elsewhere', async () => {
    const storage = networkShareStorage({ path: folder, mountPoint: '/proc' });
    for (const [name, call] of operations(storage)) {
      await expect(call(), name).rejects.toMatchObject(NOT_MOUNTED);
    }
  });

  it('is refused on a mount that is of no network, unless the mount point is named', async () => {
    const path = await mkdtemp(join(ALWAYS_MOUNTED, 'care-share-'));
    try {
      const storage = networkShareStorage({ path });
      await expect(storage.put('a', [])).rejects.toMatchObject({
        ...NOT_MOUNTED,
        message: expect.stringContaining('tmpfs'),
      });
      expect(await readdir(path)).toEqual([]);
      await networkShareStorage({ path, mountPoint: ALWAYS_MOUNTED }).put('a', []);
    } finally {
      await rm(path, { recursive: true });
    }
  });
});

describe('the marker', () => {
  let path: string;
  let storage: ObjectStorage;
  const fresh = () => networkShareStorage({ path, mountPoint: ALWAYS_MOUNTED });

  beforeEach(async () => {
    path = await mkdtemp(join(ALWAYS_MOUNTED, 'care-share-'));
    storage = fresh();
  });

  afterEach(async () => {
    await rm(path, { recursive: true, force: true });
  });

  it('is written by the first put, once, and is no object', async () => {
    expect(await keysOf(storage)).toEqual([]);
    expect(await readdir(path)).toEqual([]);
    const others = Array.from({ length: 10 }, fresh);
    await Promise.all(others.map((other, n) => other.put(`racing/${n}`, [])));
    const text = await readFile(join(path, MARKER), 'utf8');
    await storage.put('kept/object', []);
    expect(await readFile(join(path, MARKER), 'utf8')).toBe(text);
    expect((await stat(join(path, MARKER))).mode & 0o777).toBe(0o600);
    expect((await readdir(path)).sort()).toEqual([MARKER, '.tmp-uploads', 'kept', 'racing'].sort());
    expect(await keysOf(storage)).toHaveLength(11);
  });

  it.each([
    ['gone', undefined],
    ['of another share', '00000000-0000-4000-8000-000000000000\n'],
    ['damaged', 'half an i'],
    ['empty', ''],
  ])('must stay what it was: %s', async (_, text) => {
    await storage.put('kept/object', [Buffer.from('x')]);
    const original = await readFile(join(path, MARKER));
    if (text === undefined) await rm(join(path, MARKER));
    else await writeFile(join(path, MARKER), text);
    for (const [name, call] of operations(storage)) {
      await expect(call(), name).rejects.toMatchObject(NOT_MOUNTED);
    }
    await writeFile(join(path, MARKER), original);
    expect(await keysOf(storage)).toEqual(['kept/object']);
    for (const [, call] of operations(storage)) await call();
  });
});

describe('a share that is mounted and unmounted', () => {
  let base: string;
  let point: string;
  let mounted: 'yes' | 'no';

  beforeEach(async () => {
    base = await mkdtemp(join(tmpdir(), 'care-share-'));
    point = join(base, 'nas');
    await mkdir(point);
    mounted = mount('size=4m');
  });

  afterEach(async () => {
    if (mounted === 'yes') unmount();
    await rm(base, { recursive: true, force: true });
  });

  function mount(options: string): 'yes' | 'no' {
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', point], { stdio: 'pipe' });
      return 'yes';
    } catch (error) {
      console.warn(
        'NOT TESTED ON A REAL MOUNT: this machine allows no mounts. Only the probe was tested, in ' +
          `test/unit/storage-network-share.test.ts, and the marker on ${ALWAYS_MOUNTED}. ${error}`,
      );
      return 'no';
    }
  }

  function unmount(): void {
    execFileSync('umount', ['--lazy', point], { stdio: 'pipe' });
    mounted = 'no';
  }

  it.each([
    ['the mount point', ''],
    ['a folder on it', 'backups/care'],
  ])('is noticed at once, never empty, and used again: %s', async (_, below) => {
    if (mounted === 'no') return;
    const storage = networkShareStorage({ path: join(point, below), mountPoint: point });
    await storage.put('kept/object', [Buffer.from('x')]);
    unmount();
    await mkdir(join(point, below), { recursive: true });
    const before = await readdir(point, { recursive: true });
    for (const [name, call] of operations(storage)) {
      await expect(call(), name).rejects.toMatchObject(NOT_MOUNTED);
    }
    for (const [name, call] of operations(
      networkShareStorage({ path: join(point, below), mountPoint: point }),
    )) {
      await expect(call(), `${name} after a restart`).rejects.toMatchObject(NOT_MOUNTED);
    }
    expect(await readdir(point, { recursive: true })).toEqual(before);
    // Another, empty share at the same place.
    mounted = mount('size=4m');
    for (const [name, call] of operations(storage)) {
      await expect(call(), `${name} on another share`).rejects.toMatchObject(NOT_MOUNTED);
    }
    expect(await readdir(point)).toEqual([]);
  });

  it('fails a put and a listing during which it goes', async () => {
    if (mounted === 'no') return;
    const storage = networkShareStorage({ path: point, mountPoint: point });
    for (let n = 0; n < 5; n += 1) await storage.put(`kept/${n}`, []);
    const walked = (async () => {
      const seen: string[] = [];
      for await (const { key } of storage.list('')) {
        if (seen.length === 0) unmount();
        seen.push(key);
      }
      return seen;
    })();
    // What the walk itself meets may be an error of its own; an end as if all were seen must not be.
    await expect(walked).rejects.toMatchObject({ name: 'StorageError' });
    await expect(storage.put('new', [])).rejects.toMatchObject(NOT_MOUNTED);
    expect(await readdir(point)).toEqual([]);
  });

  it('is full: STORAGE_FULL, and nothing is visible', async () => {
    if (mounted === 'no') return;
    const storage = networkShareStorage({ path: point, mountPoint: point });
    await storage.put('kept/small', [Buffer.from('x')]);
    const big = [Buffer.alloc(8 * 1024 * 1024, 1)];
    await expect(storage.put('deep/er/big', big)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
    expect(await keysOf(storage)).toEqual(['kept/small']);
    expect(await readdir(join(point, '.tmp-uploads'))).toEqual([]);
    await storage.put('kept/after', [Buffer.from('y')]);
  });
});
