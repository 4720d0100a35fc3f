import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clampRange } from '../../src/storage/byte-range.ts';
import {
  assertObjectKey,
  assertObjectKeyPrefix,
  MAX_OBJECT_KEY_BYTES,
  MAX_OBJECT_KEY_SEGMENT_BYTES,
} from '../../src/storage/object-key.ts';

const letters = 'ABCXYZabcxyz0189'.split('');
const segment = fc
  .tuple(fc.constantFrom(...letters), fc.array(fc.constantFrom(...letters, '.', '_', '-'), { maxLength: 20 }))
  .map(([first, rest]) => first + rest.join(''));
const key = fc.array(segment, { minLength: 1, maxLength: 10 }).map((segments) => segments.join('/'));

describe('object keys', () => {
  it('takes every key of plain segments, and each of its beginnings as a prefix', () => {
    fc.assert(
      fc.property(key, fc.nat(), (valid, cut) => {
        assertObjectKey(valid);
        assertObjectKeyPrefix(valid.slice(0, cut % (valid.length + 1)));
      }),
    );
  });

  it('agrees with its grammar for any text', () => {
    const grammar = /^[A-Za-z0-9][A-Za-z0-9._-]*(?:\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/;
    const text = fc.array(fc.constantFrom('a', 'Z', '0', '.', '_', '-', '/', '\\', '\0', '\n', ' ', 'é'), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(text, (parts) => {
        const value = parts.join('');
        if (grammar.test(value)) assertObjectKey(value);
        else expect(() => assertObjectKey(value)).toThrow('is not a relative path');
      }),
      { numRuns: 2_000 },
    );
  });

  it('bounds a segment and the whole', () => {
    const longest = `${'a'.repeat(MAX_OBJECT_KEY_SEGMENT_BYTES)}/`.repeat(3) + 'b'.repeat(132);
    expect(longest).toHaveLength(MAX_OBJECT_KEY_BYTES);
    assertObjectKey(longest);
    expect(() => assertObjectKey(`${longest}b`)).toThrow();
    expect(() => assertObjectKey('a'.repeat(MAX_OBJECT_KEY_SEGMENT_BYTES + 1))).toThrow();
  });

  it('refuses what is no text, and quotes what it refuses in one short line', () => {
    const untyped: (key: never) => void = assertObjectKey;
    for (const value of [undefined, null, 5, {}, ['a']]) expect(() => untyped(value as never)).toThrow('key');
    expect(() => assertObjectKey(`a\nb${'x'.repeat(5_000)}`)).toThrow(/^.{1,400}$/);
  });
});

describe('ranges', () => {
  it('give what slice gives', () => {
    fc.assert(
      fc.property(fc.nat(50), fc.nat(60), fc.nat(60), (size, offset, length) => {
        const whole = Array.from({ length: size }, (_, index) => index);
        const range = clampRange({ offset, length }, size);
        const answer = whole.slice(range.offset, range.offset + range.length);
        expect(answer).toEqual(whole.slice(offset, offset + length));
        expect(answer).toHaveLength(range.length);
      }),
    );
  });
});
