import { type ArchiveObject, objectName, type SegmentContent, type SegmentLocation } from './format.ts';
import type { SealedSegment } from './segment.ts';

/** Puts sealed segments together to objects. Pure bookkeeping: it stores nothing. */
export interface Packer {
  /** Adds a segment to the open object; gives the object when that closed it. */
  append(segment: SealedSegment): PackedObject | undefined;
  /** Closes the open object and gives it, if there is one. */
  close(): PackedObject | undefined;
  /** All objects closed so far, in order. */
  readonly objects: readonly ArchiveObject[];
  /** All segments so far, in the order of their bytes. */
  readonly segments: readonly (SegmentLocation & { readonly content: SegmentContent })[];
}

/** An object that is ready to be stored. */
export interface PackedObject extends ArchiveObject {
  readonly pieces: readonly Uint8Array[];
  readonly contents: readonly SegmentContent[];
}

/** An object is closed once it holds `objectSize` stored bytes. */
export function createPacker(objectSize: number): Packer {
  const objects: ArchiveObject[] = [];
  const segments: (SegmentLocation & { readonly content: SegmentContent })[] = [];
  let open: SealedSegment[] = [];
  let size = 0;

  const close = (): PackedObject | undefined => {
    if (open.length === 0) return undefined;
    const object = { name: objectName(objects.length), size };
    const packed = {
      ...object,
      pieces: open.flatMap(({ pieces }) => pieces),
      contents: open.map(({ content }) => content),
    };
    objects.push(object);
    open = [];
    size = 0;
    return packed;
  };

  return {
    append(segment) {
      const { length, digest, content } = segment;
      segments.push({ object: objects.length, offset: size, length, digest, content });
      open.push(segment);
      size += length;
      return size >= objectSize ? close() : undefined;
    },
    close,
    objects,
    segments,
  };
}
