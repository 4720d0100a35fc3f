import { describe, expect, it } from 'vitest';
import { ValidationError } from '../../src/types/errors.ts';
import { CreateBackupConfigSchema, parseInput } from '../../src/validation/index.ts';
import { BRANCH, errorOf, FULL, issuesOf, pathsInto, problems, withAt } from './validation-fixtures.ts';

const SECRET = 'PLANTED-s3cret-Jane.Doe-4711';

function throwing(): never {
  throw new TypeError(SECRET);
}

describe('messages never hold a value', () => {
  const planted = [
    SECRET,
    `${SECRET}\0`,
    { [SECRET]: SECRET, name: SECRET, type: SECRET, password: SECRET },
    [[SECRET]],
    Object.assign(() => SECRET, { toString: () => SECRET }),
    Object.defineProperty({}, 'x', { enumerable: true, get: throwing }),
  ];

  it.each(Object.entries(FULL))('%s', (_name, { schema, value }) => {
    let refused = 0;
    for (const path of pathsInto(value)) {
      for (const secret of planted) {
        const error = errorOf(schema, withAt(value, path, secret));
        if (error === undefined) continue;
        refused += 1;
        expect(`${error.stack}${JSON.stringify(error)}`).not.toContain(SECRET);
        expect(error.cause).toBeUndefined();
      }
    }
    expect(refused).toBeGreaterThan(planted.length);
  });

  it('nor a name that does not read like the name of a field', () => {
    const input = { name: 'A', [SECRET]: 1, JaneDoe: 2, fooBar: 3 };
    expect(problems(CreateBackupConfigSchema, input)).toEqual(['(field 2)', '(field 3)', 'fooBar']);
  });
});

describe('what is no plain object', () => {
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const revokedArray = Proxy.revocable([], {});
  revokedArray.revoke();

  it.each<[string, unknown]>([
    ['null', null],
    ['undefined', undefined],
    ['an array', []],
    ['text', 'x'],
    ['a number', 1],
    ['a symbol', Symbol('x')],
    ['a function', () => 1],
    ['a Map', new Map()],
    ['a Date', new Date()],
    ['a Promise', Promise.resolve({})],
    ['a boxed text', Object('x')],
    ['a revoked Proxy', revoked.proxy],
    ['a revoked Proxy of an array', revokedArray.proxy],
    [
      'a Proxy that throws on everything',
      new Proxy(
        {},
        {
          get: throwing,
          ownKeys: throwing,
          getPrototypeOf: throwing,
          getOwnPropertyDescriptor: throwing,
          has: throwing,
        },
      ),
    ],
    ['a Proxy that lists no names', new Proxy({}, { ownKeys: throwing })],
    ['a tag that throws', Object.defineProperty({}, Symbol.toStringTag, { get: throwing })],
  ])('%s', (_name, input) => {
    for (const { schema } of Object.values(FULL)) {
      const error = errorOf(schema, input);
      expect(error?.issues[0]).toMatchObject({ path: '' });
    }
  });

  it('names a cycle where it closes', () => {
    const input: Record<string, unknown> = { name: 'A', scope: {} };
    input.scope = { customFilters: [input] };
    expect(issuesOf(CreateBackupConfigSchema, input)).toEqual([
      {
        path: 'scope.customFilters[0]',
        message: 'Refers back to an object that holds it.',
        remedy: 'Remove the cycle.',
      },
    ]);
  });

  it('takes an object that is there twice', () => {
    const one = { frequency: 'DAILY' };
    expect(problems(CreateBackupConfigSchema, { name: 'A', schedule: [one, one] })).toEqual([]);
  });

  it('names a getter that throws, and every other problem too', () => {
    const input = Object.defineProperty({ name: '' }, 'scope', { enumerable: true, get: throwing });
    expect(problems(CreateBackupConfigSchema, input)).toEqual(['scope', 'name']);
  });

  it('reads every property once', () => {
    let reads = 0;
    const input = Object.defineProperty({}, 'name', {
      enumerable: true,
      get: () => {
        reads += 1;
        return reads === 1 ? 'A' : throwing();
      },
    });
    expect(parseInput(CreateBackupConfigSchema, 'The configuration', input)).toEqual({ name: 'A' });
  });

  it('shares nothing with the input', () => {
    const customFields = { list: [1] };
    const parsed = parseInput(CreateBackupConfigSchema, 'The configuration', { name: 'A', customFields });
    customFields.list.push(2);
    expect(parsed.customFields).toEqual({ list: [1] });
  });

  it.each(['__proto__', 'constructor', 'prototype'])('refuses the name %s anywhere', (name) => {
    const evil: unknown = JSON.parse(`{"${name}": {"polluted": true}}`);
    expect(
      problems(
        CreateBackupConfigSchema,
        Object.assign(Object.create(null), { name: 'A', customFields: evil }),
      ),
    ).toEqual(['customFields']);
    const whole: unknown = JSON.parse(`{"name": "A", "${name}": {"polluted": true}}`);
    expect(problems(CreateBackupConfigSchema, whole)).toEqual(['']);
    expect(Reflect.get({}, 'polluted')).toBeUndefined();
  });

  it('refuses fields whose name is a symbol', () => {
    expect(problems(CreateBackupConfigSchema, { name: '', [Symbol('x')]: 1 })).toEqual(['', 'name']);
  });

  it('bounds depth and size', () => {
    let deep: unknown = 1;
    for (let level = 0; level < 100_000; level += 1) deep = [deep];
    expect(issuesOf(CreateBackupConfigSchema, { name: 'A', customFields: { deep } })[0]?.message).toMatch(
      /deeper/,
    );
    const many = new Array(4_000_000_000);
    expect(issuesOf(CreateBackupConfigSchema, { name: 'A', branchIds: many })[0]?.message).toMatch(
      /more than 250000 values/,
    );
    const ids = Array.from({ length: 100_000 }, () => BRANCH);
    expect(problems(CreateBackupConfigSchema, { name: 'A', scope: { branchIds: ids } })).toEqual([]);
  });

  it('names a hundred problems and that there are more', () => {
    const branchIds = Array.from({ length: 100_000 }, () => 'x');
    const issues = issuesOf(CreateBackupConfigSchema, { name: 'A', scope: { branchIds } });
    expect(issues).toHaveLength(101);
    expect(issues.at(-1)).toMatchObject({ path: '', message: 'Has further problems.' });
    const names = Object.fromEntries(branchIds.map((id, index) => [`${id}${index}`, 1]));
    expect(issuesOf(CreateBackupConfigSchema, { name: 'A', ...names })).toHaveLength(101);
    expect(issuesOf(CreateBackupConfigSchema, { name: 'A', schedule: names })).toHaveLength(101);
    const maps = branchIds.map(() => new Map());
    expect(issuesOf(CreateBackupConfigSchema, { name: 'A', branchIds: maps })).toHaveLength(101);
  });

  it('answers oversized text and lists in linear time', () => {
    const text = 'a.'.repeat(1_000_000);
    const list = Array.from({ length: 100_000 }, (_, index) => `E${index}`);
    const input = {
      name: text,
      timezone: text,
      description: '_'.repeat(2_000_000),
      schedule: { frequency: 'CUSTOM', cronExpression: `0 0 ${'31,'.repeat(300_000)}31 2 *`, timezone: text },
      scope: { includeEntities: list, excludeEntities: list },
      customFields: { text },
    };
    expect(problems(CreateBackupConfigSchema, input)).toEqual(
      expect.arrayContaining(['name', 'timezone', 'customFields.text']),
    );
  });

  it('takes objects without a prototype, of classes and behind a faithful Proxy', () => {
    class Input {
      name = 'A';
    }
    for (const input of [
      Object.assign(Object.create(null), { name: 'A' }),
      new Input(),
      new Proxy({ name: 'A' }, {}),
    ]) {
      expect(parseInput(CreateBackupConfigSchema, 'The configuration', input)).toEqual({ name: 'A' });
    }
  });
});

it('says everything in the message of the error, for a log', () => {
  const error = errorOf(CreateBackupConfigSchema, { schedule: { frequency: 'MINUTES' } });
  expect(error).toBeInstanceOf(ValidationError);
  expect(error?.code).toBe('VALIDATION_FAILED');
  expect(error?.message).toBe(
    'The input is not valid. name: Is missing. Give text. | schedule.intervalMinutes: Is missing: MINUTES needs it. Give the minutes between two backups, 1 to 1440, or `intervalByDatabaseSize: true`.',
  );
});
