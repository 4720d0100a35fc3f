import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addDigests, NO_ROWS, RowDigester, type RowsDigest, sameRows } from '../../src/restore/row-digest.ts';

const row = fc.stringMatching(/^[a-z\t\\]{0,12}$/);
const digestOf = (chunks: readonly Buffer[]): RowsDigest => {
  const digester = new RowDigester();
  for (const chunk of chunks) digester.update(chunk);
  return digester.digest();
};
const bytesOf = (rows: readonly string[]): Buffer => Buffer.from(rows.map((text) => `${text}\n`).join(''));

test('neither order nor cuts nor division matter', () => {
  fc.assert(
    fc.property(fc.array(row), fc.array(fc.nat(200)), fc.nat(20), (rows, cuts, split) => {
      const whole = digestOf([bytesOf(rows)]);
      const bytes = bytesOf(rows.toReversed());
      const at = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
      const chunks = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
      expect(digestOf(chunks)).toEqual(whole);
      expect(
        addDigests(digestOf([bytesOf(rows.slice(0, split))]), digestOf([bytesOf(rows.slice(split))])),
      ).toEqual(whole);
    }),
  );
});

test('a changed, doubled or missing row shows', () => {
  fc.assert(
    fc.property(fc.array(row, { minLength: 1 }), row, (rows, other) => {
      fc.pre(rows[0] !== other);
      const whole = digestOf([bytesOf(rows)]);
      expect(sameRows(digestOf([bytesOf([other, ...rows.slice(1)])]), whole)).toBe(false);
      expect(sameRows(digestOf([bytesOf([...rows, ...rows.slice(0, 1)])]), whole)).toBe(false);
      expect(sameRows(digestOf([bytesOf(rows.slice(1))]), whole)).toBe(false);
    }),
  );
});

test('sums beyond 2^53 are exact', () => {
  const rows = 3_000_000;
  const digester = new RowDigester();
  digester.update(Buffer.from('ab\n'.repeat(rows)));
  const one = digestOf([Buffer.from('ab\n')]).sum;
  expect(digester.digest()).toEqual({ rows, bytes: rows * 3, sum: one * BigInt(rows) });
  expect(one * BigInt(rows)).toBeGreaterThan(2n ** 52n);
});

test('rows without content count', () => {
  expect(digestOf([Buffer.from('\n\n'), Buffer.from('\n')]).rows).toBe(3);
  expect(digestOf([])).toEqual(NO_ROWS);
});

test('a row that is not ended is not a row', () => {
  const digester = new RowDigester();
  digester.update(Buffer.from('a\nb'));
  expect([digester.atRowEnd, digester.digest().rows]).toEqual([false, 1]);
  digester.update(Buffer.from('\n'));
  expect(digester.atRowEnd).toBe(true);
});
