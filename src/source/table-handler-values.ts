import type { ValidationIssue } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { FieldKind } from '../types/sync-handler.ts';
import { type HandledColumn, kindOf } from './table-handler-columns.ts';

type TypedColumn = Pick<HandledColumn, 'kind' | 'baseType'>;

/** What PostgreSQL would take for the columns, but make something else of: nobody would notice. */
export function misfits(
  row: EntityRow,
  columns: ReadonlyMap<string, HandledColumn>,
  names: readonly string[],
): readonly ValidationIssue[] {
  return names.flatMap((path) => {
    const column = columns.get(path);
    const problem = column && problemOf(column, row[path] ?? null);
    return problem === undefined ? [] : [{ path, ...problem }];
  });
}

type Problem = Pick<ValidationIssue, 'message' | 'remedy'>;

function problemOf(column: TypedColumn, value: Json): Problem | undefined {
  const { kind, baseType } = column;
  // Types of the host's and of extensions know best what they take; so do documents.
  if (value === null || kind === 'DOCUMENT' || baseType.includes('.')) return undefined;
  if (Array.isArray(value)) return ofArray(column, value);
  const { message, takes, remedy } = TAKEN[kind];
  const isTaken = takes.includes(typeof value) || (typeof value === 'number' && OTHER_NUMBERS.has(baseType));
  if (!isTaken) return { message, remedy };
  const written = WRITTEN[baseType];
  if (typeof value !== 'string' || written === undefined || written.pattern.test(value)) return undefined;
  return { message: 'Does not say which time or day it is.', remedy: written.remedy };
}

function ofArray({ baseType }: TypedColumn, items: readonly Json[]): Problem | undefined {
  if (!baseType.endsWith('[]')) return { message: 'Is an array.', remedy: 'Send one value.' };
  const element = baseType.slice(0, -'[]'.length);
  for (const item of items) {
    const type = Array.isArray(item) ? baseType : element;
    const problem = problemOf({ baseType: type, kind: kindOf(type) }, item);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

const OTHER_NUMBERS = new Set(['money', 'oid']);

interface Taken extends Problem {
  readonly takes: readonly string[];
}

const TEXT: Taken = {
  takes: ['string'],
  message: 'Is no text.',
  remedy: 'Send it as text, as rows have it.',
};
const TAKEN: Readonly<Record<Exclude<FieldKind, 'DOCUMENT'>, Taken>> = {
  NUMBER: {
    takes: ['number', 'string'],
    message: 'Is no number.',
    remedy: 'Send a number, or its digits as text.',
  },
  BOOLEAN: { takes: ['boolean'], message: 'Is no boolean.', remedy: 'Send true or false.' },
  TEXT,
  UUID: TEXT,
  INSTANT: TEXT,
  DATE: TEXT,
};

const DAY = String.raw`\+?\d{4,7}-\d\d-\d\d`;
const CLOCK = String.raw`\d\d:\d\d(?::\d\d(?:\.\d+)?)?`;
const OFFSET = String.raw` ?(?:Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)`;
const NO_OFFSET = '(?: ?(?:Z|[+-]00(?::?00)?))?';
const MIDNIGHT = String.raw`(?:[T ]00:00(?::00(?:\.0+)?)?${NO_OFFSET})?`;
const written = (pattern: string, remedy: string) => ({
  pattern: new RegExp(`^(?:${pattern})$`, 'i'),
  remedy,
});
const dated = (pattern: string, remedy: string) => written(`-?infinity|${DAY}${pattern}(?: BC)?`, remedy);

/** Times and days that mean one thing, whatever zone and order of days the session has, and lose nothing. */
const WRITTEN: Readonly<Record<string, ReturnType<typeof written>>> = {
  'timestamp with time zone': dated(
    `[T ]${CLOCK}${OFFSET}`,
    'Send ISO 8601 with an offset from UTC, such as 2026-01-31T10:00:00Z.',
  ),
  'timestamp without time zone': dated(
    `[T ]${CLOCK}${NO_OFFSET}`,
    'Send ISO 8601 without an offset: the column has none.',
  ),
  date: dated(MIDNIGHT, 'Send the day alone, such as 2026-01-31.'),
  'time with time zone': written(`${CLOCK}${OFFSET}`, 'Send the time with its offset, such as 10:00:00+01.'),
  'time without time zone': written(`${CLOCK}${NO_OFFSET}`, 'Send the time without an offset.'),
};
