import type { Timestamp, UUID } from '../types/ids.ts';
import type { Database, Parameter } from './database.ts';

/** Something of some organization that a worker is to look at. */
export interface FoundWork {
  readonly organizationId: UUID;
  readonly id: UUID;
}

/**
 * Finds what there is to do, in all organizations: ids only. Whoever takes something up works through a repository that
 * is bound to its organization, and decides there, under a lock, whether it is still to be done.
 */
export interface WorkFinder {
  /** Configurations whose next scheduled backup is due, the longest due first. */
  dueConfigurations(now: Timestamp): Promise<readonly FoundWork[]>;
  /** Snapshots that wait for a worker, and such whose worker has been silent since `silentSince`. */
  runnableSnapshots(now: Timestamp, silentSince: Timestamp): Promise<readonly FoundWork[]>;
  /** Storage jobs that wait, and such that were left IN_PROGRESS and not touched since `silentSince`. */
  runnableStorageJobs(now: Timestamp, silentSince: Timestamp): Promise<readonly FoundWork[]>;
}

/** How much is taken up at once; the rest is found the next time. */
const LIMIT = 100;

export function createWorkFinder(db: Database): WorkFinder {
  async function find(text: string, values: readonly Parameter[]): Promise<readonly FoundWork[]> {
    const rows = await db.query(`${text} LIMIT ${LIMIT}`, values);
    return rows.map(({ organization_id, id }) => ({ organizationId: organization_id ?? '', id: id ?? '' }));
  }
  return {
    dueConfigurations: (now) =>
      find(
        `SELECT c.organization_id::text AS organization_id, c.id::text AS id FROM ${db.table('backup_configurations')} c
          WHERE c.status = 'ACTIVE' AND c.deleted_at IS NULL AND c.next_scheduled_backup_at <= $1::timestamptz
            AND NOT EXISTS (SELECT 1 FROM ${db.table('backup_queue')} q
              WHERE q.organization_id = c.organization_id AND q.configuration_id = c.id)
          ORDER BY c.next_scheduled_backup_at`,
        [now],
      ),
    runnableSnapshots: (now, silentSince) =>
      find(
        `SELECT q.organization_id::text AS organization_id, q.snapshot_id::text AS id FROM ${db.table('backup_queue')} q
           JOIN ${db.table('backup_snapshots')} s ON s.id = q.snapshot_id
           JOIN ${db.table('backup_configurations')} c ON c.id = q.configuration_id
           LEFT JOIN ${db.table('backup_attempts')} a ON a.organization_id = q.organization_id
             AND a.snapshot_id = q.snapshot_id AND a.state = 'RUNNING'
          WHERE CASE WHEN a.id IS NULL
              THEN q.not_before <= $1::timestamptz AND (c.status = 'ACTIVE' OR c.status = 'ARCHIVED' OR c.deleted_at IS NOT NULL)
              ELSE a.heartbeat_at < $2::timestamptz END
          ORDER BY q.not_before`,
        [now, silentSince],
      ),
    runnableStorageJobs: (now, silentSince) =>
      find(
        `SELECT j.organization_id::text AS organization_id, j.id::text AS id FROM ${db.table('storage_jobs')} j
          WHERE (j.status = 'QUEUED' AND j.not_before <= $1::timestamptz)
             OR (j.status = 'IN_PROGRESS' AND j.updated_at < $2::timestamptz)
          ORDER BY j.not_before`,
        [now, silentSince],
      ),
  };
}
