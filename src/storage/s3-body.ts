import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { StorageError } from '../types/errors.ts';

/** Pieces that are sent as one request body. */
export interface RequestBody {
  readonly pieces: readonly Uint8Array[];
  readonly size: number;
  /** SHA-256, in base64. */
  readonly checksum: string;
}

/** Bodies up to here are sent with one write. */
const ONE_WRITE_BYTES = 64 * 1024;
const SLICE_BYTES = 256 * 1024;

export function requestBody(pieces: readonly Uint8Array[]): RequestBody {
  const hash = createHash('sha256');
  let size = 0;
  for (const piece of pieces) {
    hash.update(piece);
    size += piece.byteLength;
  }
  return { pieces, size, checksum: hash.digest('base64') };
}

/** The body for one attempt, without a copy where it is large. `onLast` is told before its last bytes are given away. */
export function bodyStream({ pieces, size }: RequestBody, onLast: () => void): Readable | Uint8Array {
  if (size <= ONE_WRITE_BYTES) {
    onLast();
    return Buffer.concat(pieces);
  }
  return Readable.from(slices(pieces, size, onLast));
}

function* slices(pieces: readonly Uint8Array[], size: number, onLast: () => void): Generator<Uint8Array> {
  let left = size;
  for (const piece of pieces) {
    for (let offset = 0; offset < piece.byteLength; offset += SLICE_BYTES) {
      const slice = piece.subarray(offset, offset + SLICE_BYTES);
      left -= slice.byteLength;
      if (left === 0) onLast();
      yield slice;
    }
  }
}

/** The bytes of `[offset, offset + length)` of the pieces put together, as views. */
export function cutPieces(pieces: readonly Uint8Array[], offset: number, length: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  let start = 0;
  for (const piece of pieces) {
    const from = Math.max(0, offset - start);
    const to = Math.min(piece.byteLength, offset + length - start);
    if (from < to) views.push(piece.subarray(from, to));
    start += piece.byteLength;
  }
  return views;
}

/** What a response promises about its body. */
export interface ExpectedBody {
  readonly key: string;
  /** Bytes, where the headers tell. */
  readonly size: number | undefined;
}

/** Reads a response to its end. `STORAGE_UNAVAILABLE` where it ends early, `STORAGE_CORRUPT` where it goes on. */
export async function readResponse(
  body: unknown,
  { key, size }: ExpectedBody,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  if (!(body instanceof Readable)) throw cut(key, undefined);
  if (size === undefined) {
    body.destroy();
    // Without it an answer that was cut could be taken for the whole.
    throw new StorageError(`The answer with ${key} does not tell its length.`, 'STORAGE_CORRUPT', { key });
  }
  const stop = () => body.destroy();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await readInto(new Uint8Array(size), body, key);
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof StorageError) throw error;
    throw cut(key, error);
  } finally {
    signal?.removeEventListener('abort', stop);
    body.destroy();
  }
}

async function readInto(bytes: Uint8Array, body: Readable, key: string): Promise<Uint8Array> {
  let filled = 0;
  for await (const chunk of body) {
    const piece = bytesOf(chunk);
    if (filled + piece.byteLength > bytes.byteLength) {
      throw new StorageError(`The answer with ${key} is longer than it says.`, 'STORAGE_CORRUPT', { key });
    }
    bytes.set(piece, filled);
    filled += piece.byteLength;
  }
  if (filled < bytes.byteLength) throw cut(key, undefined);
  return bytes;
}

function bytesOf(chunk: unknown): Uint8Array {
  return chunk instanceof Uint8Array ? chunk : Buffer.from(String(chunk));
}

function cut(key: string, cause: unknown): StorageError {
  return new StorageError(`The answer with ${key} ended before its end.`, 'STORAGE_UNAVAILABLE', {
    key,
    ...(cause === undefined ? {} : { cause }),
  });
}
