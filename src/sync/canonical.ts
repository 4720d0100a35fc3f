import type { Json } from '../types/ids.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { EntityShape, FieldKind } from '../types/sync-handler.ts';
import { isUuid } from '../utils/uuid.ts';
import { canonicalDecimal } from './decimals.ts';
import { isList, type JsonObject, type Slot } from './json-object.ts';

/** One text for all values that are the same JSON, whatever the order of their keys; never one for two. Of any depth. */
export function canonicalJson(value: Json): string {
  let text = '';
  const rest = [pieceOf(value)];
  for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
    if (typeof next === 'string') text += next;
    else if (isList(next)) unfoldList(next, rest);
    else unfoldObject(next, rest);
  }
  return text;
}

/** Finished text, or what is to be unfolded into more of it. */
type Piece = string | readonly Json[] | JsonObject;

function pieceOf(value: Json): Piece {
  if (typeof value === 'object' && value !== null) return value;
  return JSON.stringify(value) ?? 'null';
}

/** Last first, since pieces are taken from the end. */
function unfoldList(list: readonly Json[], rest: Piece[]): void {
  rest.push(']');
  for (let i = list.length - 1; i >= 0; i -= 1) {
    rest.push(pieceOf(list[i] ?? null));
    if (i > 0) rest.push(',');
  }
  rest.push('[');
}

function unfoldObject(object: JsonObject, rest: Piece[]): void {
  const names = Object.keys(object)
    .filter((name) => object[name] !== undefined)
    .sort();
  rest.push('}');
  for (let i = names.length - 1; i >= 0; i -= 1) {
    const name = names[i] ?? '';
    rest.push(pieceOf(object[name] ?? null), `${i > 0 ? ',' : ''}${JSON.stringify(name)}:`);
  }
  rest.push('{');
}

/**
 * The value in the one form that all spellings of it have. What is not of the kind stays as it is, as do documents: their
 * form is `canonicalJson`. Never throws.
 */
export function canonicalValue(value: Json, kind: FieldKind | undefined): Json {
  if (typeof value === 'number' && kind === 'NUMBER') return canonicalDecimal(String(value)) ?? String(value);
  if (typeof value !== 'string') return value;
  switch (kind) {
    case 'NUMBER':
      return canonicalDecimal(value) ?? value;
    case 'INSTANT':
      return instantText(value);
    case 'DATE':
      return dateText(value);
    case 'UUID':
      return isUuid(value) ? value.toLowerCase() : value;
    default:
      return value;
  }
}

/** Whether two values mean the same. Absent (undefined) is not null; in columns it is for the caller to make it so. */
export function sameValue(a: Slot, b: Slot, kind: FieldKind | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined) return false;
  const [x, y] = [canonicalValue(a, kind), canonicalValue(b, kind)];
  if (typeof x !== 'object' || typeof y !== 'object') return x === y;
  return canonicalJson(x) === canonicalJson(y);
}

/** The row without columns that are null or the server's own, sorted, every value canonical. */
export function canonicalRow(row: EntityRow, { kinds, serverOwned }: EntityShape): EntityRow {
  const columns = Object.keys(row).filter((column) => !serverOwned.includes(column));
  const fields = columns.sort().flatMap((column): [string, Json][] => {
    const value = row[column] ?? null;
    return value === null ? [] : [[column, canonicalValue(value, kindOf({ kinds }, column))]];
  });
  return Object.fromEntries(fields);
}

export function kindOf({ kinds }: Pick<EntityShape, 'kinds'>, column: string): FieldKind | undefined {
  return Object.hasOwn(kinds, column) ? kinds[column] : undefined;
}

const INFINITY = /^-?infinity$/i;
/** ISO 8601 and what PostgreSQL writes, always with an offset from UTC. */
const INSTANT =
  /^\+?(\d{4,6})-(\d\d)-(\d\d)[T ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d+))?)? ?(?:Z|([+-])(0\d|1[0-5])(?::?([0-5]\d)(?::?([0-5]\d))?)?)$/i;
const MICROSECONDS = 1_000_000;

/** `2026-01-01T10:00:00.5Z`: UTC, to the microsecond, without zeros at the end of the fraction. */
function instantText(text: string): string {
  if (INFINITY.test(text)) return text.toLowerCase();
  const match = INSTANT.exec(text);
  if (match === null) return text;
  const part = (index: number): number => Number(match[index] ?? 0);
  const time = new Date(0);
  time.setUTCFullYear(part(1), part(2) - 1, part(3));
  // A day that the calendar does not have has become one that it has.
  if (time.getUTCMonth() !== part(2) - 1 || time.getUTCDate() !== part(3)) return text;
  const ahead = ((part(9) * 60 + part(10)) * 60 + part(11)) * (match[8] === '-' ? -1 : 1);
  const micros = roundHalfEven(Number(`0.${match[7] ?? 0}`) * MICROSECONDS);
  const seconds = (part(4) * 60 + part(5)) * 60 + part(6) - ahead + Math.floor(micros / MICROSECONDS);
  time.setTime(time.getTime() + seconds * 1000);
  if (Number.isNaN(time.getTime())) return text;
  const fraction = String(micros % MICROSECONDS)
    .padStart(6, '0')
    .replace(/0+$/, '');
  return `${time.toISOString().slice(0, -'.000Z'.length)}${fraction === '' ? '' : `.${fraction}`}Z`;
}

/** As PostgreSQL rounds what is finer than a microsecond. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return value % 1 === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded;
}

/** A date is also what a midnight in UTC stands for: clients that know instants only write it so. */
const DATE = /^(\d{4,6}-\d\d-\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?(?:Z|[+-]00(?::?00)?)?)?$/i;

function dateText(text: string): string {
  if (INFINITY.test(text)) return text.toLowerCase();
  return DATE.exec(text)?.[1] ?? text;
}
