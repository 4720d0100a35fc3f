import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { signedText } from '../../src/sync/base-signature.ts';
import { canonicalJson, canonicalRow, canonicalValue, sameValue } from '../../src/sync/canonical.ts';
import { type DetectionInput, detectConflict } from '../../src/sync/detect.ts';
import { pointer, stepsOf } from '../../src/sync/json-pointer.ts';
import { clientImage, mergePatch } from '../../src/sync/merge-patch.ts';
import { resolveAutomatically, resolveByPerson } from '../../src/sync/resolve.ts';
import { type MergeInput, mergeRows } from '../../src/sync/three-way-merge.ts';
import type { Json } from '../../src/types/ids.ts';
import { CONFLICT_STRATEGIES, type EntityRow, SYNC_OPERATIONS } from '../../src/types/offline-sync.ts';
import type { EntityShape, FieldKind, MergePolicy } from '../../src/types/sync-handler.ts';

type Policies = { readonly [path: string]: MergePolicy };
type JsonObject = { readonly [key: string]: Json };

const PLAIN: EntityShape = { kinds: {}, serverOwned: [] };
const many = { numRuns: 2000 };

/** Few names and values, so that sides often agree. */
const name = fc.constantFrom('a', 'b', 'c', 'x/y', '~0', '__proto__', 'constructor', '*');
const scalar = fc.constantFrom<Json>(0, 1, 2, '1', '', null, true);
const objectOf = (value: fc.Arbitrary<Json>, size = 4): fc.Arbitrary<JsonObject> =>
  fc.array(fc.tuple(name, value), { maxLength: size }).map((entries) => Object.fromEntries(entries));
const entry = fc
  .tuple(fc.constantFrom<Json>('k1', 'k2', 'k3', 'k4'), objectOf(scalar, 2))
  .map(([id, rest]): Json => ({ ...rest, id }));
const list: fc.Arbitrary<Json> = fc.oneof(
  fc.array(scalar, { maxLength: 4 }),
  fc.uniqueArray(entry, { maxLength: 4, selector: (one) => Reflect.get(Object(one), 'id') }),
  fc.array(fc.oneof(entry, scalar), { maxLength: 3 }),
);
const value: fc.Arbitrary<Json> = fc.letrec<{ value: Json }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    scalar,
    list,
    objectOf(tie('value')),
    objectOf(tie('value')),
  ),
})).value;
const row: fc.Arbitrary<EntityRow> = objectOf(value, 6);
/** The same with some columns replaced, so that most of it is as it was. */
const edited = (from: EntityRow): fc.Arbitrary<EntityRow> =>
  fc.array(fc.tuple(name, fc.option(value, { nil: undefined })), { maxLength: 3 }).map((edits) => {
    const columns = new Map(Object.entries(from));
    for (const [column, to] of edits)
      if (to === undefined) columns.delete(column);
      else columns.set(column, to);
    return Object.fromEntries(columns);
  });
const sides = fc.oneof(
  fc.tuple(row, row, row),
  row.chain((base) => fc.tuple(fc.constant(base), edited(base), edited(base))),
);
const path = fc.oneof(
  name.map((column) => pointer([column])),
  fc.tuple(name, name).map(pointer),
  fc.tuple(name, fc.constant('*'), name).map(pointer),
);
/** Those under which the laws hold. */
const lawful: fc.Arbitrary<Policies> = fc.dictionary(
  path,
  fc.constantFrom<MergePolicy>('ATOMIC', 'SET', { keyedBy: 'id' }),
  { maxKeys: 4 },
);
const anyPolicies: fc.Arbitrary<Policies> = fc.dictionary(
  path,
  fc.constantFrom<MergePolicy>('ATOMIC', 'SET', 'COUNTER', { keyedBy: 'id' }, { append: 'id' }),
  { maxKeys: 6 },
);

function frozen<T extends Json>(given: T): T {
  if (typeof given === 'object' && given !== null)
    for (const inner of Object.values(Object.freeze(given))) frozen(inner);
  return given;
}

const merge = (
  base: EntityRow | undefined,
  server: EntityRow,
  client: EntityRow,
  more: Partial<MergeInput> = {},
) => mergeRows({ base, server, client, shape: PLAIN, policies: {}, operationId: 'op', ...more });
/** What a row means: columns that are null are absent. */
const meaning = (of: EntityRow): string => canonicalJson(canonicalRow(of, PLAIN));
/** The same whatever the order of arrays. */
function unordered(given: Json): Json {
  if (Array.isArray(given))
    return given.map(unordered).sort((a, b) => (canonicalJson(a) < canonicalJson(b) ? -1 : 1));
  if (typeof given !== 'object' || given === null) return given;
  return Object.fromEntries(Object.entries(given).map(([key, inner]) => [key, unordered(inner)]));
}

describe('the laws of the merge', () => {
  it('merge(B,S,B) = S, merge(B,B,C) = C, merge(B,X,X) = X', () => {
    fc.assert(
      fc.property(sides, lawful, ([b, s, c], policies) => {
        const unchanged = merge(b, s, b, { policies });
        expect(unchanged).toMatchObject({ conflicts: [], clientChanged: [], outstanding: [] });
        expect(meaning(unchanged.merged)).toBe(meaning(s));
        const alone = merge(b, b, c, { policies });
        expect(alone).toMatchObject({ conflicts: [], serverChanged: [] });
        expect(meaning(alone.merged)).toBe(meaning(c));
        const alike = merge(b, s, s, { policies });
        expect(alike).toMatchObject({ conflicts: [], outstanding: [] });
        expect(meaning(alike.merged)).toBe(meaning(s));
        const unknown = merge(undefined, s, s, { policies });
        expect(unknown).toMatchObject({ conflicts: [], clientChanged: [] });
        expect(meaning(unknown.merged)).toBe(meaning(s));
      }),
      many,
    );
  });

  it('is idempotent: once merged there is nothing more to take', () => {
    fc.assert(
      fc.property(sides, lawful, ([b, s, c], policies) => {
        const once = merge(b, s, c, { policies });
        const again = merge(b, once.merged, c, { policies });
        expect(meaning(again.merged)).toBe(meaning(once.merged));
        expect(again.conflicts.map((one) => one.path)).toEqual(
          expect.arrayContaining(once.conflicts.map((one) => one.path)),
        );
        if (once.conflicts.length === 0) expect(again.conflicts).toEqual([]);
      }),
      many,
    );
  });

  it('does not depend on the order of keys', () => {
    const turned = (given: Json): Json => {
      if (Array.isArray(given)) return given.map(turned);
      if (typeof given !== 'object' || given === null) return given;
      return Object.fromEntries(
        Object.entries(given)
          .map(([key, inner]) => [key, turned(inner)])
          .toReversed(),
      );
    };
    const turnedRow = (of: EntityRow): EntityRow =>
      Object.fromEntries(
        Object.entries(of)
          .map(([key, inner]) => [key, turned(inner)])
          .toReversed(),
      );
    fc.assert(
      fc.property(sides, anyPolicies, ([b, s, c], policies) => {
        const found = merge(b, s, c, { policies });
        const other = merge(turnedRow(b), turnedRow(s), turnedRow(c), { policies });
        expect(meaning(other.merged)).toBe(meaning(found.merged));
        const sorted = (list: readonly unknown[]): readonly string[] =>
          list.map((one) => JSON.stringify(one)).sort();
        const paths = (of: typeof found): readonly string[] => of.conflicts.map((one) => one.path);
        expect(sorted(paths(other))).toEqual(sorted(paths(found)));
        expect(sorted(other.clientChanged)).toEqual(sorted(found.clientChanged));
        expect(sorted(other.serverChanged)).toEqual(sorted(found.serverChanged));
        expect(sorted(other.outstanding)).toEqual(sorted(found.outstanding));
      }),
      many,
    );
  });

  it('finds the same conflicts from either side', () => {
    fc.assert(
      fc.property(sides, lawful, ([b, s, c], policies) => {
        const [here, there] = [merge(b, s, c, { policies }), merge(b, c, s, { policies })];
        const swapped = there.conflicts.map((one) => one.path).sort();
        expect(here.conflicts.map((one) => one.path).sort()).toEqual(swapped);
        expect(here.clientChanged.toSorted()).toEqual(there.serverChanged.toSorted());
        // Lists that are sets or keyed have the order of the one that is the server.
        if (here.conflicts.length === 0 && !hasRepeats(b, s, c))
          expect(canonicalJson(unordered(canonicalRow(here.merged, PLAIN)))).toBe(
            canonicalJson(unordered(canonicalRow(there.merged, PLAIN))),
          );
        // Decided for the client, what conflicts is as if he were the server.
        const forClient = mergeRows(
          { base: b, server: s, client: c, shape: PLAIN, policies: {} },
          () => 'CLIENT',
        );
        expect(meaning(forClient.merged)).toBe(meaning(merge(b, c, s).merged));
      }),
      many,
    );
  });

  it('changes nothing that it is given, and throws for nothing', () => {
    fc.assert(
      fc.property(
        sides,
        anyPolicies,
        fc.constantFrom('MERGE' as const, 'ASK' as const),
        ([b, s, c], policies, disjoint) => {
          merge(frozen(b), frozen(s), frozen(c), { policies, disjoint });
          merge(undefined, s, c, { policies, disjoint });
          expect(Object.getPrototypeOf({})).toBe(Object.prototype);
          expect(Object.keys(Object.prototype)).toEqual([]);
        },
      ),
    );
  });
});

/** A set does not keep a value twice, so that which side repeats one tells. */
function hasRepeats(...rows: readonly EntityRow[]): boolean {
  const repeats = (given: Json): boolean => {
    if (typeof given !== 'object' || given === null) return false;
    const inner = Object.values(given);
    const twice = Array.isArray(given) && new Set(inner.map(canonicalJson)).size < inner.length;
    return twice || inner.some(repeats);
  };
  return rows.some((one) => Object.values(one).some(repeats));
}

describe('against models', () => {
  /** Leaves of one document, by their place in it. */
  const LEAVES = ['a', 'b', 'c/a', 'c/b', 'c/c/a', 'c/c/b', 'd/a'] as const;
  const leaves = fc.dictionary(fc.constantFrom(...LEAVES), fc.nat(3), { minKeys: 3 });
  /** Branches are always there, so that only leaves are added and removed. */
  const documentOf = (of: { readonly [leaf: string]: number }): EntityRow => {
    const at = (prefix: string): [string, Json][] =>
      ['a', 'b', 'c'].flatMap((key): [string, Json][] => {
        const found = of[`${prefix}${key}`];
        return found === undefined ? [] : [[key, found]];
      });
    const inner = Object.fromEntries(at('c/c/'));
    const middle = { ...Object.fromEntries(at('c/')), c: inner };
    return { doc: { ...Object.fromEntries(at('')), c: middle, d: Object.fromEntries(at('d/')) } };
  };

  it('merges leaf by leaf', () => {
    fc.assert(
      fc.property(leaves, leaves, leaves, (b, s, c) => {
        const expected: { [leaf: string]: number } = {};
        const conflicts: string[] = [];
        for (const leaf of LEAVES) {
          const winner = c[leaf] === b[leaf] ? s[leaf] : s[leaf] === b[leaf] ? c[leaf] : s[leaf];
          if (winner !== undefined) expected[leaf] = winner;
          if (
            new Set([b[leaf], s[leaf], c[leaf]]).size === 3 ||
            (s[leaf] !== c[leaf] && s[leaf] !== b[leaf] && c[leaf] !== b[leaf])
          )
            conflicts.push(`/doc/${leaf}`);
        }
        const found = merge(documentOf(b), documentOf(s), documentOf(c));
        expect(found.merged).toEqual(documentOf(expected));
        expect(found.conflicts.map((one) => one.path).sort()).toEqual(conflicts.sort());
        expect(found.clientChanged.toSorted()).toEqual(
          LEAVES.filter((leaf) => c[leaf] !== b[leaf])
            .map((leaf) => `/doc/${leaf}`)
            .sort(),
        );
        expect(found.outstanding.toSorted()).toEqual(
          LEAVES.filter((leaf) => c[leaf] !== b[leaf] && c[leaf] !== s[leaf])
            .map((leaf) => `/doc/${leaf}`)
            .sort(),
        );
      }),
      many,
    );
  });

  it('merges keyed arrays as it would objects', () => {
    const byKey = fc.dictionary(fc.constantFrom('k1', 'k2', 'k3', 'k4', 'k/5'), objectOf(scalar, 3));
    const listOf = (of: JsonObject): EntityRow => ({
      list: Object.entries(of).map(([id, rest]) => ({ ...Object(rest), id })),
    });
    const objectOfKeys = (of: JsonObject): EntityRow => ({
      list: Object.fromEntries(Object.entries(of).map(([id, rest]) => [id, { ...Object(rest), id }])),
    });
    fc.assert(
      fc.property(byKey, byKey, byKey, (b, s, c) => {
        const asList = merge(listOf(b), listOf(s), listOf(c), { policies: { '/list': { keyedBy: 'id' } } });
        const asObject = merge(objectOfKeys(b), objectOfKeys(s), objectOfKeys(c));
        expect(canonicalJson(unordered(asList.merged.list ?? null))).toBe(
          canonicalJson(unordered(Object.values(Object(asObject.merged.list)))),
        );
        // Of whole arrays that did not differ nothing is said.
        expect(asList.conflicts.map((one) => one.path).sort()).toEqual(
          asObject.conflicts.map((one) => one.path).sort(),
        );
      }),
      many,
    );
  });

  it('merges sets as sets', () => {
    const set = fc.uniqueArray(fc.nat(6), { maxLength: 6 });
    fc.assert(
      fc.property(set, set, set, (b, s, c) => {
        const found = merge({ tags: b }, { tags: s }, { tags: c }, { policies: { '/tags': 'SET' } });
        const [B, S, C] = [new Set(b), new Set(s), new Set(c)];
        const expected = new Set(
          [...S, ...C].filter((one) => (B.has(one) ? S.has(one) && C.has(one) : S.has(one) || C.has(one))),
        );
        expect(found.conflicts).toEqual([]);
        expect(new Set(Object.values(Object(found.merged.tags)))).toEqual(expected);
      }),
      many,
    );
  });

  it('adds to lists that grow', () => {
    const keys = fc.uniqueArray(fc.constantFrom('1', '2', '3', '4', '5', '6'), { maxLength: 6 });
    const entries = (ids: readonly string[]): Json => ids.map((id) => ({ id }));
    fc.assert(
      fc.property(keys, keys, keys, (b, s, c) => {
        const [base, server, client] = [{ log: entries(b) }, { log: entries(s) }, { log: entries(c) }];
        const found = merge(base, server, client, { policies: { '/log': { append: 'id' } } });
        const added = c.filter((id) => !b.includes(id) && !s.includes(id));
        expect(found.merged.log).toEqual(entries([...s, ...added]));
        expect(found.outstanding).toEqual(added.map((id) => `/log/${id}`));
        const again = merge(base, found.merged, client, { policies: { '/log': { append: 'id' } } });
        expect(again).toMatchObject({ merged: found.merged, outstanding: [] });
      }),
      many,
    );
  });

  it('counts exactly, in any order of arrival', () => {
    const cents = fc.bigInt({ min: -(10n ** 25n), max: 10n ** 25n });
    const text = (of: bigint): string => {
      const digits = String(of < 0n ? -of : of).padStart(3, '0');
      return `${of < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`;
    };
    const shape: EntityShape = { kinds: { n: 'NUMBER' }, serverOwned: [] };
    fc.assert(
      fc.property(cents, fc.array(cents, { minLength: 1, maxLength: 4 }), (start, changes) => {
        let server: EntityRow = { n: text(start) };
        for (const change of changes) {
          const client = { n: text(start + change) };
          const found = merge({ n: text(start) }, server, client, { shape, policies: { '/n': 'COUNTER' } });
          expect(found.conflicts).toEqual([]);
          server = found.merged;
        }
        const sum = changes.reduce((total, change) => total + change, start);
        expect(sameValue(server.n, text(sum), 'NUMBER')).toBe(true);
      }),
    );
  });

  it('patches as the RFC’s pseudocode does', () => {
    const isObject = (given: Json | undefined): given is JsonObject =>
      typeof given === 'object' && given !== null && !Array.isArray(given);
    // RFC 7396, section 2, over lists of pairs, since names may be JavaScript's.
    const model = (target: Json | undefined, patch: Json): Json => {
      if (!isObject(patch)) return patch;
      let pairs = isObject(target) ? Object.entries(target) : [];
      for (const [key, to] of Object.entries(patch)) {
        const before = pairs.find(([own]) => own === key)?.[1];
        pairs = pairs.filter(([own]) => own !== key);
        if (to !== null) pairs.push([key, model(before, to)]);
      }
      return Object.fromEntries(pairs);
    };
    fc.assert(
      fc.property(value, value, (target, patch) => {
        expect(canonicalJson(mergePatch(frozen(target), frozen(patch)))).toBe(
          canonicalJson(model(target, patch)),
        );
      }),
      many,
    );
  });
});

describe('canonical values', () => {
  const spelled = fc
    .tuple(fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n }), fc.integer({ min: -60, max: 60 }))
    .chain(([mantissa, exponent]) =>
      fc
        .tuple(fc.nat(5), fc.nat(5), fc.nat(40), fc.constantFrom('e', 'E'), fc.boolean())
        .map(([lead, trail, shift, e, plus]) => {
          // mantissa × 10^exponent with its point moved and zeros on both sides.
          const digits = String(mantissa < 0n ? -mantissa : mantissa).padStart(shift + 1, '0');
          const whole = digits.slice(0, digits.length - shift);
          const fraction = `${digits.slice(digits.length - shift)}${'0'.repeat(trail)}`;
          const sign = mantissa < 0n ? '-' : plus ? '+' : '';
          return {
            mantissa,
            exponent,
            text: `${sign}${'0'.repeat(lead)}${whole}${fraction === '' ? '' : `.${fraction}`}${e}${exponent + shift}`,
          };
        }),
    );

  it('are the same exactly where numbers are', () => {
    fc.assert(
      fc.property(spelled, spelled, fc.boolean(), (a, other, near) => {
        const b = near
          ? {
              ...other,
              mantissa: a.mantissa * 10n,
              exponent: a.exponent - 1,
              text: `${a.mantissa * 10n}e${a.exponent - 1}`,
            }
          : other;
        const scaled = ({ mantissa, exponent }: typeof a): bigint => mantissa * 10n ** BigInt(exponent + 61);
        expect(sameValue(a.text, b.text, 'NUMBER')).toBe(scaled(a) === scaled(b));
        const written = canonicalValue(a.text, 'NUMBER');
        expect(canonicalValue(written, 'NUMBER')).toBe(written);
        expect(Number(written)).toBe(Number(a.text));
      }),
      many,
    );
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (number) => {
        expect(Number(canonicalValue(number, 'NUMBER'))).toBe(number === 0 ? 0 : number);
        expect(sameValue(number, String(number), 'NUMBER')).toBe(true);
      }),
    );
  });

  it('are the same exactly where instants are', () => {
    const micros = fc.integer({ min: -60_000_000_000_000_000 / 10, max: 250_000_000_000_000_0 });
    const written = fc.tuple(
      fc.integer({ min: -959, max: 959 }),
      fc.constantFrom(' ', 'T'),
      fc.nat(3),
      fc.boolean(),
    );
    const spell = (
      at: number,
      [offset, separator, zeros, colon]: readonly [number, string, number, boolean],
    ): string => {
      const local = new Date(Math.floor(at / 1000) + offset * 60_000);
      const fraction = String(((at % 1_000_000) + 1_000_000) % 1_000_000).padStart(6, '0');
      const part = (of: number): string => String(of).padStart(2, '0');
      const minutes = Math.abs(offset);
      const zone = `${offset < 0 ? '-' : '+'}${part(Math.floor(minutes / 60))}${colon ? ':' : ''}${part(minutes % 60)}`;
      return `${local.toISOString().slice(0, 19).replace('T', separator)}.${fraction}${'0'.repeat(zeros)}${zone}`;
    };
    fc.assert(
      fc.property(
        micros,
        written,
        written,
        fc.constantFrom(0, 0, 1, -1, 1_000_000),
        (at, one, other, apart) => {
          const [a, b] = [spell(at, one), spell(at + apart, other)];
          expect(sameValue(a, b, 'INSTANT')).toBe(apart === 0);
          expect(canonicalValue(a, 'INSTANT')).toMatch(
            /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{0,5}[1-9])?Z$/,
          );
          expect(Date.parse(String(canonicalValue(a, 'INSTANT')))).toBe(Math.floor(at / 1000));
        },
      ),
      many,
    );
  });

  it('as JSON are one text for what is the same, and two for what is not', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), value, value, (a, b, c, d) => {
        const [one, other]: readonly Json[] = JSON.parse(JSON.stringify([a, b]));
        for (const [x, y] of [
          [one, other],
          [c, d],
          [one, one],
        ]) {
          const [s, t] = [canonicalJson(x ?? null), canonicalJson(y ?? null)];
          expect(JSON.parse(s)).toEqual(x);
          expect(s === t).toBe(deepEqual(x ?? null, y ?? null));
        }
        const text = (of: Json): string =>
          signedText({ organizationId: 'o', entityType: 't', entityId: 'e', version: 1, row: { of } });
        expect(text(c) === text(d)).toBe(deepEqual(c, d));
      }),
    );
  });

  it('come of anything', () => {
    const kinds: readonly FieldKind[] = ['TEXT', 'NUMBER', 'BOOLEAN', 'INSTANT', 'DATE', 'UUID', 'DOCUMENT'];
    const odd = fc.oneof(
      fc.jsonValue(),
      value,
      fc.string({ unit: fc.constantFrom(...'0123456789.-+eE:TZ ') }),
      fc.stringMatching(/^\d{4,6}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d(:\d\d)?|Z)$/),
    );
    fc.assert(
      fc.property(odd, fc.constantFrom(...kinds), (given, kind) => {
        const json: Json = JSON.parse(JSON.stringify(given));
        const written = canonicalValue(json, kind);
        expect(canonicalValue(written, kind)).toEqual(written);
        expect(sameValue(json, written, kind)).toBe(true);
      }),
      many,
    );
  });

  it('have paths that lead back', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: fc.constantFrom('/', '~', '0', '1', 'a', 'é', '') })),
        (steps) => {
          expect(stepsOf(pointer(steps))).toEqual(steps);
        },
      ),
    );
  });
});

function deepEqual(a: Json, b: Json): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a === b;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [left, right] = [new Map(Object.entries(a)), new Map(Object.entries(b))];
  if (left.size !== right.size) return false;
  return [...left].every(([key, inner]) => right.has(key) && deepEqual(inner, right.get(key) ?? null));
}

describe('no edit is lost', () => {
  const input: fc.Arbitrary<DetectionInput> = sides.chain(([b, s, c]) =>
    fc.record({
      operation: fc.constantFrom(...SYNC_OPERATIONS),
      payload: fc.constant(c),
      base: fc.constantFrom(
        { known: true, row: b } as const,
        { known: true, row: b } as const,
        { known: true, row: null } as const,
        { known: false } as const,
      ),
      server: fc.record({
        state: fc.constantFrom('VISIBLE', 'VISIBLE', 'VISIBLE', 'HIDDEN', 'DELETED', 'ABSENT'),
        row: fc.constant(s),
        everExisted: fc.boolean(),
      }),
      shape: fc.constant(PLAIN),
      policies: fc.constant({}),
      mergeDisjoint: fc.boolean(),
      operationId: fc.constant('op'),
    }),
  );
  /** What a path leads to, by its steps. */
  const at = (of: EntityRow | null, where: string): Json | undefined => {
    let found: Json | undefined = of ?? undefined;
    for (const step of stepsOf(where) ?? []) {
      const holder: Json | undefined = found;
      found =
        typeof holder === 'object' && holder !== null && Object.hasOwn(holder, step)
          ? Reflect.get(holder, step)
          : undefined;
    }
    // In columns null is absent.
    return found === null && stepsOf(where)?.length === 1 ? undefined : found;
  };
  const present = (one: DetectionInput): EntityRow | null =>
    one.server.state === 'VISIBLE' ? one.server.row : null;
  /** What the client has, and its changes, told by a merge with its base; where that is unknown, with the server's row. */
  const changesOf = (
    one: DetectionInput,
  ): { readonly image: EntityRow | null; readonly paths: readonly string[] } => {
    const from = one.operation === 'CREATE' ? null : one.base.known ? one.base.row : present(one);
    const image = clientImage(one.operation, from, one.payload) ?? null;
    if (image === null) return { image, paths: [''] };
    return { image, paths: merge(from ?? {}, from ?? {}, image).clientChanged };
  };
  /** Members of objects stand beside others. */
  const holds = (holder: Json | undefined, wanted: Json | undefined): boolean => {
    const objects = [holder, wanted].every(
      (one) => typeof one === 'object' && one !== null && !Array.isArray(one),
    );
    if (!objects) return sameValue(holder, wanted, undefined);
    const members = new Map<string, Json>(Object.entries(Object(holder)));
    return Object.entries<Json>(Object(wanted)).every(
      ([key, inner]) => members.has(key) && holds(members.get(key), inner),
    );
  };
  const stands = (of: EntityRow | null, image: EntityRow | null, where: string): boolean =>
    image === null || where === '' ? of === image : holds(at(of, where), at(image, where));
  const covers = (given: readonly string[], where: string): boolean =>
    given.some((one) => where === one || where.startsWith(`${one}/`) || one.startsWith(`${where}/`));

  it('is written, in a conflict, or there already', () => {
    fc.assert(
      fc.property(input, (one) => {
        const found = detectConflict(one);
        const { image, paths } = changesOf(one);
        const server = present(one);
        if (found.kind === 'WRITE' || found.kind === 'NOTHING') {
          const after = found.kind === 'WRITE' ? found.row : server;
          for (const where of paths) expect(stands(after, image, where)).toBe(true);
          // Nor is what the server changed.
          if (
            found.kind === 'WRITE' &&
            found.change === 'UPDATE' &&
            one.base.known &&
            one.base.row !== null
          ) {
            const own = merge(one.base.row, one.base.row, server ?? {}).clientChanged;
            for (const where of own) expect(stands(found.row, server, where)).toBe(true);
          }
          if (found.kind === 'WRITE' && found.change === 'DELETE')
            expect(one.base.known && meaning(one.base.row ?? {}) === meaning(server ?? {})).toBe(true);
        }
        if (found.kind === 'CONFLICT' && found.client !== null && found.server !== null && one.base.known)
          for (const where of paths)
            expect(
              covers(
                found.fields.map((field) => field.path),
                where,
              ) || stands(found.merged, image, where),
            ).toBe(true);
      }),
      many,
    );
  });

  it('is written, or named as given up, whatever decides', () => {
    const side = fc.constantFrom('CLIENT' as const, 'SERVER' as const);
    const decision = fc.record({
      strategy: fc.constantFrom(...CONFLICT_STRATEGIES),
      fields: fc.dictionary(fc.oneof(path, fc.constant('')), side, { maxKeys: 4 }),
      data: fc.option(row, { nil: null }),
      newest: side.map((one) => () => one),
    });
    fc.assert(
      fc.property(input, decision, (one, decided) => {
        const conflict = detectConflict(one);
        fc.pre(conflict.kind === 'CONFLICT');
        const { image, paths } = changesOf(one);
        const server = present(one);
        const byStrategy = resolveAutomatically(conflict, {
          strategies: [decided.strategy],
          fieldStrategies: Object.fromEntries(
            Object.entries(decided.fields).map(([where, who]) => [where, `${who}_WINS` as const]),
          ),
          newest: decided.newest,
        });
        for (const resolution of [resolveByPerson(conflict, decided), byStrategy]) {
          if (resolution === undefined || resolution.kind === 'MANUAL' || resolution.kind === 'CUSTOM')
            continue;
          const after = resolution.kind === 'KEEP' ? server : resolution.row;
          const lost = paths.filter((where) => !stands(after, image, where));
          for (const where of lost) expect(covers(resolution.superseded, where)).toBe(true);
          if (resolution.outcome === 'APPLIED') expect(lost).toEqual([]);
          // Nor is what the server changed without being named; and nothing is named that stands.
          if (server !== null && one.base.known) {
            const from = (one.operation === 'CREATE' ? null : one.base.row) ?? {};
            for (const where of merge(from, from, server).clientChanged)
              expect(stands(after, server, where) || covers(resolution.overwritten, where)).toBe(true);
          }
          for (const where of resolution.overwritten)
            expect(sameValue(at(after, where), at(server, where), undefined)).toBe(false);
          if (resolution.outcome === 'SUPERSEDED' && after !== null)
            for (const where of paths) {
              const wanted = at(image, where);
              const taken = wanted !== undefined && sameValue(at(after, where), wanted, undefined);
              expect(taken && !sameValue(at(server, where), wanted, undefined)).toBe(false);
            }
          // A deletion of what may not be seen is given up whole.
          if (one.server.state === 'HIDDEN' && one.operation === 'DELETE') {
            expect(resolution).toMatchObject({ outcome: 'SUPERSEDED', superseded: [''] });
            continue;
          }
          // Nothing is named that stands.
          if (one.base.known)
            for (const given of resolution.superseded)
              expect(given !== '' && sameValue(at(after, given), at(conflict.client, given), undefined)).toBe(
                after === null && at(conflict.client, given) === undefined,
              );
          if (resolution.kind === 'WRITE') {
            expect(
              resolution.row === null
                ? server !== null
                : meaning(resolution.row) !== meaning(server ?? {}) || server === null,
            ).toBe(true);
            expect(resolution.change).toBe(
              resolution.row === null ? 'DELETE' : server === null ? 'CREATE' : 'UPDATE',
            );
          }
        }
      }),
      many,
    );
  });
});
