import type { UUID } from '../types/ids.ts';
import type { Database } from './database.ts';
import { bindScope, type RepositoryScope } from './scope.ts';
import { type SyncBlockingQueries, syncBlockingQueries } from './sync-blocking.ts';
import { type SyncConflictQueries, syncConflictQueries } from './sync-conflicts.ts';
import { type SyncEventQueries, syncEventQueries } from './sync-events.ts';
import { type SyncInterventions, syncInterventions } from './sync-interventions.ts';
import { type SyncQueueQueries, syncQueueQueries } from './sync-queue.ts';
import { type SyncSessionQueries, syncSessionQueries } from './sync-sessions.ts';
import { type SyncStatisticsQueries, syncStatisticsQueries } from './sync-statistics.ts';

/**
 * What one organization's devices handed in, and of that what the actor's branches allow or he handed in himself.
 * Whatever lies outside is answered as if it did not exist.
 */
export interface OfflineSyncRepository
  extends SyncQueueQueries,
    SyncInterventions,
    SyncBlockingQueries,
    SyncConflictQueries,
    SyncSessionQueries,
    SyncEventQueries,
    SyncStatisticsQueries {}

/**
 * Binds the repository; costs nothing. Given a transaction, all it does belongs to that transaction. Throws
 * VALIDATION_FAILED where the organization or a branch is not a UUID.
 */
export function createOfflineSyncRepository(
  db: Database,
  scope: RepositoryScope & { readonly userId?: UUID },
): OfflineSyncRepository {
  const bound = { ...bindScope(db, scope), authorId: scope.userId ?? null };
  return {
    ...syncQueueQueries(bound),
    ...syncInterventions(bound),
    ...syncBlockingQueries(bound),
    ...syncConflictQueries(bound),
    ...syncSessionQueries(bound),
    ...syncEventQueries(bound),
    ...syncStatisticsQueries(bound),
  };
}
