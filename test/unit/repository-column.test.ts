import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { databaseError, sqlState, violatedConstraint } from '../../src/postgres/errors.ts';
import {
  boolean,
  float,
  freeText,
  integer,
  json,
  jsonText,
  nullable,
  timestamp,
  uuids,
  wholeMilliseconds,
  word,
} from '../../src/repository/column.ts';
import { checkSchemaName, qualify } from '../../src/repository/schema-name.ts';

describe('jsonText', () => {
  test('writes what jsonb can hold, and leaves everything else as it is', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const clean = JSON.parse(
          JSON.stringify(value, (_, one: unknown) =>
            typeof one === 'string' ? one.toWellFormed().replaceAll('\0', '\uFFFD') : one,
          ),
        );
        const withoutBadKeys = /\\u0000|\\ud[89a-f]/.test(JSON.stringify(clean)) ? undefined : clean;
        if (withoutBadKeys !== undefined) expect(JSON.parse(jsonText(value))).toEqual(withoutBadKeys);
      }),
    );
  });

  test.each([
    ['a\0b', '"a\uFFFDb"'],
    ['\uD800', '"\uFFFD"'],
    ['\uDC00x', '"\uFFFDx"'],
    ['💾', '"💾"'],
    ['\\u0000', '"\\\\u0000"'],
    ['\\\0', '"\\\\\uFFFD"'],
    ['\\ud800', '"\\\\ud800"'],
  ])('%j', (given, expected) => {
    expect(jsonText(given)).toBe(expected);
  });
});

describe('columns', () => {
  test.each(['9007199254740992', '-9007199254740992', '1.5', '', 'x', ' 1', '1e3', null])(
    'integer refuses %j',
    (raw) => {
      expect(() => integer('size').decode(raw)).toThrow(
        expect.objectContaining({ code: 'INTERNAL', message: expect.stringContaining('size') }),
      );
    },
  );
  test.each([
    ['9007199254740991', 9_007_199_254_740_991],
    ['-3', -3],
    ['0', 0],
  ])('integer reads %s', (raw, value) => {
    expect(integer('size').decode(raw)).toBe(value);
  });
  test.each(['2026-01-31 02:00:00+00', '2026-01-31T02:00:00Z', 'infinity', '', null])(
    'timestamp refuses %j',
    (raw) => {
      expect(() => timestamp('at').decode(raw)).toThrow(expect.objectContaining({ code: 'INTERNAL' }));
    },
  );
  test('others refuse what is not theirs without telling it', () => {
    const secret = 'Jane Doe';
    for (const column of [boolean('a'), float('a'), json('a'), uuids('a'), word('a', ['X'])]) {
      expect(() => column.decode(secret)).toThrow(
        expect.objectContaining({ code: 'INTERNAL', message: expect.not.stringContaining('Jane') }),
      );
      expect(() => column.decode(null)).toThrow(expect.objectContaining({ code: 'INTERNAL' }));
      expect(nullable<unknown>(column).decode(null)).toBeNull();
    }
    expect(() => float('a').decode('NaN')).toThrow();
    expect(() => uuids('a').decode('[1]')).toThrow();
  });
  test('free text and durations are made storable', () => {
    expect(freeText('a').encode('x\0\uD800')).toBe('x\uFFFD\uFFFD');
    expect(wholeMilliseconds('a').encode(12.5)).toBe(13);
  });
});

describe('errors', () => {
  const pgError = (code: string, more: object = {}) =>
    Object.assign(new Error('value "Jane"'), { code, severity: 'ERROR', detail: 'Jane', ...more });

  test('a system’s code is no SQLSTATE', () => {
    expect(sqlState(Object.assign(new Error(), { code: 'EPIPE' }))).toBeUndefined();
    expect(sqlState(pgError('23505'))).toBe('23505');
    expect(sqlState(null)).toBeUndefined();
  });
  test.each(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN'])(
    '%s is DATABASE_UNAVAILABLE',
    (code) => {
      expect(databaseError(Object.assign(new Error('x'), { code }), 'Reading')).toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
        retryable: true,
      });
    },
  );
  test('what is neither is INTERNAL', () => {
    expect(databaseError(new TypeError('x'), 'Reading')).toMatchObject({ code: 'INTERNAL' });
  });
  test('a violation is known by its constraint, through the library’s error too', () => {
    const error = pgError('23505', { constraint: 'one_running' });
    expect(violatedConstraint(databaseError(error, 'Writing'))).toBe('one_running');
    expect(violatedConstraint(pgError('42P01', { constraint: 'x' }))).toBeUndefined();
  });
  test('an error of the library passes unchanged', () => {
    const error = databaseError(pgError('23505'), 'Writing');
    expect(databaseError(error, 'Again')).toBe(error);
    expect(error.message).not.toContain('Jane');
  });
});

test('names are quoted', () => {
  expect(qualify(checkSchemaName('Own Schema'), 'a"b')).toBe('"Own Schema"."a""b"');
});
