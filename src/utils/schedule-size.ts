/** Bounds of the seed's table, in bytes: under 100 MB every 15 minutes, under 1 GB every 30, else every hour. */
const SMALL = 100_000_000;
const MEDIUM = 1_000_000_000;

/** The part of a schedule that says how often. */
export interface IntervalFrequency {
  readonly frequency: 'MINUTES';
  readonly intervalMinutes: 15 | 30 | 60;
}

/**
 * How often a database of a size is backed up: every 15 minutes under 100 MB, every 30 under 1 GB, else every 60.
 * A size that is not known (null) counts as large.
 *
 * @example
 * const schedule = { ...frequencyForDatabaseSize(250_000_000), windowStart: '06:00', windowEnd: '22:00' };
 */
export function frequencyForDatabaseSize(bytes: number | null): IntervalFrequency {
  return { frequency: 'MINUTES', intervalMinutes: minutesFor(bytes ?? MEDIUM) };
}

function minutesFor(bytes: number): 15 | 30 | 60 {
  if (bytes < SMALL) return 15;
  return bytes < MEDIUM ? 30 : 60;
}
