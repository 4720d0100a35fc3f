import { lstat, mkdir, open, realpath, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { StorageError } from '../types/errors.ts';
import { errnoOf } from './file-io.ts';

const FOLDER_MODE = 0o700;

/** The folder, or undefined when there is none. `STORAGE_DENIED` when a symbolic link is on the way. */
export async function realFolder(root: string, segments: readonly string[]): Promise<string | undefined> {
  const folder = join(root, ...segments);
  try {
    if ((await realpath(folder)) !== folder) throw throughLink(folder);
    return folder;
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Makes the folders that are missing, one by one, so that nothing is made behind a symbolic link. */
export async function makeFolders(root: string, segments: readonly string[]): Promise<void> {
  let folder = root;
  for (const segment of segments) {
    folder = join(folder, segment);
    try {
      await mkdir(folder, FOLDER_MODE);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      const taker = await lstat(folder);
      if (taker.isSymbolicLink()) throw throughLink(folder);
      if (!taker.isDirectory()) throw namedLikeFolder(segments.join('/'));
    }
  }
}

/**
 * Removes empty folders from `folder` up to, not including, `root`; gives the first that stays. A folder that is in
 * use stays: `rmdir` takes only empty ones.
 */
export async function removeEmptyFolders(root: string, folder: string): Promise<string> {
  let current = folder;
  while (current !== root) {
    try {
      await rmdir(current);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return current;
    }
    current = dirname(current);
  }
  return root;
}

/**
 * Syncs every folder from `bottom` up to `top`. Also those that this put did not make: another process may have made
 * them a moment ago, without having synced them yet.
 */
export async function syncUpTo(top: string, bottom: string): Promise<void> {
  const folders = [bottom];
  for (let folder = bottom; folder !== top && folder !== dirname(folder); ) {
    folder = dirname(folder);
    folders.push(folder);
  }
  await Promise.all(folders.map(syncFolder));
}

/**
 * Makes the names in a folder durable. A folder that is gone has nothing to keep; a platform or file system that
 * cannot sync folders (Windows, some network shares) gives what it has.
 */
export async function syncFolder(folder: string): Promise<void> {
  try {
    await using handle = await open(folder, 'r');
    await handle.sync();
  } catch (error) {
    const code = errnoOf(error);
    const cannot = code === 'EINVAL' || code === 'ENOTSUP' || code === 'EOPNOTSUPP';
    if (code === 'ENOENT' || cannot || process.platform === 'win32') return;
    throw error;
  }
}

export function throughLink(path: string): StorageError {
  return new StorageError(
    `${path} is or lies behind a symbolic link; the storage does not follow links below its root.`,
    'STORAGE_DENIED',
  );
}

export function namedLikeFolder(key: string): StorageError {
  return new StorageError(
    `The key ${key} cannot be used: an object and a folder of other objects would have one name.`,
    'STORAGE_INVALID_KEY',
    { key },
  );
}
