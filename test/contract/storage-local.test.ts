import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { localStorage } from '../../src/storage/local.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { keyOf, writerOf, writtenBy } from './storage-child-data.ts';

const CHILD = join(import.meta.dirname, 'storage-child.ts');
const HOUR = 60 * 60 * 1000;

let base: string;
let root: string;
let storage: ObjectStorage;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'care-backup-local-'));
  root = join(base, 'root');
  storage = localStorage({ path: root });
});

afterEach(async () => {
  await rm(base, { recursive: true, force: true });
});

async function keysOf(of: ObjectStorage, prefix = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of of.list(prefix)) keys.push(key);
  return keys.sort();
}

describe('what is on the disk', () => {
  it('gives nobody else a right, whatever the umask', async () => {
    const umask = process.umask(0);
    try {
      await storage.put('a/b/object', [Buffer.from('x')]);
    } finally {
      process.umask(umask);
    }
    for (const folder of ['', '.tmp-uploads', 'a', 'a/b']) {
      expect((await stat(join(root, folder))).mode & 0o7777, folder).toBe(0o700);
    }
    expect((await stat(join(root, 'a/b/object'))).mode & 0o7777).toBe(0o600);
  });

  it('is one file with one name, and no remains', async () => {
    await storage.put('a/object', [Buffer.from('x')]);
    expect((await stat(join(root, 'a/object'))).nlink).toBe(1);
    await expect(storage.put('a/object', [Buffer.from('y')])).rejects.toThrow();
    expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
  });

  it('has no empty folders after the last object of a folder is deleted', async () => {
    await storage.put('a/b/c/1', []);
    await storage.put('a/2', []);
    await storage.delete('a/b/c/1');
    expect((await readdir(join(root, 'a'))).sort()).toEqual(['2']);
    await storage.delete('a/2');
    expect(await readdir(root)).toEqual(['.tmp-uploads']);
  });

  it('has no folders after a put that was refused or aborted', async () => {
    await storage.put('taken', []);
    await expect(storage.put('taken/below', [])).rejects.toMatchObject({ code: 'STORAGE_INVALID_KEY' });
    const controller = new AbortController();
    const put = storage.put('x/y/z', [Buffer.alloc(64 * 1024 * 1024)], { signal: controller.signal });
    setTimeout(() => controller.abort(), 5);
    await expect(put).rejects.toMatchObject({ name: 'AbortError' });
    expect((await readdir(root)).sort()).toEqual(['.tmp-uploads', 'taken']);
    expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
  });

  it('lists no remains of dead writers, and removes those older than 24 hours at the next put', async () => {
    const uploads = join(root, '.tmp-uploads');
    const [old, young] = ['0', '1'].map((n) => join(uploads, `${n}0000000-0000-4000-8000-000000000000.part`));
    if (old === undefined || young === undefined) throw new Error('unreachable');
    const foreign = join(uploads, 'notes.txt');
    await mkdir(uploads, { recursive: true });
    for (const file of [old, young, foreign]) await writeFile(file, 'half an obj');
    const now = Date.now();
    for (const file of [old, foreign]) await utimes(file, now / 1000, (now - 25 * HOUR) / 1000);
    await utimes(young, now / 1000, (now - 23 * HOUR) / 1000);
    expect(await keysOf(storage)).toEqual([]);
    expect(await readdir(uploads)).toHaveLength(3);
    await storage.put('object', []);
    expect(await keysOf(storage)).toEqual(['object']);
    expect((await readdir(uploads)).map((name) => join(uploads, name)).sort()).toEqual(
      [young, foreign].sort(),
    );
  });

  it('is not listed when no key could name it', async () => {
    await storage.put('a/object', []);
    for (const name of ['.hidden', 'a/.nfs0001', 'lost+found', 'a/b~']) await writeFile(join(root, name), '');
    expect(await keysOf(storage)).toEqual(['a/object']);
  });

  it('does not hang on a named pipe', async () => {
    await storage.put('object', []);
    execFileSync('mkfifo', [join(root, 'pipe')]);
    await expect(storage.get('pipe')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
    expect(await storage.stat('pipe')).toBeUndefined();
    expect(await keysOf(storage)).toEqual(['object']);
  });
});

describe('the root', () => {
  it('is empty while it does not exist, and is not made by reading', async () => {
    expect(await keysOf(storage)).toEqual([]);
    expect(await storage.stat('object')).toBeUndefined();
    await expect(storage.get('object')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
    await storage.delete('object');
    expect(await readdir(base)).toEqual([]);
  });

  it('is unavailable, not empty and not made again, when it vanishes', async () => {
    await storage.put('object', []);
    await rm(root, { recursive: true });
    const gone = { code: 'STORAGE_UNAVAILABLE', retryable: true };
    await expect(keysOf(storage)).rejects.toMatchObject(gone);
    await expect(storage.stat('object')).rejects.toMatchObject(gone);
    await expect(storage.get('object')).rejects.toMatchObject(gone);
    await expect(storage.put('object', [])).rejects.toMatchObject(gone);
    expect(await readdir(base)).toEqual([]);
  });

  it('must be a folder', async () => {
    await writeFile(root, '');
    const calls = [
      () => keysOf(storage),
      () => storage.stat('a'),
      () => storage.get('a'),
      () => storage.put('a', []),
    ];
    for (const call of calls) {
      await expect(call()).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    }
    for (const path of ['', 'a\0b']) expect(() => localStorage({ path })).toThrow('a folder');
  });

  it('may be reached through a symbolic link', async () => {
    await mkdir(join(base, 'real'));
    await symlink(join(base, 'real'), root);
    await storage.put('a/object', [Buffer.from('x')]);
    expect((await readFile(join(base, 'real/a/object'))).toString()).toBe('x');
    expect(await keysOf(storage)).toEqual(['a/object']);
  });
});

describe('symbolic links below the root', () => {
  const denied = { code: 'STORAGE_DENIED', retryable: false };
  let outside: string;

  beforeEach(async () => {
    outside = join(base, 'outside');
    await mkdir(outside);
    await writeFile(join(outside, 'secret'), 'secret');
    await storage.put('inside/object', [Buffer.from('x')]);
  });

  afterEach(async () => {
    expect(await readdir(outside)).toEqual(['secret']);
    expect((await readFile(join(outside, 'secret'))).toString()).toBe('secret');
  });

  it.each([
    ['an absolute one', () => outside],
    ['a relative one', () => '../outside'],
    ['one that stays inside', () => 'inside'],
  ])('lead nowhere as a folder: %s', async (_, target) => {
    await symlink(target(), join(root, 'link'));
    for (const name of ['secret', 'new', 'new/deep/er']) {
      const key = `link/${name}`;
      await expect(storage.put(key, [Buffer.from('y')]), key).rejects.toMatchObject(denied);
    }
    for (const key of ['link/secret', 'link/object']) {
      await expect(storage.get(key)).rejects.toMatchObject(denied);
      await expect(storage.stat(key)).rejects.toMatchObject(denied);
      await expect(storage.delete(key)).rejects.toMatchObject(denied);
    }
    await expect(keysOf(storage, 'link/')).rejects.toMatchObject(denied);
    expect(await keysOf(storage)).toEqual(['inside/object']);
  });

  it('lead nowhere as an object', async () => {
    await symlink(join(outside, 'secret'), join(root, 'link'));
    await expect(storage.get('link')).rejects.toMatchObject(denied);
    await expect(storage.stat('link')).rejects.toMatchObject(denied);
    await expect(storage.delete('link')).rejects.toMatchObject(denied);
    await expect(storage.put('link', [Buffer.from('y')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
    expect(await keysOf(storage)).toEqual(['inside/object']);
    expect(await readlink(join(root, 'link'))).toBe(join(outside, 'secret'));
  });

  it('are not written through when they dangle', async () => {
    await symlink(join(outside, 'new'), join(root, 'link'));
    await expect(storage.put('link/object', [])).rejects.toMatchObject(denied);
    await expect(storage.put('link', [])).rejects.toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
  });

  it('are not written through in the place of the uploads folder', async () => {
    await rm(join(root, '.tmp-uploads'), { recursive: true });
    await symlink(outside, join(root, '.tmp-uploads'));
    await expect(storage.put('object', [])).rejects.toMatchObject(denied);
  });
});

describe('a full disk', () => {
  /** Runs the child on a tmpfs of its own mount namespace, which ends with it. */
  function onSmallDisk(options: string, mode: string) {
    const script = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" "$4" "$5" "$2"';
    const args = ['-c', script, 'sh', options, root, process.execPath, CHILD, mode];
    const output = execFileSync('unshare', ['--user', '--map-root-user', '--mount', 'sh', ...args], {
      encoding: 'utf8',
    });
    return JSON.parse(output) as Record<string, unknown>;
  }

  function canMount(): boolean {
    try {
      execFileSync('unshare', [
        '--user',
        '--map-root-user',
        '--mount',
        'mount',
        '-t',
        'tmpfs',
        'tmpfs',
        '/mnt',
      ]);
      return true;
    } catch (error) {
      console.warn(
        'NOT TESTED ON A REAL FULL DISK: this machine allows no mounts in a namespace ' +
          `(unshare). Only injected ENOSPC was tested, in test/unit/storage-local-errors.test.ts. ${error}`,
      );
      return false;
    }
  }

  it('refuses the object, shows nothing of it and gives the space back', async (context) => {
    if (!canMount()) return context.skip('no mounts in a namespace on this machine');
    await mkdir(root);
    expect(onSmallDisk('size=2m', 'fill')).toEqual({
      tooLarge: 'STORAGE_FULL',
      keys: ['kept/small'],
      uploads: [],
      folders: ['.tmp-uploads', 'kept'],
      again: 'ok',
      smallWhole: true,
      readOnly: { put: 'STORAGE_DENIED', delete: 'STORAGE_DENIED', get: 'ok' },
      keysAtEnd: ['kept/after', 'kept/small'],
    });
  });

  it('leaves no folders when it fills while they are made', async (context) => {
    if (!canMount()) return context.skip('no mounts in a namespace on this machine');
    await mkdir(root);
    expect(onSmallDisk('size=2m,nr_inodes=7', 'inodes')).toEqual({
      tooDeep: 'STORAGE_FULL',
      keys: [],
      uploads: [],
      folders: ['.tmp-uploads'],
      again: 'ok',
      keysAtEnd: ['flat'],
    });
  });
});

describe('other processes', { timeout: 60_000 }, () => {
  /** A writing child, the outcomes that it has reported by object, and its first word and its end. */
  function startWriter(mode: 'write' | 'race', writer: number, count = 0) {
    const outcomes = new Map<number, string>();
    const child = spawn(process.execPath, [CHILD, mode, root, `${writer}`, `${count}`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface(child.stdout);
    lines.on('line', (line) => {
      const [outcome = '', n] = line.split(' ');
      if (n !== undefined) outcomes.set(Number(n), outcome);
    });
    const silent = once(lines, 'close');
    const saidNext = () => Promise.race([once(lines, 'line'), silent]);
    const ended = Promise.all([once(child, 'close'), silent]);
    return { child, outcomes, saidNext, ended, started: saidNext() };
  }

  it('race for the same keys, and each key has one winner', async () => {
    const count = 60;
    const writers = [1, 2, 3, 4].map((writer) => ({ writer, ...startWriter('race', writer) }));
    await Promise.all(writers.map(({ started }) => started));
    for (let n = 0; n < count; n += 1) {
      const said = writers.map(({ saidNext }) => saidNext());
      // Each is the first to be told in its turn.
      for (let i = 0; i < writers.length; i += 1) {
        writers[(n + i) % writers.length]?.child.stdin.write(`${n}\n`);
      }
      await Promise.all(said);
    }
    for (const { child } of writers) child.stdin.end();
    await Promise.all(writers.map(({ ended }) => ended));
    const wins = new Map<number, number>();
    for (let n = 0; n < count; n += 1) {
      const winner = writerOf(await storage.get(keyOf(n)), n);
      wins.set(winner, (wins.get(winner) ?? 0) + 1);
      for (const { writer, outcomes } of writers) {
        expect(outcomes.get(n)).toBe(writer === winner ? 'ok' : 'STORAGE_ALREADY_EXISTS');
      }
    }
    expect(wins.size).toBeGreaterThan(1);
    expect(await keysOf(storage)).toHaveLength(count);
  });

  it('leave whole objects, and all that they reported, when they are killed at any moment', async () => {
    const rounds = 25;
    let interrupted = 0;
    for (let round = 0; round < rounds; round += 1) {
      root = join(base, `killed-${round}`);
      storage = localStorage({ path: root });
      const writer = startWriter('write', round, 100_000);
      await writer.started;
      await new Promise((resolve) => setTimeout(resolve, (round * 37) % 60));
      writer.child.kill('SIGKILL');
      await writer.ended;

      const visible = await keysOf(storage);
      const numbers = visible.map((key) => Number(key.split('/').at(-1)));
      for (const n of numbers) expect(writerOf(await storage.get(keyOf(n)), n)).toBe(round);
      for (const [n, outcome] of writer.outcomes) {
        expect(outcome).toBe('ok');
        expect(numbers).toContain(n);
      }
      // The one that was being written may be there, whole, without having been reported.
      expect(numbers.length - writer.outcomes.size).toBeLessThanOrEqual(1);
      interrupted += (await readdir(join(root, '.tmp-uploads'))).length;

      const next = Math.max(-1, ...numbers) + 1;
      await storage.put(keyOf(next), writtenBy(round, next));
      expect(await keysOf(storage)).toEqual([...visible, keyOf(next)].sort());
    }
    // Else no kill ever hit an unfinished upload, and nothing was tested.
    expect(interrupted).toBeGreaterThan(0);
  });
});
