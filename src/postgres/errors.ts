import { DataProtectionError, type ErrorCode } from '../types/errors.ts';

/** SQLSTATE of a server's error, wherever it stands in the chain of causes. */
export function sqlState(error: unknown): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string' && /^[0-9A-Z]{5}$/.test(at.code) && 'severity' in at)
      return at.code;
  }
  return undefined;
}

/** Whether the server refused a statement because row-level security would filter it under `row_security = off`. */
export function isFilterRefusal(error: unknown): boolean {
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ('routine' in at && at.routine === 'check_enable_rls') return true;
  return false;
}

/** A serialization failure, such as a standby's conflict with recovery, or a deadlock: the next try may succeed. */
const PASSING_STATES = /^40/;
const UNAVAILABLE_STATES = /^(08...|57P0[1-5]|53300)$/;
const UNAVAILABLE_SYSTEM = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
]);

/** Whether the connection was lost or refused, as against a statement that the server turned down. */
export function isConnectionLoss(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return UNAVAILABLE_STATES.test(state);
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string' && UNAVAILABLE_SYSTEM.has(at.code)) return true;
    if (
      /connection terminated|connection ended|not queryable|timeout expired|connection timeout|premature close/i.test(
        at.message,
      )
    )
      return true;
  }
  return false;
}

/**
 * An error of the library for one of pg's. The server's message and detail may quote rows, so the message holds
 * only what was being done and the SQLSTATE; the original is the cause.
 */
export function databaseError(
  error: unknown,
  doing: string,
  codes: Readonly<Record<string, ErrorCode>> = {},
): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  if (error instanceof Error && error.cause instanceof DataProtectionError) return error.cause;
  const state = sqlState(error);
  const own = state === undefined ? undefined : codes[state];
  if (own !== undefined)
    return new DataProtectionError(`${doing} failed (SQLSTATE ${state})`, own, { cause: error });
  if (isConnectionLoss(error)) {
    return new DataProtectionError(
      `${doing} failed: the connection to PostgreSQL was refused or lost`,
      'DATABASE_UNAVAILABLE',
      { cause: error },
    );
  }
  if (state === undefined)
    return new DataProtectionError(`${doing} failed: ${nameOf(error)}`, 'INTERNAL', { cause: error });
  return new DataProtectionError(`${doing} failed (SQLSTATE ${state})`, 'DATABASE_FAILED', {
    cause: error,
    retryable: PASSING_STATES.test(state),
  });
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : typeof error);
