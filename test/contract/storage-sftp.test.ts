import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type SftpStorageOptions, sftpStorage } from '../../src/storage/sftp.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { startSftpFilter } from '../harness/sftp-filter.ts';
import { type SshServer, startSshServer } from '../harness/ssh-server.ts';
import { storageContract } from './storage.ts';

const MIB = 1024 * 1024;
const HOUR = 60 * 60;

let server: SshServer;

// It may have to install the server first.
beforeAll(async () => {
  server = await startSshServer();
}, 300_000);

afterAll(async () => {
  await server?.stop();
});

function optionsFor(of: SshServer, path: string): SftpStorageOptions {
  const { username, privateKey, port, hostKey } = of;
  return { host: '127.0.0.1', port, path, hostKey, credentials: async () => ({ username, privateKey }) };
}

storageContract(
  'sftp',
  async () => {
    const path = join(await mkdtemp(join(server.folder, 'root-')), 'not/made/yet');
    const storage = sftpStorage(optionsFor(server, path));
    return { storage, close: async () => storage.close?.() };
  },
  // Names come by the hundred. Without CARE_SOAK: some hundreds in one folder, and dozens in each of many.
  { keyMayBeFolder: false, listedObjects: process.env.CARE_SOAK === '1' ? 2_500 : 250 },
);

describe('sftp', { timeout: 60_000 }, () => {
  let root: string;
  let storage: ObjectStorage;
  const opened: ObjectStorage[] = [];

  function open(changes: Partial<SftpStorageOptions> = {}): ObjectStorage {
    const one = sftpStorage({ ...optionsFor(server, root), ...changes });
    opened.push(one);
    return one;
  }

  beforeEach(async () => {
    root = join(await mkdtemp(join(server.folder, 'root-')), 'objects');
    storage = open();
  });

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((one) => one.close?.()));
  });

  async function keysOf(of: ObjectStorage, prefix = ''): Promise<string[]> {
    const keys: string[] = [];
    for await (const { key } of of.list(prefix)) keys.push(key);
    return keys.sort();
  }

  /** Until the server has taken so many bytes of an upload. */
  async function uploading(bytes: number): Promise<void> {
    const uploads = join(root, '.tmp-uploads');
    for (const end = Date.now() + 15_000; Date.now() < end; ) {
      const names = await readdir(uploads).catch(() => []);
      const sizes = await Promise.all(names.map(async (name) => (await stat(join(uploads, name))).size));
      if (sizes.some((size) => size >= bytes)) return;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    throw new Error('No upload began within 15 s.');
  }

  describe('the host key', () => {
    const fingerprint = (line: string) => {
      const digest = createHash('sha256').update(Buffer.from(line.split(' ')[1] ?? '', 'base64'));
      return `SHA256:${digest.digest('base64').replace(/=+$/, '')}`;
    };

    it.each([
      ['as a line of known_hosts', () => `[127.0.0.1]:${server.port} ${server.hostKey} a comment`],
      ['as a fingerprint', () => fingerprint(server.hostKey)],
      ['of the type that the server does not prefer', () => server.rsaHostKey],
    ])('is taken %s', async (_, hostKey) => {
      await open({ hostKey: hostKey() }).put('object', []);
      expect(await readdir(root)).toContain('object');
    });

    it('is checked before the login: another one is STORAGE_UNTRUSTED', async () => {
      const other = await startSshServer();
      try {
        for (const hostKey of [other.hostKey, other.rsaHostKey, fingerprint(other.hostKey)]) {
          const wrong = open({
            hostKey,
            credentials: async () => ({ username: 'nobody', password: 'S3CRET' }),
          });
          for (const call of [wrong.put('object', []), wrong.stat('object'), keysOf(wrong)]) {
            await expect(call).rejects.toMatchObject({
              code: 'STORAGE_UNTRUSTED',
              retryable: false,
              message: expect.stringContaining('Nothing was sent to it.'),
            });
          }
        }
      } finally {
        await other.stop();
      }
    });
  });

  describe('the login', () => {
    it('may be by a key with a passphrase', async () => {
      const { username, encryptedPrivateKey: privateKey } = server;
      const withPassphrase = (passphrase: string) =>
        open({ credentials: async () => ({ username, privateKey, passphrase }) });
      await withPassphrase('test passphrase').put('object', []);
      await expect(withPassphrase('wrong one').stat('object')).rejects.toMatchObject({
        code: 'CREDENTIALS_UNAVAILABLE',
      });
    });

    it('that is refused is STORAGE_DENIED, without the secret, and asks again for the credential', async () => {
      let asked = 0;
      const password = 'S3CRET-password';
      const wrong = open({
        credentials: async () => {
          asked += 1;
          return { username: server.username, password };
        },
      });
      for (const _ of [1, 2]) {
        const error: unknown = await wrong.put('object', []).catch((reason) => reason);
        expect(error).toMatchObject({ code: 'STORAGE_DENIED', retryable: false });
        const { inspect } = await import('node:util');
        expect(inspect(error, { depth: 10, showHidden: true })).not.toContain(password);
      }
      expect(asked).toBe(2);
    });

    it('needs a whole credential', async () => {
      for (const credential of [
        {},
        { username: 'a' },
        { password: 'b' },
        { username: 'a', privateKey: 'c' },
      ]) {
        await expect(open({ credentials: async () => credential }).stat('object')).rejects.toMatchObject({
          code: 'CREDENTIALS_UNAVAILABLE',
        });
      }
      const failure = new Error('the vault is closed');
      const failing = open({ credentials: () => Promise.reject(failure) });
      await expect(failing.stat('object')).rejects.toMatchObject({ cause: failure });
    });
  });

  describe('the connection', () => {
    it('is one, shared by all calls, and gone after close; later calls open another', async () => {
      await storage.put('object', [Buffer.from('x')]);
      const serving = server.connections();
      await Promise.all(Array.from({ length: 20 }, () => storage.stat('object')));
      expect(server.connections()).toEqual(serving);
      await storage.close?.();
      await storage.close?.();
      expect((await storage.get('object')).byteLength).toBe(1);
    });

    it('that is cut during a put leaves nothing visible, and the next call opens another', async () => {
      await storage.put('kept', [Buffer.from('x')]);
      const body = Array.from({ length: 64 }, (_, n) => Buffer.alloc(MIB, n));
      const put = storage.put('cut/object', body);
      const outcome = expect(put).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: true });
      await uploading(2 * MIB);
      server.killConnections();
      await outcome;
      expect(await keysOf(storage)).toEqual(['kept']);
      expect(await storage.stat('cut/object')).toBeUndefined();
      await storage.put('cut/object', body);
      expect((await storage.stat('cut/object'))?.size).toBe(64 * MIB);
    });

    it('that is cut during a get fails it, and all that wait', async () => {
      await storage.put('object', [randomBytes(32 * MIB)]);
      const calls = [storage.get('object'), storage.get('object'), storage.stat('object'), keysOf(storage)];
      const outcomes = Promise.allSettled(calls);
      server.killConnections();
      for (const outcome of await outcomes) {
        if (outcome.status === 'rejected') {
          expect(outcome.reason).toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
        }
      }
      expect((await outcomes).some(({ status }) => status === 'rejected')).toBe(true);
      expect((await storage.get('object')).byteLength).toBe(32 * MIB);
    });

    it('to a server that no longer answers does not hold up an abort, nor the calls after it', async () => {
      await storage.put('object', []);
      server.pauseConnections();
      try {
        const call = storage.stat('object', { signal: AbortSignal.timeout(50) });
        await expect(call).rejects.toMatchObject({ name: 'TimeoutError' });
        const reason = new Error('enough');
        const controller = new AbortController();
        const listing = storage.list('', { signal: controller.signal })[Symbol.asyncIterator]().next();
        controller.abort(reason);
        await expect(listing).rejects.toBe(reason);
        // The dead connection is given up, and the next call opens another, although the first still hangs.
        const dead = storage.stat('object');
        await expect(dead).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
        expect(await keysOf(storage)).toEqual(['object']);
      } finally {
        server.resumeConnections();
      }
    });

    it('that nobody takes is STORAGE_UNAVAILABLE', async () => {
      const nowhere = open({ port: 1 });
      await expect(nowhere.stat('object')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      const nobody = open({ host: 'no-such-host.invalid' });
      await expect(nobody.stat('object')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    });

    it('does not keep the process alive when it is idle', async () => {
      const { credentials, ...options } = optionsFor(server, root);
      const script = [
        `import { sftpStorage } from ${JSON.stringify(join(import.meta.dirname, '../../src/storage/sftp.ts'))};`,
        'const { options, credential } = JSON.parse(process.env.SFTP_TEST);',
        'await sftpStorage({ ...options, credentials: async () => credential }).put("from/child", []);',
      ];
      const SFTP_TEST = JSON.stringify({ options, credential: await credentials() });
      execFileSync(process.execPath, ['--input-type=module', '-e', script.join('\n')], {
        env: { ...process.env, SFTP_TEST },
        timeout: 50_000,
      });
      expect(await keysOf(storage)).toEqual(['from/child']);
    });
  });

  describe('what is on the server', () => {
    it('gives nobody else a right, and has one name', async () => {
      await storage.put('a/b/object', [Buffer.from('x')]);
      for (const folder of ['', '.tmp-uploads', 'a', 'a/b']) {
        expect((await stat(join(root, folder))).mode & 0o7777, folder).toBe(0o700);
      }
      const info = await stat(join(root, 'a/b/object'));
      expect(info.mode & 0o7777).toBe(0o600);
      expect(info.nlink).toBe(1);
      await expect(storage.put('a/b/object', [])).rejects.toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
      expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
    });

    it('has no empty folders after a delete, a refusal or an abort', async () => {
      await storage.put('a/b/c/1', []);
      await storage.put('taken', []);
      await storage.delete('a/b/c/1');
      await expect(storage.put('taken/below', [])).rejects.toMatchObject({ code: 'STORAGE_INVALID_KEY' });
      const controller = new AbortController();
      const put = storage.put('x/y', [Buffer.alloc(64 * MIB)], { signal: controller.signal });
      const outcome = expect(put).rejects.toMatchObject({ name: 'AbortError' });
      await uploading(MIB);
      controller.abort();
      await outcome;
      expect((await readdir(root)).sort()).toEqual(['.tmp-uploads', 'taken']);
      expect(await readdir(join(root, '.tmp-uploads'))).toEqual([]);
    });

    it('loses remains that are older than 24 hours at the first put', async () => {
      const uploads = join(root, '.tmp-uploads');
      await mkdir(uploads, { recursive: true });
      const now = Date.now() / 1000;
      const names = ['0', '1'].map((n) => `${n}0000000-0000-4000-8000-000000000000.part`);
      for (const [n, name] of [...names, 'notes.txt'].entries()) {
        await writeFile(join(uploads, name), 'half an obj');
        await utimes(join(uploads, name), now, now - (n === 1 ? 23 : 25) * HOUR);
      }
      expect(await keysOf(storage)).toEqual([]);
      await storage.put('object', []);
      expect((await readdir(uploads)).sort()).toEqual([names[1], 'notes.txt']);
    });

    it('is not reached through symbolic links', async () => {
      const denied = { code: 'STORAGE_DENIED', retryable: false };
      const outside = await mkdtemp(join(server.folder, 'outside-'));
      await writeFile(join(outside, 'secret'), 'secret');
      await storage.put('inside/object', []);
      await symlink(outside, join(root, 'link'));
      await symlink(join(outside, 'secret'), join(root, 'file'));
      for (const key of ['link/secret', 'link/new', 'link/deep/er']) {
        await expect(storage.put(key, []), key).rejects.toMatchObject(denied);
        await expect(storage.get(key), key).rejects.toMatchObject(denied);
        await expect(storage.stat(key), key).rejects.toMatchObject(denied);
        await expect(storage.delete(key), key).rejects.toMatchObject(denied);
      }
      await expect(keysOf(storage, 'link/')).rejects.toMatchObject(denied);
      await expect(storage.get('file')).rejects.toMatchObject(denied);
      await expect(storage.put('file', [])).rejects.toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
      expect(await keysOf(storage)).toEqual(['inside/object']);
      expect(await readdir(outside)).toEqual(['secret']);
      expect(await readFile(join(outside, 'secret'), 'utf8')).toBe('secret');
    });

    it('does not hang on a named pipe', async () => {
      await storage.put('object', []);
      execFileSync('mkfifo', [join(root, 'pipe')]);
      await expect(storage.get('pipe')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
      expect(await keysOf(storage)).toEqual(['object']);
    });

    it('must not vanish, and must be a folder', async () => {
      await storage.put('object', []);
      execFileSync('rm', ['-r', root]);
      for (const call of [keysOf(storage), storage.stat('object'), storage.put('new', [])]) {
        await expect(call).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      }
      await writeFile(root, '');
      await expect(keysOf(open())).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    });
  });

  it('gives back a huge object, whole and in part', async () => {
    const pieces = Array.from({ length: 6 }, () => randomBytes(8 * MIB + 1));
    await storage.put('huge', pieces);
    const whole = Buffer.concat(pieces);
    expect(Buffer.compare(await storage.get('huge'), whole)).toBe(0);
    const range = { offset: 40 * MIB - 7, length: 5 * MIB };
    const part = await storage.get('huge', { range });
    expect(Buffer.compare(part, whole.subarray(range.offset, range.offset + range.length))).toBe(0);
  });

  it.each(['hardlink', 'fsync'])('is refused where the server lacks %s', async (request) => {
    const lacking = await startSshServer({ subsystem: `internal-sftp -P ${request}` });
    const path = join(lacking.folder, 'objects');
    const without = sftpStorage(optionsFor(lacking, path));
    try {
      await expect(without.put('object', [])).rejects.toMatchObject({
        code: 'CONFIGURATION_INVALID',
        message: expect.stringContaining(`${request}@openssh.com`),
      });
      expect(await readdir(lacking.folder)).toEqual([]);
    } finally {
      await without.close?.();
      await lacking.stop();
    }
  });

  describe('a folder that is not synced', () => {
    let filter: Awaited<ReturnType<typeof startSftpFilter>>;
    let filtered: ObjectStorage;
    const body = [Buffer.from('x')];

    beforeEach(async () => {
      filter = await startSftpFilter();
      filtered = open({ port: filter.port, hostKey: filter.hostKey });
      await filtered.put('a/first', body);
      filter.folderSync.passed = 0;
    });

    afterEach(async () => {
      await filtered.close?.();
      await filter.close();
    });

    it.each([4, 'CUT'] as const)(
      'leaves a put unsure (%s), and the next one too, until it is synced',
      async (fault) => {
        filter.folderSync.fault = fault;
        const unsure = { code: 'STORAGE_UNAVAILABLE', message: expect.stringContaining('power cut') };
        await expect(filtered.put('a/object', body)).rejects.toMatchObject(unsure);
        await expect(filtered.put('a/object', body)).rejects.toMatchObject(unsure);
        filter.folderSync.fault = undefined;
        await expect(filtered.put('a/object', body)).rejects.toMatchObject({
          code: 'STORAGE_ALREADY_EXISTS',
        });
        expect(filter.folderSync.passed).toBe(2);
      },
    );

    it.each([3, 5, 8])('because the server cannot (status %i) is what it gives', async (fault) => {
      filter.folderSync.fault = fault;
      await filtered.put('a/object', body);
      await filtered.delete('a/object');
    });
  });

  it('is denied where the server allows no writing', async () => {
    const readOnly = await startSshServer({ subsystem: 'internal-sftp -P mkdir' });
    const without = sftpStorage(optionsFor(readOnly, join(readOnly.folder, 'objects')));
    try {
      await expect(without.put('object', [])).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    } finally {
      await without.close?.();
      await readOnly.stop();
    }
  });

  it('is full: STORAGE_FULL, and nothing is visible', async () => {
    const point = await mkdtemp(join(server.folder, 'small-'));
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', point], { stdio: 'pipe' });
    } catch (error) {
      console.warn(`NOT TESTED ON A FULL DISK OF AN SFTP SERVER: this machine allows no mounts. ${error}`);
      return;
    }
    try {
      const small = open({ path: join(point, 'objects') });
      await small.put('kept', [Buffer.from('x')]);
      await expect(small.put('deep/er/big', [Buffer.alloc(8 * MIB, 1)])).rejects.toMatchObject({
        code: 'STORAGE_FULL',
      });
      expect(await keysOf(small)).toEqual(['kept']);
      expect((await readdir(join(point, 'objects'))).sort()).toEqual(['.tmp-uploads', 'kept']);
      expect(await readdir(join(point, 'objects/.tmp-uploads'))).toEqual([]);
      await small.put('after', [Buffer.from('y')]);
    } finally {
      execFileSync('umount', ['--lazy', point]);
    }
  });
});
