import { describe, expect, it } from 'vitest';
import { batchOperations } from '../../src/sync/batches.ts';
import { ValidationError } from '../../src/types/errors.ts';

interface Named {
  readonly name: string;
  readonly streamId?: string;
  readonly batchId?: string;
  readonly batchSize?: number;
}

const list = (...names: readonly string[]): readonly Named[] =>
  names.map((name) => {
    const [, batchId] = /^([A-Z])/.exec(name) ?? [];
    return batchId === undefined ? { name } : { name, batchId, batchSize: 3 };
  });
const shown = (slices: readonly (readonly Named[])[]) =>
  slices.map((slice) => slice.map(({ name }) => name).join(' '));

describe('batchOperations', () => {
  it('cuts in order', () => {
    const operations = Array.from({ length: 120 }, (_, i) => ({ sequenceNumber: i, batchId: null }));
    const batches = batchOperations(operations, 50);
    expect(batches.map(({ length }) => length)).toEqual([50, 50, 20]);
    expect(batches.flat()).toEqual(operations);
    expect(batchOperations([], 50)).toEqual([]);
  });

  it('does not cut an atomic batch', () => {
    expect(shown(batchOperations(list('a', 'b', 'A1', 'A2', 'A3', 'c'), 4))).toEqual(['a b', 'A1 A2 A3 c']);
    expect(shown(batchOperations(list('A1', 'A2', 'A3', 'B1', 'B2', 'B3'), 5))).toEqual([
      'A1 A2 A3',
      'B1 B2 B3',
    ]);
  });

  it('lets one that is larger than a slice stand by itself', () => {
    expect(shown(batchOperations(list('a', 'A1', 'A2', 'A3', 'b'), 2))).toEqual(['a', 'A1 A2 A3', 'b']);
  });

  it('brings one together that does not stand so', () => {
    expect(shown(batchOperations(list('a', 'A1', 'b', 'A2', 'c', 'A3'), 4))).toEqual(['a A1 A2 A3', 'b c']);
  });

  it('cuts what is no atomic batch, or is one of another stream', () => {
    const loose = list('A1', 'A2', 'A3').map(({ name }) => ({ name, batchId: 'A' }));
    expect(shown(batchOperations(loose, 2))).toEqual(['A1 A2', 'A3']);
    const streams = list('A1', 'A2').map((one, i) => ({ ...one, streamId: `${i}` }));
    expect(shown(batchOperations(streams, 1))).toEqual(['A1', 'A2']);
  });

  it.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('refuses a size of %s', (size) => {
    expect(() => batchOperations([], size)).toThrow(ValidationError);
    expect(() => batchOperations([], size)).toThrow(/size/);
  });
});
