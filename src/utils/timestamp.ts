import type { Timestamp } from '../types/ids.ts';

const ISO_WITH_OFFSET =
  /^(\d{4})-(\d{2})-(\d{2})T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;

/**
 * A point in time as the library writes it, ISO 8601 in UTC with milliseconds. Reads ISO 8601 with seconds and an
 * offset, or a Date; digits after the millisecond are cut off. Undefined for anything else: a date that the
 * calendar does not have, no offset, a year outside 0001 to 9999.
 */
export function toTimestamp(value: string | Date): Timestamp | undefined {
  const time = typeof value === 'string' ? timeOf(value) : value.getTime();
  if (Number.isNaN(time)) return undefined;
  const iso = new Date(time).toISOString();
  return /^(?!0000)\d{4}-/.test(iso) ? iso : undefined;
}

function timeOf(text: string): number {
  const [, year, month, day] = ISO_WITH_OFFSET.exec(text) ?? [];
  if (year === undefined || month === undefined || day === undefined) return Number.NaN;
  if (Number(month) < 1 || Number(month) > 12) return Number.NaN;
  if (Number(day) < 1 || Number(day) > daysInMonth(Number(year), Number(month))) return Number.NaN;
  return Date.parse(text);
}

function daysInMonth(year: number, month: number): number {
  // Year + 400 has the same calendar and is not one of the two-digit years that Date.UTC moves to 19xx.
  return new Date(Date.UTC(year + 400, month, 0)).getUTCDate();
}
