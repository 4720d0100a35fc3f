import type { UUID } from '../types/ids.ts';
import { SYNC_LANES, type SyncLane } from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import { uuid, word } from './column.ts';
import type { Database } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import type { BoundScope } from './scope.ts';

interface Waiting {
  readonly streamId: UUID;
  readonly lane: SyncLane;
}

const WAITING: RowMapping<Waiting> = { streamId: uuid('stream_id'), lane: word('lane', SYNC_LANES) };

/** Shows what cannot go on. Whether an operation may be taken is never read from it: see `SyncClaims`. */
export interface SyncBlockingQueries {
  /**
   * What waits for these operations, directly or not, becomes BLOCKED; but what may pass them. An atomic batch waits as
   * a whole: what shares one with them, or with what waits, is `GROUP_FAILED`.
   */
  blockDescendants(
    queueIds: readonly UUID[],
    reason: Extract<SyncReason, 'PREDECESSOR_FAILED' | 'PREDECESSOR_CONFLICT'>,
  ): Promise<number>;
  /** What was BLOCKED by these operations (operation ids) alone becomes PENDING again, with what shares its batch. */
  unblock(operationIds: readonly UUID[]): Promise<readonly Waiting[]>;
  /** Where there is something that waits directly for these operations (operation ids). */
  successorsOf(operationIds: readonly UUID[]): Promise<readonly Waiting[]>;
}

/** States in which an operation holds up what builds on it until somebody does something. */
const HOLDING = `('CONFLICT', 'PARKED', 'FAILED', 'CANCELLED', 'EXPIRED')`;
/** Over without having been applied: only a person lets go on what builds on it. */
export const ENDED_BADLY = `('FAILED', 'CANCELLED', 'EXPIRED')`;
/** Whether it has not ended; by the index of what is open on an entity. */
export const isOpen = (alias: string): string =>
  `((${alias}.runnable OR ${alias}.waiting) AND ${alias}.status NOT IN ${ENDED_BADLY})`;
/** States in which it goes on no further by itself. */
export const STANDING = `('CONFLICT', 'PARKED', 'BLOCKED', 'WAITING_APPROVAL', 'PAUSED', 'FAILED', 'CANCELLED', 'EXPIRED')`;

/**
 * Whether what waits by the edge may pass an operation ahead of it that is STANDING: one that is over, if it does not
 * build on it and has no other open one before that on its entity; else one that has no column in common with it, where
 * its type allows that. Then it has all that is ahead of it for its predecessors.
 */
export const passable = (db: Pick<Database, 'table'>, edge: string, waiting: string, ahead: string): string =>
  `CASE WHEN ${edge}.kind = 'DEPENDS_ON' THEN false
        WHEN ${ahead}.status IN ${ENDED_BADLY} THEN ${edge}.kind = 'ORDER' AND (${waiting}.disjoint_proceeds OR NOT EXISTS (
          SELECT FROM ${db.table('offline_sync_queue')} still WHERE still.stream_id = ${ahead}.stream_id
             AND still.entity_type = ${ahead}.entity_type AND still.entity_id = ${ahead}.entity_id
             AND still.sequence_number < ${ahead}.sequence_number AND ${isOpen('still')}))
        ELSE ${waiting}.disjoint_proceeds AND NOT ${waiting}.fields && ${ahead}.fields
          AND NOT '*' = ANY (${waiting}.fields) AND NOT '*' = ANY (${ahead}.fields) END`;

/** Whether the operation under `other` belongs to the atomic batch of the one under `of`. */
export const sharesBatch = (other: string, of: string): string =>
  `(${of}.batch_size IS NOT NULL AND ${other}.stream_id = ${of}.stream_id AND ${other}.batch_id = ${of}.batch_id
    AND ${other}.batch_size IS NOT NULL AND ${other}.id <> ${of}.id)`;

/** Whether the operation that the edge `e` leads to has not arrived, or was forgotten without having been applied. */
export const isMissing = (
  db: Database,
): string => `NOT EXISTS (SELECT FROM ${db.table('sync_operation_ids')} d
  WHERE d.organization_id = e.organization_id AND d.operation_id = e.predecessor
    AND coalesce(d.final_state ->> 'status', 'COMPLETED') = 'COMPLETED')`;

/** Whether the operation under `of` belongs to an atomic batch that has not arrived whole. */
export const isIncomplete = (db: Database, of: string): string => `(${of}.batch_size IS NOT NULL
  AND ${of}.batch_size > (SELECT count(*) FROM ${db.table('offline_sync_queue')} n
    WHERE n.stream_id = ${of}.stream_id AND n.batch_id = ${of}.batch_id AND n.batch_size IS NOT NULL))`;

/**
 * The recursive CTE `held (id)`: of the BLOCKED operations in the CTE `below (id)`, those that something holds up which
 * is not among them, directly or not; and others that wait for such. Downward from what holds, so that a long chain is
 * walked once.
 */
export function held(db: Database): string {
  const queue = db.table('offline_sync_queue');
  const edges = db.table('sync_predecessors');
  const holds = (alias: string): string =>
    `(${alias}.status IN ${HOLDING} OR ${alias}.status = 'BLOCKED' AND ${alias}.id NOT IN (SELECT b.id FROM below b))`;
  return `held AS (
    SELECT o.id FROM below b JOIN ${queue} o ON o.id = b.id
     WHERE EXISTS (SELECT FROM ${edges} e
         JOIN ${db.table('sync_operation_ids')} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
         JOIN ${queue} p ON p.id = d.queue_id WHERE e.successor_id = o.id AND ${holds('p')} AND NOT ${passable(db, 'e', 'o', 'p')})
        OR EXISTS (SELECT FROM ${queue} m WHERE ${sharesBatch('m', 'o')} AND ${holds('m')})
    UNION
    SELECT n.id FROM held h JOIN ${queue} o ON o.id = h.id CROSS JOIN LATERAL (
      SELECT s.id FROM ${edges} e JOIN ${queue} s ON s.id = e.successor_id
       WHERE e.organization_id = o.organization_id AND e.predecessor = o.operation_id AND s.status = 'BLOCKED'
         AND NOT ${passable(db, 'e', 's', 'o')}
      UNION ALL
      SELECT m.id FROM ${queue} m WHERE ${sharesBatch('m', 'o')} AND m.status = 'BLOCKED') n
  )`;
}

export function syncBlockingQueries(scope: BoundScope): SyncBlockingQueries {
  const { db, organizationId } = scope;
  const queue = db.table('offline_sync_queue');
  const edges = db.table('sync_predecessors');
  const now = (): string => db.clock.now().toISOString();
  return {
    async blockDescendants(queueIds, reason) {
      const rows = await db.query(
        `WITH RECURSIVE below AS (
           SELECT q.id, false AS by_group FROM ${queue} q WHERE q.organization_id = $1::uuid AND q.id = ANY ($2::uuid[])
           UNION
           SELECT n.id, n.by_group FROM below b JOIN ${queue} o ON o.id = b.id CROSS JOIN LATERAL (
             SELECT s.id, false AS by_group FROM ${edges} e JOIN ${queue} s ON s.id = e.successor_id
              WHERE e.organization_id = $1::uuid AND e.predecessor = o.operation_id
                AND s.status IN ('PENDING', 'BLOCKED') AND NOT ${passable(db, 'e', 's', 'o')}
             UNION ALL
             SELECT m.id, true FROM ${queue} m WHERE ${sharesBatch('m', 'o')} AND m.status IN ('PENDING', 'BLOCKED')) n
         )
         UPDATE ${queue} q SET status = 'BLOCKED', status_reason = CASE WHEN b.by_group THEN 'GROUP_FAILED' ELSE $3 END,
                updated_at = $4::timestamptz
           FROM (SELECT id, bool_and(by_group) AS by_group FROM below GROUP BY id) b
          WHERE q.id = b.id AND q.status = 'PENDING' AND NOT q.id = ANY ($2::uuid[])
         RETURNING q.id::text AS id`,
        [organizationId, queueIds, reason, now()],
      );
      return rows.length;
    },

    async unblock(operationIds) {
      const rows = await db.query(
        `WITH RECURSIVE below AS (
           SELECT e.successor_id AS id FROM ${edges} e WHERE e.organization_id = $1::uuid AND e.predecessor = ANY ($2::uuid[])
           UNION
           SELECT n.id FROM below b JOIN ${queue} o ON o.id = b.id AND o.status = 'BLOCKED' CROSS JOIN LATERAL (
             SELECT e.successor_id AS id FROM ${edges} e
              WHERE e.organization_id = $1::uuid AND e.predecessor = o.operation_id
             UNION ALL
             SELECT m.id FROM ${queue} m WHERE ${sharesBatch('m', 'o')}) n
         ), ${held(db)}
         UPDATE ${queue} t SET status = 'PENDING', status_reason = NULL, updated_at = $3::timestamptz
          WHERE t.id IN (SELECT b.id FROM below b EXCEPT SELECT h.id FROM held h) AND t.status = 'BLOCKED'
         RETURNING ${selectColumns(WAITING, 't')}`,
        [organizationId, operationIds, now()],
      );
      return rows.map((row) => decodeColumns(WAITING, row));
    },

    async successorsOf(operationIds) {
      const rows = await db.query(
        `SELECT DISTINCT ${selectColumns(WAITING, 't')}
           FROM ${edges} e JOIN ${queue} t ON t.id = e.successor_id AND t.status IN ('PENDING', 'BLOCKED')
          WHERE e.organization_id = $1::uuid AND e.predecessor = ANY ($2::uuid[])`,
        [organizationId, operationIds],
        'sync-successors',
      );
      return rows.map((row) => decodeColumns(WAITING, row));
    },
  };
}
