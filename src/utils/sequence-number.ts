/**
 * The number that people know a snapshot or restore by: `formatNumber('BKP', 2026, 123)` is `BKP-2026-000123`. It
 * grows past six digits and never wraps. `year` is the UTC year.
 */
export function formatNumber(prefix: string, year: number, sequence: number): string {
  return `${prefix}-${String(year).padStart(4, '0')}-${String(sequence).padStart(6, '0')}`;
}
