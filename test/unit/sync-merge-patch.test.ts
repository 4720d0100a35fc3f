import { describe, expect, it } from 'vitest';
import { canonicalJson } from '../../src/sync/canonical.ts';
import { clientImage, mergePatch } from '../../src/sync/merge-patch.ts';
import type { Json } from '../../src/types/ids.ts';

const json = (text: string): Json => JSON.parse(text);

describe('mergePatch', () => {
  // RFC 7396, appendix A, as it stands there.
  it.each<[string, string, string]>([
    ['{"a":"b"}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'],
    ['{"a":"b"}', '{"a":null}', '{}'],
    ['{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'],
    ['{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'],
    ['{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'],
    ['{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'],
    ['["a","b"]', '["c","d"]', '["c","d"]'],
    ['{"a":"b"}', '["c"]', '["c"]'],
    ['{"a":"foo"}', 'null', 'null'],
    ['{"a":"foo"}', '"bar"', '"bar"'],
    ['{"e":null}', '{"a":1}', '{"e":null,"a":1}'],
    ['[1,2]', '{"a":"b","c":null}', '{"a":"b"}'],
    ['{}', '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'],
  ])('%s with %s is %s', (target, patch, result) => {
    expect(mergePatch(json(target), json(patch))).toEqual(json(result));
  });

  // RFC 7396, section 3.
  it('changes the document of the RFC', () => {
    expect(
      mergePatch(
        {
          title: 'Goodbye!',
          author: { givenName: 'John', familyName: 'Doe' },
          tags: ['example', 'sample'],
          content: 'This will be unchanged',
        },
        {
          title: 'Hello!',
          phoneNumber: '+01-123-456-7890',
          author: { familyName: null },
          tags: ['example'],
        },
      ),
    ).toEqual({
      title: 'Hello!',
      author: { givenName: 'John' },
      tags: ['example'],
      content: 'This will be unchanged',
      phoneNumber: '+01-123-456-7890',
    });
  });

  it('takes names that JavaScript gives a meaning to for names', () => {
    const patched = mergePatch(
      json('{"constructor":{"a":1},"toString":1}'),
      json('{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"toString":null}'),
    );
    expect(canonicalJson(patched)).toBe(
      '{"__proto__":{"polluted":true},"constructor":{"a":1,"prototype":{"polluted":true}}}',
    );
    expect(Object.getPrototypeOf(patched)).toBe(Object.prototype);
    expect(Reflect.get({}, 'polluted')).toBeUndefined();
    const twice = mergePatch(patched, json('{"__proto__":{"more":1}}'));
    expect(canonicalJson(twice)).toContain('"__proto__":{"more":1,"polluted":true}');
    expect(canonicalJson(mergePatch(twice, json('{"__proto__":null,"constructor":null}')))).toBe('{}');
    // What is not there is not found in the prototype either.
    expect(mergePatch({}, { valueOf: { a: 1 } })).toEqual({ valueOf: { a: 1 } });
  });

  it('leaves what it was given as it is', () => {
    const target = { a: { b: { c: 1 } }, d: [1] };
    const patch = { a: { b: { c: null, e: 2 } }, d: null };
    const before = structuredClone([target, patch]);
    expect(mergePatch(target, patch)).toEqual({ a: { b: { e: 2 } } });
    expect([target, patch]).toEqual(before);
  });

  it('starts from nothing', () => {
    expect(mergePatch(undefined, { a: null, b: 1 })).toEqual({ b: 1 });
    expect(mergePatch(undefined, 1)).toBe(1);
  });

  it('goes to any depth', () => {
    let deep: Json = { x: null, y: 1 };
    for (let i = 0; i < 20_000; i += 1) deep = { a: deep };
    const twice = mergePatch(mergePatch({}, deep), deep);
    expect(canonicalJson(twice)).toBe(`${'{"a":'.repeat(20_000)}{"y":1}${'}'.repeat(20_000)}`);
  });
});

describe('clientImage', () => {
  const base = { a: 1, doc: { x: 1, y: 2 }, gone: 'g' };

  it('UPDATE brings whole columns', () => {
    expect(clientImage('UPDATE', base, { doc: { x: 5 }, gone: null })).toEqual({
      a: 1,
      doc: { x: 5 },
      gone: null,
    });
    expect(clientImage('UPDATE', null, { a: 2 })).toEqual({ a: 2 });
  });

  it.each(['PATCH', 'MERGE', 'UPSERT'] as const)('%s merges', (operation) => {
    expect(clientImage(operation, base, { doc: { x: null }, gone: null, n: 1 })).toEqual({
      a: 1,
      doc: { y: 2 },
      n: 1,
    });
  });

  it.each(['MERGE', 'UPSERT', 'CREATE'] as const)('%s brings a row where none was', (operation) => {
    const payload = { a: 1, doc: { x: null } };
    expect(clientImage(operation, null, payload)).toEqual(payload);
  });

  it('PATCH of nothing has nothing to remove', () => {
    expect(clientImage('PATCH', null, { a: 1, b: null, doc: { x: null } })).toEqual({ a: 1, doc: {} });
  });

  it.each(['UPDATE', 'PATCH', 'MERGE', 'UPSERT'] as const)('%s over the unknown is unknown', (operation) => {
    expect(clientImage(operation, undefined, { a: 1 })).toBeUndefined();
  });

  it('needs no base to create or delete', () => {
    expect(clientImage('CREATE', undefined, { a: 1 })).toEqual({ a: 1 });
    expect(clientImage('CREATE', base, { a: 2 })).toEqual({ a: 2 });
    expect(clientImage('DELETE', undefined, {})).toBeNull();
    expect(clientImage('DELETE', base, {})).toBeNull();
  });
});
