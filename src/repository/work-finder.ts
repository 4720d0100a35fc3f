import type { Timestamp, UUID } from '../types/ids.ts';
import { firstUncovered } from './audit-trail.ts';
import type { Database, Parameter } from './database.ts';

/** Something of some organization that a worker is to look at. */
export interface FoundWork {
  readonly organizationId: UUID;
  readonly id: UUID;
}

/**
 * Finds what there is to do, in all organizations: ids only. Whoever takes something up works through a repository that
 * is bound to its organization, and decides there, under a lock, whether it is still to be done.
 *
 * Of what can be run the first 100 are given, the organizations in turn, and of each what waits longest first: one that
 * queues thousands does not keep the others waiting.
 */
export interface WorkFinder {
  /** Configurations whose next scheduled backup is due: 100 by id, from behind `after`. Empty: no further ones. */
  dueConfigurations(now: Timestamp, after?: FoundWork): Promise<readonly FoundWork[]>;
  /** Snapshots that wait for a worker, and such whose worker has been silent since `silentSince`. */
  runnableSnapshots(now: Timestamp, silentSince: Timestamp): Promise<readonly FoundWork[]>;
  /**
   * Storage jobs that wait, and such that were left IN_PROGRESS and not touched since `silentSince`: verifications, or
   * all others.
   */
  runnableStorageJobs(
    of: 'VERIFICATIONS' | 'OTHERS',
    now: Timestamp,
    silentSince: Timestamp,
  ): Promise<readonly FoundWork[]>;
  /**
   * Organizations with an audit entry from before `before` that no checkpoint covers: 100 by id, from behind `after`.
   * Empty: no further ones.
   */
  uncoveredAuditLogs(before: Timestamp, after?: UUID): Promise<readonly UUID[]>;
}

/** How much is taken up at once; the rest is found the next time. */
const LIMIT = 100;

export function createWorkFinder(db: Database): WorkFinder {
  async function find(text: string, values: readonly Parameter[]): Promise<readonly FoundWork[]> {
    const rows = await db.query(`${text} LIMIT ${LIMIT}`, values);
    return rows.map(({ organization_id, id }) => ({ organizationId: organization_id ?? '', id: id ?? '' }));
  }
  /** `waiting` selects organization_id, id and not_before. */
  const inTurn = (waiting: string, values: readonly Parameter[]) =>
    find(
      `SELECT t.organization_id::text AS organization_id, t.id::text AS id
         FROM (SELECT w.*, row_number() OVER (PARTITION BY w.organization_id ORDER BY w.not_before, w.id) AS turn
                 FROM (${waiting}) w) t
        ORDER BY t.turn, t.not_before, t.id`,
      values,
    );
  return {
    dueConfigurations: (now, after) =>
      find(
        `SELECT c.organization_id::text AS organization_id, c.id::text AS id FROM ${db.table('backup_configurations')} c
          WHERE c.status = 'ACTIVE' AND c.deleted_at IS NULL AND c.next_scheduled_backup_at <= $1::timestamptz
            AND ($2::uuid IS NULL OR c.id > $2::uuid)
            AND NOT EXISTS (SELECT 1 FROM ${db.table('backup_queue')} q
              WHERE q.organization_id = c.organization_id AND q.configuration_id = c.id)
          ORDER BY c.id`,
        [now, after?.id ?? null],
      ),
    runnableSnapshots: (now, silentSince) =>
      inTurn(
        `SELECT q.organization_id, q.snapshot_id AS id, q.not_before FROM ${db.table('backup_queue')} q
           JOIN ${db.table('backup_configurations')} c
             ON c.organization_id = q.organization_id AND c.id = q.configuration_id
           LEFT JOIN ${db.table('backup_attempts')} a ON a.organization_id = q.organization_id
             AND a.snapshot_id = q.snapshot_id AND a.state = 'RUNNING'
          WHERE q.not_before <= $1::timestamptz
            AND CASE WHEN a.id IS NULL THEN c.status IN ('ACTIVE', 'ARCHIVED') OR c.deleted_at IS NOT NULL
                     ELSE a.heartbeat_at < $2::timestamptz END`,
        [now, silentSince],
      ),
    runnableStorageJobs: (of, now, silentSince) =>
      inTurn(
        `SELECT j.organization_id, j.id, j.not_before FROM ${db.table('storage_jobs')} j
          WHERE (j.kind = 'VERIFICATION') = $3::boolean
            AND ((j.status = 'QUEUED' AND j.not_before <= $1::timestamptz)
              OR (j.status = 'IN_PROGRESS' AND j.updated_at < $2::timestamptz))`,
        [now, silentSince, of === 'VERIFICATIONS'],
      ),
    async uncoveredAuditLogs(before, after) {
      const rows = await db.query(
        `SELECT h.organization_id::text AS organization_id FROM ${db.table('audit_heads')} h
          WHERE ($2::uuid IS NULL OR h.organization_id > $2::uuid)
            AND (${firstUncovered(db, 'h.organization_id')}) < $1::timestamptz
          ORDER BY h.organization_id LIMIT ${LIMIT}`,
        [before, after ?? null],
      );
      return rows.map(({ organization_id }) => organization_id ?? '');
    },
  };
}
