import type * as z from 'zod';
import { DataProtectionError } from '../types/errors.ts';
import type { Column } from './column.ts';
import type { Parameter, RawRow } from './database.ts';

/** Every field of an object with its column: a field without one does not compile. */
export type RowMapping<T> = { readonly [K in keyof T]-?: Column<T[K]> };

/** How an object stands in its table. */
export interface RowType<T> {
  /** The select list that `decode` reads; `alias` stands for the table. */
  select(alias: string): string;
  /**
   * The object of a row read with `select`. Throws INTERNAL where the row is not what the library writes; the message
   * names the field and never the value.
   */
  decode(row: RawRow): T;
  /**
   * Columns and placeholders of the given fields. Throws INTERNAL where a value is not of the documented shape:
   * what could not be read again is not written.
   */
  assign(object: Partial<T>, into: Parameters): readonly Assignment[];
}

interface Assignment {
  readonly column: string;
  readonly value: string;
}

/** `schema` holds what is read and written to the documented shape. */
export function defineRow<T>(
  mapping: RowMapping<T>,
  schema: z.ZodType<T> & { partial(): z.ZodType },
): RowType<T> {
  const columns = entries(mapping);
  const part = schema.partial();
  return {
    select: (alias) => selectColumns(mapping, alias),
    decode: (row) => checked(schema, decodeColumns(mapping, row)),
    assign: (object, into) => {
      checked(part, JSON.parse(JSON.stringify(object, refuseNonFinite)));
      return columns.flatMap(([field, column]) => {
        const value = object[field];
        if (value === undefined) return [];
        return [{ column: `"${column.name}"`, value: into.add(column.encode(value), column.type) }];
      });
    },
  };
}

/** Collects the parameters of a statement and gives their placeholders. */
export interface Parameters {
  readonly values: readonly Parameter[];
  /** The placeholder of one more value, cast to `type`. */
  add(value: Parameter, type: string): string;
}

export function parameters(...first: readonly Parameter[]): Parameters {
  const values = [...first];
  return {
    values,
    add: (value, type) => {
      values.push(value);
      return `$${values.length}::${type}`;
    },
  };
}

/** `SET` list of assignments. */
export function setList(assignments: readonly Assignment[]): string {
  return assignments.map(({ column, value }) => `${column} = ${value}`).join(', ');
}

type Entry<T> = readonly [keyof T & string, Column<T[keyof T]>];

/** The field names of a mapping are its own keys: `Object.entries` loses their type. */
function entries<T>(mapping: RowMapping<T>): readonly Entry<T>[] {
  return Object.entries(mapping) as unknown as readonly Entry<T>[];
}

/** The select list that `decodeColumns` reads. */
export function selectColumns<T>(mapping: RowMapping<T>, alias: string): string {
  return entries(mapping)
    .map(([field, column]) => `${column.select(alias)} AS "${field}"`)
    .join(', ');
}

/** The object of a row without jsonb columns, each column decoded. Throws INTERNAL as `RowType.decode`. */
export function decodeColumns<T>(mapping: RowMapping<T>, row: RawRow): T {
  return Object.fromEntries(
    entries(mapping).map(([field, column]) => {
      const raw = row[field];
      if (raw === undefined)
        throw new DataProtectionError(`Column ${column.name} was not selected`, 'INTERNAL');
      return [field, column.decode(raw)];
    }),
  ) as T;
}

/** JSON would write NaN and Infinity as null, where nobody could tell it from nothing. */
function refuseNonFinite(name: string, value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new DataProtectionError(`Not of the documented shape: ${name} is not a finite number`, 'INTERNAL');
  }
  return value;
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const fields = [
    ...new Set(result.error.issues.map((issue) => issue.path.slice(0, 2).map(String).join('.'))),
  ];
  throw new DataProtectionError(`Not of the documented shape: ${fields.join(', ')}`, 'INTERNAL', {
    cause: result.error,
  });
}
