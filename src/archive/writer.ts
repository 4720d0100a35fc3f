import type { ChecksumAlgorithm, WrappedKey } from '../types/encryption.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { type CompressionChoice, checkCompression, createCompressor } from './compress.ts';
import { deriveSubkeys } from './encrypt.ts';
import {
  type ArchiveIdentity,
  DEFAULT_OBJECT_SIZE,
  DEFAULT_SEGMENT_SIZE,
  FORMAT_VERSION,
  MAX_SEGMENT_SIZE,
  MAX_SEGMENTS,
  type ManifestHeader,
  type ParentManifest,
  type SegmentContent,
  U32_MAX,
} from './format.ts';
import { decodeHeader, encodeHeader } from './header.ts';
import { encodeManifest, manifestChecksum, openManifest } from './manifest.ts';
import { freeMemory } from './memory.ts';
import { createPacker, type PackedObject } from './packer.ts';
import { createBufferPool } from './pool.ts';
import { type Sealing, sealSegment } from './segment.ts';

export interface ArchiveWriterOptions {
  readonly identity: ArchiveIdentity;
  readonly createdAt: Date;
  readonly compression: CompressionChoice;
  readonly checksum: ChecksumAlgorithm;
  /** Left out: the archive is not encrypted. The data key must be fresh: one key, one attempt. */
  readonly encryption?:
    | { readonly dataKey: Uint8Array; readonly wrappedKeys: readonly WrappedKey[] }
    | undefined;
  /** CHECK: every sealed segment, and the manifest, is opened again and compared before it is given out. */
  readonly reopen: 'CHECK' | 'TRUST';
  /** The manifest that this snapshot builds on. */
  readonly parent?: ParentManifest | undefined;
  /** Raw buffers lent and being sealed, altogether; 5. More than the streams that fill them at the same time. */
  readonly buffers?: number | undefined;
  /** Raw bytes of a buffer; 4 MiB. */
  readonly segmentSize?: number | undefined;
  /** Stored bytes at which an object is closed; 8 MiB. */
  readonly objectSize?: number | undefined;
  /**
   * Stores an object under a name relative to the attempt’s directory; resolves when it is durable. Called for several
   * objects at once, in no promised order. The pieces stay unchanged until it settles, and are gone afterwards.
   */
  readonly store: (name: string, pieces: readonly Uint8Array[]) => Promise<void>;
  /** Aborting it is `abort` with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called after every stored object. */
  readonly onProgress?: ((progress: ArchiveTotals) => void) | undefined;
}

/** What is stored so far. */
export interface ArchiveTotals {
  readonly rawBytes: number;
  /** Without the manifest. */
  readonly storedBytes: number;
  readonly objects: number;
  readonly segments: number;
  readonly rows: number;
}

export interface RawSegment {
  /** The caller’s number of the table. */
  readonly part: number;
  /** The extraction stream. */
  readonly run: number;
  /** A buffer that `acquire` gave. */
  readonly buffer: Buffer;
  /** How many of its bytes are the segment. */
  readonly length: number;
  /** Rows that end in this segment. */
  readonly rows: number;
  /** Whether it begins inside a row that the previous segment of the run began. */
  readonly continues: boolean;
}

export interface FinishedArchive extends ArchiveTotals {
  /** The manifest. The caller stores it, create-only, as the last object. */
  readonly bytes: Uint8Array;
  /** The snapshot checksum, hexadecimal. */
  readonly checksum: string;
}

/**
 * Turns raw bytes into stored objects and, at the end, a manifest. Compression runs off the main thread, three
 * segments at a time. Memory is bounded: `buffers` raw buffers, one open object, and about two objects that are
 * being stored; while more wait for the storage, `acquire` waits.
 *
 * The first failure (of the storage, of a check, of the caller’s use, or an abort) ends the archive: every later call
 * rejects or throws that failure and there will be no manifest.
 */
export interface ArchiveWriter {
  /** A buffer of `segmentSize` bytes, with arbitrary content. Waits while all are in use or the storage lags behind. */
  acquire(): Promise<Buffer>;
  /** Gives back a buffer whose content is not wanted. Does nothing once the archive failed. */
  release(buffer: Buffer): void;
  /**
   * Adds a segment and takes its buffer over: the caller must not touch it again. Segments of a run are numbered in
   * the order of `add`. Throws INTERNAL on a value that the format cannot hold.
   */
  add(segment: RawSegment): void;
  /** Resolves when everything added is sealed and stored. Closes the open object. Rejects with the first failure. */
  flush(): Promise<void>;
  /**
   * `flush`, then the manifest with the caller’s `contents`. INTERNAL when a buffer is still lent: what it holds would
   * be missing. Afterwards nothing can be added.
   */
  finish(contents: Json): Promise<FinishedArchive>;
  /** Ends the archive. Resolves, never rejects, when nothing runs any more, so that what was stored can be swept. */
  abort(reason: unknown): Promise<void>;
}

/** The threads of libuv’s pool are four; one stays free for the file system, name resolution and the storage. */
const SEALERS = 3;
const DEFAULT_BUFFERS = 5;
/** Objects that may wait for the storage before `acquire` waits too. */
const UNSTORED_OBJECTS = 2;

/** CONFIGURATION_INVALID when the options are impossible, KEY_UNAVAILABLE when the data key has a wrong length. */
export function createArchiveWriter(options: ArchiveWriterOptions): ArchiveWriter {
  checkOptions(options);
  const { identity, encryption, reopen, checksum, compression, signal, onProgress } = options;
  const segmentSize = options.segmentSize ?? DEFAULT_SEGMENT_SIZE;
  const objectSize = options.objectSize ?? DEFAULT_OBJECT_SIZE;
  const subkeys = encryption && deriveSubkeys(encryption.dataKey, identity);
  const start = headerStart(options, segmentSize, subkeys?.commitment.toString('hex'));
  checkHeader(start);
  const compressor = createCompressor(compression);
  const sealing: Sealing = { identity, compressor, checksum, key: subkeys?.segment, reopen };

  const packer = createPacker(objectSize);
  const pool = createBufferPool(
    options.buffers ?? DEFAULT_BUFFERS,
    segmentSize,
    () => unstoredBytes < UNSTORED_OBJECTS * objectSize,
  );
  const queue: { readonly buffer: Buffer; readonly content: SegmentContent }[] = [];
  const runs = new Map<number, { ordinals: number; part: number }>();
  const running = new Set<Promise<void>>();
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => undefined);
  let failure: { readonly reason: unknown } | undefined;
  let finishing = false;
  let sealers = 0;
  let added = 0;
  let unstoredBytes = 0;
  let totals: ArchiveTotals = { rawBytes: 0, storedBytes: 0, objects: 0, segments: 0, rows: 0 };

  const fail = (reason: unknown): void => {
    if (failure !== undefined) return;
    failure = { reason };
    queue.length = 0;
    pool.fail(reason);
    failed.reject(reason);
    signal?.removeEventListener('abort', onAbort);
  };
  const onAbort = (): void => fail(signal?.reason);
  const throwIfFailed = (): void => {
    if (failure !== undefined) throw failure.reason;
  };
  /** Runs a use of the caller’s; a wrong one ends the archive, since a row may be lost if the error is swallowed. */
  const guarded = (use: () => void): void => {
    throwIfFailed();
    try {
      use();
    } catch (error) {
      fail(error);
      throw error;
    }
  };
  const inBackground = (work: Promise<void>): void => {
    const task = work.catch(fail).finally(() => running.delete(task));
    running.add(task);
  };

  const storeObject = async (object: PackedObject): Promise<void> => {
    unstoredBytes += object.size;
    await options.store(object.name, object.pieces);
    object.pieces.forEach(freeMemory);
    if (failure !== undefined) return;
    unstoredBytes -= object.size;
    totals = addObject(totals, object);
    pool.serve();
    onProgress?.(totals);
  };
  const sealNext = (): void => {
    while (sealers < SEALERS) {
      const job = queue.shift();
      if (job === undefined) return;
      sealers += 1;
      inBackground(
        sealOne(job).finally(() => {
          sealers -= 1;
          sealNext();
        }),
      );
    }
  };
  const sealOne = async ({ buffer, content }: (typeof queue)[number]): Promise<void> => {
    const sealed = await sealSegment(buffer.subarray(0, content.rawLength), content, sealing);
    if (failure !== undefined) return;
    const object = packer.append(sealed);
    if (object !== undefined) inBackground(storeObject(object));
    pool.give(buffer);
  };
  const idle = async (): Promise<void> => {
    while (running.size > 0) await Promise.race([Promise.all(running), failed.promise]);
    throwIfFailed();
  };

  const flush = async (): Promise<void> => {
    throwIfFailed();
    await idle();
    const last = packer.close();
    if (last !== undefined) inBackground(storeObject(last));
    await idle();
  };

  const numbered = (segment: RawSegment): SegmentContent => {
    const { part, run, length, rows, continues } = segment;
    if (![part, run, rows].every((value) => Number.isInteger(value) && value >= 0 && value <= U32_MAX)) {
      throw internal('Part, run and rows of a segment must be unsigned 32-bit integers.');
    }
    if (!Number.isInteger(length) || length < 0 || length > segmentSize) {
      throw internal('The length of a segment must not exceed its buffer.');
    }
    const previous = runs.get(run);
    if (continues && previous?.part !== part) {
      throw internal('A segment can only continue a row of the same part, begun before in its run.');
    }
    runs.set(run, { ordinals: (previous?.ordinals ?? 0) + 1, part });
    return { part, run, ordinal: previous?.ordinals ?? 0, rawLength: length, rows, continues };
  };

  if (signal?.aborted) fail(signal.reason);
  else signal?.addEventListener('abort', onAbort, { once: true });

  return {
    acquire: () => pool.acquire(),
    release(buffer) {
      // After a failure there is nothing to lose any more: releasing in a `finally` must not hide the reason.
      if (failure !== undefined) return;
      guarded(() => {
        pool.take(buffer);
        pool.give(buffer);
      });
    },
    add: (segment) =>
      guarded(() => {
        if (finishing) throw internal('A segment was added to a finished archive.');
        if (added === MAX_SEGMENTS) {
          throw new DataProtectionError(
            `An archive holds at most ${MAX_SEGMENTS} segments; use larger segments.`,
            'NOT_SUPPORTED',
          );
        }
        pool.take(segment.buffer);
        added += 1;
        queue.push({ buffer: segment.buffer, content: numbered(segment) });
        sealNext();
      }),
    flush,
    async finish(contents) {
      guarded(() => {
        if (finishing) throw internal('The archive was finished before.');
        if (pool.lent > 0) throw internal('A buffer is still lent: what it holds would be missing.');
        finishing = true;
      });
      await flush();
      // Nothing that was added may be missing, whatever went wrong above.
      if (packer.segments.length !== added || totals.segments !== added) {
        throw internal('Fewer segments were stored than were added.');
      }
      const header: ManifestHeader = {
        ...start,
        objects: packer.objects,
        segments: packer.segments,
      };
      const body = { segments: packer.segments.map(({ content }) => content), contents };
      const bytes = await encodeManifest(header, body, subkeys);
      if (reopen === 'CHECK') await checkManifest(bytes, options, contents);
      throwIfFailed();
      fail(internal('The archive is finished.'));
      compressor.close();
      return { ...totals, bytes, checksum: manifestChecksum(header, bytes) };
    },
    async abort(reason) {
      fail(reason);
      while (running.size > 0) await Promise.all(running);
      compressor.close();
    },
  };
}

type HeaderStart = Omit<ManifestHeader, 'objects' | 'segments'>;

function headerStart(
  options: ArchiveWriterOptions,
  segmentSize: number,
  commitment: string | undefined,
): HeaderStart {
  return {
    version: FORMAT_VERSION,
    identity: options.identity,
    createdAt: options.createdAt.toISOString(),
    parent: options.parent ?? null,
    compression: options.compression.algorithm,
    checksum: options.checksum,
    encryption:
      options.encryption === undefined || commitment === undefined
        ? null
        : { algorithm: 'AES-256-GCM', commitment, wrappedKeys: options.encryption.wrappedKeys },
    segmentSize,
  };
}

function addObject(totals: ArchiveTotals, object: PackedObject): ArchiveTotals {
  const sum = (of: (content: SegmentContent) => number): number =>
    object.contents.reduce((total, content) => total + of(content), 0);
  return {
    rawBytes: totals.rawBytes + sum(({ rawLength }) => rawLength),
    storedBytes: totals.storedBytes + object.size,
    objects: totals.objects + 1,
    segments: totals.segments + object.contents.length,
    rows: totals.rows + sum(({ rows }) => rows),
  };
}

async function checkManifest(
  bytes: Uint8Array,
  options: ArchiveWriterOptions,
  contents: Json,
): Promise<void> {
  const { encryption, identity } = options;
  const opened = await openManifest(bytes, {
    expected: identity,
    ...(encryption && { dataKey: () => Promise.resolve(encryption.dataKey) }),
  });
  if (JSON.stringify(opened.contents) !== JSON.stringify(contents)) {
    throw internal('The manifest does not open to the contents that were given.');
  }
}

function checkOptions(options: ArchiveWriterOptions): void {
  const {
    segmentSize = DEFAULT_SEGMENT_SIZE,
    objectSize = DEFAULT_OBJECT_SIZE,
    buffers = DEFAULT_BUFFERS,
  } = options;
  checkCompression(options.compression);
  if (!inRange(segmentSize, MAX_SEGMENT_SIZE)) throw invalid(`Segments have 1 to ${MAX_SEGMENT_SIZE} bytes.`);
  if (!inRange(objectSize, U32_MAX)) throw invalid(`Objects have 1 to ${U32_MAX} bytes.`);
  if (!inRange(buffers, U32_MAX)) throw invalid('The archive needs at least one buffer.');
}

/** What the reader would refuse at the end must be refused before there is anything to lose. */
function checkHeader(start: HeaderStart): void {
  try {
    decodeHeader(encodeHeader({ ...start, objects: [], segments: [] }));
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : '';
    throw new DataProtectionError(`The archive cannot be written so: ${what}`, 'CONFIGURATION_INVALID', {
      cause,
    });
  }
}

function inRange(value: number, most: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= most;
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'CONFIGURATION_INVALID');
}

function internal(message: string): DataProtectionError {
  return new DataProtectionError(message, 'INTERNAL');
}
