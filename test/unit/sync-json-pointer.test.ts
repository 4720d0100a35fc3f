import { describe, expect, it } from 'vitest';
import { pathRules, pointer, ruleFor, stepsOf } from '../../src/sync/json-pointer.ts';

describe('pointer', () => {
  // RFC 6901, section 5, without the fragments.
  it.each<[string, readonly string[]]>([
    ['', []],
    ['/foo', ['foo']],
    ['/foo/0', ['foo', '0']],
    ['/', ['']],
    ['/a~1b', ['a/b']],
    ['/c%d', ['c%d']],
    ['/e^f', ['e^f']],
    ['/g|h', ['g|h']],
    ['/i\\j', ['i\\j']],
    ['/k"l', ['k"l']],
    ['/ ', [' ']],
    ['/m~0n', ['m~n']],
    ['/~01', ['~1']],
    ['/~1~0/__proto__/é', ['/~', '__proto__', 'é']],
    ['//', ['', '']],
  ])('%j stands for %j', (text, steps) => {
    expect(pointer(steps)).toBe(text);
    expect(stepsOf(text)).toEqual(steps);
  });

  it.each(['foo', '~', '/~', '/a~2', '/a~', '#/foo'])('%j is none', (text) => {
    expect(stepsOf(text)).toBeUndefined();
  });
});

describe('ruleFor', () => {
  const rules = pathRules({
    '': 'all',
    '/meds': 'meds',
    '/meds/*/dose': 'any dose',
    '/meds/a/dose': 'dose of a',
    '/a~1b': 'escaped',
    'no pointer': 'never',
  });

  it.each<[readonly string[], string]>([
    [['notes'], 'all'],
    [[], 'all'],
    [['meds'], 'meds'],
    [['meds', 'a'], 'meds'],
    [['meds', 'b', 'dose'], 'any dose'],
    [['meds', 'b', 'dose', 'unit'], 'any dose'],
    [['meds', 'a', 'dose'], 'dose of a'],
    [['medsandmore'], 'all'],
    [['a/b'], 'escaped'],
    [['a', 'b'], 'all'],
  ])('for %j it is: %s', (path, value) => {
    expect(ruleFor(rules, path)?.value).toBe(value);
  });

  it('may be none', () => {
    expect(ruleFor(pathRules({ '/a/b': 1 }), ['a'])).toBeUndefined();
    expect(ruleFor(pathRules({}), [])).toBeUndefined();
    expect(ruleFor(pathRules(JSON.parse('{"/x":1}')), ['constructor'])).toBeUndefined();
  });
});
