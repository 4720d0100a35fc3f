import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { databaseError, isConnectionLoss } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { decideLive } from './decide.ts';
import { cancelled } from './errors.ts';
import { fillHiddenSchema, type RestoreTargetOptions } from './fill.ts';
import {
  createHiddenSchema,
  dropHiddenSchema,
  findRestored,
  lockKey,
  renameHiddenSchema,
  schemaExists,
  targetExists,
} from './hidden-schema.ts';
import { planRestore } from './plan.ts';
import type { RestoreOutcome, RestoreTarget, RestoreToSchemaRequest } from './restore.ts';
import { previewLive, restoreLive } from './restore-live.ts';
import { rollbackLive } from './rollback.ts';
import { RestoreLock } from './sessions.ts';
import { sweepRestores } from './sweep.ts';

/** Restores into a PostgreSQL database (14 or later); the role needs CREATE on it. */
export function createRestoreTarget(options: RestoreTargetOptions): RestoreTarget {
  return {
    restoreToSchema: (request) => restoreToSchema(options, request),
    previewLive: (request) => previewLive(options, request),
    restoreLive: (request) => restoreLive(options, request),
    rollbackLive: (request) => rollbackLive(options, request),
    decideLive: (request) => decideLive(options, request),
    sweep: (restoreIds) => sweepRestores(options, restoreIds),
  };
}

async function restoreToSchema(
  options: RestoreTargetOptions,
  request: RestoreToSchemaRequest,
): Promise<RestoreOutcome> {
  const { restoreId, targetSchema, signal } = request;
  checkRequest(request);
  const plan = planRestore(request.snapshot, request.maxConcurrency);
  const stop = new AbortController();
  const cancel = (): void => stop.abort(cancelled(signal.reason));
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  let lock: RestoreLock | undefined;
  try {
    stop.signal.throwIfAborted();
    lock = await RestoreLock.take(options.connection, restoreId, () => {
      stop.abort(
        new DataProtectionError('The session that held the restore’s lock was lost', 'DATABASE_UNAVAILABLE'),
      );
    });
    await prepareTarget(lock.client, restoreId, targetSchema);
    try {
      const outcome = await fillHiddenSchema(options, request, plan, stop);
      stop.signal.throwIfAborted();
      await publish(options, lock.client, restoreId, targetSchema);
      options.logger.info({ restoreId, schema: targetSchema }, 'restore finished');
      return outcome;
    } catch (error) {
      await discard(options, restoreId);
      throw error;
    }
  } catch (error) {
    // What the cut connections say is a consequence; the reason is why they were cut.
    throw databaseError(stop.signal.aborted ? stop.signal.reason : error, 'Restoring');
  } finally {
    signal.removeEventListener('abort', cancel);
    await lock?.release();
  }
}

async function prepareTarget(client: pg.Client, restoreId: UUID, targetSchema: string): Promise<void> {
  try {
    if (await schemaExists(client, targetSchema)) throw targetExists(targetSchema);
    // The remains of an earlier attempt: the lock says that it is dead.
    await dropHiddenSchema(client, restoreId);
    await createHiddenSchema(client, restoreId);
  } catch (error) {
    throw databaseError(error, 'Preparing the schema');
  }
}

/** A connection that breaks while it renames does not say whether it did: another one looks. */
async function publish(
  options: RestoreTargetOptions,
  client: pg.Client,
  restoreId: UUID,
  targetSchema: string,
): Promise<void> {
  try {
    await renameHiddenSchema(client, restoreId, targetSchema);
  } catch (error) {
    if (!isConnectionLoss(error) || !(await wasRenamed(options, restoreId))) throw error;
  }
}

async function wasRenamed({ connection }: RestoreTargetOptions, restoreId: UUID): Promise<boolean> {
  const client = await openSession({ connection, name: 'care-backup-restore-check' });
  try {
    // Held by the session that renamed for as long as it may still do so.
    await client.query('SELECT pg_catalog.pg_advisory_lock($1)', [lockKey(restoreId)]);
    return (await findRestored(client, restoreId)) !== undefined;
  } finally {
    destroySession(client);
  }
}

const DROP_ATTEMPTS = 3;

/** Never rejects: the error that the restore failed with is the one to tell, and `sweep` drops what is left. */
async function discard({ connection, logger }: RestoreTargetOptions, restoreId: UUID): Promise<void> {
  for (let attempt = 1; attempt <= DROP_ATTEMPTS; attempt += 1) {
    let client: pg.Client | undefined;
    try {
      client = await openSession({ connection, name: 'care-backup-restore-drop' });
      await dropHiddenSchema(client, restoreId);
      return;
    } catch (error) {
      const code = error instanceof DataProtectionError ? error.code : 'INTERNAL';
      logger.warn({ restoreId, attempt, code }, 'what a failed restore had loaded could not be dropped');
      if (attempt < DROP_ATTEMPTS) await sleep(250 * 2 ** attempt);
    } finally {
      if (client !== undefined) destroySession(client);
    }
  }
}

const LONGEST_NAME = 63;

function checkRequest({ restoreId, targetSchema, maxConcurrency }: RestoreToSchemaRequest): void {
  const issues = [];
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(restoreId)) {
    issues.push({ path: 'restoreId', message: 'is no UUID.', remedy: 'Give a UUID in lower case.' });
  }
  // PostgreSQL would cut a longer name in silence.
  if (targetSchema === '' || targetSchema.includes('\0') || Buffer.byteLength(targetSchema) > LONGEST_NAME) {
    issues.push({ path: 'targetSchema', message: 'is no name.', remedy: `Give 1 to ${LONGEST_NAME} bytes.` });
  }
  if (targetSchema.startsWith('pg_')) {
    issues.push({
      path: 'targetSchema',
      message: 'begins with pg_.',
      remedy: 'Such names are PostgreSQL’s own.',
    });
  }
  if (!Number.isSafeInteger(maxConcurrency) || maxConcurrency < 1) {
    issues.push({ path: 'maxConcurrency', message: 'is no number of sessions.', remedy: 'Give 1 or more.' });
  }
  if (issues.length > 0) throw new ValidationError('Restore', issues);
}
