import { describe, expect, it } from 'vitest';
import { canonicalJson } from '../../src/sync/canonical.ts';
import { type MergeInput, mergeRows } from '../../src/sync/three-way-merge.ts';
import type { Json } from '../../src/types/ids.ts';
import type { EntityRow } from '../../src/types/offline-sync.ts';
import type { EntityShape, MergePolicy } from '../../src/types/sync-handler.ts';

const SHAPE: EntityShape = {
  kinds: { hours: 'NUMBER', at: 'INSTANT', name: 'TEXT', doc: 'DOCUMENT' },
  serverOwned: ['updated_at'],
};
const merge = (
  [base, server, client]: readonly [EntityRow | undefined, EntityRow, EntityRow],
  more: Partial<MergeInput> = {},
) => mergeRows({ base, server, client, shape: SHAPE, policies: {}, ...more });
/** One column `doc`. */
const inDoc = (
  [base, server, client]: readonly [Json | undefined, Json | undefined, Json | undefined],
  policies: { readonly [path: string]: MergePolicy } = {},
  more: Partial<MergeInput> = {},
) => merge([rowOf(base), rowOf(server), rowOf(client)], { policies, ...more });
const rowOf = (doc: Json | undefined): EntityRow => (doc === undefined ? {} : { doc });

describe('columns', () => {
  it('takes what each side changed', () => {
    expect(
      merge([
        { a: 1, b: 1, c: 1, d: 1 },
        { a: 2, b: 1, c: 1, d: 3, updated_at: 's', e: 9 },
        { a: 1, b: 2, c: 1, d: 3, updated_at: 'c' },
      ]),
    ).toEqual({
      merged: { a: 2, b: 2, c: 1, d: 3, e: 9, updated_at: 's' },
      conflicts: [],
      clientChanged: ['/b', '/d'],
      serverChanged: ['/a', '/d', '/e'],
      outstanding: ['/b'],
    });
  });

  it('keeps the server’s value where both changed the same differently', () => {
    const found = merge([{ a: 1 }, { a: 2 }, { a: 3 }]);
    expect(found).toEqual({
      merged: { a: 2 },
      conflicts: [{ path: '/a', baseValue: 1, serverValue: 2, clientValue: 3 }],
      clientChanged: ['/a'],
      serverChanged: ['/a'],
      outstanding: ['/a'],
    });
  });

  it('takes null for absent', () => {
    expect(merge([{ a: null }, {}, { a: null, b: null }])).toEqual({
      merged: {},
      conflicts: [],
      clientChanged: [],
      serverChanged: [],
      outstanding: [],
    });
    // What the client has removed stands as null.
    expect(merge([{ a: 1, b: 1 }, { a: 1, b: 2 }, { b: 1 }]).merged).toEqual({ a: null, b: 2 });
    expect(merge([{ a: 1 }, { a: null }, { a: 1 }]).merged).toEqual({ a: null });
    expect(merge([{ a: 1 }, { a: 2 }, {}]).conflicts).toEqual([{ path: '/a', baseValue: 1, serverValue: 2 }]);
    expect(merge([{}, { a: 1 }, { a: 2 }]).conflicts).toEqual([
      { path: '/a', serverValue: 1, clientValue: 2 },
    ]);
  });

  it('compares by kind', () => {
    const found = merge([
      { hours: '12.50', at: '2026-01-01T10:00:00Z', name: '1.0' },
      { hours: 12.5, at: '2026-01-01T11:00:00+01:00', name: '1.00' },
      { hours: '13', at: '2026-01-01T12:00:00Z', name: '1.0' },
    ]);
    expect(found.conflicts).toEqual([]);
    expect(found.merged).toEqual({ hours: '13', at: '2026-01-01T12:00:00Z', name: '1.00' });
    expect(merge([{ hours: 1 }, { hours: '2.0' }, { hours: 2 }])).toMatchObject({
      merged: { hours: '2.0' },
      conflicts: [],
      outstanding: [],
    });
  });

  it('notes what both have removed', () => {
    expect(merge([{ a: 1, doc: { x: 1, y: 1 } }, { doc: { y: 1 } }, { doc: { y: 1 } }])).toEqual({
      merged: { doc: { y: 1 } },
      conflicts: [],
      clientChanged: ['/doc/x', '/a'],
      serverChanged: ['/doc/x', '/a'],
      outstanding: [],
    });
  });

  it('knows no column by inheritance', () => {
    const found = merge([{}, {}, JSON.parse('{"constructor":1,"__proto__":{"x":1},"toString":null}')]);
    expect(canonicalJson(found.merged)).toBe('{"__proto__":{"x":1},"constructor":1}');
    expect(found.clientChanged.toSorted()).toEqual(['/__proto__', '/constructor']);
    expect(Reflect.get({}, 'x')).toBeUndefined();
  });

  it('conflicts wherever rows differ whose base nobody knows', () => {
    const found = merge([
      undefined,
      { a: 1, b: 2, doc: { x: 1, y: 1 } },
      { a: 1, b: 3, doc: { x: 1, y: 2 } },
    ]);
    expect(found).toEqual({
      merged: { a: 1, b: 2, doc: { x: 1, y: 1 } },
      conflicts: [
        { path: '/b', serverValue: 2, clientValue: 3 },
        { path: '/doc/y', serverValue: 1, clientValue: 2 },
      ],
      clientChanged: ['/b', '/doc/y'],
      serverChanged: [],
      outstanding: ['/b', '/doc/y'],
    });
  });

  it('asks about everything where it is told to', () => {
    const sides = [
      { a: 1, b: 1, c: 1 },
      { a: 2, b: 1, c: 3 },
      { a: 1, b: 2, c: 3 },
    ] as const;
    const found = merge(sides, { disjoint: 'ASK' });
    expect(found.merged).toEqual({ a: 2, b: 1, c: 3 });
    expect(found.conflicts).toEqual([{ path: '/b', baseValue: 1, serverValue: 1, clientValue: 2 }]);
  });

  it('gives a path to the side that it is decided for', () => {
    const input = {
      base: { a: 1, b: 1, doc: { x: 1, gone: 1 }, z: 1 },
      server: { a: 2, b: 2, doc: { x: 2, gone: 2 }, z: 1, s: 1 },
      client: { a: 3, b: 3, doc: { x: 3 }, z: 2 },
      shape: SHAPE,
      policies: {},
    };
    expect(
      mergeRows(input, (path) => (path === '/a' || path === '/doc/gone' ? 'CLIENT' : 'SERVER')),
    ).toMatchObject({ merged: { a: 3, b: 2, doc: { x: 2 }, z: 2, s: 1 } });
    expect(mergeRows(input, () => 'CLIENT').merged).toEqual({ a: 3, b: 3, doc: { x: 3 }, z: 2, s: 1 });
  });
});

describe('documents', () => {
  it('merges member by member, at any depth', () => {
    const found = inDoc([
      { a: { b: { c: 1, d: 1 }, e: 1 }, f: 1 },
      { a: { b: { c: 2, d: 1 }, e: 1 }, f: 1, g: {} },
      { a: { b: { c: 1, d: 2 }, e: 1 }, 'h/~': 1 },
    ]);
    expect(found).toEqual({
      merged: { doc: { a: { b: { c: 2, d: 2 }, e: 1 }, g: {}, 'h/~': 1 } },
      conflicts: [],
      clientChanged: ['/doc/a/b/d', '/doc/f', '/doc/h~1~0'],
      serverChanged: ['/doc/a/b/c', '/doc/g'],
      outstanding: ['/doc/a/b/d', '/doc/f', '/doc/h~1~0'],
    });
  });

  it('tells absent from null', () => {
    expect(inDoc([{ a: 1 }, { a: null }, {}]).conflicts).toEqual([
      { path: '/doc/a', baseValue: 1, serverValue: null },
    ]);
    expect(inDoc([{ a: null }, { a: null, b: 1 }, {}]).merged).toEqual({ doc: { b: 1 } });
    expect(inDoc([{}, { b: 1 }, { a: null }]).merged).toEqual({ doc: { a: null, b: 1 } });
  });

  it.each<[string, readonly [Json | undefined, Json | undefined, Json | undefined]]>([
    ['removed here, edited there', [{ x: { a: 1 } }, { x: { a: 2 } }, {}]],
    ['edited here, removed there', [{ x: { a: 1 } }, {}, { x: { a: 2 } }]],
    ['another type on both sides', [{ x: 1 }, { x: [1] }, { x: { a: 1 } }]],
    ['another type here, edited there', [{ x: { a: 1 } }, { x: { a: 2 } }, { x: 'a' }]],
    ['another type there, edited here', [{ x: { a: 1 } }, { x: [] }, { x: { a: 2 } }]],
    ['objects where a number was', [{ x: 1 }, { x: { a: 1 } }, { x: { b: 1 } }]],
    ['objects where null was', [{ x: null }, { x: { a: 1 } }, { x: { b: 1 } }]],
    ['text and number', [{ x: 0 }, { x: 1 }, { x: '1' }]],
    ['arrays', [{ x: [1] }, { x: [1, 2] }, { x: [1, 3] }]],
    ['arrays of objects', [{ x: [{ a: 1 }] }, { x: [{ a: 2 }] }, { x: [{ a: 1, b: 1 }] }]],
    ['emptied and filled', [{ x: [1] }, { x: [] }, { x: [1, 2] }]],
  ])('conflicts: %s', (_, sides) => {
    const found = inDoc(sides);
    const value = (side: Json | undefined): Json => Object(side).x;
    expect(found.merged).toEqual({ doc: sides[1] });
    expect(found.conflicts).toHaveLength(1);
    expect(found.conflicts[0]?.path).toBe('/doc/x');
    expect(found.conflicts[0]?.baseValue).toEqual(value(sides[0]));
    expect(found.conflicts[0]?.serverValue).toEqual(value(sides[1]));
    expect(found.conflicts[0]?.clientValue).toEqual(value(sides[2]));
  });

  it('merges what both have added', () => {
    expect(inDoc([undefined, { a: 1 }, { b: 1 }])).toMatchObject({
      merged: { doc: { a: 1, b: 1 } },
      conflicts: [],
    });
    expect(inDoc([{}, { v: { a: 1, c: 1 } }, { v: { b: 1, c: 2 } }])).toMatchObject({
      merged: { doc: { v: { a: 1, b: 1, c: 1 } } },
      conflicts: [{ path: '/doc/v/c', serverValue: 1, clientValue: 2 }],
    });
    expect(inDoc([undefined, {}, { a: 1 }])).toMatchObject({
      merged: { doc: { a: 1 } },
      serverChanged: ['/doc'],
    });
    expect(inDoc([undefined, { a: 1 }, {}])).toMatchObject({
      merged: { doc: { a: 1 } },
      clientChanged: ['/doc'],
    });
  });

  it('does not look into a column of another kind', () => {
    const found = merge([{ name: { a: 1, b: 1 } }, { name: { a: 2, b: 1 } }, { name: { a: 1, b: 2 } }]);
    expect(found.conflicts.map(({ path }) => path)).toEqual(['/name']);
  });

  it('takes what is nested very deep for one value', () => {
    const nested = (x: Json, depth: number): Json => {
      let value = x;
      for (let i = 0; i < depth; i += 1) value = { a: value };
      return value;
    };
    const [b, s, c] = [
      { x: 1, y: 1 },
      { x: 2, y: 1 },
      { x: 1, y: 2 },
    ];
    expect(inDoc([nested(b, 50), nested(s, 50), nested(c, 50)])).toMatchObject({
      merged: { doc: nested({ x: 2, y: 2 }, 50) },
      conflicts: [],
    });
    const deep = inDoc([nested(b, 20_000), nested(s, 20_000), nested(c, 20_000)]);
    expect(deep.conflicts).toHaveLength(1);
    expect(deep.conflicts[0]?.path).toMatch(/^\/doc(?:\/a){99}$/);
    expect(canonicalJson(deep.merged)).toBe(canonicalJson({ doc: nested(s, 20_000) }));
  });

  it('knows no member by inheritance', () => {
    const found = inDoc([{}, { a: 1 }, JSON.parse('{"__proto__":{"x":1},"constructor":2}')]);
    expect(canonicalJson(found.merged)).toBe('{"doc":{"__proto__":{"x":1},"a":1,"constructor":2}}');
    expect(Reflect.get({}, 'x')).toBeUndefined();
  });
});

describe('SET', () => {
  const set = { '/doc': 'SET' } as const;

  it('joins what both sides added and removed', () => {
    const found = inDoc(
      [
        ['a', 'b', 'c'],
        ['a', 'c', 's'],
        ['b', 'c', 'x', 'x', 's'],
      ],
      set,
    );
    expect(found).toMatchObject({ merged: { doc: ['c', 's', 'x'] }, conflicts: [], outstanding: ['/doc'] });
  });

  it('does not mind the order, but for an exact change', () => {
    expect(
      inDoc(
        [
          ['a', 'b'],
          ['a', 'b', 's'],
          ['b', 'a'],
        ],
        set,
      ),
    ).toMatchObject({
      merged: { doc: ['a', 'b', 's'] },
      outstanding: [],
    });
    expect(
      inDoc(
        [
          ['a', 'b'],
          ['a', 'b'],
          ['b', 'a'],
        ],
        set,
      ).merged,
    ).toEqual({ doc: ['b', 'a'] });
  });

  it('compares values as JSON', () => {
    const found = inDoc([[{ a: 1, b: 2 }], [{ b: 2, a: 1 }, 1], [{ a: 1, b: 2 }, '1']], set);
    expect(found.merged).toEqual({ doc: [{ b: 2, a: 1 }, 1, '1'] });
  });

  it('starts from nothing, and is one value where one side is no array', () => {
    expect(inDoc([undefined, ['s'], ['x']], set)).toMatchObject({
      merged: { doc: ['s', 'x'] },
      conflicts: [],
    });
    for (const sides of [
      [['a'], undefined, ['a', 'b']],
      [['a'], 'text', ['a', 'b']],
      ['a', ['a', 'b'], ['a', 'c']],
    ] as const)
      expect(inDoc(sides, set).conflicts).toHaveLength(1);
  });
});

describe('keyedBy', () => {
  const keyed = {
    '/doc/meds': { keyedBy: 'id' },
    '/doc/meds/*/times': 'SET',
    '/doc/meds/*/given': 'COUNTER',
  } as const;
  const meds = (...entries: readonly Json[]): Json => ({ meds: entries });

  it('merges entries by their key', () => {
    const found = inDoc(
      [
        meds({ id: 'a', dose: 1, unit: 'mg' }, { id: 'b' }, { id: 'c' }, { id: 'd' }, { id: 'e' }),
        meds({ id: 's' }, { id: 'a', dose: 2, unit: 'mg' }, { id: 'c' }, { id: 'd' }),
        meds({ id: 'a', dose: 1, unit: 'g' }, { id: 'b' }, { id: 'd', n: 1 }, { id: 'x' }),
      ],
      keyed,
    );
    expect(found).toEqual({
      merged: { doc: meds({ id: 's' }, { id: 'a', dose: 2, unit: 'g' }, { id: 'd', n: 1 }, { id: 'x' }) },
      conflicts: [],
      clientChanged: ['/doc/meds/a/unit', '/doc/meds/c', '/doc/meds/d/n', '/doc/meds/x', '/doc/meds/e'],
      serverChanged: ['/doc/meds/s', '/doc/meds/a/dose', '/doc/meds/b', '/doc/meds/e'],
      outstanding: ['/doc/meds/a/unit', '/doc/meds/c', '/doc/meds/d/n', '/doc/meds/x'],
    });
  });

  it('conflicts where an entry is removed here and edited there', () => {
    const found = inDoc(
      [
        meds({ id: 1, n: 1 }, { id: 2, n: 1 }, { id: 3, n: 1 }),
        meds({ id: 2, n: 2 }, { id: 3, n: 2 }),
        meds({ id: 1, n: 3 }, { id: 3, n: 3 }),
      ],
      keyed,
    );
    expect(found.merged).toEqual({ doc: meds({ id: 2, n: 2 }, { id: 3, n: 2 }) });
    expect(found.conflicts).toEqual([
      { path: '/doc/meds/2', baseValue: { id: 2, n: 1 }, serverValue: { id: 2, n: 2 } },
      { path: '/doc/meds/3/n', baseValue: 1, serverValue: 2, clientValue: 3 },
      { path: '/doc/meds/1', baseValue: { id: 1, n: 1 }, clientValue: { id: 1, n: 3 } },
    ]);
    const [b, s, c] = [
      meds({ id: 1, n: 1 }, { id: 2, n: 1 }),
      meds({ id: 2, n: 2 }, { id: 9 }),
      meds({ id: 1, n: 3 }),
    ];
    const input = { base: { doc: b }, server: { doc: s }, client: { doc: c }, shape: SHAPE, policies: keyed };
    expect(mergeRows(input, () => 'CLIENT').merged).toEqual({ doc: meds({ id: 9 }, { id: 1, n: 3 }) });
  });

  it('goes on within entries', () => {
    const found = inDoc(
      [
        meds({ id: 'a', times: [8, 12], given: 1 }),
        meds({ id: 'a', times: [8, 12, 20], given: 3 }),
        meds({ id: 'a', times: [8], given: 2 }),
      ],
      keyed,
    );
    expect(found).toMatchObject({
      merged: { doc: meds({ id: 'a', times: [8, 20], given: 4 }) },
      conflicts: [],
    });
  });

  it('merges entries of one key that both added', () => {
    expect(inDoc([meds(), meds({ id: 'n', s: 1 }), meds({ id: 'n', c: 1 })], keyed)).toMatchObject({
      merged: { doc: meds({ id: 'n', s: 1, c: 1 }) },
      conflicts: [],
    });
  });

  it('keeps the order of whoever changed it', () => {
    const ids = (text: string): Json => meds(...[...text].map((id) => ({ id })));
    expect(inDoc([ids('abc'), ids('abcs'), ids('cab')], keyed).merged).toEqual({ doc: ids('cabs') });
    expect(inDoc([ids('abc'), ids('bcas'), ids('abcx')], keyed).merged).toEqual({ doc: ids('bcasx') });
    expect(inDoc([ids('ab'), ids('asb'), ids('xab')], keyed).merged).toEqual({ doc: ids('asbx') });
    expect(inDoc([ids('abcd'), ids('acd'), ids('dbca')], keyed).merged).toEqual({ doc: ids('dca') });
    expect(inDoc([ids('abc'), ids('bcas'), ids('cba')], keyed).merged).toEqual({ doc: ids('bcas') });
  });

  it.each<[string, readonly [Json, Json, Json]]>([
    ['without a key', [meds({ id: 1 }), meds({ id: 1 }, { n: 2 }), meds({ id: 1 }, { id: 3 })]],
    ['with one key twice', [meds({ id: 1 }), meds({ id: 1 }, { id: 2 }), meds({ id: 1 }, { id: 1 })]],
    ['with one key as text and number', [meds(), meds({ id: 1 }, { id: '1' }), meds({ id: 2 })]],
    ['that are no objects', [meds(), meds(1), meds({ id: 3 })]],
    ['with an object for a key', [meds(), meds({ id: {} }), meds({ id: 3 })]],
  ])('is one value with entries %s', (_, sides) => {
    expect(inDoc(sides, keyed).conflicts.map(({ path }) => path)).toEqual(['/doc/meds']);
  });

  it('takes odd keys', () => {
    const found = inDoc(
      [
        meds({ id: '__proto__' }),
        meds({ id: '__proto__', s: 1 }, { id: '' }),
        meds({ id: '__proto__' }, { id: 'a/b' }),
      ],
      keyed,
    );
    expect(found.merged).toEqual({ doc: meds({ id: '__proto__', s: 1 }, { id: '' }, { id: 'a/b' }) });
    expect(found.outstanding).toEqual(['/doc/meds/a~1b']);
  });
});

describe('append', () => {
  const policies = { '/doc': { append: 'op' } } as const;
  const more = { operationId: 'OP' };

  it('keeps what both added, the server’s first, each once', () => {
    const found = inDoc(
      [[{ op: '1' }], [{ op: '1' }, { op: '2' }, { op: '3' }], [{ op: '1' }, { op: '4' }, { op: '3' }]],
      policies,
    );
    expect(found).toMatchObject({
      merged: { doc: [{ op: '1' }, { op: '2' }, { op: '3' }, { op: '4' }] },
      conflicts: [],
      outstanding: ['/doc/4'],
    });
  });

  it('gives entries without a key the operation’s', () => {
    const client = [{ op: '1' }, { text: 'a' }, { op: 'OP:1' }, { text: 'b' }, { text: 'a' }];
    const once = inDoc([[{ op: '1' }], [{ op: '1' }], client], policies, more);
    expect(once.merged).toEqual({
      doc: [
        { op: '1' },
        { op: 'OP', text: 'a' },
        { op: 'OP:1' },
        { op: 'OP:2', text: 'b' },
        { op: 'OP:3', text: 'a' },
      ],
    });
    const again = merge([{ doc: [{ op: '1' }] }, once.merged, { doc: client }], { policies, ...more });
    expect(again).toMatchObject({ merged: once.merged, conflicts: [], outstanding: [] });
  });

  it('knows entries without a key again', () => {
    const found = inDoc(
      [
        ['x', { t: 1 }, 'x'],
        [{ s: 1 }, 'x', { t: 1 }, 'x'],
        ['x', 'x', { t: 1 }, 'y'],
      ],
      policies,
      more,
    );
    expect(found).toMatchObject({ merged: { doc: [{ s: 1 }, 'x', { t: 1 }, 'x', 'y'] }, conflicts: [] });
    // Nothing of their content is in a path.
    expect(found.serverChanged).toEqual(['/doc/-']);
  });

  it('does not remove what the client lacks', () => {
    const found = inDoc([[{ op: '1' }, { op: '2' }], [{ op: '1' }, { op: '2' }], [{ op: '3' }]], policies);
    expect(found.merged).toEqual({ doc: [{ op: '1' }, { op: '2' }, { op: '3' }] });
    const pruned = inDoc(
      [[{ op: '1' }, { op: '2' }], [{ op: '2' }], [{ op: '1' }, { op: '2' }, { op: '3' }]],
      policies,
    );
    expect(pruned.merged).toEqual({ doc: [{ op: '2' }, { op: '3' }] });
  });

  it('merges edits, and conflicts where both edited', () => {
    const found = inDoc(
      [
        [
          { op: '1', a: 1, b: 1 },
          { op: '2', a: 1 },
        ],
        [
          { op: '1', a: 2, b: 1 },
          { op: '2', a: 2 },
        ],
        [
          { op: '1', a: 1, b: 2 },
          { op: '2', a: 3 },
        ],
      ],
      policies,
    );
    expect(found.merged).toEqual({
      doc: [
        { op: '1', a: 2, b: 2 },
        { op: '2', a: 2 },
      ],
    });
    expect(found.conflicts.map(({ path }) => path)).toEqual(['/doc/2/a']);
  });

  it('starts from nothing', () => {
    expect(inDoc([undefined, undefined, [{ t: 1 }]], policies, more).merged).toEqual({
      doc: [{ t: 1, op: 'OP' }],
    });
    expect(inDoc([undefined, [{ op: 's' }], [{ t: 1 }]], policies, more)).toMatchObject({
      merged: { doc: [{ op: 's' }, { t: 1, op: 'OP' }] },
      clientChanged: ['/doc/OP'],
      serverChanged: ['/doc/s'],
    });
    expect(inDoc([undefined, undefined, []], policies, more)).toMatchObject({
      merged: { doc: [] },
      outstanding: ['/doc'],
    });
  });

  it('is one value where one side is no array, or has a key twice', () => {
    expect(inDoc([[{ op: '1' }], undefined, [{ op: '1' }, { op: '2' }]], policies).conflicts).toHaveLength(1);
    expect(inDoc([[{ op: '1' }], [], [{ op: '1' }, { op: '1' }]], policies).conflicts).toHaveLength(1);
  });
});

describe('COUNTER', () => {
  const policies = { '/hours': 'COUNTER', '/doc/n': 'COUNTER' } as const;
  const count = (
    base: Json | undefined,
    server: Json | undefined,
    client: Json | undefined,
  ): Json | undefined => {
    const row = (hours: Json | undefined): EntityRow => (hours === undefined ? {} : { hours });
    const found = merge([row(base), row(server), row(client)], { policies });
    expect(found.conflicts).toEqual([]);
    return found.merged.hours;
  };

  it.each<[Json | undefined, Json | undefined, Json | undefined, Json]>([
    [5, 7, 6, 8],
    [5, 6, 6, 7],
    [5, 5, 3, 3],
    ['12.50', '13.75', '12.25', '13.5'],
    ['0.1', '0.2', '0.3', '0.4'],
    [0.1, 0.2, 0.3, 0.4],
    [0, 0.1, 0.2, 0.3],
    [undefined, 3, 5, 8],
    [undefined, undefined, 5, 5],
    [undefined, undefined, '5.50', '5.5'],
    ['9007199254740993', '9007199254740994', '9007199254740995', '9007199254740996'],
    [1, '2', 4, '5'],
    ['1', 2, '4', 5],
    [0, Number.MAX_SAFE_INTEGER, 2, '9007199254740993'],
  ])('%j, %j and %j are %j', (base, server, client, sum) => {
    expect(count(base, server, client)).toBe(sum);
  });

  it('counts in documents with numbers only', () => {
    expect(inDoc([{ n: 1 }, { n: 4 }, { n: 2 }], policies).merged).toEqual({ doc: { n: 5 } });
    expect(inDoc([{ n: '1' }, { n: '4' }, { n: '2' }], policies).conflicts).toHaveLength(1);
    // JavaScript has no such number.
    const most = Number.MAX_SAFE_INTEGER;
    expect(inDoc([{ n: 0 }, { n: most }, { n: 2 }], policies).conflicts).toHaveLength(1);
  });

  it('does not count what is no number, or was removed', () => {
    expect(merge([{ hours: 'NaN' }, { hours: 1 }, { hours: 2 }], { policies }).conflicts).toHaveLength(1);
    expect(merge([{ hours: 1 }, { hours: 2 }, {}], { policies }).conflicts).toHaveLength(1);
    expect(merge([{ hours: 1 }, {}, { hours: 2 }], { policies }).conflicts).toHaveLength(1);
    expect(merge([{ hours: 1 }, { hours: 1 }, {}], { policies }).merged).toEqual({ hours: null });
  });

  it('counts the client’s share also where it is asked about', () => {
    const input = { base: { hours: 1 }, server: { hours: 5 }, client: { hours: 2 }, shape: SHAPE, policies };
    const found = mergeRows({ ...input, disjoint: 'ASK' });
    expect(found.merged).toEqual({ hours: 5 });
    expect(found.conflicts).toEqual([{ path: '/hours', baseValue: 1, serverValue: 5, clientValue: 2 }]);
    expect(mergeRows({ ...input, disjoint: 'ASK' }, () => 'CLIENT').merged).toEqual({ hours: 6 });
  });
});
