import { setTimeout as sleep } from 'node:timers/promises';
import type { BackupErrorRecord } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { BackupError, DataProtectionError, KeyError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';

/** Whether a run ended because somebody asked it to. */
export function isCancellation(reason: unknown): boolean {
  return (
    reason instanceof DataProtectionError &&
    (reason.code === 'BACKUP_CANCELLED' || reason.code === 'RESTORE_CANCELLED')
  );
}

/** What the catalog keeps of a failure: code and message of the library's own errors, nothing of anybody else's. */
export function failureOf(reason: unknown, clock: Clock): { statusReason: string; error: BackupErrorRecord } {
  const known =
    reason instanceof DataProtectionError
      ? reason
      : new DataProtectionError('Unexpected failure', 'INTERNAL');
  return {
    statusReason: `${known.code}: ${known.message}`,
    error: {
      code: known.code,
      message: known.message,
      recoverable: known.retryable,
      occurredAt: clock.now().toISOString(),
    },
  };
}

/** The error of a run as the caller gets it, with the snapshot's id. */
export function asBackupError(reason: unknown, snapshotId: UUID): BackupError {
  if (reason instanceof BackupError && reason.snapshotId !== undefined) return reason;
  const { error } = failureOf(reason, { now: () => new Date() });
  return new BackupError(error.message, error.code, snapshotId, error.recoverable, { cause: reason });
}

/** What a key provider failed with: its own messages may hold what it holds. */
export function keyFailure(error: unknown): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  return new KeyError('The key provider failed', 'KEY_UNAVAILABLE', { cause: error });
}

/** For logs: the code of the library's errors, the kind of all others. */
export const codeOf = (error: unknown): string =>
  error instanceof DataProtectionError ? error.code : error instanceof Error ? error.name : 'unknown';

/** What a call that cannot be aborted gives, unless the signal is aborted first. */
export function orAborted<T>(call: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  return Promise.race([call, aborted.promise]).finally(() => signal.removeEventListener('abort', abort));
}

/** Waits; rejects with the signal’s reason when it is aborted. */
export const pause = (milliseconds: number, signal: AbortSignal): Promise<void> =>
  orAborted(
    sleep(milliseconds, undefined, { signal }).catch(() => undefined),
    signal,
  );
