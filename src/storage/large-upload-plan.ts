import { DataProtectionError } from '../types/errors.ts';
import type { ResumableUploads } from './storage.ts';

/** A stretch of the source that becomes a part. */
export interface PlannedPart {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
}

/**
 * How an object is cut: parts of `partBytes`, of more where there would be too many of them, never of fewer or more bytes
 * than the provider takes. The same size gives the same cut, so that a later run finds its parts again.
 * `NOT_SUPPORTED` where the object is larger than the provider takes.
 */
export function planParts(
  size: number,
  partBytes: number,
  { minPartBytes, maxPartBytes, maxParts }: ResumableUploads['limits'],
): readonly PlannedPart[] {
  if (size > maxPartBytes * maxParts) {
    throw new DataProtectionError(
      `The storage takes uploads of at most ${maxPartBytes * maxParts} bytes; this one has ${size}.`,
      'NOT_SUPPORTED',
    );
  }
  const wanted = Math.max(minPartBytes, partBytes, Math.ceil(size / maxParts));
  const length = Math.min(maxPartBytes, wanted);
  return Array.from({ length: Math.ceil(size / length) }, (_, index) => ({
    number: index + 1,
    offset: index * length,
    length: Math.min(length, size - index * length),
  }));
}
