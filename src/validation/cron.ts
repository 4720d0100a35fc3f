const MONTHS = ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC'];
const DAYS = ['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT'];
/** The longest that each month gets. */
const MONTH_DAYS = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

interface CronField {
  readonly min: number;
  readonly max: number;
  readonly names?: readonly string[];
}

const FIELDS: readonly CronField[] = [
  { min: 0, max: 59 },
  { min: 0, max: 23 },
  { min: 1, max: 31 },
  { min: 1, max: 12, names: MONTHS },
  { min: 0, max: 7, names: DAYS },
];

/**
 * Whether a text is a cron expression of five fields (minute, hour, day of month, month, day of week) with numbers,
 * `*`, ranges, lists, steps and English three-letter names, that some day of some year matches.
 */
export function isCronExpression(expression: string): boolean {
  const parts = expression.trim().split(/\s+/);
  if (parts.length !== FIELDS.length) return false;
  const sets = FIELDS.map((field, index) => valuesOf(parts[index] ?? '', field));
  const [, , days, months] = sets;
  if (sets.some((set) => set === undefined) || days === undefined || months === undefined) return false;
  // With a day of week besides `*`, cron takes days that match either field, and every week has all days.
  if (parts[4] !== '*') return true;
  return months.some((month) => days.some((day) => day <= (MONTH_DAYS[month - 1] ?? 0)));
}

function valuesOf(text: string, field: CronField): readonly number[] | undefined {
  const sets = text.split(',').map((item) => itemValues(item, field));
  return sets.some((set) => set === undefined) ? undefined : sets.flatMap((set) => set ?? []);
}

function itemValues(item: string, field: CronField): readonly number[] | undefined {
  const [range = '', stepText, ...more] = item.split('/');
  const step = stepText === undefined ? 1 : numberOf(stepText, { min: 1, max: field.max });
  const [from, to] = boundsOf(range, field, stepText !== undefined);
  if (more.length > 0 || step === undefined || from === undefined || to === undefined || from > to)
    return undefined;
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step);
}

function boundsOf(range: string, field: CronField, stepped: boolean): readonly (number | undefined)[] {
  if (range === '*') return [field.min, field.max];
  const [from, to, ...more] = range.split('-').map((text) => numberOf(text, field));
  if (more.length > 0) return [];
  if (range.includes('-')) return [from, to];
  return stepped ? [from, field.max] : [from, from];
}

function numberOf(text: string, { min, max, names }: CronField): number | undefined {
  const named = names?.indexOf(text.toUpperCase()) ?? -1;
  const value = named >= 0 ? named + min : /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN;
  return value >= min && value <= max ? value : undefined;
}
