import { createHash } from 'node:crypto';
import { DataProtectionError } from '../types/errors.ts';
import type { PlannedPart } from './large-upload-plan.ts';
import type { ObjectStorage, UploadPart } from './storage.ts';

/** What is uploaded: bytes that can be read again in a later run. They must not change while a run lasts. */
export interface LargeSource {
  /** Bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`; never called past `size`. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** Reads a stretch; a source that gives another number of bytes is `VALIDATION_FAILED`. */
export async function readStretch(source: LargeSource, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.read(offset, length);
  if (bytes.byteLength === length) return bytes;
  throw new DataProtectionError(
    `The source gave ${bytes.byteLength} instead of ${length} bytes from ${offset}: its size is not ${source.size}.`,
    'VALIDATION_FAILED',
  );
}

export function describePart({ number }: PlannedPart, bytes: Uint8Array): UploadPart {
  return { number, size: bytes.byteLength, digest: createHash('sha256').update(bytes).digest('hex') };
}

/** Whether the object under the key has exactly the source’s bytes, compared part by part. False where there is none. */
export async function isStored(
  storage: ObjectStorage,
  key: string,
  source: LargeSource,
  plan: readonly PlannedPart[],
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const info = await storage.stat(key, { signal });
  if (info?.size !== source.size) return false;
  for (const { offset, length } of plan) {
    const [local, stored] = await Promise.all([
      readStretch(source, offset, length),
      storage.get(key, { range: { offset, length }, signal }),
    ]);
    if (Buffer.compare(local, stored) !== 0) return false;
  }
  return true;
}
