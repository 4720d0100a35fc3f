import { DataProtectionError } from '../types/errors.ts';

/** Connection exceptions, shutdowns and a full server: the same call may succeed later. */
const UNAVAILABLE = /^(08[0-9A-Z]{3}|57P0[1-3]|53300)$/;
/** The server answered and turned the connection down: it needs a correction first. */
const REFUSED = /^(28[0-9A-Z]{3}|3D000)$/;
/** Serialization failure and deadlock. */
const REPEATABLE = /^(40001|40P01)$/;
const SYSTEM_CODES = new Set([
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
]);
/** What pg and pg-pool say, without a code, when a connection is gone or was never there. */
const LOST =
  /connection terminated|timeout exceeded when trying to connect|client has encountered a connection error/i;

/** The SQLSTATE of an error from the server; undefined where the error is not the server's. */
export function sqlState(error: unknown): string | undefined {
  const code = property(error, 'code');
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) && property(error, 'severity') !== undefined
    ? code
    : undefined;
}

/**
 * The library's error for one of pg: DATABASE_UNAVAILABLE or DATABASE_FAILED; errors of the library pass unchanged.
 * The message holds the SQLSTATE and the names of table, column and constraint, never the server's own message or
 * detail, which quote values; the original is the `cause`.
 */
export function toDatabaseError(error: unknown, doing: string): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  const state = sqlState(error);
  if (state === undefined) {
    const lost =
      SYSTEM_CODES.has(property(error, 'code') ?? '') || LOST.test(property(error, 'message') ?? '');
    return lost
      ? new DataProtectionError(`${doing}: no connection to PostgreSQL`, 'DATABASE_UNAVAILABLE', {
          cause: error,
        })
      : new DataProtectionError(`${doing}: unexpected failure`, 'INTERNAL', { cause: error });
  }
  const where = ['table', 'column', 'constraint']
    .flatMap((name) => (property(error, name) ? [`${name} ${property(error, name)}`] : []))
    .join(', ');
  const message = `${doing}: PostgreSQL answered SQLSTATE ${state}${where ? ` (${where})` : ''}`;
  if (UNAVAILABLE.test(state))
    return new DataProtectionError(message, 'DATABASE_UNAVAILABLE', { cause: error });
  if (REFUSED.test(state)) {
    return new DataProtectionError(message, 'DATABASE_UNAVAILABLE', { cause: error, retryable: false });
  }
  return new DataProtectionError(message, 'DATABASE_FAILED', {
    cause: error,
    retryable: REPEATABLE.test(state),
  });
}

/** The name of the violated constraint, where the error (or its cause) is a violation. */
export function violatedConstraint(error: unknown): string | undefined {
  const cause = error instanceof DataProtectionError ? error.cause : error;
  return sqlState(cause)?.startsWith('23') ? property(cause, 'constraint') : undefined;
}

function property(error: unknown, name: string): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  const value: unknown = Reflect.get(error, name);
  return typeof value === 'string' ? value : undefined;
}
