import type { Json } from '../types/ids.ts';

export type JsonObject = { readonly [key: string]: Json };

/** A value at a path. undefined: there is no such path, which in a document is not the same as null. */
export type Slot = Json | undefined;

export function isObject(value: Slot): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function isList(value: Slot): value is readonly Json[] {
  return Array.isArray(value);
}

/** A member of its own: `constructor` and the like are nobody's unless they were written. */
export function own(holder: JsonObject, name: string): Slot {
  return Object.hasOwn(holder, name) ? holder[name] : undefined;
}
