import type { Json } from '../types/ids.ts';
import { canonicalJson } from './canonical.ts';
import { isObject, own } from './json-object.ts';

/** The values of both sides, each once: what either has removed is gone, the client's new ones come last. */
export function mergeSets(
  base: readonly Json[],
  server: readonly Json[],
  client: readonly Json[],
): readonly Json[] {
  const inBase = new Set(base.map(canonicalJson));
  const inClient = new Set(client.map(canonicalJson));
  const merged = new Map<string, Json>();
  for (const value of server) {
    const text = canonicalJson(value);
    if (inClient.has(text) || !inBase.has(text)) merged.set(text, value);
  }
  for (const value of client) {
    const text = canonicalJson(value);
    if (!inBase.has(text) && !merged.has(text)) merged.set(text, value);
  }
  return [...merged.values()];
}

/** The entries of an array by what tells them apart. */
export type Entries = ReadonlyMap<string, Json>;

/** undefined: an entry has no key (text or a number), or two have the same. */
export function entriesByKey(list: readonly Json[], field: string): Entries | undefined {
  const entries = new Map<string, Json>();
  for (const entry of list) {
    const key = keyOf(entry, field);
    if (key === undefined || entries.has(key)) return undefined;
    entries.set(key, entry);
  }
  return entries;
}

function keyOf(entry: Json, field: string): string | undefined {
  const key = isObject(entry) ? own(entry, field) : undefined;
  return typeof key === 'string' || typeof key === 'number' ? String(key) : undefined;
}

/**
 * The order of merged entries: the server's, then what the client has added. Where the client has put entries into
 * another order and the server has not, the client's, then what is new.
 */
export function orderOf(base: Entries, server: Entries, client: Entries): readonly string[] {
  const shared = (of: Entries): readonly string[] =>
    [...of.keys()].filter((key) => base.has(key) && server.has(key) && client.has(key));
  const before = shared(base).join('\0');
  const reordered = shared(server).join('\0') === before && shared(client).join('\0') !== before;
  const first = reordered ? [...client.keys()].filter((key) => base.has(key)) : [];
  return [...new Set([...first, ...server.keys(), ...client.keys(), ...base.keys()])];
}

/** Step of an entry without a key: nothing of its content may stand in a path. */
const NO_KEY = '-';

/** The entries of arrays that only grow, by names in which those without a key have their content instead. */
export interface GrowingEntries {
  readonly base: Entries;
  readonly server: Entries;
  readonly client: Entries;
  /** The step of a path that stands for an entry. */
  stepOf(name: string): string;
}

/**
 * Prepares arrays that only grow for a merge. What the client lacks of the base it does not remove: it may hold the end
 * of a long list. New entries of its that have no key get the operation's, so that they are added once however often it is
 * applied. undefined: two entries of one array have the same key.
 */
export function growingEntries(
  lists: {
    readonly base: readonly Json[];
    readonly server: readonly Json[];
    readonly client: readonly Json[];
  },
  field: string,
  operationId: string | undefined,
): GrowingEntries | undefined {
  const base = named(lists.base, field);
  const server = named(lists.server, field);
  const client = named(lists.client, field);
  if (base === undefined || server === undefined || client === undefined) return undefined;
  const complete = new Map([...base].filter(([name]) => !client.has(name)));
  let number = 0;
  const ownKey = (): string => {
    for (;;) {
      const key = number === 0 ? `${operationId}` : `${operationId}:${number}`;
      number += 1;
      if (!client.has(`${KEYED}${key}`)) return key;
    }
  };
  for (const [name, entry] of client) {
    const old = name.startsWith(KEYED) || base.has(name) || !isObject(entry) || operationId === undefined;
    if (old) {
      complete.set(name, entry);
      continue;
    }
    const key = ownKey();
    complete.set(`${KEYED}${key}`, { ...entry, [field]: key });
  }
  return {
    base,
    server,
    client: complete,
    stepOf: (name) => (name.startsWith(KEYED) ? name.slice(KEYED.length) : NO_KEY),
  };
}

const KEYED = '#';

function named(list: readonly Json[], field: string): Entries | undefined {
  const entries = new Map<string, Json>();
  const alike = new Map<string, number>();
  for (const entry of list) {
    const key = keyOf(entry, field);
    if (key !== undefined) {
      if (entries.has(`${KEYED}${key}`)) return undefined;
      entries.set(`${KEYED}${key}`, entry);
      continue;
    }
    const text = canonicalJson(entry);
    const count = (alike.get(text) ?? 0) + 1;
    alike.set(text, count);
    entries.set(`${count}${text}`, entry);
  }
  return entries;
}
