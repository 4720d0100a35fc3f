import { databaseError, isConnectionLoss, sqlState } from '../postgres/errors.ts';
import { DataProtectionError, type ErrorCode } from '../types/errors.ts';

/** The server's message for these names objects of the schema only, never a value of a row. */
const NAMES_ONLY = new Set(['42501', '42883', '42704', '42P01', '42703', '3F000', '0A000', '58P01']);

/**
 * The library's error for one of pg's while `doing`: the message holds names of tables, constraints and missing
 * objects, and the SQLSTATE. Codes: `RESTORE_VALIDATION_FAILED` for rows that violate a constraint,
 * `RESTORE_TARGET_INCOMPATIBLE` for what the target lacks, forbids or cannot represent, else `DATABASE_*`.
 */
export function restoreError(error: unknown, doing: string): DataProtectionError {
  const state = sqlState(error);
  const code = state === undefined || isConnectionLoss(error) ? undefined : codeOf(state);
  if (state === undefined || code === undefined) return databaseError(error, doing);
  const names = field(error, 'constraint') ?? field(error, 'dataType');
  const about = names === undefined ? '' : ` (${names})`;
  const missing = NAMES_ONLY.has(state) && error instanceof Error ? `: ${error.message}` : '';
  return new DataProtectionError(`${doing} failed${about} (SQLSTATE ${state})${missing}`, code, {
    cause: error,
  });
}

/** Why a restore stopped: the reason where it says so itself. */
export const cancelled = (reason: unknown): DataProtectionError =>
  reason instanceof DataProtectionError
    ? reason
    : new DataProtectionError('The restore was cancelled', 'RESTORE_CANCELLED', { cause: reason });

function codeOf(state: string): ErrorCode | undefined {
  // 22P04: the lines are not those of the recorded columns.
  if (state === '22P04' || state.startsWith('23')) return 'RESTORE_VALIDATION_FAILED';
  if (state.startsWith('22') || state.startsWith('42') || NAMES_ONLY.has(state))
    return 'RESTORE_TARGET_INCOMPATIBLE';
  return undefined;
}

function field(error: unknown, name: 'constraint' | 'dataType'): string | undefined {
  if (!(error instanceof Error) || !(name in error)) return undefined;
  const value: unknown = Reflect.get(error, name);
  return typeof value === 'string' && value !== '' ? value : undefined;
}
