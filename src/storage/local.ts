import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { link, lstat, mkdir, open, opendir, realpath, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertRange, clampRange } from './byte-range.ts';
import { errnoOf, readExactly, writeAll } from './file-io.ts';
import {
  makeFolders,
  namedLikeFolder,
  realFolder,
  removeEmptyFolders,
  syncFolder,
  syncUpTo,
  throughLink,
} from './local-folders.ts';
import { assertObjectKey, assertObjectKeyPrefix, isObjectKeySegment } from './object-key.ts';
import type { ObjectInfo, ObjectStorage } from './storage.ts';

export interface LocalStorageOptions {
  /**
   * The folder that holds the objects. The first `put` creates it; until then the storage is empty. Once this
   * process has seen it, its absence is `STORAGE_UNAVAILABLE`, never an empty storage (a disk that was unmounted).
   */
  readonly path: string;
}

/** Not a valid segment of a key, so no object can be named into it. */
const UPLOADS = '.tmp-uploads';
const UPLOAD_NAME = /^[0-9a-f-]{36}\.part$/;
const STALE_UPLOAD_MS = 24 * 60 * 60 * 1000;

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

/** How often a put makes its folders again after deletes of their last object removed them. */
const MAX_PUBLISH_ATTEMPTS = 100;

/**
 * LOCAL_FILESYSTEM: objects are files below one folder, named by their keys; folders are 0700, files 0600.
 *
 * `put` writes to `.tmp-uploads` inside the root, syncs the file, publishes it with `link()`, which never replaces a
 * file, and syncs the folders up to the root, also before it says that an object exists already. So a process or machine that dies leaves the object whole or not at
 * all, and remains that no operation shows; the next put removes those that are older than 24 hours.
 *
 * File systems without hard links (FAT, exFAT, some network shares) are refused by `put` with
 * `CONFIGURATION_INVALID`: nothing else they offer publishes a whole file without replacing one. NTFS has them, but
 * Windows cannot sync folders: there a power cut may take back a put that has resolved, and modes mean nothing.
 *
 * An object and a folder cannot have one name, so while `a/b` exists, `a` is `STORAGE_INVALID_KEY` for `put`, and the
 * other way round. Names that differ only in case are one name where the file system says so.
 *
 * Symbolic links below the root are never followed: `STORAGE_DENIED`. The root may be one. Who can write to the
 * root's folders while an operation runs can still redirect it; the modes are what keeps others out.
 *
 * Errors: `ENOSPC` and `EDQUOT` are `STORAGE_FULL`; `EACCES`, `EPERM` and `EROFS` are `STORAGE_DENIED`; the rest
 * is `STORAGE_UNAVAILABLE`; `cause` holds the system's error.
 */
export function localStorage(options: LocalStorageOptions): ObjectStorage {
  if (typeof options.path !== 'string' || options.path === '' || options.path.includes('\0')) {
    throw new DataProtectionError('localStorage needs `path`, a folder.', 'CONFIGURATION_INVALID');
  }
  return folderStorage(resolve(options.path), 'LOCAL_FILESYSTEM');
}

/** What `localStorage` promises, for a kind of storage that keeps its objects in a folder. The path is absolute. */
export function folderStorage(path: string, kind: 'LOCAL_FILESYSTEM' | 'NETWORK_SHARE'): ObjectStorage {
  const description = `${kind} ${path}`;
  let rootSeen = false;
  /** The highest folder that was made for the root, while its name may not be durable. */
  let unsyncedFrom: string | undefined;
  let sweptAt = Number.NEGATIVE_INFINITY;

  async function existingRoot(): Promise<string | undefined> {
    try {
      const root = await realpath(path);
      if (!rootSeen && !(await lstat(root)).isDirectory()) {
        throw new DataProtectionError(`The path of ${description} is not a folder.`, 'CONFIGURATION_INVALID');
      }
      rootSeen = true;
      return root;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || rootSeen) throw error;
      return undefined;
    }
  }

  async function rootForWriting(): Promise<string> {
    if ((await existingRoot()) === undefined) {
      unsyncedFrom = (await mkdir(path, { recursive: true, mode: FOLDER_MODE })) ?? unsyncedFrom;
      rootSeen = true;
    }
    // Also of an earlier put, which failed here.
    if (unsyncedFrom !== undefined) await syncUpTo(dirname(unsyncedFrom), path);
    unsyncedFrom = undefined;
    return realpath(path);
  }

  async function uploadsFolder(root: string): Promise<string> {
    await makeFolders(root, [UPLOADS]);
    const uploads = join(root, UPLOADS);
    const now = Date.now();
    if (now - sweptAt >= STALE_UPLOAD_MS) {
      sweptAt = now;
      await removeStaleUploads(uploads, now);
    }
    return uploads;
  }

  return {
    description,

    async put(key, body, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      let root: string;
      try {
        root = await rootForWriting();
        const upload = join(await uploadsFolder(root), `${randomUUID()}.part`);
        try {
          await writeUpload(upload, body, signal);
          await publish(root, upload, key, signal);
        } finally {
          await unlink(upload).catch(() => undefined);
        }
      } catch (error) {
        throw describeFailure(error, 'put', key, description, signal);
      }
      await syncName(root, key);
    },

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      signal?.throwIfAborted();
      try {
        const file = await existingPath(await existingRoot(), key);
        await using handle = file === undefined ? undefined : await openObject(file);
        const info = await handle?.stat();
        if (handle === undefined || !info?.isFile()) {
          throw new StorageError(`There is no object ${key} in ${description}.`, 'STORAGE_NOT_FOUND', {
            key,
          });
        }
        return await readExactly(handle, clampRange(range, info.size), signal);
      } catch (error) {
        throw describeFailure(error, 'get', key, description, signal);
      }
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      try {
        const file = await existingPath(await existingRoot(), key);
        const info = file === undefined ? undefined : await objectInfo(file, key);
        signal?.throwIfAborted();
        return info;
      } catch (error) {
        throw describeFailure(error, 'stat', key, description, signal);
      }
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      signal?.throwIfAborted();
      try {
        const root = await existingRoot();
        const within = prefix.slice(0, prefix.lastIndexOf('/') + 1);
        const start = root === undefined ? undefined : await realFolder(root, within.split('/').slice(0, -1));
        if (start !== undefined) yield* walk(start, within, prefix, signal);
      } catch (error) {
        throw describeFailure(error, 'list', prefix, description, signal);
      }
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      try {
        const root = await existingRoot();
        const file = await existingPath(root, key);
        if (root === undefined || file === undefined) return;
        if ((await objectInfo(file, key)) !== undefined) await unlink(file).catch(ignore('ENOENT'));
        await syncFolder(await removeEmptyFolders(root, dirname(file)));
      } catch (error) {
        throw describeFailure(error, 'delete', key, description, signal);
      }
    },
  };
}

/** Makes the name of an object durable. */
async function syncName(root: string, key: string): Promise<void> {
  try {
    await syncUpTo(root, dirname(join(root, key)));
  } catch (cause) {
    throw new StorageError(
      `The object ${key} is stored in ${root}, but it is not sure that it survives a power cut.`,
      'STORAGE_UNAVAILABLE',
      { key, cause },
    );
  }
}

async function writeUpload(upload: string, body: readonly Uint8Array[], signal?: AbortSignal): Promise<void> {
  // Closed before it is published: network file systems report a full disk as late as this.
  await using handle = await open(upload, 'wx', FILE_MODE);
  await writeAll(handle, body, signal);
  await handle.sync();
}

/** Gives the upload its final name, or rejects and leaves nothing under it. */
async function publish(root: string, upload: string, key: string, signal?: AbortSignal): Promise<void> {
  const file = join(root, key);
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const folders = key.split('/').slice(0, -1);
        if ((await realFolder(root, folders)) === undefined) await makeFolders(root, folders);
        signal?.throwIfAborted();
        return await link(upload, file);
      } catch (error) {
        // A delete of the last other object took the folder away.
        if (errnoOf(error) !== 'ENOENT' || attempt === MAX_PUBLISH_ATTEMPTS) throw error;
      }
    }
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'EEXIST') return await explainTaken(root, upload, key);
    if (code === 'ENOTDIR') throw namedLikeFolder(key);
    await removeEmptyFolders(root, dirname(file)).catch(() => undefined);
    if (await lacksHardLinks(code, upload)) {
      throw new DataProtectionError(
        `The file system of ${root} has no hard links, without which objects cannot be published atomically.`,
        'CONFIGURATION_INVALID',
        { cause: error },
      );
    }
    throw error;
  }
}

/**
 * Resolves when the taker is this upload: NFS repeats a `link` whose answer was lost. Of another object the name is
 * made durable first: it may be that of an attempt which failed just there, and the caller counts on what it finds.
 */
async function explainTaken(root: string, upload: string, key: string): Promise<void> {
  const file = join(root, key);
  const [mine, taker] = await Promise.all([
    lstat(upload, { bigint: true }),
    lstat(file, { bigint: true }).catch(() => undefined),
  ]);
  if (taker?.ino === mine.ino && taker.dev === mine.dev) return;
  if (taker?.isDirectory()) throw namedLikeFolder(key);
  await syncName(root, key);
  throw new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
}

/** Some file systems say `EPERM` when they mean that they have no hard links: then a harmless one fails too. */
async function lacksHardLinks(code: string | undefined, upload: string): Promise<boolean> {
  if (code === 'ENOTSUP' || code === 'EOPNOTSUPP' || code === 'ENOSYS') return true;
  if (code !== 'EPERM') return false;
  const second = join(dirname(upload), `${randomUUID()}.part`);
  try {
    await link(upload, second);
    await unlink(second);
    return false;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

async function removeStaleUploads(uploads: string, now: number): Promise<void> {
  try {
    for await (const entry of await opendir(uploads)) {
      if (!UPLOAD_NAME.test(entry.name)) continue;
      const upload = join(uploads, entry.name);
      const { mtimeMs } = await lstat(upload);
      if (now - mtimeMs >= STALE_UPLOAD_MS) await unlink(upload);
    }
  } catch {
    // Remains cost space, not correctness: what could not be removed now is removed later.
  }
}

/** Where the object would be, when its folder exists. */
async function existingPath(root: string | undefined, key: string): Promise<string | undefined> {
  if (root === undefined) return undefined;
  const folder = await realFolder(root, key.split('/').slice(0, -1));
  return folder === undefined ? undefined : join(root, key);
}

async function openObject(file: string) {
  try {
    // O_NONBLOCK: a named pipe in the place of an object must not hang the reader.
    return await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    if (code === 'ELOOP') throw throughLink(file);
    throw error;
  }
}

async function objectInfo(file: string, key: string): Promise<ObjectInfo | undefined> {
  try {
    const info = await lstat(file);
    if (info.isSymbolicLink()) throw throughLink(file);
    return info.isFile() ? { key, size: info.size, modifiedAt: info.mtime } : undefined;
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** The objects below a folder. What vanishes while it walks is left out; what cannot be read is an error. */
async function* walk(
  folder: string,
  within: string,
  prefix: string,
  signal?: AbortSignal,
): AsyncGenerator<ObjectInfo> {
  const gone = within === '' ? [] : ['ENOENT', 'ENOTDIR'];
  const entries = await opendir(folder).catch(ignore(...gone));
  if (entries === undefined) return;
  for await (const entry of entries) {
    signal?.throwIfAborted();
    const key = within + entry.name;
    const deeper = `${key}/`;
    if (!isObjectKeySegment(entry.name)) continue;
    if (entry.isDirectory()) {
      if (deeper.startsWith(prefix)) yield* walk(join(folder, entry.name), deeper, prefix, signal);
    } else if (entry.isFile() && key.startsWith(prefix)) {
      const info = await objectInfo(join(folder, entry.name), key);
      if (info !== undefined) yield info;
    }
  }
}

function ignore(...codes: readonly string[]): (error: unknown) => undefined {
  return (error) => {
    if (!codes.includes(errnoOf(error) ?? '')) throw error;
    return undefined;
  };
}

/** What a system error means for a storage in a folder. */
export function describeFailure(
  error: unknown,
  operation: string,
  key: string,
  description: string,
  signal: AbortSignal | undefined,
): unknown {
  if (error instanceof DataProtectionError || (signal?.aborted && error === signal.reason)) return error;
  const errno = errnoOf(error);
  return new StorageError(
    `${operation} of ${key === '' ? '(all)' : key} failed in ${description}${errno === undefined ? '' : ` (${errno})`}.`,
    codeFor(errno),
    { key, cause: error },
  );
}

function codeFor(errno: string | undefined) {
  switch (errno) {
    case 'ENOSPC':
    case 'EDQUOT':
      return 'STORAGE_FULL';
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return 'STORAGE_DENIED';
    case 'ENAMETOOLONG':
      return 'STORAGE_INVALID_KEY';
    default:
      return 'STORAGE_UNAVAILABLE';
  }
}
