import {
  CHECKSUM_ALGORITHMS,
  COMPRESSION_ALGORITHMS,
  ENCRYPTION_ALGORITHMS,
  type WrappedKey,
} from '../types/encryption.ts';
import type { Json } from '../types/ids.ts';
import { fields, integer, list, oneOf, parseJson, text, timestamp, tuple, uuid } from './decode.ts';
import { DIGEST_SIZES } from './digest.ts';
import {
  type ArchiveIdentity,
  type ArchiveObject,
  compressedBound,
  corrupt,
  type EncryptionHeader,
  FORMAT_NAME,
  FORMAT_VERSION,
  isSnapshotNumber,
  MAX_SEGMENT_SIZE,
  MAX_SEGMENTS,
  type ManifestHeader,
  objectName,
  type ParentManifest,
  SEAL_OVERHEAD,
  type SegmentLocation,
} from './format.ts';

/** The header’s bytes: canonical JSON, section 4.1 of `docs/archive-format.md`. */
export function encodeHeader(header: ManifestHeader): Buffer {
  const { identity, parent, encryption } = header;
  return Buffer.from(
    JSON.stringify({
      format: FORMAT_NAME,
      version: header.version,
      identity: {
        organizationId: identity.organizationId,
        configurationId: identity.configurationId,
        snapshotId: identity.snapshotId,
        snapshotNumber: identity.snapshotNumber,
        attemptId: identity.attemptId,
      },
      createdAt: header.createdAt,
      parent: parent && { snapshotId: parent.snapshotId, digest: parent.digest },
      compression: header.compression,
      checksum: header.checksum,
      encryption: encryption && {
        algorithm: encryption.algorithm,
        commitment: encryption.commitment,
        wrappedKeys: encryption.wrappedKeys.map(({ keyId, scheme, wrapped }) => ({ keyId, scheme, wrapped })),
      },
      segmentSize: header.segmentSize,
      objects: header.objects.map(({ name, size }) => [name, size]),
      segments: header.segments.map(({ object, offset, length, digest }) => [object, offset, length, digest]),
    }),
  );
}

/** The header again. ARCHIVE_CORRUPT unless it is canonical and its objects and segments fit each other exactly. */
export function decodeHeader(bytes: Uint8Array): ManifestHeader {
  const root = fields(parseJson(bytes, 'The header'), 'The header', [
    'format',
    'version',
    'identity',
    'createdAt',
    'parent',
    'compression',
    'checksum',
    'encryption',
    'segmentSize',
    'objects',
    'segments',
  ]);
  oneOf(root.format, 'The format', [FORMAT_NAME]);
  const checksum = oneOf(root.checksum, 'The checksum algorithm', CHECKSUM_ALGORITHMS);
  const header: ManifestHeader = {
    version: integer(root.version, 'The version', FORMAT_VERSION, FORMAT_VERSION),
    identity: decodeIdentity(root.identity),
    createdAt: timestamp(root.createdAt, 'The time of creation'),
    parent: root.parent === null ? null : decodeParent(root.parent),
    compression: oneOf(root.compression, 'The compression algorithm', COMPRESSION_ALGORITHMS),
    checksum,
    encryption: root.encryption === null ? null : decodeEncryption(root.encryption),
    segmentSize: integer(root.segmentSize, 'The segment size', 1, MAX_SEGMENT_SIZE),
    objects: list(root.objects, 'The list of objects', MAX_SEGMENTS).map(decodeObject),
    segments: decodeSegments(root.segments, DIGEST_SIZES[checksum]),
  };
  if (!encodeHeader(header).equals(bytes)) throw corrupt('The header is not in its canonical form.');
  checkCoverage(header);
  return header;
}

function decodeIdentity(value: Json): ArchiveIdentity {
  const found = fields(value, 'The identity', [
    'organizationId',
    'configurationId',
    'snapshotId',
    'snapshotNumber',
    'attemptId',
  ]);
  const snapshotNumber = found.snapshotNumber;
  if (typeof snapshotNumber !== 'string' || !isSnapshotNumber(snapshotNumber)) {
    throw corrupt('The snapshot number is malformed.');
  }
  return {
    organizationId: uuid(found.organizationId, 'The organization id'),
    configurationId: uuid(found.configurationId, 'The configuration id'),
    snapshotId: uuid(found.snapshotId, 'The snapshot id'),
    snapshotNumber,
    attemptId: uuid(found.attemptId, 'The attempt id'),
  };
}

function decodeParent(value: Json): ParentManifest {
  const found = fields(value, 'The parent', ['snapshotId', 'digest']);
  return {
    snapshotId: uuid(found.snapshotId, 'The parent’s snapshot id'),
    digest: text(found.digest, 'The parent’s digest', /^(?:[0-9a-f]{64}|[0-9a-f]{128})$/),
  };
}

function decodeEncryption(value: Json): EncryptionHeader {
  const found = fields(value, 'The encryption', ['algorithm', 'commitment', 'wrappedKeys']);
  const wrappedKeys = list(found.wrappedKeys, 'The list of wrapped keys', 1000).map(decodeWrappedKey);
  if (wrappedKeys.length === 0) throw corrupt('An encrypted archive needs a wrapped key.');
  return {
    algorithm: oneOf(found.algorithm, 'The encryption algorithm', ENCRYPTION_ALGORITHMS),
    commitment: text(found.commitment, 'The key commitment', /^[0-9a-f]{64}$/),
    wrappedKeys,
  };
}

/** A wrapped key from JSON. ARCHIVE_CORRUPT unless it has exactly its fields, within their bounds. */
export function decodeWrappedKey(value: Json): WrappedKey {
  const found = fields(value, 'A wrapped key', ['keyId', 'scheme', 'wrapped']);
  return {
    keyId: text(found.keyId, 'A key id', /^[A-Za-z0-9._:/-]{1,255}$/),
    scheme: text(found.scheme, 'A key scheme', /^[A-Za-z0-9._:/-]{1,255}$/),
    wrapped: text(found.wrapped, 'A wrapped key', /^[A-Za-z0-9+/]{1,65536}={0,2}$/),
  };
}

function decodeObject(value: Json, index: number): ArchiveObject {
  const [name, size] = tuple(value, 'An object', 2);
  if (name !== objectName(index)) throw corrupt('The objects are not named in order.');
  return { name, size: integer(size, 'The size of an object', 0, Number.MAX_SAFE_INTEGER) };
}

function decodeSegments(value: Json, digestSize: number): SegmentLocation[] {
  const digestPattern = new RegExp(`^[0-9a-f]{${digestSize * 2}}$`);
  return list(value, 'The list of segments', MAX_SEGMENTS).map((entry) => {
    const [object, offset, length, digest] = tuple(entry, 'A segment', 4);
    return {
      object: integer(object, 'The object of a segment', 0, MAX_SEGMENTS),
      offset: integer(offset, 'The offset of a segment', 0, Number.MAX_SAFE_INTEGER),
      length: integer(length, 'The length of a segment', 0, Number.MAX_SAFE_INTEGER),
      digest: text(digest, 'The digest of a segment', digestPattern),
    };
  });
}

/** Every object is covered from its first byte to its last, in order, by at least one segment. */
function checkCoverage(header: ManifestHeader): void {
  const overhead = header.encryption === null ? 0 : SEAL_OVERHEAD;
  const longest = compressedBound(header.segmentSize) + overhead;
  const ends = header.objects.map(() => -1);
  let last = 0;
  for (const { object, offset, length } of header.segments) {
    if (object !== last && object !== last + 1)
      throw corrupt('The segments are not in the order of the objects.');
    if (length < overhead || length > longest) throw corrupt('A segment has an impossible length.');
    const end = ends[object];
    if (end === undefined) throw corrupt('A segment lies in an object that does not exist.');
    if (offset !== Math.max(0, end)) throw corrupt('The segments of an object overlap or leave a gap.');
    ends[object] = offset + length;
    last = object;
  }
  header.objects.forEach(({ size }, index) => {
    if (ends[index] !== size) throw corrupt('The segments of an object do not cover it.');
  });
}
