import { ValidationError, type ValidationIssue } from '../types/errors.ts';

export interface BackoffOptions {
  /** The longest delay, in milliseconds; 5 minutes where left out. */
  readonly maxMs?: number;
  /** FULL: anywhere from 0 to the delay, so that not all come back at once. NONE where left out. */
  readonly jitter?: 'FULL' | 'NONE';
  /** Gives numbers from 0 to below 1; `Math.random` where left out. */
  readonly random?: () => number;
}

const MOST_MS = 5 * 60_000;

/**
 * How long to wait before the nth retry, in milliseconds: `base` before the first, `multiplier` times as long before
 * each further one. The same for the same arguments, unless jitter is asked for (FULL: AWS, “Exponential Backoff And
 * Jitter”, 2015). Throws `VALIDATION_FAILED`.
 *
 * @example
 * const delay = calculateBackoff(operation.retryCount + 1, 1000, 2);
 */
export function calculateBackoff(
  n: number,
  base = 1000,
  multiplier = 2,
  options: BackoffOptions = {},
): number {
  const { maxMs = MOST_MS, jitter = 'NONE', random = Math.random } = options;
  const issues = [
    ...(Number.isSafeInteger(n) && n >= 1 ? [] : [issue('n', 'a whole number of at least 1')]),
    ...atLeast('base', base, 0),
    ...atLeast('multiplier', multiplier, 1),
    ...atLeast('options.maxMs', maxMs, 0),
    ...(['FULL', 'NONE'].includes(jitter) ? [] : [issue('options.jitter', 'FULL or NONE')]),
  ];
  if (issues.length > 0) throw new ValidationError('The backoff', issues);
  // Beyond the largest number the factor would make a base of 0 no number.
  const factor = Math.min(multiplier ** (n - 1), Number.MAX_VALUE);
  const delay = Math.min(base * factor, maxMs);
  return jitter === 'FULL' ? random() * delay : delay;
}

function atLeast(path: string, value: number, least: number): readonly ValidationIssue[] {
  return Number.isFinite(value) && value >= least ? [] : [issue(path, `a number of at least ${least}`)];
}

function issue(path: string, wanted: string): ValidationIssue {
  return { path, message: `Is not ${wanted}.`, remedy: 'Give one.' };
}
