import type { ByteRange } from './storage.ts';

/** The part of a file handle that writes. */
interface Writer {
  writev(pieces: readonly Uint8Array[]): Promise<{ readonly bytesWritten: number }>;
}

/** The part of a file handle that reads. */
interface Reader {
  read(
    into: Uint8Array,
    at: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesRead: number }>;
}

/** Linux takes 1,024 pieces in one system call. */
const MAX_PIECES_PER_CALL = 512;

/** Bounds how long an abort waits for the running system call. */
const MAX_BYTES_PER_CALL = 8 * 1024 * 1024;

/** The code of a failed system call, such as `ENOSPC`. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Writes all pieces one after another from the file's position, without copying them: the system calls read the
 * caller's memory. Goes on after short writes. Rejects when a piece changed its size meanwhile, and with the signal's
 * reason between two system calls.
 */
export async function writeAll(
  file: Writer,
  pieces: readonly Uint8Array[],
  signal?: AbortSignal,
): Promise<void> {
  let remaining = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  let current = 0;
  let doneOfCurrent = 0;
  while (remaining > 0) {
    signal?.throwIfAborted();
    const batch = gather(pieces, current, doneOfCurrent);
    const { bytesWritten } = batch.length > 0 ? await file.writev(batch) : { bytesWritten: 0 };
    if (bytesWritten === 0) throw new Error(`${remaining} bytes of the object could not be written.`);
    remaining -= bytesWritten;
    doneOfCurrent += bytesWritten;
    for (let piece = pieces[current]; piece && doneOfCurrent >= piece.byteLength; piece = pieces[current]) {
      doneOfCurrent -= piece.byteLength;
      current += 1;
    }
  }
  signal?.throwIfAborted();
}

/** Views of what comes next, as much as one system call should take. */
function gather(pieces: readonly Uint8Array[], from: number, doneOfFirst: number): Uint8Array[] {
  const batch: Uint8Array[] = [];
  let room = MAX_BYTES_PER_CALL;
  let start = doneOfFirst;
  for (let index = from; room > 0 && batch.length < MAX_PIECES_PER_CALL; index += 1) {
    const piece = pieces[index];
    if (piece === undefined) break;
    const view = piece.subarray(start, start + room);
    if (view.byteLength > 0) batch.push(view);
    room -= view.byteLength;
    start = 0;
  }
  return batch;
}

/**
 * Exactly the bytes of a range. Goes on after short reads; rejects when the file ends before the range does, and
 * with the signal's reason between two system calls.
 */
export async function readExactly(file: Reader, range: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
  const bytes = new Uint8Array(range.length);
  let filled = 0;
  while (filled < range.length) {
    signal?.throwIfAborted();
    const wanted = Math.min(range.length - filled, MAX_BYTES_PER_CALL);
    const { bytesRead } = await file.read(bytes, filled, wanted, range.offset + filled);
    if (bytesRead === 0) throw new Error(`The object ended ${range.length - filled} bytes early.`);
    filled += bytesRead;
  }
  signal?.throwIfAborted();
  return bytes;
}
