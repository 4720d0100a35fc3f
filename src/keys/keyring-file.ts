import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readFile, realpath, rename, stat, unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import { type Keyring, parseKeyring, serializeKeyring, withFreshKey, withoutKey } from './keyring.ts';

const MAX_FILE_BYTES = 1024 * 1024;
const LOCK_WAIT_MS = 10_000;
const LOCK_POLL_MS = 20;

/** A keyring and what tells whether its file was replaced or changed since. */
export interface LoadedKeyring {
  readonly keyring: Keyring;
  readonly version: string;
}

/**
 * Makes a keyring file with one fresh key, 0600, durable when it resolves. Gives the id of the key. Never replaces a
 * file: `INVALID_STATE` when there is one. `KEYRING_INVALID` when it cannot be written.
 */
export async function createKeyringFile(path: string): Promise<string> {
  const file = resolve(path);
  const keyring = withFreshKey(new Map(), new Date());
  try {
    await writeNewFile(file, serializeKeyring(keyring));
    await syncFolderOf(file);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') {
      throw new DataProtectionError(`${file} exists already; it was not changed.`, 'INVALID_STATE');
    }
    throw notWritten(file, error);
  }
  return keyring.current;
}

/** Reads and checks the file. Throws `KEYRING_INVALID`. */
export async function readKeyringFile(file: string): Promise<LoadedKeyring> {
  try {
    // Links are followed (Kubernetes mounts secrets behind them): what counts is the file that was opened.
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const version = await checkedVersion(handle, file);
    return { keyring: parseKeyring(await handle.readFile('utf8'), file), version };
  } catch (error) {
    throw unreadable(file, error);
  }
}

/** What `readKeyringFile` would give as the version now. */
export async function keyringFileVersion(file: string): Promise<string> {
  try {
    return versionOf(await stat(file, { bigint: true }));
  } catch (error) {
    throw unreadable(file, error);
  }
}

/** Adds a fresh key to the file and makes it the current one; gives its id when it is durable. See `changeFile`. */
export async function rotateKeyringFile(path: string): Promise<string> {
  return (await changeFile(path, ({ keys }) => withFreshKey(keys, new Date()))).current;
}

/** Removes a key from the file. `INVALID_STATE` for the current one, `KEY_UNAVAILABLE` for one that is not in it. */
export async function retireFromKeyringFile(path: string, id: string): Promise<void> {
  await changeFile(path, (keyring) => {
    if (keyring.current === id) {
      throw new DataProtectionError(
        `${id} is the current key of ${path}; rotate before it is retired.`,
        'INVALID_STATE',
      );
    }
    if (!keyring.keys.has(id)) throw new KeyError(`The key ${id} is not in ${path}.`, 'KEY_UNAVAILABLE');
    return withoutKey(keyring, id);
  });
}

/**
 * Replaces the file's keyring by what `change` makes of it; gives that when it is durable.
 *
 * Two processes never do so at once: `<file>.lock`, made create-only, is held from reading to renaming, so each
 * builds on what the other wrote and no key is lost. A lock is never broken, because nothing can tell surely that
 * its holder is dead: after 10 seconds `INVALID_STATE` names the file, for the operator to remove. Readers need no
 * lock; they see the old file or the new one.
 */
async function changeFile(path: string, change: (keyring: Keyring) => Keyring): Promise<Keyring> {
  const file = await realpath(path).catch((error: unknown) => {
    throw unreadable(path, error);
  });
  const lock = `${file}.lock`;
  await takeLock(lock);
  try {
    const { keyring, version } = await readKeyringFile(file);
    const changed = change(keyring);
    await replaceFile(file, version, serializeKeyring(changed));
    return changed;
  } finally {
    await unlink(lock).catch(() => undefined);
  }
}

async function takeLock(lock: string): Promise<void> {
  const until = Date.now() + LOCK_WAIT_MS;
  for (;;) {
    try {
      return await writeNewFile(lock, `process ${process.pid} on ${hostname()}`);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw notWritten(lock, error);
    }
    if (Date.now() >= until) {
      const holder = await readFile(lock, 'utf8').catch(() => 'unknown');
      throw new DataProtectionError(
        `Another change of the keyring holds ${lock} (${holder}). If it is not running any more, remove that file and repeat.`,
        'INVALID_STATE',
        { retryable: true },
      );
    }
    await sleep(LOCK_POLL_MS);
  }
}

async function replaceFile(file: string, version: string, text: string): Promise<void> {
  const next = join(dirname(file), `.${basename(file)}.${randomUUID()}.tmp`);
  try {
    await writeNewFile(next, text, await stat(file));
    if ((await keyringFileVersion(file)) !== version) {
      throw new DataProtectionError(
        `${file} was changed by somebody else meanwhile; nothing was changed here.`,
        'INVALID_STATE',
        {
          retryable: true,
        },
      );
    }
    await rename(next, file);
    await syncFolderOf(file);
  } catch (error) {
    await unlink(next).catch(() => undefined);
    throw notWritten(file, error);
  }
}

/** Create-only and whole: what could not be written is removed. With an owner, the file is given to it. */
async function writeNewFile(file: string, text: string, owner?: { uid: number; gid: number }): Promise<void> {
  const handle = await open(file, 'wx', 0o600);
  try {
    if (owner !== undefined && process.geteuid?.() === 0) await handle.chown(owner.uid, owner.gid);
    await handle.writeFile(text);
    await handle.sync();
    await handle.close();
  } catch (error) {
    await handle.close().catch(() => undefined);
    await unlink(file).catch(() => undefined);
    throw error;
  }
}

async function syncFolderOf(file: string): Promise<void> {
  if (process.platform === 'win32') return;
  await using folder = await open(dirname(file), 'r');
  await folder.sync().catch((error: unknown) => {
    if (!['EINVAL', 'ENOTSUP', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '')) throw error;
  });
}

async function checkedVersion(handle: FileHandle, file: string): Promise<string> {
  const info = await handle.stat({ bigint: true });
  if (!info.isFile()) throw new KeyError(`${file} is not a regular file.`, 'KEYRING_INVALID');
  if (info.size > MAX_FILE_BYTES)
    throw new KeyError(`${file} is too large for a keyring.`, 'KEYRING_INVALID');
  const self = process.geteuid?.();
  if (self !== undefined) {
    if (info.uid !== 0n && info.uid !== BigInt(self)) {
      throw new KeyError(
        `${file} belongs to user ${info.uid}, who can read and change it; it must belong to user ${self} or root.`,
        'KEYRING_INVALID',
      );
    }
    if ((info.mode & 0o077n) !== 0n) {
      throw new KeyError(
        `${file} can be read or changed by its group or by others. Run: chmod 600 ${file}`,
        'KEYRING_INVALID',
      );
    }
  }
  return versionOf(info);
}

function versionOf(info: {
  dev: bigint;
  ino: bigint;
  size: bigint;
  mtimeNs: bigint;
  ctimeNs: bigint;
}): string {
  return [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(':');
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

function unreadable(file: string, error: unknown): unknown {
  if (error instanceof DataProtectionError) return error;
  const errno = errnoOf(error) ?? 'see the cause';
  const hint = errno === 'ENOENT' ? ' `createKeyringFile` makes a new one.' : '';
  return new KeyError(`The keyring ${file} cannot be read (${errno}).${hint}`, 'KEYRING_INVALID', {
    cause: error,
  });
}

function notWritten(file: string, error: unknown): unknown {
  if (error instanceof DataProtectionError) return error;
  return new KeyError(
    `${file} cannot be written (${errnoOf(error) ?? 'see the cause'}).`,
    'KEYRING_INVALID',
    { cause: error },
  );
}
