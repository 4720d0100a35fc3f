import type { Json, UUID } from '../types/ids.ts';
import type { EntityRow, FieldConflict } from '../types/offline-sync.ts';
import type { EntityShape, FieldKind, MergePolicy } from '../types/sync-handler.ts';
import { kindOf, sameValue } from './canonical.ts';
import { addDecimals, canonicalDecimal } from './decimals.ts';
import { isList, isObject, type JsonObject, own, type Slot } from './json-object.ts';
import { type PathRule, pathRules, pointer, ruleFor } from './json-pointer.ts';
import { type Entries, entriesByKey, growingEntries, mergeSets, orderOf } from './merge-arrays.ts';

export type Side = 'CLIENT' | 'SERVER';

export interface MergeInput {
  /** undefined: nobody knows it; then whatever differs conflicts. */
  readonly base: EntityRow | undefined;
  readonly server: EntityRow;
  readonly client: EntityRow;
  readonly shape: EntityShape;
  /**
   * By JSON Pointer. The step `*` stands for any one, such as the entries of a keyed array: their own step is their key.
   */
  readonly policies: { readonly [path: string]: MergePolicy };
  /** The key of entries that are appended without one. */
  readonly operationId?: UUID | undefined;
  /** ASK: what only the client changed conflicts too. MERGE where left out. */
  readonly disjoint?: 'MERGE' | 'ASK';
}

export interface Merged {
  readonly merged: EntityRow;
  readonly conflicts: readonly FieldConflict[];
  /** Paths (JSON Pointers) that each side changed. Without a base: in which the client differs, and none. */
  readonly clientChanged: readonly string[];
  readonly serverChanged: readonly string[];
  /** Paths of what the client changed and the server does not have. */
  readonly outstanding: readonly string[];
}

/**
 * Three-way merge of two rows that go back to one base, path by path: what one side left alone is the other's; what both
 * changed alike is that; what both changed differently conflicts, and is the side's that `sideOf` says. Objects are
 * merged member by member; in them absent is not null, while in columns it is. Removing against changing conflicts,
 * and so does another type. Arrays are one value unless a policy says otherwise. Columns of the server's own are the
 * server's. Values that mean the same are the server's. Never throws.
 *
 * Laws, without COUNTER and append: merge(B,S,B) = S, merge(B,B,C) = C, merge(B,X,X) = X; it is idempotent, and the order
 * of keys does not matter.
 */
export function mergeRows(input: MergeInput, sideOf: (path: string) => Side = () => 'SERVER'): Merged {
  const { base, server, client, shape } = input;
  const walk = new Walk(input, sideOf);
  const merged = new Map(Object.entries(server));
  for (const column of namesIn(server, client, base ?? {})) {
    if (shape.serverOwned.includes(column)) continue;
    const place = { steps: [column], kind: kindOf(shape, column) };
    const value = walk.value(place, {
      base: base === undefined ? UNKNOWN : columnOf(base, column),
      server: columnOf(server, column),
      client: columnOf(client, column),
    });
    // A column that the server has stays in the row, as null.
    if (value !== undefined) merged.set(column, value);
    else if (merged.has(column)) merged.set(column, null);
  }
  return { merged: Object.fromEntries(merged), ...walk.found };
}

const columnOf = (row: EntityRow, column: string): Slot => own(row, column) ?? undefined;

const namesIn = (...objects: readonly JsonObject[]): ReadonlySet<string> =>
  new Set(objects.flatMap((object) => Object.keys(object)));

const UNKNOWN = Symbol('unknown base');

interface Sides {
  readonly base: Slot | typeof UNKNOWN;
  readonly server: Slot;
  readonly client: Slot;
}

interface Known extends Sides {
  readonly base: Slot;
}

interface Place {
  readonly steps: readonly string[];
  /** Of a column; within documents undefined. */
  readonly kind: FieldKind | undefined;
}

interface Found {
  readonly conflicts: FieldConflict[];
  readonly clientChanged: string[];
  readonly serverChanged: string[];
  readonly outstanding: string[];
}

/** What is nested deeper is one value. */
const DEEPEST = 100;

class Walk {
  readonly found: Found = { conflicts: [], clientChanged: [], serverChanged: [], outstanding: [] };
  readonly #policies: readonly PathRule<MergePolicy>[];
  readonly #operationId: UUID | undefined;
  readonly #disjoint: 'MERGE' | 'ASK';
  readonly #sideOf: (path: string) => Side;

  constructor({ policies, operationId, disjoint = 'MERGE' }: MergeInput, sideOf: (path: string) => Side) {
    this.#policies = pathRules(policies);
    this.#operationId = operationId;
    this.#disjoint = disjoint;
    this.#sideOf = sideOf;
  }

  value(place: Place, sides: Sides): Slot {
    const { base, server, client } = sides;
    const nests = (place.kind === undefined || place.kind === 'DOCUMENT') && place.steps.length < DEEPEST;
    if (!nests || !isObject(server) || !isObject(client)) return this.#whole(place, sides);
    if (base === UNKNOWN) return this.#members(place, UNKNOWN, server, client);
    if (isObject(base)) return this.#members(place, base, server, client);
    if (base !== undefined) return this.#whole(place, sides);
    // Members of an object that both have added are noted each for itself; one without members would not be.
    if (Object.keys(client).length === 0) this.#note(place, 'CLIENT');
    if (Object.keys(server).length === 0) this.#note(place, 'SERVER');
    return this.#members(place, {}, server, client);
  }

  #members(
    place: Place,
    base: JsonObject | typeof UNKNOWN,
    server: JsonObject,
    client: JsonObject,
  ): JsonObject {
    const merged = new Map<string, Json>();
    for (const name of namesIn(server, client, base === UNKNOWN ? {} : base)) {
      const value = this.value(within(place, name), {
        base: base === UNKNOWN ? UNKNOWN : own(base, name),
        server: own(server, name),
        client: own(client, name),
      });
      if (value !== undefined) merged.set(name, value);
    }
    return Object.fromEntries(merged);
  }

  /** What is no object on both sides. */
  #whole(place: Place, { base, server, client }: Sides): Slot {
    const alike = sameValue(client, server, place.kind);
    if (base === UNKNOWN) {
      if (alike) return server;
      this.#note(place, 'CLIENT');
      return this.#dispute(place, { base, server, client }, client);
    }
    const serverKept = sameValue(server, base, place.kind);
    if (sameValue(client, base, place.kind)) {
      if (!serverKept) this.#note(place, 'SERVER');
      return server;
    }
    const policy = this.#policyOf(place);
    const sides = { base, server, client };
    const entries =
      this.#grown(place, policy, sides) ??
      (serverKept || alike ? undefined : this.#keyed(place, policy, sides));
    if (entries !== undefined) return entries;
    this.#note(place, 'CLIENT');
    if (!serverKept) this.#note(place, 'SERVER');
    const sum = policy === 'COUNTER' ? counted(sides, place.kind) : undefined;
    if (sum !== undefined) return this.#take(place, sides, sum);
    if (alike) return server;
    if (serverKept) return this.#take(place, sides, client);
    if (policy !== 'SET' || !areLists(sides)) return this.#dispute(place, sides, client);
    const merged = mergeSets(sides.base ?? [], sides.server, sides.client);
    return sameValue(merged, server, undefined) ? server : this.#take(place, sides, merged);
  }

  /** An array that only grows; undefined: it is none. */
  #grown(place: Place, policy: MergePolicy | undefined, sides: Known): Slot {
    if (typeof policy !== 'object' || !('append' in policy)) return undefined;
    const { base, client } = sides;
    // Where neither had an array, the client's entries are added to none; that there is an empty one is no entry.
    const added = sides.server === undefined && base === undefined && isList(client) && client.length > 0;
    const lists = { base, server: added ? [] : sides.server, client };
    if (!areLists(lists)) return undefined;
    const entries = growingEntries({ ...lists, base: lists.base ?? [] }, policy.append, this.#operationId);
    if (entries === undefined) return undefined;
    return this.#entries(
      place,
      entries,
      [...entries.server.keys(), ...entries.client.keys()],
      entries.stepOf,
    );
  }

  /** An array of entries that a field tells apart; undefined: it is none. */
  #keyed(place: Place, policy: MergePolicy | undefined, sides: Known): Slot {
    if (typeof policy !== 'object' || !('keyedBy' in policy) || !areLists(sides)) return undefined;
    const [b, s, c] = [sides.base ?? [], sides.server, sides.client].map((list) =>
      entriesByKey(list, policy.keyedBy),
    );
    if (b === undefined || s === undefined || c === undefined) return undefined;
    return this.#entries(place, { base: b, server: s, client: c }, orderOf(b, s, c), (key) => key);
  }

  #entries(
    place: Place,
    { base, server, client }: { readonly base: Entries; readonly server: Entries; readonly client: Entries },
    names: Iterable<string>,
    stepOf: (name: string) => string,
  ): Slot {
    const merged = new Map<string, Slot>();
    for (const name of names) {
      if (merged.has(name)) continue;
      const entry = { base: base.get(name), server: server.get(name), client: client.get(name) };
      merged.set(name, this.value(within(place, stepOf(name)), entry));
    }
    return [...merged.values()].filter((entry) => entry !== undefined);
  }

  #policyOf({ steps }: Place): MergePolicy | undefined {
    const rule = ruleFor(this.#policies, steps);
    return rule?.steps.length === steps.length ? rule.value : undefined;
  }

  #note({ steps }: Place, side: Side): void {
    const changed = side === 'CLIENT' ? this.found.clientChanged : this.found.serverChanged;
    changed.push(pointer(steps));
  }

  /** Takes what nothing speaks against. */
  #take(place: Place, sides: Sides, value: Slot): Slot {
    if (this.#disjoint === 'ASK') return this.#dispute(place, sides, value);
    this.found.outstanding.push(pointer(place.steps));
    return value;
  }

  #dispute({ steps }: Place, { base, server, client }: Sides, ifClients: Slot): Slot {
    const path = pointer(steps);
    this.found.outstanding.push(path);
    this.found.conflicts.push({
      path,
      ...(base === UNKNOWN || base === undefined ? {} : { baseValue: base }),
      ...(client === undefined ? {} : { clientValue: client }),
      ...(server === undefined ? {} : { serverValue: server }),
    });
    return this.#sideOf(path) === 'CLIENT' ? ifClients : server;
  }
}

const within = ({ steps }: Place, step: string): Place => ({ steps: [...steps, step], kind: undefined });

interface Lists extends Known {
  readonly base: readonly Json[] | undefined;
  readonly server: readonly Json[];
  readonly client: readonly Json[];
}

function areLists(sides: Known): sides is Lists {
  const { base, server, client } = sides;
  return (base === undefined || isList(base)) && isList(server) && isList(client);
}

/** The server's number and the client's difference, exactly; undefined: it cannot be counted. */
function counted({ base, server, client }: Known, kind: FieldKind | undefined): Slot {
  const start = server ?? (base === undefined ? 0 : undefined);
  const [s, c, b] = [start, client, base ?? 0].map((value) => numberText(value, kind));
  if (s === undefined || c === undefined || b === undefined) return undefined;
  const sum = addDecimals(s, c, b);
  if (sum === undefined || typeof (server ?? client) === 'string') return sum;
  const number = Number(sum);
  if (canonicalDecimal(String(number)) === sum) return number;
  // Only as text is it exact, which in a document would be another type.
  return kind === 'NUMBER' ? sum : undefined;
}

function numberText(value: Slot, kind: FieldKind | undefined): string | undefined {
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' && kind === 'NUMBER' ? value : undefined;
}
