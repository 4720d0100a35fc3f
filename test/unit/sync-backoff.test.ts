import { describe, expect, it } from 'vitest';
import { calculateBackoff } from '../../src/sync/backoff.ts';
import { ValidationError } from '../../src/types/errors.ts';

describe('calculateBackoff', () => {
  it('doubles, as the seed calls it', () => {
    expect([1, 2, 3, 4, 5].map((n) => calculateBackoff(n, 1000, 2))).toEqual([
      1000, 2000, 4000, 8000, 16_000,
    ]);
    expect(calculateBackoff(3)).toBe(4000);
    expect(calculateBackoff(3, 500, 1.5)).toBe(1125);
  });

  it('ends at five minutes, or at the limit that is given', () => {
    expect(calculateBackoff(30)).toBe(300_000);
    expect(calculateBackoff(Number.MAX_SAFE_INTEGER)).toBe(300_000);
    expect(calculateBackoff(4, 1000, 2, { maxMs: 5000 })).toBe(5000);
    expect(calculateBackoff(1, 1000, 2, { maxMs: 10 })).toBe(10);
    expect(calculateBackoff(5000, 0)).toBe(0);
  });

  it('is anywhere below the delay with full jitter', () => {
    const at = (random: number) => calculateBackoff(3, 1000, 2, { jitter: 'FULL', random: () => random });
    expect([at(0), at(0.5), at(0.999)]).toEqual([0, 2000, 3996]);
    expect(calculateBackoff(1, 1000, 2, { jitter: 'FULL' })).toBeLessThan(1000);
  });

  it.each<[string, Parameters<typeof calculateBackoff>]>([
    ['n', [0]],
    ['n', [-1]],
    ['n', [1.5]],
    ['n', [Number.NaN]],
    ['base', [1, -1]],
    ['base', [1, Number.POSITIVE_INFINITY]],
    ['multiplier', [1, 1000, 0.5]],
    ['multiplier', [1, 1000, Number.NaN]],
    ['options.maxMs', [1, 1000, 2, { maxMs: -1 }]],
    ['options.jitter', [1, 1000, 2, JSON.parse('{"jitter": "EQUAL"}')]],
  ])('names %s where it is not usable: %j', (path, args) => {
    let error: unknown;
    try {
      calculateBackoff(...args);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ValidationError);
    expect(error).toMatchObject({ code: 'VALIDATION_FAILED', issues: [{ path }] });
  });

  it('names all at once', () => {
    expect(() => calculateBackoff(0, -1, 0)).toThrow(/n: .* \| base: .* \| multiplier: /);
  });
});
