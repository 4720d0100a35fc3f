import { createHash } from 'node:crypto';
import { StorageError } from '../types/errors.ts';
import type { Call, Calls, Work } from './resilient-calls.ts';
import { codeOf, isAmbiguous } from './resilient-errors.ts';
import type { ObjectStorage, UploadPart } from './storage.ts';

/** What lies under a key after a write whose answer was lost. UNKNOWN: that could not be found out either. */
type Found = 'OURS' | 'ANOTHER' | 'NOTHING' | 'UNKNOWN';

/**
 * A create-only write that is repeated. Where an attempt failed so that it may have taken effect, a later
 * `STORAGE_ALREADY_EXISTS` may be our own object, and so may be what is there after the last attempt: then `look`
 * decides. Without such an attempt every error is what it says.
 */
export async function writeOnce(
  calls: Calls,
  call: Call,
  key: string | undefined,
  work: Work<void>,
  look: () => Promise<Found>,
): Promise<void> {
  let lost: { readonly error: unknown } | undefined;
  try {
    await calls.retried(call, work, (error) => {
      if (isAmbiguous(error)) lost = { error };
    });
  } catch (error) {
    if (lost === undefined || call.signal?.aborted) throw error;
    const found = await look();
    if (found === 'OURS') return;
    if (found !== 'ANOTHER') throw lost.error;
    if (codeOf(error) === 'STORAGE_ALREADY_EXISTS') throw error;
    throw new StorageError(
      `The object ${key} exists already, with another content.`,
      'STORAGE_ALREADY_EXISTS',
      key === undefined ? {} : { key },
    );
  }
}

/** A stretch of an object, and how its bytes are recognized. */
interface Stretch {
  readonly size: number;
  matches(bytes: Uint8Array): boolean;
}

export interface LookOptions {
  readonly storage: ObjectStorage;
  readonly key: string;
  readonly statMs: number;
  readonly getMs: number;
  readonly signal: AbortSignal | undefined;
}

/** Whether the object is these pieces, one after another. */
export function lookForBody(calls: Calls, options: LookOptions, body: readonly Uint8Array[]): Promise<Found> {
  return look(calls, options, stretchesOf(body));
}

/** Whether the object is made of these parts. */
export function lookForParts(
  calls: Calls,
  options: LookOptions,
  parts: readonly UploadPart[],
): Promise<Found> {
  const stretches = parts.map(({ size, digest }) => ({
    size,
    matches: (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex') === digest,
  }));
  return look(calls, options, stretches);
}

async function look(calls: Calls, options: LookOptions, expected: readonly Stretch[]): Promise<Found> {
  const { storage, key, signal } = options;
  try {
    const info = await calls.retried(
      { what: `stat ${key}`, timeoutMs: options.statMs, signal, breaker: 'BYPASSED' },
      (inner) => storage.stat(key, { signal: inner }),
    );
    if (info === undefined) return 'NOTHING';
    if (info.size !== expected.reduce((sum, { size }) => sum + size, 0)) return 'ANOTHER';
    let offset = 0;
    for (const { size, matches } of expected) {
      const range = { offset, length: size };
      const bytes = await calls.retried(
        { what: `get ${key}`, timeoutMs: options.getMs, signal, breaker: 'BYPASSED' },
        (inner) => storage.get(key, { range, signal: inner }),
      );
      // A short answer is a broken connection that nobody noticed, not another object.
      if (bytes.byteLength !== size) return 'UNKNOWN';
      if (!matches(bytes)) return 'ANOTHER';
      offset += size;
    }
    return 'OURS';
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    return codeOf(error) === 'STORAGE_NOT_FOUND' ? 'NOTHING' : 'UNKNOWN';
  }
}

/** Bytes that are read back at a time. */
const STRETCH_BYTES = 8 * 1024 * 1024;

/** Few large reads instead of one for each of thousands of small pieces. */
function stretchesOf(body: readonly Uint8Array[]): Stretch[] {
  const stretches: Stretch[] = [];
  let pieces: Uint8Array[] = [];
  let size = 0;
  const finish = () => {
    if (size > 0) stretches.push(stretch(pieces, size));
    pieces = [];
    size = 0;
  };
  for (const whole of body) {
    for (let offset = 0; offset < whole.byteLength; ) {
      const piece = whole.subarray(offset, offset + STRETCH_BYTES - size);
      pieces.push(piece);
      size += piece.byteLength;
      offset += piece.byteLength;
      if (size === STRETCH_BYTES) finish();
    }
  }
  finish();
  return stretches;
}

function stretch(pieces: readonly Uint8Array[], size: number): Stretch {
  return {
    size,
    matches(bytes) {
      let offset = 0;
      return pieces.every((piece) => {
        const start = offset;
        offset += piece.byteLength;
        return Buffer.compare(bytes.subarray(start, offset), piece) === 0;
      });
    },
  };
}
