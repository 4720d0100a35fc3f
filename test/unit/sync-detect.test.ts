import { describe, expect, it } from 'vitest';
import { type Detection, type DetectionInput, detectConflict, differences } from '../../src/sync/detect.ts';
import { type EntityRow, SYNC_OPERATIONS } from '../../src/types/offline-sync.ts';

const SHAPE = { kinds: { hours: 'NUMBER', at: 'INSTANT' }, serverOwned: ['updated_at'] } as const;
const UNKNOWN = { known: false } as const;
const known = (row: EntityRow | null) => ({ known: true, row }) as const;
const visible = (row: EntityRow) => ({ state: 'VISIBLE', row, everExisted: true }) as const;
const absent = (everExisted: boolean) => ({ state: 'ABSENT', row: null, everExisted }) as const;
const DELETED = { state: 'DELETED', row: { a: 1, deleted_at: 'x' }, everExisted: true } as const;
const HIDDEN = { state: 'HIDDEN', row: { secret: 'S' }, everExisted: true } as const;

const detect = (input: Pick<DetectionInput, 'operation' | 'server'> & Partial<DetectionInput>): Detection =>
  detectConflict({
    payload: {},
    base: UNKNOWN,
    shape: SHAPE,
    policies: {},
    mergeDisjoint: true,
    ...input,
  });
/** What differs between kinds of conflicts. */
const brief = (found: Detection) =>
  found.kind === 'CONFLICT'
    ? {
        kind: found.kind,
        type: found.type,
        reason: found.reason,
        paths: found.fields.map(({ path }) => path),
      }
    : found.kind === 'WRITE'
      ? {
          kind: found.kind,
          change: found.change,
          row: found.row,
          changed: found.changed,
          merged: found.merged,
        }
      : found;

const WRITING = ['UPDATE', 'PATCH', 'MERGE', 'UPSERT'] as const;
const typeOf = (operation: (typeof WRITING)[number]) =>
  operation === 'UPDATE' ? 'UPDATE_UPDATE' : 'FIELD_LEVEL';

describe.each(WRITING)('%s of what is there', (operation) => {
  const base = { a: 1, b: 1, hours: '12.50', doc: { x: 1, y: 1 }, updated_at: '1' };

  it('is applied where the server has not changed', () => {
    const server = visible({ ...base, hours: 12.5, updated_at: '2' });
    const found = detect({ operation, payload: { a: 2, updated_at: 'c' }, base: known(base), server });
    expect(brief(found)).toEqual({
      kind: 'WRITE',
      change: 'UPDATE',
      row: { ...base, hours: 12.5, updated_at: '2', a: 2 },
      changed: ['a'],
      merged: false,
    });
  });

  it('is merged where the server has changed elsewhere', () => {
    const server = visible({ ...base, b: 2, doc: { x: 1, y: 2 } });
    const doc = operation === 'UPDATE' ? { x: 2, y: 1 } : { x: 2 };
    const found = detect({ operation, payload: { a: 2, doc }, base: known(base), server });
    expect(brief(found)).toEqual({
      kind: 'WRITE',
      change: 'UPDATE',
      row: { ...base, a: 2, b: 2, doc: { x: 2, y: 2 } },
      changed: ['a', 'doc'],
      merged: true,
    });
  });

  it('is no merge where the server has changed only the same, alike', () => {
    const server = visible({ ...base, b: 2 });
    expect(brief(detect({ operation, payload: { a: 2, b: 2 }, base: known(base), server }))).toMatchObject({
      kind: 'WRITE',
      changed: ['a'],
      merged: false,
    });
  });

  it('conflicts where both changed the same', () => {
    const server = visible({ ...base, a: 3, b: 2 });
    const payload = { a: 2, hours: '13' };
    expect(detect({ operation, payload, base: known(base), server, operationId: 'op' })).toEqual({
      kind: 'CONFLICT',
      type: typeOf(operation),
      reason: 'SAME_PATHS',
      base,
      baseKnown: true,
      client: { ...base, ...payload },
      server: { ...base, a: 3, b: 2 },
      merged: { ...base, a: 3, b: 2, hours: '13' },
      fields: [{ path: '/a', baseValue: 1, clientValue: 2, serverValue: 3 }],
      creatable: true,
      rules: { shape: SHAPE, policies: {}, mergeDisjoint: true, operationId: 'op' },
    });
  });

  it('conflicts with any change where changes are not merged', () => {
    const common = { operation, payload: { a: 2, b: 2 }, base: known(base), mergeDisjoint: false };
    const found = detect({ ...common, server: visible({ ...base, b: 2, doc: {} }) });
    expect(brief(found)).toEqual({
      kind: 'CONFLICT',
      type: typeOf(operation),
      reason: 'SERVER_CHANGED',
      paths: ['/a'],
    });
    expect(found).toMatchObject({ merged: { ...base, b: 2, doc: {} } });
    expect(detect({ ...common, server: visible({ ...base, updated_at: '2' }) }).kind).toBe('WRITE');
    expect(detect({ ...common, server: visible({ ...base, a: '2', b: 2, doc: {} }) }).kind).toBe('CONFLICT');
    expect(detect({ ...common, server: visible({ ...base, a: 2, b: 2, doc: {} }) }).kind).toBe('NOTHING');
  });

  it('is nothing where it is so already, or changes nothing', () => {
    const server = visible({ ...base, a: 2, b: 7, hours: '13.0' });
    const common = { operation, server, base: known(base) };
    expect(detect({ ...common, payload: { a: 2, hours: 13 } })).toEqual({ kind: 'NOTHING' });
    expect(detect({ ...common, payload: {} })).toEqual({ kind: 'NOTHING' });
    expect(detect({ ...common, payload: { a: 1, updated_at: 'c' } })).toEqual({ kind: 'NOTHING' });
    expect(detect({ ...common, payload: { a: 2, hours: 13 }, base: UNKNOWN })).toEqual({ kind: 'NOTHING' });
    expect(detect({ ...common, payload: { none: null }, base: UNKNOWN })).toEqual({ kind: 'NOTHING' });
  });

  it('conflicts where values differ and nobody knows the base', () => {
    const server = { a: 1, b: 1, doc: { x: 1, y: 1 }, hours: '1.0' };
    const payload = { a: 2, b: 1, doc: { x: 2, y: 1 }, hours: 1 };
    const found = detect({ operation, payload, server: visible(server) });
    expect(found).toMatchObject({
      kind: 'CONFLICT',
      type: typeOf(operation),
      reason: 'BASE_UNKNOWN',
      base: null,
      baseKnown: false,
      client: { ...server, ...payload },
      server,
      merged: server,
      fields: [
        { path: '/a', clientValue: 2, serverValue: 1 },
        { path: '/doc/x', clientValue: 2, serverValue: 1 },
      ],
    });
  });

  it('conflicts where nobody knows the base, even where a policy could add up', () => {
    const policies = { '/hours': 'COUNTER', '/tags': 'SET' } as const;
    const server = visible({ hours: 1, tags: [1] });
    expect(brief(detect({ operation, payload: { hours: 2, tags: [2] }, server, policies }))).toMatchObject({
      paths: ['/hours', '/tags'],
    });
  });

  it('conflicts where the client had deleted it before, and sees it again', () => {
    const server = visible({ a: 1, b: 1 });
    const found = detect({ operation, payload: { a: 2, c: 3 }, server, base: known(null) });
    expect(brief(found)).toMatchObject({ type: typeOf(operation), paths: ['/a', '/c'] });
    expect(detect({ operation, payload: { a: 1 }, server, base: known(null) })).toEqual({ kind: 'NOTHING' });
  });

  it.each([
    ['known', known(base)],
    ['unknown', UNKNOWN],
  ] as const)('conflicts with its deletion, the base being %s', (_, from) => {
    for (const server of [DELETED, absent(true)]) {
      const found = detect({ operation, payload: { a: 2 }, base: from, server });
      expect(found).toMatchObject({
        kind: 'CONFLICT',
        type: 'UPDATE_DELETE',
        reason: 'SERVER_DELETED',
        base: from.known ? base : null,
        baseKnown: from.known,
        client: from.known ? { ...base, a: 2 } : { a: 2 },
        server: null,
        merged: null,
        creatable: true,
      });
      expect(found).toHaveProperty('fields', [
        { path: '/a', clientValue: 2, ...(from.known ? { baseValue: 1 } : {}) },
      ]);
    }
  });

  it('believes the base that it was there', () => {
    const found = detect({ operation, payload: { a: 2 }, base: known(base), server: absent(false) });
    expect(brief(found)).toMatchObject({ type: 'UPDATE_DELETE' });
  });
});

describe('what never was', () => {
  it.each(['UPDATE', 'PATCH'] as const)('%s depends on it', (operation) => {
    for (const base of [UNKNOWN, known(null)])
      expect(detect({ operation, payload: { a: 1, n: null }, base, server: absent(false) })).toMatchObject({
        type: 'DEPENDENCY',
        reason: 'NEVER_EXISTED',
        server: null,
        merged: null,
        fields: [{ path: '/a', clientValue: 1 }],
        creatable: true,
      });
  });

  it.each(['CREATE', 'MERGE', 'UPSERT'] as const)('%s creates it', (operation) => {
    const payload = { a: 1, n: null, doc: { x: null }, updated_at: 'c' };
    for (const base of [UNKNOWN, known(null)])
      expect(brief(detect({ operation, payload, base, server: absent(false) }))).toEqual({
        kind: 'WRITE',
        change: 'CREATE',
        row: { a: 1, doc: { x: null } },
        changed: ['a', 'doc'],
        merged: false,
      });
  });

  it('gives appended entries the operation’s key', () => {
    const common = { operation: 'CREATE', server: absent(false), operationId: 'op' } as const;
    const found = detect({
      ...common,
      payload: { log: [{ t: 1 }] },
      policies: { '/log': { append: 'key' } },
    });
    expect(found).toMatchObject({ row: { log: [{ t: 1, key: 'op' }] } });
  });
});

describe('CREATE', () => {
  const common = { operation: 'CREATE', base: known(null) } as const;

  it('is nothing where all that it names is so', () => {
    const server = visible({ a: 1, hours: '2.50', doc: { x: 1 }, status: 'NEW', updated_at: 's' });
    const payload = { a: 1, hours: 2.5, doc: { x: 1 }, status: null, updated_at: 'c' };
    expect(detect({ ...common, payload, server })).toEqual({ kind: 'NOTHING' });
    expect(detect({ ...common, base: UNKNOWN, payload, server })).toEqual({ kind: 'NOTHING' });
  });

  it('conflicts where anything is not', () => {
    const server = { a: 1, b: 1, doc: { x: 1, y: 1 }, status: 'NEW' };
    const payload = { a: 2, b: 1, doc: { x: 1 }, c: 3, none: null };
    expect(detect({ ...common, payload, server: visible(server) })).toMatchObject({
      kind: 'CONFLICT',
      type: 'CREATE_CREATE',
      reason: 'ALREADY_EXISTS',
      base: null,
      baseKnown: true,
      client: payload,
      server,
      merged: server,
      fields: [
        { path: '/a', clientValue: 2, serverValue: 1 },
        { path: '/doc/y', serverValue: 1 },
        { path: '/c', clientValue: 3 },
      ],
    });
  });

  it.each(['CREATE', 'UPSERT', 'MERGE'] as const)('%s on a tombstone conflicts', (operation) => {
    for (const server of [DELETED, absent(true)])
      expect(detect({ operation, payload: { a: 1 }, base: known(null), server })).toMatchObject({
        type: 'UPDATE_DELETE',
        client: { a: 1 },
        server: null,
        fields: [{ path: '/a', clientValue: 1 }],
      });
  });
});

describe('DELETE', () => {
  const base = { a: 1, hours: '1.0', updated_at: '1' };
  const operation = 'DELETE';

  it('deletes what has not changed', () => {
    const server = visible({ a: 1, hours: 1, updated_at: '2', n: null });
    expect(brief(detect({ operation, base: known(base), server }))).toEqual({
      kind: 'WRITE',
      change: 'DELETE',
      row: null,
      changed: [],
      merged: false,
    });
  });

  it('conflicts with a change', () => {
    const server = { a: 2, hours: 1, b: 1, updated_at: '2' };
    expect(detect({ operation, base: known(base), server: visible(server) })).toMatchObject({
      kind: 'CONFLICT',
      type: 'DELETE_UPDATE',
      reason: 'SERVER_CHANGED',
      base,
      client: null,
      server,
      merged: server,
      fields: [
        { path: '/a', baseValue: 1, serverValue: 2 },
        { path: '/b', serverValue: 1 },
      ],
    });
    const removed = detect({ operation, base: known({ a: 1, b: 1 }), server: visible({ a: 1 }) });
    expect(removed).toHaveProperty('fields', [{ path: '/b', baseValue: 1 }]);
  });

  it('conflicts where nobody knows what was deleted', () => {
    expect(detect({ operation, server: visible(base) })).toMatchObject({
      type: 'DELETE_UPDATE',
      reason: 'BASE_UNKNOWN',
      baseKnown: false,
      client: null,
      server: base,
      fields: [],
    });
    // The client believes that nothing is there.
    expect(brief(detect({ operation, base: known(null), server: visible(base) }))).toMatchObject({
      type: 'DELETE_UPDATE',
    });
  });

  it.each([
    ['deleted', DELETED],
    ['gone', absent(true)],
    ['never there', absent(false)],
  ] as const)('is done where it is %s', (_, server) => {
    for (const from of [UNKNOWN, known(base), known(null)])
      expect(detect({ operation, base: from, server })).toEqual({ kind: 'NOTHING' });
  });

  it('is not done where it is hidden and was given to the client once', () => {
    for (const from of [UNKNOWN, known(null)])
      expect(detect({ operation, base: from, server: HIDDEN })).toEqual({ kind: 'NOTHING' });
    expect(brief(detect({ operation, base: known(base), server: HIDDEN }))).toMatchObject({
      type: 'DEPENDENCY',
    });
  });
});

describe('what the actor may not see', () => {
  it.each(['CREATE', 'UPSERT', 'MERGE'] as const)('%s may not have its id', (operation) => {
    for (const base of [UNKNOWN, known({ a: 1 })])
      expect(detect({ operation, payload: { a: 1 }, base, server: HIDDEN })).toEqual({
        kind: 'REJECT',
        code: 'ENTITY_ID_TAKEN',
      });
  });

  it.each(['UPDATE', 'PATCH'] as const)('%s: it was never there', (operation) => {
    for (const base of [UNKNOWN, known({ a: 1 })])
      expect(detect({ operation, payload: { a: 2 }, base, server: HIDDEN })).toMatchObject({
        kind: 'CONFLICT',
        type: 'DEPENDENCY',
        reason: 'NEVER_EXISTED',
        client: { a: 2 },
        server: null,
        creatable: false,
      });
  });

  it.each(SYNC_OPERATIONS)('%s tells nothing of it', (operation) => {
    for (const base of [UNKNOWN, known({ a: 1 }), known(null)]) {
      const found = detect({ operation, payload: { a: 2 }, base, server: HIDDEN });
      expect(JSON.stringify(found)).not.toMatch(/secret|"S"/);
      const other = detect({ operation, payload: { a: 2 }, base, server: { ...HIDDEN, row: null } });
      expect(found).toEqual(other);
    }
  });
});

describe('differences', () => {
  it('names the columns, but the server’s own', () => {
    const a = { same: '1', n: null, hours: '1.0', doc: { x: 1, y: 2 }, gone: 1, updated_at: 1 };
    const b = { same: '1', hours: 1, doc: { y: 2, x: 1 }, new: false, constructor: 1 };
    expect(differences(a, b, SHAPE)).toEqual(['gone', 'new', 'constructor']);
    expect(differences(b, a, SHAPE).toSorted()).toEqual(['constructor', 'gone', 'new']);
    expect(differences(a, a, SHAPE)).toEqual([]);
    expect(differences({ doc: { x: null } }, { doc: {} }, SHAPE)).toEqual(['doc']);
  });
});
