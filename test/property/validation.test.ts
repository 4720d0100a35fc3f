import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ValidationError } from '../../src/types/errors.ts';
import { parseInput } from '../../src/validation/index.ts';
import { errorOf, FULL, pathsInto, withAt } from '../unit/validation-fixtures.ts';

/** Values that are not JSON but come in all the same. */
const anything = fc.oneof(
  fc.jsonValue(),
  fc.anything({
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: true,
    withSparseArray: true,
    withBigInt: true,
  }),
  fc.constantFrom<unknown>(
    '',
    ' ',
    '\0',
    '\ud800',
    Number.NaN,
    -0,
    1e308,
    new Date(Number.NaN),
    Symbol('x'),
    () => 1,
    [],
    {},
    null,
    undefined,
    JSON.parse('{"__proto__": {"polluted": true}}'),
  ),
);

describe.each(Object.entries(FULL))('%s', (_name, { schema, value }) => {
  it('takes its full example as it is', () => {
    expect(parseInput(schema, 'The example', value)).toEqual(value);
  });

  it('gives a value that parses to itself, or a ValidationError with path and remedy', () => {
    const paths = pathsInto(value).filter((path) => path.length > 0);
    const input = fc.oneof(
      { weight: 1, arbitrary: anything },
      {
        weight: 5,
        arbitrary: fc
          .tuple(fc.constantFrom(...paths), anything)
          .map(([path, odd]) => withAt(value, path, odd)),
      },
    );
    fc.assert(
      fc.property(input, (candidate) => {
        const error = errorOf(schema, candidate);
        if (error === undefined) {
          const parsed = parseInput(schema, 'The input', candidate);
          expect(parseInput(schema, 'The output', parsed)).toEqual(parsed);
          return;
        }
        expect(error).toBeInstanceOf(ValidationError);
        expect(error.issues.length).toBeGreaterThan(0);
        for (const issue of error.issues) {
          expect(issue.path).toBeTypeOf('string');
          expect(issue.message).toMatch(/\.$/);
          expect(issue.remedy).toMatch(/\S/);
        }
      }),
      { numRuns: 150 },
    );
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });
});
