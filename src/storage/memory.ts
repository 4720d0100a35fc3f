import { StorageError } from '../types/errors.ts';
import { assertRange, clampRange } from './byte-range.ts';
import { memoryUploads, taken } from './memory-uploads.ts';
import { assertObjectKey, assertObjectKeyPrefix } from './object-key.ts';
import type { ObjectStorage, ResumableUploads } from './storage.ts';

interface StoredObject {
  readonly bytes: Uint8Array;
  readonly modifiedAt: Date;
}

export interface MemoryStorageOptions {
  /** Limits of resumable uploads. Left out: parts of 1 byte to 64 MiB, 10,000 of them. */
  readonly uploadLimits?: ResumableUploads['limits'];
}

const UPLOAD_LIMITS = { minPartBytes: 1, maxPartBytes: 64 * 1024 * 1024, maxParts: 10_000 };

/**
 * Objects in the memory of this process: for tests and trials. "Durable" ends with the process; everything else of
 * the contract holds. Bytes are copied in and out, so nobody changes an object from outside.
 */
export function memoryStorage(options: MemoryStorageOptions = {}): ObjectStorage {
  const objects = new Map<string, StoredObject>();

  function add(key: string, pieces: readonly Uint8Array[]): void {
    if (objects.has(key)) throw taken(key);
    objects.set(key, { bytes: concatenate(pieces), modifiedAt: new Date() });
  }

  return {
    description: 'MEMORY',

    async put(key, body, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      add(key, body);
    },

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      signal?.throwIfAborted();
      const object = objects.get(key);
      if (object === undefined) {
        throw new StorageError(`There is no object ${key} in memory.`, 'STORAGE_NOT_FOUND', { key });
      }
      const { offset, length } = clampRange(range, object.bytes.byteLength);
      return object.bytes.slice(offset, offset + length);
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      const object = objects.get(key);
      return object && { key, size: object.bytes.byteLength, modifiedAt: object.modifiedAt };
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      signal?.throwIfAborted();
      for (const [key, object] of [...objects]) {
        signal?.throwIfAborted();
        if (key.startsWith(prefix) && objects.has(key)) {
          yield { key, size: object.bytes.byteLength, modifiedAt: object.modifiedAt };
        }
      }
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      objects.delete(key);
    },

    uploads: memoryUploads({ has: (key) => objects.has(key), add }, options.uploadLimits ?? UPLOAD_LIMITS),
  };
}

function concatenate(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.byteLength;
  }
  return whole;
}
