import { describe, expect, it } from 'vitest';
import { type DetectedConflict, type DetectionInput, detectConflict } from '../../src/sync/detect.ts';
import { type AutomaticOptions, resolveAutomatically, resolveByPerson } from '../../src/sync/resolve.ts';
import type { EntityRow } from '../../src/types/offline-sync.ts';

const SHAPE = { kinds: { hours: 'NUMBER' }, serverOwned: ['updated_at'] } as const;
const base = { a: 1, b: 1, c: 1, doc: { x: 1, y: 1 }, updated_at: '1' };
const server = { a: 2, b: 2, c: 1, doc: { x: 2, y: 1 }, updated_at: '2' };
const visible = (row: EntityRow) => ({ state: 'VISIBLE', row, everExisted: true }) as const;
const known = (row: EntityRow | null) => ({ known: true, row }) as const;
const GONE = { state: 'ABSENT', row: null, everExisted: true } as const;

function conflictOf(changes: Partial<DetectionInput>): DetectedConflict {
  const found = detectConflict({
    operation: 'PATCH',
    payload: { a: 3, c: 3, doc: { x: 3 } },
    base: known(base),
    server: visible(server),
    shape: SHAPE,
    policies: {},
    mergeDisjoint: true,
    operationId: 'op',
    ...changes,
  });
  if (found.kind !== 'CONFLICT') throw new Error(`It is ${found.kind}`);
  return found;
}

/** `a` and `doc.x` changed on both sides, `c` by the client, `b` by the server. */
const FIELDS = conflictOf({});
const UNKNOWN_BASE = conflictOf({ base: { known: false } });
const UPDATE_DELETE = conflictOf({ server: GONE });
const DELETE_UPDATE = conflictOf({ operation: 'DELETE', payload: {} });
const CREATE_CREATE = conflictOf({
  operation: 'CREATE',
  payload: { a: 9, d: 4, b: null },
  base: known(null),
});
const DEPENDENCY = conflictOf({
  base: { known: false },
  server: { state: 'ABSENT', row: null, everExisted: false },
});
const HIDDEN = conflictOf({ server: { state: 'HIDDEN', row: null, everExisted: true } });
const ASKED = conflictOf({ payload: { c: 3 }, mergeDisjoint: false });

const automatically = (conflict: DetectedConflict, options: Partial<AutomaticOptions>) =>
  resolveAutomatically(conflict, {
    strategies: ['FIELD_LEVEL_MERGE'],
    fieldStrategies: {},
    newest: () => 'UNKNOWN',
    ...options,
  });

describe('CLIENT_WINS', () => {
  const decided = (conflict: DetectedConflict) => {
    const automatic = automatically(conflict, { strategies: ['CLIENT_WINS'] });
    expect(resolveByPerson(conflict, { strategy: 'CLIENT_WINS' })).toEqual(automatic);
    return automatic;
  };

  it('writes the client’s changes over the server’s row', () => {
    expect(decided(FIELDS)).toEqual({
      kind: 'WRITE',
      strategy: 'CLIENT_WINS',
      change: 'UPDATE',
      row: { a: 3, b: 2, c: 3, doc: { x: 3, y: 1 }, updated_at: '2' },
      changed: ['a', 'c', 'doc'],
      superseded: [],
      overwritten: ['/a', '/doc/x'],
      outcome: 'MERGED',
    });
    expect(decided(UNKNOWN_BASE)).toMatchObject({
      row: { a: 3, b: 2, c: 3, doc: { x: 3, y: 1 }, updated_at: '2' },
      superseded: [],
      overwritten: ['/a', '/c', '/doc/x'],
      outcome: 'APPLIED',
    });
    expect(decided(ASKED)).toMatchObject({
      row: { ...server, c: 3 },
      changed: ['c'],
      overwritten: [],
      outcome: 'MERGED',
    });
    expect(decided(CREATE_CREATE)).toMatchObject({
      row: { ...server, a: 9, d: 4 },
      changed: ['a', 'd'],
      superseded: [],
    });
  });

  it('removes what the client removed', () => {
    const conflict = conflictOf({ payload: { a: null, doc: { x: null } } });
    expect(decided(conflict)).toMatchObject({
      row: { a: null, b: 2, c: 1, doc: { y: 1 } },
      changed: ['a', 'doc'],
    });
    const unknown = conflictOf({ payload: { a: null, doc: { x: null } }, base: { known: false } });
    expect(decided(unknown)).toMatchObject({ row: { a: null, b: 2, doc: { y: 1 } }, changed: ['a', 'doc'] });
  });

  it('deletes where the client deleted', () => {
    expect(decided(DELETE_UPDATE)).toEqual({
      kind: 'WRITE',
      strategy: 'CLIENT_WINS',
      change: 'DELETE',
      row: null,
      changed: [],
      superseded: [],
      overwritten: ['/a', '/b', '/doc'],
      outcome: 'APPLIED',
    });
  });

  it('creates again where the server deleted', () => {
    expect(decided(UPDATE_DELETE)).toEqual({
      kind: 'WRITE',
      strategy: 'CLIENT_WINS',
      change: 'CREATE',
      row: { a: 3, b: 1, c: 3, doc: { x: 3, y: 1 } },
      changed: ['a', 'b', 'c', 'doc'],
      superseded: [],
      overwritten: [''],
      outcome: 'APPLIED',
    });
    expect(decided(DEPENDENCY)).toMatchObject({ change: 'CREATE', row: { a: 3, c: 3, doc: { x: 3 } } });
  });

  it('creates nothing under an id that is taken', () => {
    expect(automatically(HIDDEN, { strategies: ['CLIENT_WINS'] })).toEqual({
      kind: 'MANUAL',
      strategy: 'CLIENT_WINS',
      reason: 'There is nothing to write it to.',
    });
  });

  it('keeps by policy what both sides added', () => {
    const policies = { '/tags': 'SET', '/n': 'COUNTER', '/meds': { keyedBy: 'id' } } as const;
    const conflict = conflictOf({
      base: known({ a: 1, tags: ['t'], n: 1, meds: [{ id: 1, v: 1 }] }),
      server: visible({ a: 2, tags: ['t', 's'], n: 5, meds: [{ id: 1, v: 2 }, { id: 2 }] }),
      payload: { a: 3, tags: ['t', 'c'], n: 2, meds: [{ id: 1, v: 3 }, { id: 3 }] },
      policies,
    });
    expect(conflict.fields.map(({ path }) => path)).toEqual(['/a', '/meds/1/v']);
    expect(decided(conflict)).toMatchObject({
      row: { a: 3, tags: ['t', 's', 'c'], n: 6, meds: [{ id: 1, v: 3 }, { id: 2 }, { id: 3 }] },
      superseded: [],
      overwritten: ['/a', '/meds/1/v'],
    });
  });
});

describe('SERVER_WINS', () => {
  it.each<[string, DetectedConflict, readonly string[]]>([
    ['fields', FIELDS, ['/a', '/c', '/doc/x']],
    ['an unknown base', UNKNOWN_BASE, ['/a', '/c', '/doc/x']],
    ['a deletion on the server', UPDATE_DELETE, ['/a', '/c', '/doc/x']],
    ['a deletion by the client', DELETE_UPDATE, ['']],
    ['two creations', CREATE_CREATE, ['/a', '/d']],
    ['what was never there', DEPENDENCY, ['/a', '/c', '/doc']],
    ['what is hidden', HIDDEN, ['/a', '/c', '/doc/x']],
    ['other paths', ASKED, ['/c']],
  ])('keeps all and gives up all: %s', (_, conflict, superseded) => {
    const automatic = automatically(conflict, { strategies: ['SERVER_WINS'] });
    expect(automatic).toEqual({
      kind: 'KEEP',
      strategy: 'SERVER_WINS',
      change: null,
      row: null,
      changed: [],
      superseded,
      overwritten: [],
      outcome: 'SUPERSEDED',
    });
    expect(resolveByPerson(conflict, { strategy: 'SERVER_WINS' })).toEqual(automatic);
  });

  it('does not give up what the server has too', () => {
    const conflict = conflictOf({ payload: { a: 3, b: 2 } });
    expect(automatically(conflict, { strategies: ['SERVER_WINS'] })).toMatchObject({ superseded: ['/a'] });
  });

  it('names a creation of nothing as a whole', () => {
    const conflict = conflictOf({ operation: 'CREATE', payload: {}, base: known(null), server: GONE });
    expect(automatically(conflict, { strategies: ['SERVER_WINS'] })).toMatchObject({ superseded: [''] });
  });
});

describe('NEWEST_WINS', () => {
  const strategy = 'NEWEST_WINS';

  it('is one or the other, and keeps what nobody disputes', () => {
    for (const conflict of [FIELDS, UPDATE_DELETE, DELETE_UPDATE, CREATE_CREATE]) {
      for (const side of ['CLIENT', 'SERVER'] as const) {
        const newest = () => side;
        const winner = automatically(conflict, { fieldStrategies: { '': `${side}_WINS` } });
        expect(automatically(conflict, { strategies: [strategy], newest })).toEqual({ ...winner, strategy });
        expect(resolveByPerson(conflict, { strategy, newest })).toEqual({ ...winner, strategy });
      }
    }
  });

  it('is decided path by path', () => {
    const newest = (path: string) => (path === '/a' ? 'CLIENT' : 'SERVER');
    expect(automatically(FIELDS, { strategies: [strategy], newest })).toMatchObject({
      row: { a: 3, c: 3 },
      superseded: ['/doc/x'],
      outcome: 'MERGED',
    });
    const halfKnown = (path: string) => (path === '/a' ? 'CLIENT' : 'UNKNOWN');
    expect(resolveByPerson(FIELDS, { strategy, newest: halfKnown })).toBeUndefined();
  });

  it('decides nothing by clocks that do not tell', () => {
    expect(automatically(FIELDS, { strategies: ['NEWEST_WINS'] })).toEqual({
      kind: 'MANUAL',
      strategy: 'NEWEST_WINS',
      reason: 'The clocks do not tell which is newer.',
    });
    expect(resolveByPerson(FIELDS, { strategy: 'NEWEST_WINS', newest: () => 'UNKNOWN' })).toBeUndefined();
    expect(resolveByPerson(FIELDS, { strategy: 'NEWEST_WINS' })).toBeUndefined();
  });
});

describe('FIELD_LEVEL_MERGE by strategies', () => {
  it('needs one for every field', () => {
    for (const fieldStrategies of [
      {},
      { '/a': 'CLIENT_WINS' },
      { '/a': 'CLIENT_WINS', '/doc': 'MANUAL' },
      { '/a': 'CLIENT_WINS', '/doc': 'FIELD_LEVEL_MERGE' },
      { '/a': 'CLIENT_WINS', '/doc/x': 'NEWEST_WINS' },
      { '': 'CLIENT_WINS', '/doc/x': 'MANUAL' },
    ] as const)
      expect(automatically(FIELDS, { fieldStrategies })).toEqual({
        kind: 'MANUAL',
        strategy: 'FIELD_LEVEL_MERGE',
        reason: 'Not every field has a strategy that decides it.',
      });
  });

  it('gives each field to its side', () => {
    expect(
      automatically(FIELDS, { fieldStrategies: { '/a': 'SERVER_WINS', '/doc': 'CLIENT_WINS' } }),
    ).toEqual({
      kind: 'WRITE',
      strategy: 'FIELD_LEVEL_MERGE',
      change: 'UPDATE',
      row: { a: 2, b: 2, c: 3, doc: { x: 3, y: 1 }, updated_at: '2' },
      changed: ['c', 'doc'],
      superseded: ['/a'],
      overwritten: ['/doc/x'],
      outcome: 'MERGED',
    });
    expect(automatically(FIELDS, { fieldStrategies: { '': 'SERVER_WINS' } })).toMatchObject({
      row: { ...server, c: 3 },
      superseded: ['/a', '/doc/x'],
      outcome: 'MERGED',
    });
    const newest = { fieldStrategies: { '': 'NEWEST_WINS' }, newest: () => 'CLIENT' as const } as const;
    expect(automatically(FIELDS, newest)).toMatchObject({ row: { a: 3, doc: { x: 3 } }, superseded: [] });
  });

  it('gives up all where nothing else was changed', () => {
    const conflict = conflictOf({ payload: { a: 3 } });
    expect(automatically(conflict, { fieldStrategies: { '/a': 'SERVER_WINS' } })).toMatchObject({
      kind: 'KEEP',
      superseded: ['/a'],
      outcome: 'SUPERSEDED',
    });
  });

  it('decides about deletions only for the whole', () => {
    for (const conflict of [UPDATE_DELETE, DELETE_UPDATE]) {
      expect(automatically(conflict, { fieldStrategies: { '/a': 'CLIENT_WINS' } }).kind).toBe('MANUAL');
      const client = automatically(conflict, { strategies: ['CLIENT_WINS'] });
      expect(automatically(conflict, { fieldStrategies: { '': 'CLIENT_WINS' } })).toEqual({
        ...client,
        strategy: 'FIELD_LEVEL_MERGE',
      });
    }
  });

  it('asks where changes of other paths are not merged', () => {
    expect(automatically(ASKED, {}).kind).toBe('MANUAL');
    expect(automatically(ASKED, { fieldStrategies: { '/c': 'CLIENT_WINS' } })).toMatchObject({
      row: { ...server, c: 3 },
      superseded: [],
    });
  });

  it('asks the host where a field says so and the others are decided', () => {
    const fieldStrategies = { '/a': 'CUSTOM', '/doc': 'CLIENT_WINS' } as const;
    const strategies = ['FIELD_LEVEL_MERGE', 'SERVER_WINS'] as const;
    expect(automatically(FIELDS, { fieldStrategies, strategies })).toEqual({
      kind: 'CUSTOM',
      remaining: ['SERVER_WINS'],
    });
    expect(automatically(FIELDS, { fieldStrategies: { '/a': 'CUSTOM' } }).kind).toBe('MANUAL');
  });
});

describe('strategies', () => {
  it('are tried in their order', () => {
    expect(
      automatically(FIELDS, { strategies: ['FIELD_LEVEL_MERGE', 'NEWEST_WINS', 'SERVER_WINS'] }),
    ).toMatchObject({
      kind: 'KEEP',
      strategy: 'SERVER_WINS',
    });
    expect(automatically(FIELDS, { strategies: ['CLIENT_WINS', 'SERVER_WINS'] })).toMatchObject({
      kind: 'WRITE',
    });
    expect(automatically(FIELDS, { strategies: ['NEWEST_WINS', 'CUSTOM', 'CLIENT_WINS'] })).toEqual({
      kind: 'CUSTOM',
      remaining: ['CLIENT_WINS'],
    });
  });

  it('end with MANUAL, or with none that decides', () => {
    expect(automatically(FIELDS, { strategies: ['MANUAL', 'SERVER_WINS'] })).toEqual({
      kind: 'MANUAL',
      strategy: 'MANUAL',
      reason: 'It is left to a person.',
    });
    expect(automatically(FIELDS, { strategies: [] })).toMatchObject({ kind: 'MANUAL', strategy: null });
  });

  it.each([
    ['an unknown base', UNKNOWN_BASE],
    ['what was never there', DEPENDENCY],
    ['an unknown base and a deletion there', conflictOf({ base: { known: false }, server: GONE })],
    ['an unknown base and a deletion here', conflictOf({ operation: 'DELETE', base: { known: false } })],
    ['a known base of what is hidden', HIDDEN],
  ])('decide nothing but by name: %s', (_, conflict) => {
    const tried = ['FIELD_LEVEL_MERGE', 'NEWEST_WINS', 'CUSTOM'] as const;
    const options = { fieldStrategies: { '': 'CLIENT_WINS' }, newest: () => 'CLIENT' as const } as const;
    expect(automatically(conflict, { ...options, strategies: tried })).toMatchObject({
      kind: 'MANUAL',
      strategy: 'CUSTOM',
    });
    expect(automatically(conflict, { ...options, strategies: [...tried, 'SERVER_WINS'] })).toMatchObject({
      kind: 'KEEP',
      outcome: 'SUPERSEDED',
    });
  });
});

describe('FIELD_LEVEL_MERGE by a person', () => {
  it('takes the client’s where nothing is said', () => {
    const strategy = 'FIELD_LEVEL_MERGE';
    const client = resolveByPerson(FIELDS, { strategy: 'CLIENT_WINS' });
    expect(resolveByPerson(FIELDS, { strategy })).toEqual({ ...client, strategy });
    expect(resolveByPerson(FIELDS, { strategy, fields: { '/a': 'SERVER' } })).toMatchObject({
      row: { a: 2, b: 2, c: 3, doc: { x: 3, y: 1 } },
      superseded: ['/a'],
      outcome: 'MERGED',
    });
    expect(resolveByPerson(FIELDS, { strategy, fields: { '/doc': 'SERVER', '/c': 'SERVER' } })).toMatchObject(
      {
        row: { a: 3, c: 3, doc: { x: 2 } },
        superseded: ['/doc/x'],
      },
    );
    expect(resolveByPerson(UNKNOWN_BASE, { strategy, fields: { '/a': 'SERVER' } })).toMatchObject({
      row: { a: 2, b: 2, c: 3, doc: { x: 3, y: 1 } },
      superseded: ['/a'],
    });
  });

  it('gives entries of a keyed array to their side', () => {
    const conflict = conflictOf({
      base: known({ meds: [{ id: 1, v: 1 }, { id: 2 }, { id: 3 }] }),
      server: visible({
        meds: [
          { id: 1, v: 2 },
          { id: 3, v: 2 },
        ],
      }),
      payload: {
        meds: [
          { id: 1, v: 3 },
          { id: 2, v: 3 },
        ],
      },
      policies: { '/meds': { keyedBy: 'id' } },
    });
    expect(conflict.fields.map(({ path }) => path)).toEqual(['/meds/1/v', '/meds/3', '/meds/2']);
    const fields = { '/meds/1': 'SERVER', '/meds/3': 'CLIENT', '/meds/2': 'CLIENT' } as const;
    expect(resolveByPerson(conflict, { strategy: 'FIELD_LEVEL_MERGE', fields })).toMatchObject({
      row: {
        meds: [
          { id: 1, v: 2 },
          { id: 2, v: 3 },
        ],
      },
      superseded: ['/meds/1/v'],
    });
  });

  it('decides about a deletion as a whole', () => {
    const strategy = 'FIELD_LEVEL_MERGE';
    expect(resolveByPerson(DELETE_UPDATE, { strategy })).toMatchObject({ change: 'DELETE' });
    expect(resolveByPerson(UPDATE_DELETE, { strategy, fields: { '': 'SERVER' } })).toMatchObject({
      kind: 'KEEP',
      outcome: 'SUPERSEDED',
    });
  });
});

describe.each(['MANUAL', 'CUSTOM'] as const)('%s with data', (strategy) => {
  it('needs data', () => {
    expect(resolveByPerson(FIELDS, { strategy })).toBeUndefined();
  });

  it('writes what is given over the server’s row', () => {
    expect(resolveByPerson(FIELDS, { strategy, data: { a: 3, c: 5, updated_at: 'p' } })).toEqual({
      kind: 'WRITE',
      strategy,
      change: 'UPDATE',
      row: { ...server, a: 3, c: 5 },
      changed: ['a', 'c'],
      superseded: ['/c', '/doc/x'],
      overwritten: ['/a'],
      outcome: 'MERGED',
    });
    expect(resolveByPerson(FIELDS, { strategy, data: { a: 9, c: null } })).toMatchObject({
      row: { ...server, a: 9, c: null },
      superseded: ['/a', '/c', '/doc/x'],
      outcome: 'SUPERSEDED',
    });
    expect(resolveByPerson(FIELDS, { strategy, data: { b: 2 } })).toMatchObject({
      kind: 'KEEP',
      outcome: 'SUPERSEDED',
    });
    expect(
      resolveByPerson(FIELDS, { strategy, data: { ...base, a: 3, c: 3, doc: { x: 3, y: 1 } } }),
    ).toMatchObject({
      row: { a: 3, b: 1, c: 3, doc: { x: 3, y: 1 } },
      superseded: [],
      outcome: 'APPLIED',
    });
  });

  it('names only what the client had said', () => {
    expect(resolveByPerson(UNKNOWN_BASE, { strategy, data: { a: 3, b: 8, c: 3 } })).toMatchObject({
      superseded: ['/doc/x'],
      outcome: 'MERGED',
    });
    expect(resolveByPerson(CREATE_CREATE, { strategy, data: { a: 9, b: 8 } })).toMatchObject({
      row: { a: 9, b: 8 },
      superseded: ['/d'],
    });
  });

  it('deletes, or leaves it deleted', () => {
    expect(resolveByPerson(FIELDS, { strategy, data: null })).toMatchObject({
      change: 'DELETE',
      superseded: ['/a', '/c', '/doc'],
      outcome: 'SUPERSEDED',
    });
    expect(resolveByPerson(DELETE_UPDATE, { strategy, data: null })).toMatchObject({
      change: 'DELETE',
      superseded: [],
      outcome: 'APPLIED',
    });
    expect(resolveByPerson(UPDATE_DELETE, { strategy, data: null })).toMatchObject({
      kind: 'KEEP',
      superseded: ['/a', '/c', '/doc/x'],
      outcome: 'SUPERSEDED',
    });
  });

  it('keeps or creates a row instead', () => {
    expect(resolveByPerson(DELETE_UPDATE, { strategy, data: { c: 7 } })).toMatchObject({
      change: 'UPDATE',
      row: { ...server, c: 7 },
      superseded: [''],
      outcome: 'SUPERSEDED',
    });
    expect(
      resolveByPerson(UPDATE_DELETE, { strategy, data: { a: 3, n: null, updated_at: 'p' } }),
    ).toMatchObject({
      change: 'CREATE',
      row: { a: 3 },
      superseded: ['/c', '/doc'],
      outcome: 'MERGED',
    });
  });

  it('takes the sum of a counter for what it is', () => {
    const conflict = conflictOf({
      base: known({ a: 1, n: 1 }),
      server: visible({ a: 2, n: 5 }),
      payload: { a: 3, n: 2 },
      policies: { '/n': 'COUNTER' },
    });
    expect(resolveByPerson(conflict, { strategy, data: { a: 3, n: 2 } })).toMatchObject({ superseded: [] });
  });
});
