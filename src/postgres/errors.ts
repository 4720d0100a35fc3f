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
/** Connection exceptions, shutdowns and a full server: the same call may succeed later. */
const UNAVAILABLE_STATES = /^(08...|57P0[1-5]|53300)$/;
/** The server answered and turned the connection down: something has to be corrected first. */
const REFUSED_STATES = /^(28...|3D000)$/;
const UNAVAILABLE_SYSTEM = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
  'ERR_STREAM_DESTROYED',
]);
/** What pg and pg-pool say, without a code, when a connection is gone or was never there. */
const LOST =
  /connection terminated|connection ended|connection error|not queryable|timeout expired|connection timeout|timeout exceeded when trying to connect|premature close/i;

/** Whether the connection was lost or refused, as against a statement that the server turned down. */
export function isConnectionLoss(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return UNAVAILABLE_STATES.test(state);
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string' && UNAVAILABLE_SYSTEM.has(at.code)) return true;
    if (LOST.test(at.message)) return true;
  }
  return false;
}

/**
 * An error of the library for one of pg's. The server's message and detail may quote rows, so the message holds only
 * what was being done, the SQLSTATE and the names of table, column and constraint; the original is the cause.
 */
export function databaseError(
  error: unknown,
  doing: string,
  codes: Readonly<Record<string, ErrorCode>> = {},
): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  if (error instanceof Error && error.cause instanceof DataProtectionError) return error.cause;
  const state = sqlState(error);
  const cause = { cause: error };
  if (state === undefined) {
    return isConnectionLoss(error)
      ? new DataProtectionError(
          `${doing} failed: the connection to PostgreSQL was refused or lost`,
          'DATABASE_UNAVAILABLE',
          cause,
        )
      : new DataProtectionError(
          `${doing} failed: ${error instanceof Error ? error.name : typeof error}`,
          'INTERNAL',
          cause,
        );
  }
  const names = ['table', 'column', 'constraint'].flatMap((field) => {
    const name = fieldOf(error, field);
    return name === undefined ? [] : [`${field} ${name}`];
  });
  const message = `${doing} failed (${[`SQLSTATE ${state}`, ...names].join(', ')})`;
  const own = codes[state];
  if (own !== undefined) return new DataProtectionError(message, own, cause);
  if (UNAVAILABLE_STATES.test(state)) return new DataProtectionError(message, 'DATABASE_UNAVAILABLE', cause);
  if (REFUSED_STATES.test(state)) {
    return new DataProtectionError(message, 'DATABASE_UNAVAILABLE', { ...cause, retryable: false });
  }
  return new DataProtectionError(message, 'DATABASE_FAILED', {
    ...cause,
    retryable: PASSING_STATES.test(state),
  });
}

/** The name of the violated constraint, where the error (or its cause) is a violation. */
export function violatedConstraint(error: unknown): string | undefined {
  return sqlState(error)?.startsWith('23') ? fieldOf(error, 'constraint') : undefined;
}

/** A field that the server sent with its error, wherever it stands in the chain of causes. */
function fieldOf(error: unknown, name: string): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const value: unknown = Reflect.get(at, name);
    if (typeof value === 'string' && value !== '') return value;
  }
  return undefined;
}
