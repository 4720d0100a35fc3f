import { ValidationError } from '../types/errors.ts';
import type { ByteRange } from './storage.ts';

/**
 * What a range means for an object of `size` bytes: it is cut at the end of the object, and empty where it begins
 * past it. Without a range, the whole object.
 */
export function clampRange(range: ByteRange | undefined, size: number): ByteRange {
  if (range === undefined) return { offset: 0, length: size };
  const offset = Math.min(range.offset, size);
  return { offset, length: Math.min(range.length, size - offset) };
}

/** Throws `VALIDATION_FAILED` unless offset and length are whole numbers from 0. */
export function assertRange(range: ByteRange | undefined): void {
  if (range === undefined) return;
  const issues = (['offset', 'length'] as const)
    .filter((field) => !Number.isSafeInteger(range[field]) || range[field] < 0)
    .map((field) => ({
      path: `range.${field}`,
      message: 'Not a whole number of bytes from 0.',
      remedy: 'Give a non-negative safe integer.',
    }));
  if (issues.length > 0) throw new ValidationError('The range', issues);
}
