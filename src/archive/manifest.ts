import type { KeyObject } from 'node:crypto';
import { ArchiveError, DataProtectionError, KeyError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { isClaim } from './claim.ts';
import { compress, decompress } from './compress.ts';
import { fields, integer, list, parseJson, tuple } from './decode.ts';
import { digestHex, sameBytes, sha256 } from './digest.ts';
import { checkCommitment, deriveSubkeys, hmac, open, type Subkeys, seal } from './encrypt.ts';
import {
  type ArchiveIdentity,
  compressedBound,
  corrupt,
  type EncryptionHeader,
  FORMAT_VERSION,
  MANIFEST_MAGIC,
  MAX_BODY_SIZE,
  MAX_SEGMENTS,
  type ManifestHeader,
  SEAL_OVERHEAD,
  type SegmentContent,
  type SegmentLocation,
  U32_MAX,
} from './format.ts';
import { decodeHeader, encodeHeader } from './header.ts';

/** A segment: where it lies and what it holds. */
export interface ManifestSegment extends SegmentLocation, SegmentContent {}

/** An opened manifest. */
export interface Manifest {
  readonly header: ManifestHeader;
  /** As the header’s segments, in the same order, with what they hold. */
  readonly segments: readonly ManifestSegment[];
  /** What the caller of the writer gave: schema, scope, counts. */
  readonly contents: Json;
  /** The snapshot checksum, hexadecimal. */
  readonly checksum: string;
  /** Opens segments; undefined when the archive is not encrypted. */
  readonly segmentKey: KeyObject | undefined;
}

/** What a header says of its data key. */
export interface SealedDataKey extends Pick<EncryptionHeader, 'commitment' | 'wrappedKeys'> {
  readonly identity: ArchiveIdentity;
}

export interface OpenManifestOptions {
  /**
   * Gives the data key of what is sealed. Needed for an encrypted archive. What it throws is passed on.
   */
  readonly dataKey?: ((sealed: SealedDataKey) => Promise<Uint8Array>) | undefined;
  /** Whose manifest it must be, from the place that it was read from. */
  readonly expected?: ArchiveIdentity | undefined;
}

export interface ManifestBody {
  /** In the order of the header’s segments. */
  readonly segments: readonly SegmentContent[];
  readonly contents: Json;
}

const ENCRYPTED_FLAG = 1;
const MAC_SIZE = 32;
const DIGEST_SIZE = 32;

/**
 * The bytes of a manifest. Encodes what it is given: that header and body are consistent is the writer’s duty.
 * `subkeys` exactly when the header says that the archive is encrypted. NOT_SUPPORTED when it becomes too large.
 */
export async function encodeManifest(
  header: ManifestHeader,
  body: ManifestBody,
  subkeys: Subkeys | undefined,
): Promise<Buffer> {
  const headerBytes = encodeHeader(header);
  const raw = encodeBody(body);
  if (raw.length > MAX_BODY_SIZE || headerBytes.length > U32_MAX) {
    throw new DataProtectionError('The manifest is larger than the format allows.', 'NOT_SUPPORTED');
  }
  const compressed = await compress(raw, { algorithm: header.compression });
  const overhead = subkeys === undefined ? 0 : SEAL_OVERHEAD;
  const front = Buffer.concat([
    MANIFEST_MAGIC,
    u16(FORMAT_VERSION),
    u16(subkeys === undefined ? 0 : ENCRYPTED_FLAG),
    u32(headerBytes.length),
    headerBytes,
    u32(raw.length),
    u32(compressed.length + overhead),
  ]);
  const stored = subkeys === undefined ? [compressed] : seal(subkeys.body, compressed, front);
  const unsigned = Buffer.concat([front, ...stored, Buffer.from([subkeys === undefined ? 0 : MAC_SIZE])]);
  const mac = subkeys === undefined ? Buffer.alloc(0) : hmac(subkeys.manifestMac, unsigned);
  const undigested = Buffer.concat([unsigned, mac]);
  return Buffer.concat([undigested, sha256(undigested)]);
}

/**
 * The public part, without keys. It proves that the bytes are whole and consistent, not who wrote them: `openManifest`
 * does. ARCHIVE_INCOMPLETE for a claim, ARCHIVE_VERSION_UNSUPPORTED for another version, else ARCHIVE_CORRUPT.
 */
export function readHeader(bytes: Uint8Array, expected?: ArchiveIdentity): ManifestHeader {
  return takeApart(bytes, expected).header;
}

/**
 * The whole manifest, authenticated when it is encrypted. As `readHeader`, and KEY_UNAVAILABLE when the data key is
 * missing or another one (nothing is decrypted then), ARCHIVE_CORRUPT when a byte is not what the writer wrote.
 */
export async function openManifest(bytes: Uint8Array, options: OpenManifestOptions = {}): Promise<Manifest> {
  const parts = takeApart(bytes, options.expected);
  const { header } = parts;
  const subkeys = await unlock(header, options.dataKey);
  if (subkeys !== undefined && !sameBytes(hmac(subkeys.manifestMac, parts.unsigned), parts.mac)) {
    throw corrupt('The manifest is not the one that was written with its key.');
  }
  const compressed = subkeys === undefined ? parts.body : open(subkeys.body, parts.body, parts.front);
  const body = decodeBody(await decompress(compressed, header.compression, parts.bodyRawLength), header);
  return {
    header,
    segments: header.segments.map((location, index) => ({ ...location, ...at(body.segments, index) })),
    contents: body.contents,
    checksum: manifestChecksum(header, bytes),
    segmentKey: subkeys?.segment,
  };
}

/** Throws KEY_UNAVAILABLE unless the data key is the one that the header commits to. Nothing is decrypted. */
export function checkDataKey({ commitment, identity }: SealedDataKey, dataKey: Uint8Array): void {
  checkCommitment(deriveSubkeys(dataKey, identity), commitment);
}

/** The snapshot checksum: the digest of the whole manifest by the archive’s algorithm, hexadecimal. */
export function manifestChecksum(header: Pick<ManifestHeader, 'checksum'>, bytes: Uint8Array): string {
  return digestHex(header.checksum, [bytes]);
}

/** Throws ARCHIVE_CORRUPT unless the header is that of `expected`. */
function checkIdentity(header: ManifestHeader, expected: ArchiveIdentity): void {
  const found = header.identity;
  if (
    found.organizationId !== expected.organizationId ||
    found.configurationId !== expected.configurationId ||
    found.snapshotId !== expected.snapshotId ||
    found.snapshotNumber !== expected.snapshotNumber ||
    found.attemptId !== expected.attemptId
  ) {
    throw corrupt('The manifest is that of another organization, configuration, snapshot or attempt.');
  }
}

interface ManifestParts {
  readonly header: ManifestHeader;
  /** All before the body: its associated data. */
  readonly front: Uint8Array;
  readonly body: Uint8Array;
  readonly bodyRawLength: number;
  /** All before the MAC. */
  readonly unsigned: Uint8Array;
  readonly mac: Uint8Array;
}

function takeApart(bytes: Uint8Array, expected: ArchiveIdentity | undefined): ManifestParts {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkStart(all);
  // The digest first: what follows then reads what some writer wrote, not a torn object.
  const digestAt = all.length - DIGEST_SIZE;
  if (digestAt < 16) throw corrupt('The manifest is cut off.');
  if (!sha256(all.subarray(0, digestAt)).equals(all.subarray(digestAt)))
    throw corrupt('The manifest is damaged.');

  const flags = all.readUInt16BE(10);
  if (flags > ENCRYPTED_FLAG) throw corrupt('The manifest has unknown flags.');
  const headerEnd = 16 + all.readUInt32BE(12);
  const bodyAt = headerEnd + 8;
  if (bodyAt >= digestAt) throw corrupt('The manifest’s header does not end in it.');
  const bodyRawLength = all.readUInt32BE(headerEnd);
  const bodyEnd = bodyAt + all.readUInt32BE(headerEnd + 4);
  if (bodyEnd >= digestAt) throw corrupt('The manifest’s body does not end in it.');
  const macSize = all.readUInt8(bodyEnd);
  if (bodyEnd + 1 + macSize !== digestAt) throw corrupt('The manifest does not end where it says.');

  const header = decodeHeader(all.subarray(16, headerEnd));
  const encrypted = header.encryption !== null;
  if (encrypted !== (flags === ENCRYPTED_FLAG) || macSize !== (encrypted ? MAC_SIZE : 0)) {
    throw corrupt('The manifest contradicts itself about encryption.');
  }
  if (expected !== undefined) checkIdentity(header, expected);
  if (bodyRawLength > MAX_BODY_SIZE || bodyEnd - bodyAt > compressedBound(bodyRawLength) + SEAL_OVERHEAD) {
    throw corrupt('The manifest’s body has an impossible length.');
  }
  return {
    header,
    front: all.subarray(0, bodyAt),
    body: all.subarray(bodyAt, bodyEnd),
    bodyRawLength,
    unsigned: all.subarray(0, bodyEnd + 1),
    mac: all.subarray(bodyEnd + 1, digestAt),
  };
}

function checkStart(all: Buffer): void {
  if (isClaim(all)) {
    throw new ArchiveError(
      'The attempt was claimed before it wrote a manifest: no snapshot.',
      'ARCHIVE_INCOMPLETE',
    );
  }
  if (!all.subarray(0, 8).equals(MANIFEST_MAGIC) || all.length < 10) throw corrupt('This is not a manifest.');
  const version = all.readUInt16BE(8);
  if (version !== FORMAT_VERSION) {
    const known = `this library reads version ${FORMAT_VERSION}`;
    throw new ArchiveError(
      `The archive has format version ${version}; ${known}.`,
      'ARCHIVE_VERSION_UNSUPPORTED',
    );
  }
}

async function unlock(
  header: ManifestHeader,
  dataKey: OpenManifestOptions['dataKey'],
): Promise<Subkeys | undefined> {
  if (header.encryption === null) return undefined;
  if (dataKey === undefined)
    throw new KeyError('The archive is encrypted and no key was given.', 'KEY_UNAVAILABLE');
  const { encryption, identity } = header;
  const subkeys = deriveSubkeys(await dataKey({ ...encryption, identity }), identity);
  checkCommitment(subkeys, encryption.commitment);
  return subkeys;
}

function encodeBody(body: ManifestBody): Buffer {
  const segments = body.segments.map(({ part, run, ordinal, rawLength, rows, continues }) => [
    part,
    run,
    ordinal,
    rawLength,
    rows,
    continues ? 1 : 0,
  ]);
  return Buffer.from(JSON.stringify({ segments, contents: body.contents }));
}

function decodeBody(bytes: Uint8Array, header: ManifestHeader): ManifestBody {
  const root = fields(parseJson(bytes, 'The body'), 'The body', ['segments', 'contents']);
  const segments = list(root.segments, 'The body’s list of segments', MAX_SEGMENTS).map((entry) =>
    decodeContent(entry, header.segmentSize),
  );
  if (segments.length !== header.segments.length)
    throw corrupt('Header and body have different numbers of segments.');
  checkRuns(segments);
  return { segments, contents: root.contents };
}

function decodeContent(value: Json, segmentSize: number): SegmentContent {
  const [part, run, ordinal, rawLength, rows, flags] = tuple(value, 'A segment’s content', 6);
  return {
    part: integer(part, 'A part', 0, U32_MAX),
    run: integer(run, 'A run', 0, U32_MAX),
    ordinal: integer(ordinal, 'An ordinal', 0, U32_MAX),
    rawLength: integer(rawLength, 'A raw length', 0, segmentSize),
    rows: integer(rows, 'A number of rows', 0, U32_MAX),
    continues: integer(flags, 'The flags of a segment', 0, 1) === 1,
  };
}

/** Ordinals 0..n-1 once each in every run; a continued row goes on in the same part. */
function checkRuns(segments: readonly SegmentContent[]): void {
  for (const run of inRuns(segments).values()) {
    run.forEach((segment, index) => {
      if (segment.ordinal !== index) throw corrupt('A run lacks a segment or has it twice.');
      if (segment.continues && segment.part !== run[index - 1]?.part) {
        throw corrupt('A segment continues a row that no segment before it began.');
      }
    });
  }
}

/** The segments of every run, in the order of their ordinals. */
export function inRuns<T extends SegmentContent>(segments: readonly T[]): Map<number, T[]> {
  const runs = Map.groupBy(segments, ({ run }) => run);
  for (const run of runs.values()) run.sort((a, b) => a.ordinal - b.ordinal);
  return runs;
}

function at<T>(values: readonly T[], index: number): T {
  const value = values[index];
  if (value === undefined) throw corrupt('Header and body have different numbers of segments.');
  return value;
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
