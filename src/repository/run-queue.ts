import { violatedConstraint } from '../postgres/errors.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { integer, nullable, timestamp } from './column.ts';
import type { Transaction } from './database.ts';
import { decodeColumns, type Parameters, type RowMapping, selectColumns } from './row-mapping.ts';
import { type BoundScope, idParameter, ofVisibleSnapshot, scoped, snapshotVisible } from './scope.ts';

/** How a worker may run a snapshot. */
export interface RunLimits {
  /** Tries in all; further ones follow failures that may pass. */
  readonly maxAttempts: number;
  /** Not to be started before. */
  readonly notBefore: Timestamp;
  /** The end of its window. */
  readonly mustEndBy: Timestamp | null;
  /** Milliseconds of one try. */
  readonly maxDurationMs: number | null;
}

const LIMITS: RowMapping<RunLimits> = {
  maxAttempts: integer('max_attempts'),
  notBefore: timestamp('not_before'),
  mustEndBy: nullable(timestamp('must_end_by')),
  maxDurationMs: nullable(integer('max_duration_ms')),
};

export interface RunQueueQueries {
  /**
   * Queues a QUEUED snapshot for the workers. False: it is not visible. Throws BACKUP_ALREADY_RUNNING while another of
   * its configuration is queued or run by one.
   */
  enqueueRun(snapshotId: UUID, limits: RunLimits): Promise<boolean>;
  /** Undefined: it is not queued, or has ended. */
  findRunLimits(snapshotId: UUID): Promise<RunLimits | undefined>;
  /** Whether a snapshot of the configuration is queued or run by a worker. */
  hasQueuedRun(configurationId: UUID): Promise<boolean>;
  /** Whether the run of this occurrence of the configuration's schedule was queued before, however it ended. */
  hasScheduledRun(configurationId: UUID, scheduledAt: Timestamp): Promise<boolean>;
  /** Not to be started before; uses up no try. False: the snapshot is not queued. */
  setRunNotBefore(snapshotId: UUID, notBefore: Timestamp): Promise<boolean>;
  /** One more try, for one that ends for no fault of the snapshot's. False: the snapshot is not queued. */
  allowAnotherTry(snapshotId: UUID): Promise<boolean>;
}

export function runQueueQueries(scope: BoundScope): RunQueueQueries {
  const { db } = scope;
  const table = db.table('backup_queue');

  async function change(snapshotId: UUID, set: (into: Parameters) => string): Promise<boolean> {
    const into = scoped(scope);
    const rows = await db.query(
      `UPDATE ${table} AS q SET ${set(into)}
        WHERE q.snapshot_id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${ofVisibleSnapshot(scope, 'q')}
       RETURNING q.snapshot_id::text AS id`,
      into.values,
    );
    return rows.length === 1;
  }

  return {
    async enqueueRun(snapshotId, limits) {
      const into = scoped(scope);
      const values = [
        into.add(limits.maxAttempts, 'integer'),
        into.add(limits.notBefore, 'timestamptz'),
        into.add(limits.mustEndBy, 'timestamptz'),
        into.add(limits.maxDurationMs, 'bigint'),
      ];
      const insert = db.query(
        `INSERT INTO ${table} (snapshot_id, organization_id, configuration_id, max_attempts, not_before, must_end_by,
                max_duration_ms)
         SELECT s.id, s.organization_id, s.configuration_id, ${values.join(', ')}
           FROM ${db.table('backup_snapshots')} s
          WHERE s.id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${snapshotVisible(scope, 's')}
         RETURNING snapshot_id::text AS id`,
        into.values,
      );
      const rows = await insert.catch((error: unknown) => {
        if (violatedConstraint(error) !== 'backup_queue_one_per_configuration') throw error;
        throw new DataProtectionError(
          'Another backup of the configuration is queued or running',
          'BACKUP_ALREADY_RUNNING',
          { cause: error },
        );
      });
      return rows.length === 1;
    },

    async findRunLimits(snapshotId) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${selectColumns(LIMITS, 'q')} FROM ${table} q
          WHERE q.snapshot_id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${ofVisibleSnapshot(scope, 'q')}`,
        into.values,
      );
      return row && decodeColumns(LIMITS, row);
    },

    async hasQueuedRun(configurationId) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT 1::text AS found FROM ${table} q
          WHERE q.configuration_id = ${into.add(idParameter(configurationId), 'uuid')} AND ${ofVisibleSnapshot(scope, 'q')}`,
        into.values,
      );
      return rows.length > 0;
    },

    async hasScheduledRun(configurationId, scheduledAt) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT 1::text AS found FROM ${db.table('backup_snapshots')} s
          WHERE s.configuration_id = ${into.add(idParameter(configurationId), 'uuid')} AND s.trigger = 'SCHEDULED'
            AND s.scheduled_at = ${into.add(scheduledAt, 'timestamptz')} AND ${snapshotVisible(scope, 's')}`,
        into.values,
      );
      return rows.length > 0;
    },

    setRunNotBefore: (snapshotId, notBefore) =>
      change(snapshotId, (into) => `not_before = ${into.add(notBefore, 'timestamptz')}`),

    allowAnotherTry: (snapshotId) =>
      change(snapshotId, () => `max_attempts = least(q.max_attempts + 1, ${MOST_TRIES})`),
  };
}

/** The table's own limit. */
const MOST_TRIES = 100;

/** Waits between the tries of a run: doubled each time from the first. */
const FIRST_PAUSE_S = 60;
const LONGEST_PAUSE_S = 30 * 60;

/**
 * Puts a snapshot whose try has failed back into the queue, where it has tries left: QUEUED again, to be started later.
 * False: it has none, or no worker runs it. The caller has locked the attempt and the snapshot.
 */
export async function requeue(
  scope: BoundScope & { readonly db: Transaction },
  snapshotId: UUID,
  now: Timestamp,
): Promise<boolean> {
  const { db } = scope;
  const rows = await db.query(
    `UPDATE ${db.table('backup_queue')} q
        SET not_before = $3::timestamptz
              + least(${FIRST_PAUSE_S} * 2 ^ (tried.attempts - 1), ${LONGEST_PAUSE_S}) * interval '1 second'
       FROM (SELECT count(*) AS attempts FROM ${db.table('backup_attempts')}
              WHERE organization_id = $1::uuid AND snapshot_id = $2::uuid) tried
      WHERE q.organization_id = $1::uuid AND q.snapshot_id = $2::uuid AND tried.attempts < q.max_attempts
     RETURNING q.snapshot_id::text AS id`,
    [scope.organizationId, snapshotId, now],
  );
  return rows.length === 1;
}

/** Takes a snapshot that ends out of the queue. */
export async function dequeue(scope: BoundScope, snapshotId: UUID): Promise<void> {
  await scope.db.query(
    `DELETE FROM ${scope.db.table('backup_queue')} WHERE organization_id = $1::uuid AND snapshot_id = $2::uuid`,
    [scope.organizationId, snapshotId],
  );
}
