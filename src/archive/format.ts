import type {
  ChecksumAlgorithm,
  CompressionAlgorithm,
  EncryptionAlgorithm,
  WrappedKey,
} from '../types/encryption.ts';
import { ArchiveError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';

/** The version that this code writes. A change that an old reader would notice needs another. */
export const FORMAT_VERSION = 1;
export const FORMAT_NAME = 'care-commons-backup';
export const MANIFEST_MAGIC = Buffer.from('CCBKPMAN', 'latin1');
const SEGMENT_MAGIC = Buffer.from('CCBSEGMT', 'latin1');
export const CLAIM_MAGIC = Buffer.from('CCBCLAIM', 'latin1');
export const SIDECAR_MAGIC = Buffer.from('CCBSIDEC', 'latin1');

/** The name of the manifest, and of a claim in its stead, within an attempt's directory. */
export const MANIFEST_NAME = 'manifest';

const MiB = 1024 * 1024;
/** Raw bytes of a segment. 4 MiB: smaller costs ratio and calls, larger costs memory (BACKUP design, section 1). */
export const DEFAULT_SEGMENT_SIZE = 4 * MiB;
/** The most that a manifest may declare as raw length of one segment. */
export const MAX_SEGMENT_SIZE = 64 * MiB;
/** Stored bytes at which an object is closed. */
export const DEFAULT_OBJECT_SIZE = 8 * MiB;
/** Keeps random 96-bit nonces under one key far from their birthday bound, and the manifest readable in memory. */
export const MAX_SEGMENTS = 1_000_000;
/** The most that a manifest may declare as raw length of its body. */
export const MAX_BODY_SIZE = 256 * MiB;

export const NONCE_SIZE = 12;
export const TAG_SIZE = 16;
/** What encryption adds to a segment, in bytes. */
export const SEAL_OVERHEAD = NONCE_SIZE + TAG_SIZE;
export const U32_MAX = 0xffff_ffff;

/** Whose archive it is. One attempt of one snapshot. */
export interface ArchiveIdentity {
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  readonly snapshotId: UUID;
  /** Such as `BKP-2026-000123`. */
  readonly snapshotNumber: string;
  readonly attemptId: UUID;
}

/** The manifest that this snapshot builds on. */
export interface ParentManifest {
  readonly snapshotId: UUID;
  /** The parent's snapshot checksum. */
  readonly digest: string;
}

/** How an encrypted archive is encrypted; public. */
export interface EncryptionHeader {
  readonly algorithm: EncryptionAlgorithm;
  /** What the data key must give, hexadecimal. */
  readonly commitment: string;
  readonly wrappedKeys: readonly WrappedKey[];
}

export interface ArchiveObject {
  /** Relative to the attempt's directory. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
}

/** Where a stored segment lies, and what its bytes must digest to. */
export interface SegmentLocation {
  /** Index in the header's `objects`. */
  readonly object: number;
  /** Bytes from the start of the object. */
  readonly offset: number;
  /** Stored bytes. */
  readonly length: number;
  /** Hexadecimal, of the header's checksum algorithm. */
  readonly digest: string;
}

/** The public part of a manifest: enough to check every stored byte, without keys. */
export interface ManifestHeader {
  readonly version: number;
  readonly identity: ArchiveIdentity;
  readonly createdAt: Timestamp;
  readonly parent: ParentManifest | null;
  readonly compression: CompressionAlgorithm;
  readonly checksum: ChecksumAlgorithm;
  /** Null: the archive is not encrypted. */
  readonly encryption: EncryptionHeader | null;
  /** The most raw bytes that a segment holds. */
  readonly segmentSize: number;
  readonly objects: readonly ArchiveObject[];
  /** In the order of their bytes; they cover every object exactly. */
  readonly segments: readonly SegmentLocation[];
}

/** What a segment holds; private. */
export interface SegmentContent {
  /** The caller's table number. */
  readonly part: number;
  /** The extraction stream. */
  readonly run: number;
  /** Place within the run, from 0. */
  readonly ordinal: number;
  /** Bytes. */
  readonly rawLength: number;
  /** The caller's count of rows that end in this segment. */
  readonly rows: number;
  /** Whether it begins inside a row that the previous segment of the run began. */
  readonly continues: boolean;
}

const UUID_PATTERN = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const SNAPSHOT_NUMBER_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

export function isUuid(text: string): boolean {
  return UUID_PATTERN.test(text);
}

export function isSnapshotNumber(text: string): boolean {
  return SNAPSHOT_NUMBER_PATTERN.test(text);
}

/** The directory of a snapshot, where its sidecars lie: `<prefix>/<organization>/<configuration>/<number>/`. */
function snapshotPrefix(
  prefix: string,
  id: Pick<ArchiveIdentity, 'organizationId' | 'configurationId' | 'snapshotNumber'>,
): string {
  const base = prefix.replace(/\/+$/, '');
  const path = `${id.organizationId}/${id.configurationId}/${id.snapshotNumber}/`;
  return base === '' ? path : `${base}/${path}`;
}

/** The directory of an attempt: `<prefix>/<organization>/<configuration>/<number>/<attempt>/`. */
export function attemptPrefix(prefix: string, id: ArchiveIdentity): string {
  return `${snapshotPrefix(prefix, id)}${id.attemptId}/`;
}

/** The directory of the snapshot whose attempt has this directory: where its sidecars lie. */
export const snapshotFolder = (attempt: string): string => attempt.replace(/[^/]+\/$/, '');

/** The name of the object with this index (from 0) within the attempt's directory: `o-000001` and on. */
export function objectName(index: number): string {
  return `o-${String(index + 1).padStart(6, '0')}`;
}

/** The longest that a compressed segment of `rawLength` bytes may be, by any of the algorithms. */
export function compressedBound(rawLength: number): number {
  return rawLength + Math.floor(rawLength / 64) + 1024;
}

/** The 16 bytes of a canonical UUID. */
export function uuidBytes(id: UUID): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex');
}

/** The associated data of a sealed segment: 67 bytes, section 3 of `docs/archive-format.md`. */
export function segmentAad(
  identity: Pick<ArchiveIdentity, 'snapshotId' | 'attemptId'>,
  content: SegmentContent,
  compressedLength: number,
): Buffer {
  const aad = Buffer.alloc(67);
  SEGMENT_MAGIC.copy(aad, 0);
  aad.writeUInt16BE(FORMAT_VERSION, 8);
  uuidBytes(identity.snapshotId).copy(aad, 10);
  uuidBytes(identity.attemptId).copy(aad, 26);
  aad.writeUInt32BE(content.part, 42);
  aad.writeUInt32BE(content.run, 46);
  aad.writeUInt32BE(content.ordinal, 50);
  aad.writeUInt32BE(content.rawLength, 54);
  aad.writeUInt32BE(compressedLength, 58);
  aad.writeUInt32BE(content.rows, 62);
  aad.writeUInt8(content.continues ? 1 : 0, 66);
  return aad;
}

/** An error that says that stored bytes are not what was written. */
export function corrupt(message: string, cause?: unknown): ArchiveError {
  return new ArchiveError(message, 'ARCHIVE_CORRUPT', cause === undefined ? {} : { cause });
}
