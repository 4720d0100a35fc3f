import { resolve } from 'node:path';
import { DataProtectionError } from '../types/errors.ts';
import { assertRange } from './byte-range.ts';
import { describeFailure, folderStorage } from './local.ts';
import { shareProof } from './network-share-proof.ts';
import { assertObjectKey, assertObjectKeyPrefix } from './object-key.ts';
import type { ObjectStorage } from './storage.ts';

export interface NetworkShareStorageOptions {
  /** The folder that holds the objects, on a share that the host has mounted. The first `put` creates it. */
  readonly path: string;
  /**
   * The folder on which the share is mounted: `path` or one above it. Without it, `path` must lie on a file system that
   * Linux knows as one of a network; elsewhere, on any that is not the root's.
   */
  readonly mountPoint?: string | undefined;
}

/**
 * NETWORK_SHARE: local storage on an SMB or NFS share that the host has mounted; what `localStorage` promises holds.
 *
 * A mount point without its share is an empty folder of the host's own disk: what is written there is lost, and what
 * is listed there is no backup. So before and after each operation the folder must lie on a mount, and the marker
 * `.care-backup-share`, which the first `put` of all writes, must be the one that this process has seen: else
 * `STORAGE_NOT_MOUNTED`, also where the operation itself seemed to succeed. A share that comes back is used again.
 * Not noticed: a share that goes and comes back within one operation, and, after a start of the process, another share
 * that is also one of this library.
 *
 * The share must have hard links: NFS has them, SMB where the server and its file system do (Windows with NTFS, Samba).
 * Where not, `put` is `CONFIGURATION_INVALID`, as nothing else publishes a whole file without replacing one: a file that
 * is created under its last name (`O_EXCL`) shows half an object after an interruption; `rename` replaces, and a
 * look before it leaves a gap; Linux’s `RENAME_NOREPLACE` Node cannot reach, and NFS refuses it; a lock file
 * outlives the writer that dies with it. A UNC path on Windows needs no proof of a mount; a mapped drive is refused.
 *
 * Errors are those of `localStorage`.
 */
export function networkShareStorage(options: NetworkShareStorageOptions): ObjectStorage {
  for (const [name, value] of Object.entries({ path: options.path, mountPoint: options.mountPoint ?? '/' })) {
    if (typeof value !== 'string' || value === '' || value.includes('\0')) {
      throw new DataProtectionError(
        `networkShareStorage needs \`${name}\` to be a folder.`,
        'CONFIGURATION_INVALID',
      );
    }
  }
  const path = resolve(options.path);
  const mountPoint = options.mountPoint === undefined ? undefined : resolve(options.mountPoint);
  const folder = folderStorage(path, 'NETWORK_SHARE');
  const { description } = folder;
  const proof = shareProof(path, mountPoint, description);

  /** A failure counts only on a share that is there: below a bare mount point it says nothing. */
  async function proven<T>(
    operation: string,
    key: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    try {
      await (operation === 'put' ? proof.forWriting() : proof.forReading());
      signal?.throwIfAborted();
      const result = await work().catch(async (error) => {
        if (!signal?.aborted) await proof.forReading();
        throw error;
      });
      await proof.forReading();
      return result;
    } catch (error) {
      throw describeFailure(error, operation, key, description, signal);
    }
  }

  return {
    description,

    async put(key, body, options) {
      assertObjectKey(key);
      return proven('put', key, options?.signal, () => folder.put(key, body, options));
    },

    async get(key, options) {
      assertObjectKey(key);
      assertRange(options?.range);
      return proven('get', key, options?.signal, () => folder.get(key, options));
    },

    async stat(key, options) {
      assertObjectKey(key);
      return proven('stat', key, options?.signal, () => folder.stat(key, options));
    },

    async *list(prefix, options) {
      assertObjectKeyPrefix(prefix);
      await proven('list', prefix, options?.signal, async () => undefined);
      yield* folder.list(prefix, options);
      await proven('list', prefix, options?.signal, async () => undefined);
    },

    async delete(key, options) {
      assertObjectKey(key);
      return proven('delete', key, options?.signal, () => folder.delete(key, options));
    },
  };
}
