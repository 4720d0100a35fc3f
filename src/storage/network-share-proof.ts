import { randomUUID } from 'node:crypto';
import { link, mkdir, open, readFile, realpath, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { errnoOf } from './file-io.ts';
import { syncFolder } from './local-folders.ts';
import {
  type FolderDevice,
  isNetworkFileSystem,
  mountOf,
  mountPointByDevice,
  parseMountInfo,
} from './network-share-mounts.ts';

/** No segment of a key starts with a dot, so no object has this name and none is listed. */
const MARKER = '.care-backup-share';
const MARKER_TEXT = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\n$/;

/** Proves, before and after each operation, that a folder lies on the share that it lay on before. */
export interface ShareProof {
  /** `STORAGE_NOT_MOUNTED` unless the share is there and the one that this process knows. */
  forReading(): Promise<void>;
  /** The same; it also writes the marker of a share that has none yet. */
  forWriting(): Promise<void>;
}

/**
 * Two proofs: the folder lies on a mount of the right kind, and the marker in it, a random id that the first `put` of
 * all writes, is the one that this process has seen. So another share at the same place is noticed too, and a mount
 * point that is bare for a moment only.
 */
export function shareProof(path: string, mountPoint: string | undefined, description: string): ShareProof {
  let known: string | undefined;

  async function prove(): Promise<string | undefined> {
    await proveMount(path, mountPoint, description);
    const marker = await readMarker(path, description);
    if (known !== undefined && marker !== known) {
      throw notMounted(
        description,
        marker === undefined
          ? `the file ${MARKER}, which tells the share, is no longer there`
          : `the file ${MARKER} says that it is another share than before`,
      );
    }
    known ??= marker;
    return marker;
  }

  return {
    async forReading() {
      await prove();
    },
    async forWriting() {
      if ((await prove()) !== undefined) return;
      await writeMarker(path, description);
      await prove();
    },
  };
}

async function proveMount(path: string, wanted: string | undefined, description: string): Promise<void> {
  if (process.platform === 'win32') {
    // Such a path names the share itself: without it there is nothing that could be written to.
    if (path.startsWith('\\\\')) return;
    throw new DataProtectionError(
      `${description} must be a UNC path (\\\\server\\share\\folder) on Windows.`,
      'CONFIGURATION_INVALID',
    );
  }
  // Also wakes an automount, before the mounts are read.
  const folder = await nearestFolder(path);
  const point = wanted === undefined ? undefined : await realpath(wanted).catch(() => wanted);
  if (point !== undefined && folder !== point && !folder.startsWith(`${point}/`)) {
    throw notMounted(description, `it does not lie below ${point}, where the share should be mounted`);
  }
  const text = await mountInfo();
  if (text === undefined) return proveByDevice(folder, point, description);
  const mount = mountOf(folder, parseMountInfo(text));
  if (point !== undefined) {
    const isThere = mount !== undefined && mount.fileSystem !== 'autofs';
    // A share may have other mounts below its own.
    if (isThere && (mount.mountPoint === point || mount.mountPoint.startsWith(`${point}/`))) return;
    throw notMounted(description, `nothing is mounted on ${point}`);
  }
  if (mount !== undefined && isNetworkFileSystem(mount.fileSystem)) return;
  const found = mount === undefined ? 'no file system' : `${mount.fileSystem} of ${mount.mountPoint}`;
  throw notMounted(
    description,
    `it lies on ${found}, which is no network file system; where it is one, name its mount point as \`mountPoint\``,
  );
}

async function proveByDevice(folder: string, point: string | undefined, description: string): Promise<void> {
  const chain: FolderDevice[] = [];
  for (let current = folder; ; current = dirname(current)) {
    chain.push({ path: current, device: (await stat(current, { bigint: true })).dev });
    if (current === dirname(current)) break;
  }
  const found = mountPointByDevice(chain);
  if (found !== undefined && (point === undefined || found === point || found.startsWith(`${point}/`)))
    return;
  throw notMounted(description, `nothing is mounted on ${point ?? 'it or a folder above it'}`);
}

/** The text, or undefined on systems that have none. */
async function mountInfo(): Promise<string | undefined> {
  if (process.platform !== 'linux') return undefined;
  return readFile('/proc/self/mountinfo', 'utf8');
}

/** The folder itself, or the lowest one above it that exists; without links. */
async function nearestFolder(path: string): Promise<string> {
  for (let current = path; ; current = dirname(current)) {
    try {
      return await realpath(current);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || current === dirname(current)) throw error;
    }
  }
}

async function readMarker(path: string, description: string): Promise<string | undefined> {
  try {
    const text = await readFile(join(path, MARKER), 'latin1');
    if (MARKER_TEXT.test(text)) return text;
    throw notMounted(description, `the file ${MARKER} is not one that this library wrote`);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Published like an object, by a link: a marker is there whole or not at all, and of two writers one wins. */
async function writeMarker(path: string, description: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  const marker = join(path, MARKER);
  const draft = `${marker}.${randomUUID()}`;
  try {
    {
      await using handle = await open(draft, 'wx', 0o600);
      await handle.writeFile(`${randomUUID()}\n`);
      await handle.sync();
    }
    await link(draft, marker);
    await syncFolder(path);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'EEXIST') return;
    if (code === 'ENOTSUP' || code === 'EOPNOTSUPP' || code === 'ENOSYS' || code === 'EPERM') {
      throw new DataProtectionError(
        `${description} has no hard links, or does not allow them; without them objects cannot be published ` +
          'atomically. Mount the share so that it has them (SMB 2 or later and a server with hard links, or NFS).',
        'CONFIGURATION_INVALID',
        { cause: error },
      );
    }
    throw error;
  } finally {
    await unlink(draft).catch(() => undefined);
  }
}

function notMounted(description: string, why: string): StorageError {
  return new StorageError(`${description} is not mounted: ${why}.`, 'STORAGE_NOT_MOUNTED');
}
