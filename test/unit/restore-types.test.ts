import { describe, expect, test } from 'vitest';
import { referringTo } from '../../src/restore/foreign-keys.ts';
import { compareTypes, createTypeSql, localType } from '../../src/restore/types.ts';
import type { TypeRecord } from '../../src/types/contents.ts';

const mood: TypeRecord = { schema: 'care', name: 'mood', kind: 'ENUM', labels: ['a', "O'k"] };
const moods: TypeRecord = {
  schema: 'care',
  name: 'Moods',
  kind: 'DOMAIN',
  baseType: 'mood[]',
  notNull: true,
  default: null,
  collation: null,
  constraints: [],
};
const home: TypeRecord = {
  schema: 'care',
  name: 'home',
  kind: 'COMPOSITE',
  attributes: [{ name: 'm', type: 'care."Moods"', collation: null }],
};
const span: TypeRecord = {
  schema: 'care',
  name: 'span',
  kind: 'RANGE',
  subtype: 'double precision',
  subtypeOpclass: null,
  collation: null,
  canonical: null,
  subtypeDiff: 'float8mi',
  multirange: 'spans',
};

describe('types of the target', () => {
  test('identical ones are reused', () => {
    expect(compareTypes([mood, moods, home, span], [span, home, moods, mood])).toEqual({
      created: [],
      reused: [mood, moods, home, span],
    });
  });

  test('an altered one is made anew, and so is everything made of it', () => {
    const altered: TypeRecord = { ...mood, labels: ['a'] };
    expect(compareTypes([mood, moods, home, span], [altered, moods, home, span])).toEqual({
      created: [mood, moods, home],
      reused: [span],
    });
  });

  test('a domain whose rows need not fulfil it is made anew', () => {
    const lax: TypeRecord = {
      ...moods,
      constraints: [{ name: 'c', definition: 'CHECK (true) NOT VALID', validated: false }],
    };
    expect(compareTypes([lax], [lax]).created).toEqual([lax]);
    expect(createTypeSql(lax, 'h', { type: (t) => t, expression: (e) => e })).toBe(
      'CREATE DOMAIN "h"."Moods" AS mood[] NOT NULL',
    );
  });

  test('a missing extension is named', () => {
    const external: TypeRecord = {
      schema: 'public',
      name: 'geometry',
      kind: 'EXTERNAL',
      extension: 'postgis',
    };
    expect(() => compareTypes([external], [])).toThrow(
      expect.objectContaining({
        code: 'RESTORE_TARGET_INCOMPATIBLE',
        message: expect.stringMatching(/public\.geometry.*postgis/),
      }),
    );
  });

  test('two of one name: fine while both are there, refused when one must be made', () => {
    const other: TypeRecord = { ...mood, schema: 'billing' };
    expect(compareTypes([mood, other], [mood, other]).created).toEqual([]);
    expect(() => compareTypes([mood, other], [mood])).toThrow(/billing\.mood.*care\.mood/);
  });
});

test.each([
  ['mood', '"h"."mood"'],
  ['mood[]', '"h"."mood"[]'],
  ['care.mood', '"h"."mood"'],
  ['"Moods"', '"h"."Moods"'],
  ['spans', '"h"."spans"'],
  ['billing.mood', 'billing.mood'],
  ['moody', 'moody'],
  ['character varying(20)', 'character varying(20)'],
  ['timestamp(3) with time zone', 'timestamp(3) with time zone'],
])('%s is written as %s', (text, written) => {
  expect(localType(text, [mood, moods, span, { ...mood, name: 'timestamp' }], 'h')).toBe(written);
});

test.each([
  ['FOREIGN KEY (a) REFERENCES t(id)', 'FOREIGN KEY (a) REFERENCES X(id)'],
  [
    'FOREIGN KEY (a, "b ) REFERENCES c(") REFERENCES care."T (1"(x, "y z") MATCH FULL ON DELETE SET NULL',
    'FOREIGN KEY (a, "b ) REFERENCES c(") REFERENCES X(x, "y z") MATCH FULL ON DELETE SET NULL',
  ],
  [
    'FOREIGN KEY (a, PERIOD during) REFERENCES "q""t"(a, PERIOD p)',
    'FOREIGN KEY (a, PERIOD during) REFERENCES X(a, PERIOD p)',
  ],
])('%s', (definition, written) => {
  expect(referringTo(definition, 'X')).toBe(written);
});
