import { DataProtectionError } from '../types/errors.ts';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import type { Parameter } from './database.ts';

/** How one field of an object stands in its column. */
export interface Column<V> {
  readonly name: string;
  /** The type that parameters are cast to. */
  readonly type: string;
  /** The SQL that reads it, in a form that no session setting changes. */
  select(alias: string): string;
  /** Throws INTERNAL where the stored text is not of the kind; the message never holds the text. */
  decode(raw: string | null): V;
  encode(value: V): Parameter;
}

const plain =
  (name: string) =>
  (alias: string): string =>
    `${alias}.${name}::text`;

export function text(name: string): Column<string> {
  return {
    name,
    type: 'text',
    select: plain(name),
    decode: (raw) => present(raw, name),
    encode: (value) => value,
  };
}

/** Text that may come from anywhere, such as an error's: what PostgreSQL cannot store is replaced, never refused. */
export function freeText(name: string): Column<string> {
  return { ...text(name), encode: (value) => value.toWellFormed().replaceAll('\0', '\uFFFD') };
}

/** One word of a vocabulary. */
export function word<W extends string>(name: string, vocabulary: readonly W[]): Column<W> {
  return {
    ...text(name),
    decode: (raw) => vocabulary.find((known) => known === raw) ?? malformed(name, 'a known word'),
    encode: (value) => value,
  };
}

export function uuid(name: string): Column<UUID> {
  return { ...text(name), type: 'uuid' };
}

export function uuids(name: string): Column<readonly UUID[]> {
  return {
    name,
    type: 'uuid[]',
    select: (alias) => `to_jsonb(${alias}.${name})::text`,
    decode: (raw) => {
      const value: unknown = parse(raw, name);
      if (!Array.isArray(value) || !value.every((item) => typeof item === 'string'))
        malformed(name, 'a list of UUIDs');
      return value as UUID[];
    },
    encode: (value) => value,
  };
}

export function boolean(name: string): Column<boolean> {
  return {
    name,
    type: 'boolean',
    select: plain(name),
    decode: (raw) => (raw === 'true' ? true : raw === 'false' ? false : malformed(name, 'true or false')),
    encode: (value) => value,
  };
}

/** An integer or bigint that JavaScript holds exactly. */
export function integer(name: string): Column<number> {
  return {
    name,
    type: 'bigint',
    select: plain(name),
    decode: (raw) => {
      const value = /^-?\d+$/.test(raw ?? '') ? Number(raw) : Number.NaN;
      return Number.isSafeInteger(value) ? value : malformed(name, 'a safe integer');
    },
    encode: (value) => value,
  };
}

/** A duration: whole milliseconds, whatever clock measured it. */
export function wholeMilliseconds(name: string): Column<number> {
  return { ...integer(name), encode: Math.round };
}

export function float(name: string): Column<number> {
  return {
    name,
    type: 'double precision',
    select: plain(name),
    decode: (raw) => {
      const value = Number(present(raw, name));
      return Number.isFinite(value) ? value : malformed(name, 'a finite number');
    },
    encode: (value) => value,
  };
}

export function timestamp(name: string): Column<Timestamp> {
  return {
    name,
    type: 'timestamptz',
    select: (alias) => `to_char(${alias}."${name}" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`,
    decode: (raw) =>
      raw !== null && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(raw)
        ? raw
        : malformed(name, 'a point in time'),
    encode: (value) => value,
  };
}

/** A jsonb column. Its content is checked with the whole row's schema, in `decodeRow`. */
export function json<V>(name: string): Column<V> {
  return {
    name,
    type: 'jsonb',
    select: plain(name),
    decode: (raw) => parse(raw, name) as V,
    encode: (value) => jsonText(value),
  };
}

export function nullable<V>(column: Column<V>): Column<V | null> {
  return {
    ...column,
    decode: (raw) => (raw === null ? null : column.decode(raw)),
    encode: (value) => (value === null ? null : column.encode(value)),
  };
}

/** A field that is read by an expression and never written. */
export function computed<V>(column: Column<V>, select: (alias: string) => string): Column<V> {
  return { ...column, select };
}

/**
 * JSON for a jsonb column. NUL and halves of surrogate pairs, which jsonb refuses, become U+FFFD: an error's message
 * that holds them must not keep the failure from being recorded.
 */
export function jsonText(value: unknown): string {
  const encoded = JSON.stringify(value);
  return encoded.replace(/\\(?:\\|u0000|ud[89a-f][0-9a-f]{2})/g, (match) =>
    match === '\\\\' ? match : '\uFFFD',
  );
}

function parse(raw: string | null, name: string): Json {
  try {
    return JSON.parse(present(raw, name)) as Json;
  } catch {
    return malformed(name, 'JSON');
  }
}

function present(raw: string | null, name: string): string {
  return raw ?? malformed(name, 'there');
}

function malformed(name: string, expected: string): never {
  throw new DataProtectionError(`The stored value of column ${name} is not ${expected}`, 'INTERNAL');
}
