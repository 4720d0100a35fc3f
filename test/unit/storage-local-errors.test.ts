import type { FileHandle } from 'node:fs/promises';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { localStorage } from '../../src/storage/local.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';

/** What the file system did, and which of its calls fail: errno by step, such as `link`. */
const disk = vi.hoisted(() => ({
  steps: [] as string[],
  failures: new Map<string, string>(),
  afterEffect: new Set<string>(),
}));

vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof import('node:fs/promises')>();

  async function step<T>(name: string, path: string, effect: () => Promise<T>): Promise<T> {
    const errno = disk.failures.get(name);
    const error = Object.assign(new Error(`${errno}: injected, ${name} '${path}'`), { code: errno });
    disk.steps.push(`${name} ${path}`);
    if (errno !== undefined && !disk.afterEffect.has(name)) throw error;
    const answer = await effect();
    if (errno !== undefined) throw error;
    return answer;
  }

  function watched(handle: FileHandle, path: string): FileHandle {
    const kind = path.endsWith('.part') ? 'upload' : 'other';
    const { writev, sync, close } = handle;
    handle.writev = ((views: Uint8Array[]) =>
      step(`${kind}.writev`, path, () => writev.call(handle, views))) as FileHandle['writev'];
    handle.sync = () => step(`${kind}.sync`, path, () => sync.call(handle));
    handle.close = () => step(`${kind}.close`, path, () => close.call(handle));
    return handle;
  }

  return {
    ...real,
    open: async (path: string, ...rest: [string, number]) =>
      watched(await step('open', path, () => real.open(path, ...rest)), path),
    link: (from: string, to: string) => step('link', to, () => real.link(from, to)),
    unlink: (path: string) => step('unlink', path, () => real.unlink(path)),
    mkdir: (path: string, mode: number) => step('mkdir', path, () => real.mkdir(path, mode)),
    opendir: (path: string) => step('opendir', path, () => real.opendir(path)),
    lstat: (path: string, options: object) => step('lstat', path, () => real.lstat(path, options)),
  };
});

let root: string;
let storage: ObjectStorage;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'care-backup-errors-'));
  storage = localStorage({ path: root });
  await storage.put('first', [Buffer.from('first')]);
  disk.steps.length = 0;
});

afterEach(async () => {
  disk.failures.clear();
  disk.afterEffect.clear();
  await rm(root, { recursive: true, force: true });
});

async function keysOf(): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('')) keys.push(key);
  return keys.sort();
}

describe('a failing system call', () => {
  const codes = [
    ['ENOSPC', 'STORAGE_FULL'],
    ['EDQUOT', 'STORAGE_FULL'],
    ['EACCES', 'STORAGE_DENIED'],
    ['EPERM', 'STORAGE_DENIED'],
    ['EROFS', 'STORAGE_DENIED'],
    ['ENAMETOOLONG', 'STORAGE_INVALID_KEY'],
    ['EIO', 'STORAGE_UNAVAILABLE'],
    ['ESTALE', 'STORAGE_UNAVAILABLE'],
    ['EMFILE', 'STORAGE_UNAVAILABLE'],
  ] as const;
  const steps = ['open', 'upload.writev', 'upload.sync', 'upload.close', 'mkdir', 'link'] as const;
  const cases = steps.flatMap((step) => codes.map(([errno, code]) => [step, errno, code] as const));

  it.each(cases)('of a put: %s, %s is %s, and nothing is visible', async (step, errno, code) => {
    if (step === 'link' && errno === 'EPERM') return;
    disk.failures.set(step, errno);
    // A close that fails has closed nevertheless.
    if (step === 'upload.close') disk.afterEffect.add(step);
    const error = await storage.put('a/b/object', [Buffer.from('x')]).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ name: 'StorageError', code, key: 'a/b/object', cause: { code: errno } });
    disk.failures.clear();
    expect(await keysOf()).toEqual(['first']);
    expect((await readdir(root)).sort()).toEqual(['.tmp-uploads', 'first']);
    expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
    await storage.put('a/b/object', [Buffer.from('x')]);
  });

  it.each(codes)('of a get, list or delete: %s is %s', async (errno, code) => {
    disk.failures.set('open', errno);
    await expect(storage.get('first')).rejects.toMatchObject({ code, cause: { code: errno } });
    disk.failures.set('opendir', errno);
    await expect(keysOf()).rejects.toMatchObject({ code });
    disk.failures.set('unlink', errno);
    await expect(storage.delete('first')).rejects.toMatchObject({ code });
    disk.failures.set('lstat', errno);
    await expect(storage.stat('first')).rejects.toMatchObject({ code });
  });

  it.each(['ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EPERM'])(
    '%s of every link means that there are none',
    async (errno) => {
      disk.failures.set('link', errno);
      await expect(storage.put('object', [Buffer.from('x')])).rejects.toMatchObject({
        code: 'CONFIGURATION_INVALID',
        message: expect.stringContaining('no hard links'),
      });
      expect(await keysOf()).toEqual(['first']);
      expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
    },
  );

  it('after the object was published never says that nothing is visible', async () => {
    disk.failures.set('other.sync', 'ENOSPC');
    await expect(storage.put('object', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    expect(Buffer.from(await storage.get('object')).toString()).toBe('x');
  });

  it.each(['EINVAL', 'ENOTSUP'])(
    '%s of syncing a folder is what some file systems always say',
    async (errno) => {
      disk.failures.set('other.sync', errno);
      await storage.put('object', [Buffer.from('x')]);
    },
  );

  it('of removing the upload does not take back what was published', async () => {
    disk.failures.set('unlink', 'EIO');
    await storage.put('object', [Buffer.from('x')]);
    expect(await keysOf()).toEqual(['first', 'object']);
  });

  it('EEXIST of a link that took place is a repeated request of NFS, not another writer', async () => {
    disk.failures.set('link', 'EEXIST');
    disk.afterEffect.add('link');
    await storage.put('object', [Buffer.from('x')]);
    disk.failures.clear();
    expect(Buffer.from(await storage.get('object')).toString()).toBe('x');
    await expect(storage.put('object', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
  });

  it('that says for ever that the folder is gone ends the put', async () => {
    disk.failures.set('link', 'ENOENT');
    await expect(storage.put('a/object', [])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });
});

describe('durability', () => {
  it('of a put: the file is synced and closed before it gets its name, the folders up to the root after', async () => {
    await storage.put('a/b/object', [Buffer.from('x')]);
    const names = disk.steps.map((step) => step.replace(/\S*\.part$/, '<upload>').replace(root, '<root>'));
    const order = names.filter((step) => !step.startsWith('lstat') && !step.startsWith('mkdir'));
    expect(order.slice(0, 6)).toEqual([
      'open <upload>',
      'upload.writev <upload>',
      'upload.sync <upload>',
      'upload.close <upload>',
      'link <root>/a/b/object',
      'unlink <upload>',
    ]);
    const synced = order.filter((step) => step.startsWith('other.sync'));
    expect(synced.sort()).toEqual(['other.sync <root>', 'other.sync <root>/a', 'other.sync <root>/a/b']);
  });

  it('of a name that is taken: its folders are synced before the put says so, or it is not sure', async () => {
    disk.failures.set('other.sync', 'EIO');
    const unsure = { code: 'STORAGE_UNAVAILABLE', key: 'a/b/object', cause: { code: 'EIO' } };
    for (const _ of ['published', 'taken']) {
      await expect(storage.put('a/b/object', [Buffer.from('x')])).rejects.toMatchObject(unsure);
    }
    disk.failures.clear();
    disk.steps.length = 0;
    await expect(storage.put('a/b/object', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    const synced = disk.steps.filter((step) => step.startsWith('other.sync'));
    expect(synced.map((step) => step.replace(root, '<root>')).sort()).toEqual([
      'other.sync <root>',
      'other.sync <root>/a',
      'other.sync <root>/a/b',
    ]);
  });

  it('of the root and the folders above it that the first put makes', async () => {
    const path = join(root, 'new/er/root');
    await localStorage({ path }).put('object', []);
    const synced = disk.steps
      .filter((step) => step.startsWith('other.sync'))
      .map((step) => step.split(' ')[1]);
    expect(new Set(synced)).toEqual(new Set([root, join(root, 'new'), join(root, 'new/er'), path]));
  });

  it('of a root whose folders could not be synced at the first put', async () => {
    const path = join(root, 'new/er/root');
    const fresh = localStorage({ path });
    disk.failures.set('other.sync', 'EIO');
    await expect(fresh.put('object', [])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    disk.failures.clear();
    disk.steps.length = 0;
    await fresh.put('object', []);
    for (const folder of [root, join(root, 'new'), join(root, 'new/er')]) {
      expect(disk.steps).toContain(`other.sync ${folder}`);
    }
  });

  it('of a delete: the folder that stays is synced', async () => {
    await storage.put('a/b/object', [Buffer.from('x')]);
    disk.steps.length = 0;
    await storage.delete('a/b/object');
    expect(disk.steps).toContain(`other.sync ${root}`);
  });
});
