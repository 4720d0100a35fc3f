import type { UUID } from '../types/ids.ts';
import { SYNC_LANES, type SyncLane } from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import { uuid, word } from './column.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import type { BoundScope } from './scope.ts';

interface Waiting {
  readonly streamId: UUID;
  readonly lane: SyncLane;
}

const WAITING: RowMapping<Waiting> = { streamId: uuid('stream_id'), lane: word('lane', SYNC_LANES) };

/** Shows what cannot go on. Whether an operation may be taken is never read from it: see `SyncClaims`. */
export interface SyncBlockingQueries {
  /** What waits for these operations, directly or not, becomes BLOCKED; but what may pass them. */
  blockDescendants(
    queueIds: readonly UUID[],
    reason: Extract<SyncReason, 'PREDECESSOR_FAILED' | 'PREDECESSOR_CONFLICT'>,
  ): Promise<number>;
  /** What was BLOCKED by these operations (operation ids) alone becomes PENDING again. */
  unblock(operationIds: readonly UUID[]): Promise<readonly Waiting[]>;
  /** Where there is something that waits directly for these operations (operation ids). */
  successorsOf(operationIds: readonly UUID[]): Promise<readonly Waiting[]>;
}

/** States in which an operation holds up what builds on it until somebody does something. */
export const HOLDING = `('CONFLICT', 'PARKED', 'FAILED', 'CANCELLED', 'EXPIRED')`;

export function syncBlockingQueries(scope: BoundScope): SyncBlockingQueries {
  const { db, organizationId } = scope;
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const edges = db.table('sync_predecessors');
  const now = (): string => db.clock.now().toISOString();
  return {
    async blockDescendants(queueIds, reason) {
      const rows = await db.query(
        `WITH RECURSIVE below AS (
           SELECT q.id, q.operation_id FROM ${queue} q WHERE q.organization_id = $1::uuid AND q.id = ANY ($2::uuid[])
           UNION
           SELECT q.id, q.operation_id FROM below b
             JOIN ${edges} e ON e.organization_id = $1::uuid AND e.predecessor = b.operation_id
             JOIN ${queue} q ON q.id = e.successor_id
            WHERE q.status IN ('PENDING', 'BLOCKED')
              AND NOT (e.kind = 'PREVIOUS' AND q.disjoint_proceeds)
         )
         UPDATE ${queue} q SET status = 'BLOCKED', status_reason = $3, updated_at = $4::timestamptz
           FROM below b WHERE q.id = b.id AND q.status = 'PENDING' AND NOT q.id = ANY ($2::uuid[])
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
           SELECT e.successor_id FROM below b JOIN ${queue} q ON q.id = b.id AND q.status = 'BLOCKED'
             JOIN ${edges} e ON e.organization_id = $1::uuid AND e.predecessor = q.operation_id
         ), above AS (
           SELECT b.id AS of, b.id FROM below b
           UNION
           SELECT a.of, d.queue_id FROM above a JOIN ${edges} e ON e.successor_id = a.id
             JOIN ${ids} d ON d.organization_id = $1::uuid AND d.operation_id = e.predecessor
             JOIN ${queue} p ON p.id = d.queue_id AND p.status <> 'COMPLETED'
         )
         UPDATE ${queue} t SET status = 'PENDING', status_reason = NULL, updated_at = $3::timestamptz
          WHERE t.id IN (SELECT b.id FROM below b) AND t.status = 'BLOCKED' AND t.status_reason <> 'GROUP_FAILED'
            AND NOT EXISTS (SELECT FROM above a JOIN ${queue} p ON p.id = a.id WHERE a.of = t.id AND p.status IN ${HOLDING})
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
