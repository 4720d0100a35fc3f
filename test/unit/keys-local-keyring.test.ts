import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect, promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { createKeyringFile, localKeyring } from '../../src/keys/local-keyring.ts';

const CONTEXT = {
  organizationId: '0190a000-0000-7000-8000-000000000001',
  configurationId: '0190a000-0000-7000-8000-000000000002',
  snapshotId: '0190a000-0000-7000-8000-000000000003',
};
const MAC = {
  organizationId: CONTEXT.organizationId,
  configurationId: CONTEXT.configurationId,
  purpose: 'sidecar',
};
const dataKey = new Uint8Array(32).fill(9);
const invalid = { name: 'KeyError', code: 'KEYRING_INVALID' };

let folder: string;
let file: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'care-backup-keyring-'));
  file = join(folder, 'keyring.json');
});

afterEach(async () => {
  vi.unstubAllEnvs();
  vi.useRealTimers();
  await rm(folder, { recursive: true, force: true });
});

const base64Key = () => randomBytes(32).toString('base64');

function keyringText(changes: object = {}, entry: object = {}): string {
  const key = { id: 'k1', key: base64Key(), createdAt: '2026-01-01T00:00:00.000Z', ...entry };
  return JSON.stringify({ version: 1, current: 'k1', keys: [key], ...changes });
}

async function write(text: string, mode = 0o600): Promise<void> {
  await writeFile(file, text);
  await chmod(file, mode);
}

describe('createKeyringFile', () => {
  it('makes a file of one fresh key that only its owner can read, whatever the umask', async () => {
    const umask = process.umask(0);
    const id = await createKeyringFile(file).finally(() => process.umask(umask));
    expect((await stat(file)).mode & 0o7777).toBe(0o600);
    const written = JSON.parse(await readFile(file, 'utf8'));
    expect(written).toEqual({
      version: 1,
      current: id,
      keys: [{ id, key: expect.stringMatching(/^[A-Za-z0-9+/]{43}=$/), createdAt: expect.any(String) }],
    });
    expect(Date.parse(written.keys[0].createdAt)).toBeGreaterThan(Date.now() - 60_000);
    expect(await localKeyring({ file }).currentKeyId()).toBe(id);
    expect(await readdir(folder)).toEqual(['keyring.json']);
  });

  it('never replaces a file', async () => {
    await write('something dear');
    await expect(createKeyringFile(file)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    expect(await readFile(file, 'utf8')).toBe('something dear');
  });

  it('makes another key every time', async () => {
    const ids = await Promise.all([1, 2, 3].map((n) => createKeyringFile(`${file}.${n}`)));
    expect(new Set(ids).size).toBe(3);
  });

  it('says where it could not write', async () => {
    const path = join(folder, 'no/such/folder/keyring.json');
    await expect(createKeyringFile(path)).rejects.toMatchObject({
      ...invalid,
      message: expect.stringContaining(path),
    });
  });
});

describe('the keyring file', () => {
  it.each([0o640, 0o620, 0o604, 0o602, 0o610, 0o601, 0o644, 0o666, 0o777])(
    'is refused with mode %i, with the remedy',
    async (mode) => {
      await write(keyringText(), mode);
      await expect(localKeyring({ file }).currentKeyId()).rejects.toMatchObject({
        ...invalid,
        message: expect.stringContaining(`chmod 600 ${file}`),
      });
    },
  );

  it.each([0o600, 0o400, 0o700])('is taken with mode %i', async (mode) => {
    await write(keyringText(), mode);
    expect(await localKeyring({ file }).currentKeyId()).toBe('k1');
  });

  it('is refused as soon as others can read it', async () => {
    await write(keyringText());
    const keys = localKeyring({ file });
    await keys.wrap(dataKey, CONTEXT);
    await chmod(file, 0o644);
    await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject(invalid);
  });

  it('is refused when it belongs to somebody else', async ({ skip }) => {
    if (process.geteuid?.() !== 0) return skip('only root can give a file away');
    await write(keyringText());
    await chown(file, 12_345, 12_345);
    await expect(localKeyring({ file }).currentKeyId()).rejects.toMatchObject({
      ...invalid,
      message: expect.stringContaining('belongs to user 12345'),
    });
  });

  it('must be a regular file, possibly behind a link', async () => {
    await write(keyringText());
    const link = join(folder, 'link');
    await symlink(file, link);
    expect(await localKeyring({ file: link }).currentKeyId()).toBe('k1');
    await mkdir(join(folder, 'directory'), { mode: 0o700 });
    await promisify(execFile)('mkfifo', ['-m', '600', join(folder, 'pipe')]);
    for (const name of ['directory', 'pipe', 'missing']) {
      await expect(localKeyring({ file: join(folder, name) }).currentKeyId()).rejects.toMatchObject(invalid);
    }
    await expect(localKeyring({ file: '/dev/null' }).currentKeyId()).rejects.toThrow('not a regular file');
  });

  const secret = base64Key();
  const entry = { id: 'k1', key: secret, createdAt: '2026-01-01T00:00:00Z' };
  const malformed: [string, string][] = [
    ['nothing', ''],
    ['no JSON', `{"version":1,"current":"k1","keys":[{"id":"k1","key":"${secret}",}]}`],
    ['cut JSON', keyringText({}, { key: secret }).slice(0, -10)],
    ['a bare key', secret],
    ['a JSON text', JSON.stringify(secret)],
    ['a list', JSON.stringify([entry])],
    ['null', 'null'],
    ['another version', keyringText({ version: 2 }, { key: secret })],
    ['no version', keyringText({ version: undefined }, { key: secret })],
    ['no keys', keyringText({ keys: undefined })],
    ['keys that are no list', keyringText({ keys: { k1: entry } })],
    ['an empty list', keyringText({ keys: [] })],
    ['an unknown current', keyringText({ current: secret }, { key: secret })],
    ['no current', keyringText({ current: undefined }, { key: secret })],
    ['an unknown field', keyringText({ [secret]: 1 }, { key: secret })],
    ['an unknown field of a key', keyringText({}, { key: secret, [secret]: 1 })],
    ['an id twice', keyringText({ keys: [entry, entry] })],
    ['an id of other characters', keyringText({ current: 'k 1' }, { id: 'k 1', key: secret })],
    ['an empty id', keyringText({ current: '' }, { id: '', key: secret })],
    ['a long id', keyringText({ current: 'k'.repeat(256) }, { id: 'k'.repeat(256), key: secret })],
    ['a number as id', keyringText({}, { id: 1, key: secret })],
    ['no time', keyringText({}, { key: secret, createdAt: undefined })],
    ['a wrong time', keyringText({}, { key: secret, createdAt: 'yesterday' })],
    ['a short key', keyringText({}, { key: secret.slice(0, 40) })],
    ['a long key', keyringText({}, { key: Buffer.alloc(33).toString('base64') })],
    ['a key without padding', keyringText({}, { key: secret.slice(0, 43) })],
    ['a key with a space', keyringText({}, { key: ` ${secret}` })],
    ['a key in hex', keyringText({}, { key: Buffer.from(secret, 'base64').toString('hex') })],
    ['a key that is no text', keyringText({}, { key: [...Buffer.from(secret, 'base64')] })],
    ['a null key', keyringText({ keys: [null] })],
  ];

  it.each(malformed)('is refused with %s, without a word of its content', async (_, text) => {
    await write(text);
    const keys = localKeyring({ file });
    const error: unknown = await keys.currentKeyId().catch((reason: unknown) => reason);
    expect(error).toMatchObject({ ...invalid, message: expect.stringContaining(file) });
    const shown = inspect(error, { depth: 20, showHidden: true }) + JSON.stringify(error) + inspect(keys);
    // Any eight characters of the key would be a leak: the JSON parser quotes ten around its error.
    for (let at = 0; at + 8 <= secret.length; at += 1) {
      expect(shown.includes(secret.slice(at, at + 8)), 'a piece of the key is shown').toBe(false);
    }
  });

  it('is read again when another process rotated it', async () => {
    await createKeyringFile(file);
    const [here, there] = [localKeyring({ file }), localKeyring({ file })];
    const first = await here.currentKeyId();
    const second = await there.rotate();
    expect(await here.currentKeyId()).toBe(second);
    const wrapped = await there.wrap(dataKey, CONTEXT);
    expect(wrapped.keyId).toBe(second);
    expect([...(await here.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
    expect((await here.macKey(MAC, first)).keyId).toBe(first);
  });

  it('wraps nothing while the file is gone', async () => {
    await createKeyringFile(file);
    const keys = localKeyring({ file });
    await keys.wrap(dataKey, CONTEXT);
    await rename(file, `${file}.away`);
    await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject(invalid);
    await expect(keys.rotate()).rejects.toMatchObject(invalid);
    await rename(`${file}.away`, file);
    await keys.wrap(dataKey, CONTEXT);
  });
});

describe('rotation of the file', () => {
  it('keeps all keys as they were, mode 0600, and leaves nothing else', async () => {
    const id = await createKeyringFile(file);
    const before = JSON.parse(await readFile(file, 'utf8'));
    await chmod(file, 0o400);
    const next = await localKeyring({ file }).rotate();
    const after = JSON.parse(await readFile(file, 'utf8'));
    expect(after.current).toBe(next);
    expect(after.keys).toHaveLength(2);
    expect(after.keys[0]).toEqual(before.keys[0]);
    expect(after.keys[0].id).toBe(id);
    expect(after.keys[1].key).not.toBe(before.keys[0].key);
    expect((await stat(file)).mode & 0o7777).toBe(0o600);
    expect(await readdir(folder)).toEqual(['keyring.json']);
  });

  it('keeps the link before it and the owner of the file', async ({ skip }) => {
    await createKeyringFile(file);
    const link = join(folder, 'link');
    await symlink(file, link);
    const next = await localKeyring({ file: link }).rotate();
    expect(await localKeyring({ file }).currentKeyId()).toBe(next);
    expect((await readdir(folder)).sort()).toEqual(['keyring.json', 'link']);
    if (process.geteuid?.() !== 0) return skip('only root rotates files of others');
    await chown(file, 0, 12_345);
    await localKeyring({ file }).rotate();
    expect((await stat(file)).gid).toBe(12_345);
  });

  it('loses no key when processes rotate at once', { timeout: 30_000 }, async () => {
    const first = await createKeyringFile(file);
    const child = join(import.meta.dirname, '../contract/keys-rotate-child.ts');
    const outputs = await Promise.all(
      Array.from({ length: 4 }, () => promisify(execFile)(process.execPath, [child, file, '8'])),
    );
    const ids = outputs.flatMap(({ stdout }) => stdout.trim().split('\n'));
    expect(new Set(ids).size).toBe(32);
    const { keys, current } = JSON.parse(await readFile(file, 'utf8'));
    expect(keys.map(({ id }: { id: string }) => id).sort()).toEqual([first, ...ids].sort());
    expect(keys.at(-1).id).toBe(current);
    expect(await readdir(folder)).toEqual(['keyring.json']);
  });

  it('waits for another one, and goes on when it ends', async () => {
    await createKeyringFile(file);
    await writeFile(`${file}.lock`, 'process 1 on elsewhere');
    setTimeout(() => void unlink(`${file}.lock`), 80);
    expect(await localKeyring({ file }).rotate()).toMatch(/^local-/);
  });

  it('names the lock that nobody gives back, and does not break it', { timeout: 20_000 }, async () => {
    const id = await createKeyringFile(file);
    await writeFile(`${file}.lock`, 'process 1 on elsewhere');
    const now = Date.now();
    let late = 0;
    vi.spyOn(Date, 'now').mockImplementation(() => now + 6_000 * late++);
    const rotation = localKeyring({ file }).rotate();
    await expect(rotation).rejects.toMatchObject({
      code: 'INVALID_STATE',
      retryable: true,
      message: expect.stringContaining(`${file}.lock (process 1 on elsewhere)`),
    });
    vi.restoreAllMocks();
    expect(await localKeyring({ file }).currentKeyId()).toBe(id);
    expect((await readdir(folder)).sort()).toEqual(['keyring.json', 'keyring.json.lock']);
  });

  it('changes nothing of a file that is not valid', async () => {
    await write(keyringText({ version: 2 }));
    const before = await readFile(file, 'utf8');
    await expect(localKeyring({ file }).rotate()).rejects.toMatchObject(invalid);
    expect(await readFile(file, 'utf8')).toBe(before);
    expect(await readdir(folder)).toEqual(['keyring.json']);
  });
});

describe('the environment', () => {
  const open = (text: string): KeyProvider => {
    vi.stubEnv('CARE_BACKUP_TEST_KEY', text);
    return localKeyring({ env: 'CARE_BACKUP_TEST_KEY' });
  };

  it('names a single key by its fingerprint, in either encoding', async () => {
    const key = randomBytes(32);
    const ids = await Promise.all(
      [
        key.toString('base64'),
        key.toString('hex'),
        key.toString('hex').toUpperCase(),
        `${key.toString('hex')}\n`,
      ].map((text) => open(text).currentKeyId()),
    );
    expect(new Set(ids).size).toBe(1);
    expect(ids[0]).toMatch(/^local-[0-9a-f]{16}$/);
    expect(await open(base64Key()).currentKeyId()).not.toBe(ids[0]);
  });

  it('names the missing key when the variable holds another', async () => {
    const wrapped = await open(base64Key()).wrap(dataKey, CONTEXT);
    await expect(open(base64Key()).unwrap(wrapped, CONTEXT)).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
      message: expect.stringContaining(wrapped.keyId),
    });
  });

  it.each([
    ['nothing', ''],
    ['blanks', '  '],
    ['a short key', 'c2VjcmV0LXNlY3JldA=='],
    ['an odd hex key', 'deadbeef'.repeat(8).slice(1)],
    ['broken JSON', '{"version":1,"current":"c2VjcmV0LXNlY3JldA=="'],
  ])('is refused at once with %s, without a word of it', (_, text) => {
    let error: unknown;
    try {
      open(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ ...invalid, message: expect.stringContaining('CARE_BACKUP_TEST_KEY') });
    const shown = inspect(error, { depth: 20, showHidden: true });
    for (const piece of ['c2VjcmV0', 'deadbeef']) expect(shown.includes(piece)).toBe(false);
  });
});

describe('keys in memory', () => {
  it('need `current` when there are several', async () => {
    const keys = ['a', 'b'].map((id) => ({ id, key: base64Key() }));
    expect(() => localKeyring({ keys })).toThrow('`current`');
    expect(() => localKeyring({ keys: [] })).toThrow('`current`');
    expect(() => localKeyring({ keys, current: 'c' })).toThrow('`current`');
    expect(await localKeyring({ keys, current: 'a' }).currentKeyId()).toBe('a');
    expect(await localKeyring({ keys: keys.slice(1) }).currentKeyId()).toBe('b');
  });

  it('are copied', async () => {
    const key = new Uint8Array(randomBytes(32));
    const wrapped = await localKeyring({ keys: [{ id: 'a', key: key.slice() }] }).wrap(dataKey, CONTEXT);
    const keys = localKeyring({ keys: [{ id: 'a', key }] });
    key.fill(0);
    expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
  });
});

describe('the options', () => {
  it('are exactly one source', () => {
    const open: (options: never) => KeyProvider = localKeyring;
    const both = { file, env: 'X' };
    for (const options of [{}, both]) {
      expect(() => open(options as never)).toThrow(
        expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
      );
    }
  });
});
