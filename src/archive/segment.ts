import type { KeyObject } from 'node:crypto';
import type { ChecksumAlgorithm } from '../types/encryption.ts';
import { type Compressor, decompress } from './compress.ts';
import { digestHex } from './digest.ts';
import { openPieces, seal } from './encrypt.ts';
import {
  type ArchiveIdentity,
  compressedBound,
  corrupt,
  SEAL_OVERHEAD,
  type SegmentContent,
  segmentAad,
} from './format.ts';
import { freeMemory } from './memory.ts';

/** How the segments of one archive are made. */
export interface Sealing {
  readonly identity: ArchiveIdentity;
  readonly compressor: Compressor;
  readonly checksum: ChecksumAlgorithm;
  /** The segment key; undefined when the archive is not encrypted. */
  readonly key: KeyObject | undefined;
  /** CHECK: what was sealed is opened again and compared with the raw bytes before it is given out. */
  readonly reopen: 'CHECK' | 'TRUST';
}

/** A segment as it is stored. */
export interface SealedSegment {
  readonly content: SegmentContent;
  /** The stored bytes, one piece after another. They hold no memory but their own. */
  readonly pieces: readonly Uint8Array[];
  /** Stored bytes. */
  readonly length: number;
  /** Of the stored bytes, hexadecimal. */
  readonly digest: string;
}

/**
 * Compresses, encrypts and digests `raw`, which nobody may change meanwhile; the result does not refer to it.
 * ARCHIVE_CORRUPT when, under CHECK, the result does not open to the same bytes: memory or a library is at fault.
 */
export async function sealSegment(
  raw: Uint8Array,
  content: SegmentContent,
  how: Sealing,
): Promise<SealedSegment> {
  const compressed = await how.compressor.compress(raw);
  if (compressed.length > compressedBound(raw.length))
    throw corrupt('A segment compressed to an impossible length.');
  const sealed = await (how.key === undefined
    ? protectPlain(compressed, raw, how)
    : protectEncrypted(compressed, raw, content, how, how.key));
  return { ...sealed, content, digest: digestHex(how.checksum, sealed.pieces) };
}

type Protected = Pick<SealedSegment, 'pieces' | 'length'>;

async function protectPlain(compressed: Uint8Array, raw: Uint8Array, how: Sealing): Promise<Protected> {
  // A copy: `compressed` may be the pooled buffer, or a corner of one as large as the raw bytes.
  const stored = Buffer.from(compressed);
  if (how.reopen === 'CHECK') await checkSame(stored, raw, how);
  return { pieces: [stored], length: stored.length };
}

async function protectEncrypted(
  compressed: Uint8Array,
  raw: Uint8Array,
  content: SegmentContent,
  how: Sealing,
  key: KeyObject,
): Promise<Protected> {
  const aad = segmentAad(how.identity, content, compressed.length);
  const pieces = seal(key, compressed, aad);
  if (how.reopen === 'CHECK') await checkSame(openPieces(key, pieces, aad), raw, how);
  return { pieces, length: compressed.length + SEAL_OVERHEAD };
}

async function checkSame(compressed: Uint8Array, raw: Uint8Array, how: Sealing): Promise<void> {
  const again = await decompress(compressed, how.compressor.algorithm, raw.length);
  if (!again.equals(raw)) throw corrupt('A sealed segment does not open to the bytes that were sealed.');
  if (again.buffer !== compressed.buffer) freeMemory(again);
}
