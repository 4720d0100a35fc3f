import type { Json, Timestamp, UUID } from '../types/ids.ts';
import { corrupt, isUuid } from './format.ts';

/*
 * Decoders of JSON that anybody may have written: `what` names the place in the error, which is ARCHIVE_CORRUPT.
 * None of them quotes the value.
 */

/** The JSON value of UTF-8 bytes. */
export function parseJson(bytes: Uint8Array, what: string): Json {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    return JSON.parse(text) as Json;
  } catch {
    // The error of JSON.parse quotes the text, which may be private: it is left out.
    throw corrupt(`${what} is not JSON.`);
  }
}

/** An object with exactly these fields. */
export function fields<const K extends string>(
  value: Json | undefined,
  what: string,
  names: readonly K[],
): Readonly<Record<K, Json>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw corrupt(`${what} is not an object.`);
  const found = Object.keys(value);
  if (found.length !== names.length || !names.every((name) => Object.hasOwn(value, name))) {
    throw corrupt(`${what} does not have the fields of the format.`);
  }
  return value as Readonly<Record<K, Json>>;
}

export function list(value: Json | undefined, what: string, most: number): readonly Json[] {
  if (!Array.isArray(value)) throw corrupt(`${what} is not a list.`);
  if (value.length > most) throw corrupt(`${what} has too many entries.`);
  return value as readonly Json[];
}

/** A list of exactly `length` values. */
export function tuple(value: Json | undefined, what: string, length: number): readonly Json[] {
  const found = list(value, what, length);
  if (found.length !== length) throw corrupt(`${what} does not have ${length} entries.`);
  return found;
}

export function integer(value: Json | undefined, what: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
    throw corrupt(`${what} is not an integer from ${least} to ${most}.`);
  }
  return value;
}

export function text(value: Json | undefined, what: string, pattern: RegExp): string {
  if (typeof value !== 'string' || !pattern.test(value)) throw corrupt(`${what} is malformed.`);
  return value;
}

export function uuid(value: Json | undefined, what: string): UUID {
  if (typeof value !== 'string' || !isUuid(value)) throw corrupt(`${what} is not a UUID.`);
  return value;
}

export function timestamp(value: Json | undefined, what: string): Timestamp {
  if (typeof value === 'string') {
    const time = new Date(value);
    if (!Number.isNaN(time.getTime()) && time.toISOString() === value) return value;
  }
  throw corrupt(`${what} is not an instant.`);
}

export function oneOf<const T extends string>(
  value: Json | undefined,
  what: string,
  choices: readonly T[],
): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined) throw corrupt(`${what} is none of ${choices.join(', ')}.`);
  return found;
}
