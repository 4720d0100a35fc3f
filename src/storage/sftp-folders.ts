import { posix } from 'node:path';
import { namedLikeFolder, throughLink } from './local-folders.ts';
import { isStatus, SFTP_STATUS } from './sftp-errors.ts';
import type { SftpSession } from './sftp-session.ts';

const FOLDER_MODE = 0o700;

/** The folder and those above it, up to and with `root`, the lowest first. */
export function foldersUpTo(root: string, folder: string): string[] {
  const folders = [folder];
  for (let current = folder; current !== root; ) {
    current = posix.dirname(current);
    folders.push(current);
  }
  return folders;
}

/**
 * Looks at every folder on the way, in one round trip. MISSING when one is not there or is no folder;
 * `STORAGE_DENIED` when one is a symbolic link.
 */
export async function lookAtFolders(
  session: SftpSession,
  root: string,
  segments: readonly string[],
  signal?: AbortSignal,
): Promise<'THERE' | 'MISSING'> {
  const paths = segments.map((_, n) => posix.join(root, ...segments.slice(0, n + 1)));
  const infos = await Promise.all(paths.map((path) => session.lstat(path, signal)));
  for (const [n, info] of infos.entries()) {
    if (info?.isSymbolicLink()) throw throughLink(paths[n] ?? root);
    if (!info?.isDirectory()) return 'MISSING';
  }
  return 'THERE';
}

/** Makes the folders that are missing, one by one, so that nothing is made behind a symbolic link. */
export async function makeFolders(
  session: SftpSession,
  root: string,
  segments: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  let folder = root;
  for (const segment of segments) {
    folder = posix.join(folder, segment);
    const info = await session.lstat(folder, signal);
    if (info === undefined) await makeFolder(session, folder, signal);
    else if (info.isSymbolicLink()) throw throughLink(folder);
    else if (!info.isDirectory()) throw namedLikeFolder(segments.join('/'));
  }
}

/** Makes the root and what is missing above it. Above the root, links are the server's own business. */
export async function makeRoot(session: SftpSession, root: string, signal?: AbortSignal): Promise<void> {
  if ((await session.stat(root, signal))?.isDirectory()) return;
  const above = posix.dirname(root);
  if (above !== root && above !== '.') await makeRoot(session, above, signal);
  await makeFolder(session, root, signal);
  await session.syncFolder(above);
}

/** SFTP has no status for a name that is taken: after a failure, a folder of that name is what was wanted. */
async function makeFolder(session: SftpSession, folder: string, signal?: AbortSignal): Promise<void> {
  try {
    await session.mkdir(folder, FOLDER_MODE, signal);
  } catch (error) {
    if (!isStatus(error, SFTP_STATUS.FAILURE)) throw error;
    if (!(await session.lstat(folder, signal))?.isDirectory()) throw error;
  }
}

/** Removes empty folders from `folder` up to, not including, `root`; gives the first that stays. */
export async function removeEmptyFolders(
  session: SftpSession,
  root: string,
  folder: string,
  signal?: AbortSignal,
): Promise<string> {
  for (const current of foldersUpTo(root, folder)) {
    if (current === root) break;
    try {
      await session.rmdir(current, signal);
    } catch (error) {
      if (isStatus(error, SFTP_STATUS.NO_SUCH_FILE)) continue;
      if (isStatus(error, SFTP_STATUS.FAILURE, SFTP_STATUS.PERMISSION_DENIED)) return current;
      throw error;
    }
  }
  return root;
}
