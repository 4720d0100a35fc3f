import { DataProtectionError, type ErrorCode, StorageError } from '../types/errors.ts';

/**
 * What a failed attempt says of the provider. FAILURE: it, or the way to it, is not well. ANSWER: it is well and said
 * no. NOTHING: it was not asked, the caller gave up, or bytes were wrong, which may be one object’s or the caller’s
 * fault and must not keep others from theirs.
 */
export type Verdict = 'FAILURE' | 'ANSWER' | 'NOTHING';

const FAILURES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'STORAGE_UNAVAILABLE',
  'STORAGE_NOT_MOUNTED',
  'STORAGE_UNTRUSTED',
]);

/** A full or denied storage answers: reads and deletes must still reach it. So does one that asks for patience. */
const ANSWERS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'STORAGE_NOT_FOUND',
  'STORAGE_ALREADY_EXISTS',
  'STORAGE_FULL',
  'STORAGE_DENIED',
  'STORAGE_THROTTLED',
  'OBJECT_ARCHIVED',
]);

export function verdictOf(error: unknown): Verdict {
  if (!(error instanceof StorageError)) return 'NOTHING';
  if (FAILURES.has(error.code)) return 'FAILURE';
  return ANSWERS.has(error.code) ? 'ANSWER' : 'NOTHING';
}

const TROUBLE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  ...FAILURES,
  'CONFIGURATION_INVALID',
  'STORAGE_CORRUPT',
  'STORAGE_DENIED',
  'STORAGE_FULL',
  'STORAGE_THROTTLED',
  'CREDENTIALS_UNAVAILABLE',
]);

/** The code, where it is one that an operator wants to see in the health of the connection. */
export function troubleOf(error: unknown): ErrorCode | undefined {
  const code = codeOf(error);
  return code !== undefined && TROUBLE.has(code) ? code : undefined;
}

/** Retryable, but not within this call: thawing takes hours, and the others say that a retry is refused. */
const NOT_NOW: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'OBJECT_ARCHIVED',
  'STORAGE_CIRCUIT_OPEN',
  'STORAGE_BUSY',
]);

export function mayRetry(error: unknown): boolean {
  return error instanceof DataProtectionError && error.retryable && !NOT_NOW.has(error.code);
}

/** The attempt was not made at all. */
export function wasRefused(error: unknown): boolean {
  return codeOf(error) === 'STORAGE_CIRCUIT_OPEN' || codeOf(error) === 'STORAGE_BUSY';
}

/** Refused before anything was done. Not a throttle: a 503 may also come from behind the write. */
const WITHOUT_EFFECT: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'CONFIGURATION_INVALID',
  'CREDENTIALS_UNAVAILABLE',
  'DEPENDENCY_MISSING',
  'NOT_SUPPORTED',
  'STORAGE_ALREADY_EXISTS',
  'STORAGE_BUSY',
  'STORAGE_CIRCUIT_OPEN',
  'STORAGE_DENIED',
  'STORAGE_FULL',
  'STORAGE_INVALID_KEY',
  'STORAGE_NOT_FOUND',
  'STORAGE_QUOTA_EXCEEDED',
  'VALIDATION_FAILED',
]);

/** Whether a write may have taken effect although it failed. What is no error of the library says nothing. */
export function isAmbiguous(error: unknown): boolean {
  const code = codeOf(error);
  return code === undefined || !WITHOUT_EFFECT.has(code);
}

export function codeOf(error: unknown): ErrorCode | undefined {
  return error instanceof DataProtectionError ? error.code : undefined;
}
