import { StorageError } from '../types/errors.ts';
import { assertRange, clampRange } from './byte-range.ts';
import { assertObjectKey, assertObjectKeyPrefix } from './object-key.ts';
import type { ObjectStorage } from './storage.ts';

interface StoredObject {
  readonly bytes: Uint8Array;
  readonly modifiedAt: Date;
}

/**
 * Objects in the memory of this process: for tests and trials. "Durable" ends with the process; everything else of
 * the contract holds. Bytes are copied in and out, so nobody changes an object from outside.
 */
export function memoryStorage(): ObjectStorage {
  const objects = new Map<string, StoredObject>();

  return {
    description: 'MEMORY',

    async put(key, body, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      if (objects.has(key)) {
        throw new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
      }
      objects.set(key, { bytes: concatenate(body), modifiedAt: new Date() });
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
