import { ArchiveError } from '../types/errors.ts';
import { decompress } from './compress.ts';
import { digestHex } from './digest.ts';
import { open } from './encrypt.ts';
import { corrupt, type ManifestHeader, SEAL_OVERHEAD, type SegmentLocation, segmentAad } from './format.ts';
import { inRuns, type Manifest, type ManifestSegment } from './manifest.ts';

/** A segment and its number in the manifest. */
export interface IndexedSegment extends ManifestSegment {
  readonly index: number;
}

/** An object and where its segments lie in it. */
export interface ObjectPlan {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly segments: readonly (SegmentLocation & { readonly index: number })[];
}

/** Every object with its segments, in the order of their bytes: for a check that reads each object once. */
export function* objectPlans(header: ManifestHeader): Generator<ObjectPlan> {
  const segments = header.segments.map((segment, index) => ({ ...segment, index }));
  const byObject = Map.groupBy(segments, ({ object }) => object);
  for (const [index, { name, size }] of header.objects.entries()) {
    yield { name, size, segments: byObject.get(index) ?? [] };
  }
}

/** The segments of every run in the order in which they were read from the source: for a restore. */
export function runPlans(manifest: Manifest): Map<number, IndexedSegment[]> {
  return inRuns(manifest.segments.map((segment, index) => ({ ...segment, index })));
}

/** The name of the object that a segment lies in, and its range of bytes there. */
export function locate(
  header: ManifestHeader,
  index: number,
): { name: string; offset: number; length: number } {
  const segment = segmentAt(header.segments, index);
  const object = header.objects[segment.object];
  if (object === undefined) throw corrupt('A segment lies in an object that does not exist.');
  return { name: object.name, offset: segment.offset, length: segment.length };
}

/** Throws ARCHIVE_CORRUPT unless these are the stored bytes of segment `index`. Needs no key. */
function checkSegment(header: ManifestHeader, index: number, stored: Uint8Array): void {
  const segment = segmentAt(header.segments, index);
  if (stored.length !== segment.length) {
    throw corrupt(`Segment ${index} has ${stored.length} stored bytes instead of ${segment.length}.`);
  }
  if (digestHex(header.checksum, [stored]) !== segment.digest) throw corrupt(`Segment ${index} is damaged.`);
}

/**
 * Throws unless these are the stored bytes of an object: ARCHIVE_INCOMPLETE when there are none (undefined),
 * ARCHIVE_CORRUPT when they are others. Needs no key.
 */
export function checkObject(header: ManifestHeader, plan: ObjectPlan, stored: Uint8Array | undefined): void {
  if (stored === undefined) throw new ArchiveError(`Object ${plan.name} is missing.`, 'ARCHIVE_INCOMPLETE');
  if (stored.length !== plan.size) {
    throw corrupt(`Object ${plan.name} has ${stored.length} bytes instead of ${plan.size}.`);
  }
  for (const { index, offset, length } of plan.segments) {
    checkSegment(header, index, stored.subarray(offset, offset + length));
  }
}

/**
 * The raw bytes of segment `index` from its stored ones. ARCHIVE_CORRUPT unless digest, encryption, compression and
 * length all hold. The result may be a view of `stored` (NONE without encryption).
 */
export async function openSegment(manifest: Manifest, index: number, stored: Uint8Array): Promise<Buffer> {
  const { header, segmentKey } = manifest;
  checkSegment(header, index, stored);
  const segment = segmentAt(manifest.segments, index);
  const compressed =
    segmentKey === undefined
      ? stored
      : open(segmentKey, stored, segmentAad(header.identity, segment, stored.length - SEAL_OVERHEAD));
  return decompress(compressed, header.compression, segment.rawLength);
}

function segmentAt<T extends SegmentLocation>(segments: readonly T[], index: number): T {
  const segment = segments[index];
  if (segment === undefined) throw corrupt(`The manifest has no segment ${index}.`);
  return segment;
}
