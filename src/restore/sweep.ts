import { databaseError } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import type { UUID } from '../types/ids.ts';
import type { RestoreTargetOptions } from './fill.ts';
import { dropHiddenSchema, findRestored, tryLock, unlock } from './hidden-schema.ts';

/** Sweepers take turns: one that holds a restore's lock to look would seem a running restore to another. */
const SWEEP_LOCK = '7182818284590452353';

/**
 * Says how each restore ended and drops what the dead ones left. A restore is dead when nobody holds its lock: its
 * session ends after its transaction, so what it did last is then decided. Errors: `DATABASE_*`.
 */
export async function sweepRestores(
  { connection, logger }: RestoreTargetOptions,
  restoreIds: readonly UUID[],
): Promise<ReadonlyMap<UUID, 'DONE' | 'GONE' | 'RUNNING'>> {
  const outcomes = new Map<UUID, 'DONE' | 'GONE' | 'RUNNING'>();
  if (restoreIds.length === 0) return outcomes;
  const client = await openSession({ connection, name: 'care-backup-restore-sweep' });
  try {
    await client.query('SELECT pg_catalog.pg_advisory_lock($1)', [SWEEP_LOCK]);
    for (const restoreId of restoreIds) {
      if (!(await tryLock(client, restoreId))) {
        outcomes.set(restoreId, 'RUNNING');
        continue;
      }
      const done = (await findRestored(client, restoreId)) !== undefined;
      if (!done) await dropHiddenSchema(client, restoreId);
      await unlock(client, restoreId);
      outcomes.set(restoreId, done ? 'DONE' : 'GONE');
      logger.info({ restoreId, outcome: done ? 'DONE' : 'GONE' }, 'restore swept');
    }
    return outcomes;
  } catch (error) {
    throw databaseError(error, 'Sweeping restores');
  } finally {
    destroySession(client);
  }
}
