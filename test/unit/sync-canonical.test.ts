import { describe, expect, it } from 'vitest';
import { canonicalJson, canonicalRow, canonicalValue, sameValue } from '../../src/sync/canonical.ts';
import { addDecimals, canonicalDecimal } from '../../src/sync/decimals.ts';
import type { Json } from '../../src/types/ids.ts';
import type { FieldKind } from '../../src/types/sync-handler.ts';

const json = (text: string): Json => JSON.parse(text);

describe('canonicalJson', () => {
  it.each<[string, string]>([
    ['{"b":1,"a":{"d":[],"c":null}}', '{"a":{"c":null,"d":[]},"b":1}'],
    ['[1, "1", true, null, {}]', '[1,"1",true,null,{}]'],
    ['-0', '0'],
    ['1e2', '100'],
    ['1e21', '1e+21'],
    ['"\\u0000\\ud800é"', '"\\u0000\\ud800é"'],
    ['""', '""'],
    ['{"":{"":[]}}', '{"":{"":[]}}'],
    ['{"é":1,"z":2,"Z":3,"10":4,"9":5}', '{"10":4,"9":5,"Z":3,"z":2,"é":1}'],
    ['{"__proto__":{"x":1},"constructor":2}', '{"__proto__":{"x":1},"constructor":2}'],
  ])('writes %s as %s', (given, text) => {
    expect(canonicalJson(json(given))).toBe(text);
    expect(canonicalJson(json(text))).toBe(text);
  });

  it('goes to any depth and length', () => {
    let deep: Json = 'end';
    for (let i = 0; i < 50_000; i += 1) deep = i % 2 === 0 ? [deep] : { a: deep };
    expect(canonicalJson(deep)).toBe(`${'{"a":['.repeat(25_000)}"end"${']}'.repeat(25_000)}`);
    expect(canonicalJson(Array.from({ length: 300_000 }, () => 1))).toHaveLength(600_001);
  });

  it('leaves out what JSON would', () => {
    const odd: { [key: string]: Json } = { a: 1 };
    Reflect.set(odd, 'gone', undefined);
    expect(canonicalJson(odd)).toBe('{"a":1}');
  });
});

const SAME: readonly [FieldKind | undefined, Json, Json][] = [
  ['NUMBER', 12.5, '12.50'],
  ['NUMBER', '12.5', '1.25e1'],
  ['NUMBER', '12.5', '125E-1'],
  ['NUMBER', '12.5', '+012.5000'],
  ['NUMBER', 0, '-0.00'],
  ['NUMBER', -0, '0e5'],
  ['NUMBER', '.5', '0.5'],
  ['NUMBER', '5.', 5],
  ['NUMBER', 1e21, '1000000000000000000000'],
  ['NUMBER', 1e-7, '0.0000001'],
  ['NUMBER', '9007199254740993', '9007199254740993.0'],
  ['NUMBER', '1e400', '10e399'],
  ['NUMBER', '1e-400', '0.1e-399'],
  ['NUMBER', `1${'0'.repeat(60)}`, '1e60'],
  ['NUMBER', `0.${'0'.repeat(60)}1`, '1e-61'],
  ['NUMBER', '1e0000000000000000000000001', '10'],
  ['NUMBER', '0e999999999', 0],
  ['NUMBER', 'NaN', 'NaN'],
  ['INSTANT', '2026-01-01T10:00:00Z', '2026-01-01T11:00:00+01:00'],
  ['INSTANT', '2026-01-01T10:00:00Z', '2026-01-01T10:00:00.000Z'],
  ['INSTANT', '2026-01-01T10:00:00Z', '2026-01-01 10:00:00+00'],
  ['INSTANT', '2026-01-01T10:00Z', '2026-01-01t10:00:00.000000000z'],
  ['INSTANT', '2026-01-01T10:00:00Z', '2026-01-01 10:00:00 +00:00'],
  ['INSTANT', '2025-12-31T23:30:00.5-0030', '2026-01-01T00:00:00.500000Z'],
  ['INSTANT', '2026-01-01T10:00:00.123456+05:45', '2026-01-01T04:15:00.123456Z'],
  ['INSTANT', '1900-01-01T00:00:00+00:19:32', '1899-12-31T23:40:28Z'],
  ['INSTANT', '2026-01-01T10:00:00.1234565Z', '2026-01-01T10:00:00.123456Z'],
  ['INSTANT', '2026-01-01T10:00:00.12345651Z', '2026-01-01T10:00:00.123457Z'],
  ['INSTANT', '2025-12-31T23:59:59.9999999Z', '2026-01-01T00:00:00Z'],
  ['INSTANT', '0001-01-01T00:00:00Z', '0001-01-01 00:00:00+00'],
  ['INSTANT', '0099-03-01T00:00:00Z', '0099-03-01T01:00:00+01'],
  ['INSTANT', '10000-01-01T00:00:00Z', '+010000-01-01T00:00:00.0Z'],
  ['INSTANT', '2024-02-29T00:00:00Z', '2024-02-28T23:00:00-01'],
  ['INSTANT', 'infinity', 'Infinity'],
  ['INSTANT', '-infinity', '-INFINITY'],
  ['DATE', '2026-01-01', '2026-01-01T00:00:00.000Z'],
  ['DATE', '2026-01-01', '2026-01-01 00:00:00+00'],
  ['DATE', 'infinity', 'Infinity'],
  ['UUID', '0190B2C0-0000-7000-8000-0000000000FF', '0190b2c0-0000-7000-8000-0000000000ff'],
  ['DOCUMENT', { a: 1, b: [{ c: 1, d: 2 }] }, { b: [{ d: 2, c: 1 }], a: 1 }],
  ['DOCUMENT', json('1.50'), 1.5],
  [undefined, { a: 1, b: 2 }, { b: 2, a: 1 }],
  ['NUMBER', { a: 1, b: 2 }, { b: 2, a: 1 }],
  ['TEXT', ['a'], ['a']],
  ['BOOLEAN', true, true],
];
const OTHER: readonly [FieldKind | undefined, Json, Json][] = [
  ['NUMBER', '9007199254740993', '9007199254740992'],
  ['NUMBER', '0.1', '0.10000000000000000000000000000000000000000001'],
  ['NUMBER', 1, -1],
  ['NUMBER', 'NaN', 'nan'],
  ['NUMBER', '', 0],
  ['NUMBER', '.', 0],
  ['NUMBER', '1 ', 1],
  ['NUMBER', '0x10', 16],
  ['NUMBER', '1e9999999999', '10e9999999998'],
  ['NUMBER', true, 1],
  ['NUMBER', null, 0],
  ['INSTANT', '2026-01-01T10:00:00Z', '2026-01-01T10:00:00.000001Z'],
  ['INSTANT', '2026-01-01T10:00:00', '2026-01-01T10:00:00Z'],
  ['INSTANT', '2026-02-30T10:00:00Z', '2026-03-02T10:00:00Z'],
  ['INSTANT', '2026-13-01T10:00:00Z', '2027-01-01T10:00:00Z'],
  ['INSTANT', '2026-01-01T24:00:00Z', '2026-01-02T00:00:00Z'],
  ['INSTANT', '2026-01-01T10:00:00+16:00', '2025-12-31T18:00:00Z'],
  ['INSTANT', '999999-01-01T00:00:00Z', '999999-01-01T01:00:00+01:00'],
  ['INSTANT', '0044-03-15T00:00:00+00 BC', '0044-03-15T00:00:00+00'],
  ['INSTANT', 1767261600000, '2026-01-01T10:00:00Z'],
  ['DATE', '2026-01-01', '2026-01-01T00:00:01Z'],
  ['DATE', '2026-01-01', '2026-01-01T00:00:00+01:00'],
  ['DATE', '2026-01-01', '2026-1-1'],
  ['UUID', 'ABC', 'abc'],
  ['TEXT', 'a', 'A'],
  ['TEXT', '\u00e9', 'e\u0301'],
  ['TEXT', '1', 1],
  ['TEXT', '12.5', '12.50'],
  ['BOOLEAN', true, 'true'],
  ['BOOLEAN', false, null],
  ['DOCUMENT', { a: null }, {}],
  ['DOCUMENT', [1, 2], [2, 1]],
  ['DOCUMENT', { a: '1' }, { a: 1 }],
  ['DOCUMENT', {}, []],
  ['DOCUMENT', json('{"__proto__": 1}'), {}],
  [undefined, '12.5', '12.50'],
  [undefined, null, {}],
];

describe('sameValue', () => {
  it.each(SAME)('%s: %j is %j', (kind, a, b) => {
    expect(sameValue(a, b, kind)).toBe(true);
    expect(sameValue(b, a, kind)).toBe(true);
    expect(canonicalJson(canonicalValue(a, kind))).toBe(canonicalJson(canonicalValue(b, kind)));
  });

  it.each(OTHER)('%s: %j is not %j', (kind, a, b) => {
    expect(sameValue(a, b, kind)).toBe(false);
    expect(sameValue(b, a, kind)).toBe(false);
    expect(canonicalJson(canonicalValue(a, kind))).not.toBe(canonicalJson(canonicalValue(b, kind)));
  });

  it('tells absent from null', () => {
    expect(sameValue(undefined, undefined, 'TEXT')).toBe(true);
    expect(sameValue(undefined, null, 'TEXT')).toBe(false);
    expect(sameValue(null, null, 'NUMBER')).toBe(true);
  });
});

describe('canonicalValue', () => {
  it.each<[FieldKind, Json, Json]>([
    ['NUMBER', '0012.50', '12.5'],
    ['NUMBER', 1e21, '1000000000000000000000'],
    ['NUMBER', '-1e60', '-1e60'],
    ['NUMBER', '123e-2', '1.23'],
    ['NUMBER', '-Infinity', '-Infinity'],
    ['NUMBER', 'twelve', 'twelve'],
    ['INSTANT', '2026-01-01 11:00:00.120+01', '2026-01-01T10:00:00.12Z'],
    ['INSTANT', '2026-01-01T10:00:00.000001Z', '2026-01-01T10:00:00.000001Z'],
    ['INSTANT', 'yesterday', 'yesterday'],
    ['DATE', '2026-01-01T00:00:00Z', '2026-01-01'],
    ['DATE', 'tomorrow', 'tomorrow'],
  ])('%s: writes %j as %j', (kind, given, written) => {
    expect(canonicalValue(given, kind)).toBe(written);
  });

  it('asks no more of hostile text than reading it', () => {
    const zeros = '0'.repeat(1_000_000);
    const started = performance.now();
    expect(canonicalValue(`${zeros}1${zeros}x`, 'NUMBER')).toHaveLength(2_000_002);
    expect(canonicalValue(`1${zeros}.${zeros}1`, 'NUMBER')).toHaveLength(2_000_003);
    expect(canonicalValue(`1e${zeros}1`, 'NUMBER')).toBe('10');
    expect(canonicalValue('1e999999999', 'NUMBER')).toBe('1e999999999');
    expect(canonicalValue(`2026-01-01T00:00:00.${zeros}x`, 'INSTANT')).toHaveLength(1_000_021);
    expect(canonicalValue(`2026-01-01T00:00:00.${zeros}x`, 'DATE')).toHaveLength(1_000_021);
    expect(performance.now() - started).toBeLessThan(2000);
  });
});

describe('canonicalRow', () => {
  const shape = {
    kinds: { hours: 'NUMBER', at: 'INSTANT', id: 'UUID' },
    serverOwned: ['updated_at'],
  } as const;

  it('drops nulls and the server’s own, sorts and rewrites', () => {
    const row = canonicalRow(
      {
        updated_at: 'x',
        notes: null,
        hours: '1.50',
        constructor: 'c',
        at: '2026-01-01T01:00:00+01:00',
        z: {},
      },
      shape,
    );
    expect(row).toEqual({ at: '2026-01-01T00:00:00Z', constructor: 'c', hours: '1.5', z: {} });
    expect(Object.keys(row)).toEqual(['at', 'constructor', 'hours', 'z']);
  });

  it('keeps a column whose name JavaScript gives a meaning to', () => {
    const row = canonicalRow(JSON.parse('{"__proto__":"1.0","b":1}'), { kinds: {}, serverOwned: [] });
    expect(canonicalJson(row)).toBe('{"__proto__":"1.0","b":1}');
  });
});

describe('addDecimals', () => {
  it.each<[string, string, string, string]>([
    ['0.1', '0.2', '0', '0.3'],
    ['12.50', '13.25', '12.50', '13.25'],
    ['1', '1', '5', '-3'],
    ['9007199254740993', '9007199254740994', '9007199254740993', '9007199254740994'],
    ['1e20', '1', '0', '100000000000000000001'],
    ['1e-20', '1', '1.00', '0.00000000000000000001'],
    ['0', '-0', '0.0', '0'],
    ['5', '0', '5', '0'],
    ['1e999999999', '0', '0', '1e999999999'],
  ])('%s + %s − %s = %s', (a, b, minus, sum) => {
    expect(addDecimals(a, b, minus)).toBe(sum);
  });

  it.each<[string, string, string]>([
    ['NaN', '1', '1'],
    ['1', '', '1'],
    ['1', '1', 'Infinity'],
    ['1e999999999', '1', '0'],
    ['1e-999999999', '1', '0'],
    ['1'.repeat(10_001), '1', '0'],
  ])('does not compute %s + %s − %s', (a, b, minus) => {
    expect(addDecimals(a, b, minus)).toBeUndefined();
  });

  it('tells what is no number', () => {
    expect(canonicalDecimal('1_000')).toBeUndefined();
    expect(canonicalDecimal('--1')).toBeUndefined();
    expect(canonicalDecimal('1e')).toBeUndefined();
    expect(canonicalDecimal('١')).toBeUndefined();
  });
});
