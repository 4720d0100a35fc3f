import { createHash, randomUUID } from 'node:crypto';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertObjectKey } from './object-key.ts';
import type { ResumableUploads, UploadPart } from './storage.ts';

interface OpenUpload {
  readonly key: string;
  readonly parts: Map<number, { readonly part: UploadPart; readonly bytes: Uint8Array }>;
}

/** Where finished uploads go. */
export interface UploadTarget {
  /** Whether the key is taken. */
  has(key: string): boolean;
  /** Stores the object; `STORAGE_ALREADY_EXISTS` where the key is taken. */
  add(key: string, pieces: readonly Uint8Array[]): void;
}

/** The resumable uploads of `memoryStorage`; the handles live as long as it does. */
export function memoryUploads(target: UploadTarget, limits: ResumableUploads['limits']): ResumableUploads {
  const open = new Map<string, OpenUpload>();

  function uploadOf(handle: string): OpenUpload {
    const upload = open.get(handle);
    if (upload === undefined) {
      throw new StorageError('There is no such upload in memory.', 'STORAGE_NOT_FOUND');
    }
    return upload;
  }

  return {
    limits,

    async begin(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      if (target.has(key)) throw taken(key);
      const handle = randomUUID();
      open.set(handle, { key, parts: new Map() });
      return handle;
    },

    async putPart(handle, part, body, { signal } = {}) {
      signal?.throwIfAborted();
      const upload = uploadOf(handle);
      assertPart(part, limits);
      const { number, size, digest } = part;
      if (body.byteLength !== size || createHash('sha256').update(body).digest('hex') !== digest) {
        throw new StorageError(
          `Part ${number} of ${upload.key} is not what its size and digest say.`,
          'STORAGE_CORRUPT',
          { key: upload.key },
        );
      }
      upload.parts.set(number, { part: { number, size, digest }, bytes: Uint8Array.from(body) });
    },

    async parts(handle, { signal } = {}) {
      signal?.throwIfAborted();
      return [...uploadOf(handle).parts.values()].map(({ part }) => part).sort((a, b) => a.number - b.number);
    },

    async complete(handle, parts, { signal } = {}) {
      signal?.throwIfAborted();
      const upload = uploadOf(handle);
      if (parts.length === 0) throw invalid('An upload needs at least one part.');
      const pieces = parts.map((part, index) => {
        if (part.number !== index + 1) throw invalid('Numbers of parts start at 1 and have no gaps.');
        if (index < parts.length - 1 && part.size < limits.minPartBytes) {
          throw invalid(`Every part but the last has at least ${limits.minPartBytes} bytes.`);
        }
        const stored = upload.parts.get(part.number);
        if (stored?.part.size !== part.size || stored.part.digest !== part.digest) {
          throw new StorageError(
            `Part ${part.number} of ${upload.key} is not what is stored.`,
            'STORAGE_CORRUPT',
            { key: upload.key },
          );
        }
        return stored.bytes;
      });
      target.add(upload.key, pieces);
      open.delete(handle);
    },

    async abort(handle, { signal } = {}) {
      signal?.throwIfAborted();
      open.delete(handle);
    },
  };
}

function assertPart({ number, size }: UploadPart, limits: ResumableUploads['limits']): void {
  if (!Number.isSafeInteger(number) || number < 1 || number > limits.maxParts) {
    throw invalid(`Parts have numbers from 1 to ${limits.maxParts}.`);
  }
  if (size > limits.maxPartBytes) throw invalid(`A part has at most ${limits.maxPartBytes} bytes.`);
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'VALIDATION_FAILED');
}

export function taken(key: string): StorageError {
  return new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
}
