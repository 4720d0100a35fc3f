import { randomUUID } from 'node:crypto';
import { posix } from 'node:path';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertRange } from './byte-range.ts';
import { namedLikeFolder, throughLink } from './local-folders.ts';
import { assertObjectKey, assertObjectKeyPrefix, isObjectKeySegment } from './object-key.ts';
import { SftpConnection } from './sftp-connection.ts';
import { codeForStatus, isStatus, SFTP_STATUS, statusOf } from './sftp-errors.ts';
import { foldersUpTo, lookAtFolders, makeFolders, makeRoot, removeEmptyFolders } from './sftp-folders.ts';
import { parseHostKey } from './sftp-host-key.ts';
import type { SftpSession } from './sftp-session.ts';
import type { ObjectInfo, ObjectStorage } from './storage.ts';

export interface SftpStorageOptions {
  readonly host: string;
  /** Default 22. */
  readonly port?: number | undefined;
  /** The remote folder that holds the objects; relative to the login folder without a leading `/`. */
  readonly path: string;
  /**
   * The server's own key: `ssh-ed25519 AAAA...` as in known_hosts, or `SHA256:...` as `ssh-keygen -l` prints it. It is
   * checked before the login. A server with keys of several types shows the type that a whole key names; with a
   * fingerprint, the one that it prefers (usually ed25519).
   */
  readonly hostKey: string;
  /** `username`, and `password` or `privateKey` (optionally `passphrase`). Asked whenever a connection is opened. */
  readonly credentials: () => Promise<Credential>;
}

/** Not a valid segment of a key, so no object can be named into it. */
const UPLOADS = '.tmp-uploads';
const UPLOAD_NAME = /^[0-9a-f-]{36}\.part$/;
const STALE_UPLOAD_MS = 24 * 60 * 60 * 1000;

const FILE_MODE = 0o600;

/** How often a put makes its folders again after deletes of their last object removed them. */
const MAX_PUBLISH_ATTEMPTS = 100;

/** A disk with less than this left is full: one request of a write no longer fits. */
const FULL_BELOW_BYTES = 32 * 1024;

/**
 * SFTP: objects are files below one folder of a server, named by their keys; folders are 0700, files 0600.
 *
 * `put` writes to `.tmp-uploads` inside the root, has the server sync the file (`fsync@openssh.com`), publishes it with
 * `hardlink@openssh.com` and syncs the folders, also before it says that an object exists already. A link never replaces a file (POSIX `link`), so of racing writers one
 * wins, and an interrupted put leaves nothing that an operation shows; puts remove remains older than 24 hours.
 *
 * A server without one of these extensions is refused by `put` with `CONFIGURATION_INVALID`. SFTP's own rename is no
 * substitute: draft-ietf-secsh-filexfer-02 (6.5) makes it an error when the new name is taken, but does not make it
 * atomic. OpenSSH links where it can, but falls back to `stat` and then `rename`, which replaces what came between,
 * and does so exactly where there are no hard links; other servers replace always.
 *
 * When the connection is lost while the server publishes, `put` is `STORAGE_UNAVAILABLE` and the object is there whole
 * or not at all. SFTP tells no inode to find out who wrote it: the caller compares the content.
 *
 * An object and a folder cannot have one name, as in local storage. Symbolic links below the root are not followed:
 * `STORAGE_DENIED`; who can write to the root's folders while an operation runs can still redirect it.
 *
 * Errors: another host key is `STORAGE_UNTRUSTED`; a refused login or permission is `STORAGE_DENIED`; a failure while
 * the server says that its disk is full is `STORAGE_FULL`, which it cannot say of a quota; bytes that are missing are
 * `STORAGE_CORRUPT`; the rest is `STORAGE_UNAVAILABLE`. `ssh2` is loaded by the first call (`DEPENDENCY_MISSING`).
 */
export function sftpStorage(options: SftpStorageOptions): ObjectStorage {
  const { host, path, port = 22 } = options;
  if (typeof host !== 'string' || host === '' || !Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new DataProtectionError('SFTP needs `host`, and `port` from 1 to 65535.', 'CONFIGURATION_INVALID');
  }
  if (typeof path !== 'string' || path === '' || path.includes('\0') || path.startsWith('~')) {
    throw new DataProtectionError(
      'SFTP needs `path`, a remote folder: absolute, or relative to the login folder without `~`.',
      'CONFIGURATION_INVALID',
    );
  }
  const root = posix.join(path, '.').replace(/(?<=.)\/$/, '');
  const description = `SFTP ${host}:${port} ${root}`;
  const connection = new SftpConnection({
    host,
    port,
    hostKey: parseHostKey(options.hostKey, host, port),
    credentials: options.credentials,
    description,
  });
  let rootSeen = false;
  let sweptAt = Number.NEGATIVE_INFINITY;

  async function rootExists(session: SftpSession, signal: AbortSignal | undefined): Promise<boolean> {
    const info = await session.stat(root, signal);
    if (info !== undefined && !info.isDirectory()) {
      throw new DataProtectionError(`The path of ${description} is not a folder.`, 'CONFIGURATION_INVALID');
    }
    if (info === undefined && rootSeen) {
      throw new StorageError(`The folder of ${description} has vanished.`, 'STORAGE_UNAVAILABLE');
    }
    rootSeen ||= info !== undefined;
    return info !== undefined;
  }

  async function assertSuitable(session: SftpSession, signal: AbortSignal | undefined): Promise<void> {
    const missing = await session.missingExtension(signal);
    if (missing === undefined) return;
    throw new DataProtectionError(
      `The server of ${description} lacks the SFTP extension ${missing}, without which objects cannot be stored ` +
        'durably and without replacing others. OpenSSH has it.',
      'CONFIGURATION_INVALID',
    );
  }

  async function prepare(session: SftpSession, signal: AbortSignal | undefined): Promise<void> {
    await assertSuitable(session, signal);
    try {
      if (!(await rootExists(session, signal))) await makeRoot(session, root, signal);
      rootSeen = true;
      await makeFolders(session, root, [UPLOADS], signal);
    } catch (error) {
      throw await fullOr(error, session, root, description);
    }
  }

  async function upload(
    session: SftpSession,
    key: string,
    body: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const part = posix.join(root, UPLOADS, `${randomUUID()}.part`);
    try {
      await session.writeFile(part, body, FILE_MODE, signal);
      if (Date.now() - sweptAt >= STALE_UPLOAD_MS) {
        sweptAt = Date.now();
        await removeStaleUploads(session, part, signal);
      }
      await publish(session, root, part, key, signal);
    } catch (error) {
      // Asked before the upload gives its space back.
      throw await fullOr(error, session, root, description);
    } finally {
      await session.unlink(part, signal).catch(() => undefined);
    }
  }

  /** Whether there is an object, after a look at every folder on the way. */
  async function look(session: SftpSession, key: string, signal: AbortSignal | undefined) {
    if (!(await rootExists(session, signal))) return undefined;
    const folders = key.split('/').slice(0, -1);
    if ((await lookAtFolders(session, root, folders, signal)) === 'MISSING') return undefined;
    return objectInfo(session, posix.join(root, key), key, signal);
  }

  return {
    description,

    async put(key, body, { signal } = {}) {
      assertObjectKey(key);
      try {
        using lease = await connection.acquire(signal);
        await prepare(lease.session, signal);
        await upload(lease.session, key, body, signal);
        await syncName(lease.session, root, key);
      } catch (error) {
        throw describe(error, 'put', key, description, signal);
      }
    },

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      try {
        using lease = await connection.acquire(signal);
        // A named pipe in the place of an object would hang the server: only a plain file is opened.
        const info = await look(lease.session, key, signal);
        if (info === undefined) throw notFound(key, description);
        return await lease.session.readFile(posix.join(root, key), range, signal).catch((error) => {
          throw isStatus(error, SFTP_STATUS.NO_SUCH_FILE) ? notFound(key, description) : error;
        });
      } catch (error) {
        throw describe(error, 'get', key, description, signal);
      }
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      try {
        using lease = await connection.acquire(signal);
        return await look(lease.session, key, signal);
      } catch (error) {
        throw describe(error, 'stat', key, description, signal);
      }
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      try {
        using lease = await connection.acquire(signal);
        if (!(await rootExists(lease.session, signal))) return;
        const within = prefix.slice(0, prefix.lastIndexOf('/') + 1);
        const segments = within.split('/').slice(0, -1);
        if ((await lookAtFolders(lease.session, root, segments, signal)) === 'MISSING') return;
        yield* walk(lease.session, posix.join(root, ...segments), within, prefix, signal);
      } catch (error) {
        throw describe(error, 'list', prefix, description, signal);
      }
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      try {
        using lease = await connection.acquire(signal);
        const { session } = lease;
        const file = posix.join(root, key);
        if ((await look(session, key, signal)) !== undefined) {
          await session.unlink(file, signal).catch((error) => {
            if (!isStatus(error, SFTP_STATUS.NO_SUCH_FILE)) throw error;
          });
        }
        if (!rootSeen) return;
        await session.syncFolder(await removeEmptyFolders(session, root, posix.dirname(file), signal));
      } catch (error) {
        throw describe(error, 'delete', key, description, signal);
      }
    },

    close: () => connection.close(),
  };
}

/** Gives the upload its final name, or rejects and leaves nothing under it, unless the answer is lost. */
async function publish(
  session: SftpSession,
  root: string,
  part: string,
  key: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const file = posix.join(root, key);
  const folders = key.split('/').slice(0, -1);
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        if ((await lookAtFolders(session, root, folders, signal)) === 'MISSING') {
          await makeFolders(session, root, folders, signal);
        }
        signal?.throwIfAborted();
        return await session.link(part, file, signal);
      } catch (error) {
        // A delete of the last other object took the folder away.
        if (!isStatus(error, SFTP_STATUS.NO_SUCH_FILE) || attempt === MAX_PUBLISH_ATTEMPTS) throw error;
      }
    }
  } catch (error) {
    if (isStatus(error, SFTP_STATUS.FAILURE, SFTP_STATUS.PERMISSION_DENIED)) {
      const taker = await session.lstat(file);
      if (taker?.isDirectory()) throw namedLikeFolder(key);
      if (taker !== undefined) {
        // It may be that of an attempt which failed before the folders were synced.
        await syncName(session, root, key);
        throw new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
      }
    }
    await removeEmptyFolders(session, root, posix.dirname(file), signal).catch(() => undefined);
    if (statusOf(error) !== undefined && (await lacksHardLinks(session, part))) {
      throw new DataProtectionError(
        `The file system of ${root} has no hard links, without which objects cannot be published atomically.`,
        'CONFIGURATION_INVALID',
        { cause: error },
      );
    }
    throw error;
  }
}

/** Makes the name of an object durable. */
async function syncName(session: SftpSession, root: string, key: string): Promise<void> {
  const folders = foldersUpTo(root, posix.dirname(posix.join(root, key)));
  try {
    await Promise.all(folders.map((folder) => session.syncFolder(folder)));
  } catch (cause) {
    throw new StorageError(
      `The object ${key} is stored in ${root}, but it is not sure that it survives a power cut.`,
      'STORAGE_UNAVAILABLE',
      { key, cause },
    );
  }
}

/** Whether a harmless link fails too, on a disk that is not full. */
async function lacksHardLinks(session: SftpSession, part: string): Promise<boolean> {
  const folder = posix.dirname(part);
  const second = posix.join(folder, `${randomUUID()}.part`);
  try {
    await session.link(part, second);
  } catch (error) {
    const refused = isStatus(error, SFTP_STATUS.FAILURE, SFTP_STATUS.PERMISSION_DENIED);
    return refused && !(await isFull(session, folder));
  }
  await session.unlink(second);
  return false;
}

/** SFTP has no status for a full disk: after a failure, the server is asked. */
async function fullOr(
  error: unknown,
  session: SftpSession,
  root: string,
  description: string,
): Promise<unknown> {
  if (!isStatus(error, SFTP_STATUS.FAILURE) || !(await isFull(session, root))) return error;
  return new StorageError(`The disk of ${description} is full.`, 'STORAGE_FULL', { cause: error });
}

async function isFull(session: SftpSession, folder: string): Promise<boolean> {
  const free = await session.freeSpace(folder).catch(() => undefined);
  return free !== undefined && (free.bytes < FULL_BELOW_BYTES || free.files === 0);
}

/** By the server's clock, which is what `mine`, written a moment ago, tells. */
async function removeStaleUploads(session: SftpSession, mine: string, signal: AbortSignal | undefined) {
  try {
    const uploads = posix.dirname(mine);
    const entries = (await session.readdir(uploads, signal)) ?? [];
    const now = entries.find(({ filename }) => filename === posix.basename(mine))?.attrs.mtime;
    if (now === undefined) return;
    for (const { filename, attrs } of entries) {
      const stale = now - attrs.mtime >= STALE_UPLOAD_MS / 1000;
      if (stale && UPLOAD_NAME.test(filename)) await session.unlink(posix.join(uploads, filename), signal);
    }
  } catch {
    // Remains cost space, not correctness: what could not be removed now is removed later.
  }
}

async function objectInfo(
  session: SftpSession,
  file: string,
  key: string,
  signal: AbortSignal | undefined,
): Promise<ObjectInfo | undefined> {
  const info = await session.lstat(file, signal);
  if (info?.isSymbolicLink()) throw throughLink(file);
  return info?.isFile() ? { key, size: info.size, modifiedAt: new Date(info.mtime * 1000) } : undefined;
}

/** The objects below a folder. What vanishes while it walks is left out; what cannot be read is an error. */
async function* walk(
  session: SftpSession,
  folder: string,
  within: string,
  prefix: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<ObjectInfo> {
  const entries = await session.readdir(folder, signal);
  if (entries === undefined && within === '') {
    throw new StorageError(`The folder ${folder} has vanished.`, 'STORAGE_UNAVAILABLE');
  }
  for (const { filename, attrs } of entries ?? []) {
    signal?.throwIfAborted();
    const key = within + filename;
    const deeper = `${key}/`;
    if (!isObjectKeySegment(filename)) continue;
    if (attrs.isDirectory()) {
      if (deeper.startsWith(prefix)) {
        yield* walk(session, posix.join(folder, filename), deeper, prefix, signal);
      }
    } else if (attrs.isFile() && key.startsWith(prefix)) {
      yield { key, size: attrs.size, modifiedAt: new Date(attrs.mtime * 1000) };
    }
  }
}

function notFound(key: string, description: string): StorageError {
  return new StorageError(`There is no object ${key} in ${description}.`, 'STORAGE_NOT_FOUND', { key });
}

function describe(
  error: unknown,
  operation: string,
  key: string,
  description: string,
  signal: AbortSignal | undefined,
): unknown {
  if (error instanceof DataProtectionError || (signal?.aborted && error === signal.reason)) return error;
  const status = statusOf(error);
  return new StorageError(
    `${operation} of ${key === '' ? '(all)' : key} failed in ${description}${status === undefined ? '' : ` (SFTP status ${status})`}.`,
    codeForStatus(error),
    { key, cause: error },
  );
}
