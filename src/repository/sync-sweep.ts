import type { Timestamp, UUID } from '../types/ids.ts';
import type { ConflictStatus, SyncEventType, SyncLane, SyncQueueStatus } from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import type { Database, RawRow } from './database.ts';
import { RAISED, toBeRaised, waivedBy } from './sync-admission.ts';
import { held, isIncomplete, isMissing, passable, sharesBatch } from './sync-blocking.ts';
import { MOST_CLAIMS } from './sync-claims.ts';
import { OPEN } from './sync-conflicts.ts';
import { stateJson } from './sync-queue.ts';

/** A stream of some organization. */
export interface FoundStream {
  readonly organizationId: UUID;
  readonly streamId: UUID;
}

/** An operation of some organization that the sweeper has changed. */
export interface SweptOperation extends FoundStream {
  readonly id: UUID;
  readonly operationId: UUID;
  readonly lane: SyncLane;
}

/** An operation that holds up others. */
export interface Holder extends SweptOperation {
  readonly reason: Extract<SyncReason, 'PREDECESSOR_FAILED' | 'PREDECESSOR_CONFLICT'>;
}

/** What waits longest in an organization's lane. */
export interface OldestWaiting {
  readonly organizationId: UUID;
  readonly lane: SyncLane;
  readonly queuedAt: Timestamp;
}

/** What is looked after in all organizations. Every statement that writes is bounded, so that none holds much for long. */
export interface SyncSweep {
  /** Streams that may have something to do in a lane, by the place of their first operation. */
  streamsWithWork(lane: SyncLane): Promise<readonly FoundStream[]>;
  /** Operations whose leases have been over for so long wait again, and count as taken without an outcome. */
  releaseExpired(silentMs: number): Promise<readonly SweptOperation[]>;
  /** Operations whose workers have died over them too often. */
  parkPoisoned(): Promise<readonly SweptOperation[]>;
  /** Those of them that carried out a person's decision: their conflicts wait for another. */
  reopenPoisoned(): Promise<readonly SweptOperation[]>;
  /** What was to be applied before a time that has passed. */
  expireOverdue(): Promise<readonly SweptOperation[]>;
  /** Operations that have waited too long for one that has not arrived, or, one of each, for the rest of their batch. */
  missingPredecessors(waitMs: number): Promise<readonly SweptOperation[]>;
  /** Such operations whose predecessors have all arrived since: their conflicts are taken back. */
  predecessorsArrived(): Promise<readonly SweptOperation[]>;
  /** What CRITICAL operations wait for goes with them; another author's once it is approved. */
  raiseLanes(): Promise<readonly SweptOperation[]>;
  /** BLOCKED operations that nothing blocks any more. */
  releaseBlocked(): Promise<readonly SweptOperation[]>;
  /** Operations that were parked for a type or version which is known now. */
  takeUpKnown(
    known: readonly { readonly entityType: string; readonly schemaVersion: number }[],
  ): Promise<readonly SweptOperation[]>;
  /** The last operation of each circle that operations of several streams form; admissions have had a minute to see it. */
  breakCycles(): Promise<readonly SweptOperation[]>;
  /** Operations that hold up others which do not show it: they came later, or whoever was to block them has died. */
  unshownHolders(): Promise<readonly Holder[]>;
  /** Organizations with conflicts that have no number yet. */
  organizationsToNumber(): Promise<readonly UUID[]>;
  oldestWaiting(): Promise<readonly OldestWaiting[]>;
  /** Removes ended operations that nothing waits for, but for what deduplicates them. Gives how many. */
  removeEnded(before: Timestamp): Promise<number>;
  removeEvents(before: Timestamp): Promise<number>;
  removeIds(before: Timestamp): Promise<number>;
}

const LIMIT = 500;
/** Of what may be part of a circle, how much is looked at in one sweep, and how far; by chance, so that all have their turn. */
const MOST_STARTS = 1_000;
const MOST_STEPS = 100_000;

/** Looks after everything, or after the operations of some streams. */
export function syncSweep(db: Database, streamIds?: readonly UUID[]): SyncSweep {
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const edges = db.table('sync_predecessors');
  const events = db.table('sync_events');
  const now = (): Timestamp => db.clock.now().toISOString();
  const within: readonly (readonly UUID[])[] = streamIds === undefined ? [] : [streamIds];
  /** Whether the operation under `alias` is looked after; `place`: of `within` among the parameters. */
  const isWithin = (alias: string, place: number): string =>
    streamIds === undefined ? 'true' : `${alias}.stream_id = ANY ($${place}::uuid[])`;
  const poisoned = `q.runnable AND q.status = 'IN_PROGRESS' AND q.lease_expires_at < clock_timestamp() AND q.claims >= ${MOST_CLAIMS}`;
  /** What an operation is in a circle: an atomic batch is one node, its first member. */
  const node = (alias: string): string => `CASE WHEN ${alias}.batch_size IS NULL THEN ${alias}.id ELSE (
    SELECT m.id FROM ${queue} m WHERE m.stream_id = ${alias}.stream_id AND m.batch_id = ${alias}.batch_id AND m.batch_size IS NOT NULL
     ORDER BY m.id LIMIT 1) END`;
  /** That an operation (alias q) builds on one that has not arrived. */
  const lacks = `EXISTS (SELECT FROM ${edges} e WHERE e.successor_id = q.id AND e.kind <> 'ORDER' AND ${isMissing(db)})`;

  /** A CTE that ends the open conflicts of what was changed. */
  const closes = (status: ConflictStatus, which = 'true'): string => `, closed AS (
           UPDATE ${db.table('sync_conflicts')} t SET status = '${status}', resolved_at = $1::timestamptz, updated_at = $1::timestamptz
             FROM changed c WHERE t.queue_id = c.id AND ${which} AND t.status IN ${OPEN})`;

  /** Changes the operations that `chosen` selects (alias q), and enters an event for each. `also`: further CTEs. */
  async function change(
    chosen: string,
    to: SyncQueueStatus,
    reason: SyncReason | null,
    event: SyncEventType,
    values: readonly (string | number | readonly string[])[] = [],
    also = '',
  ): Promise<readonly SweptOperation[]> {
    const outcome = to === 'FAILED' ? `'REJECTED'` : 'NULL';
    const rows = await db.query(
      `WITH chosen AS (
         SELECT q.id FROM ${queue} q WHERE ${isWithin('q', 3 + values.length)} AND ${chosen} LIMIT ${LIMIT} FOR UPDATE OF q SKIP LOCKED
       ), changed AS (
         UPDATE ${queue} q SET status = '${to}', status_reason = $2, outcome = ${outcome}, claim_token = NULL, lease_expires_at = NULL,
                conflict_id = CASE WHEN q.status = 'CONFLICT' THEN NULL ELSE q.conflict_id END,
                conflict_resolution = CASE WHEN '${to}' <> 'CONFLICT' THEN q.conflict_resolution END,
                claims = CASE WHEN '${to}' = 'CONFLICT' THEN 0 ELSE q.claims END,
                synced_at = CASE WHEN ${outcome} IS NULL THEN q.synced_at ELSE $1::timestamptz END, updated_at = $1::timestamptz
           FROM chosen c WHERE q.id = c.id RETURNING q.*
       ), told AS (
         INSERT INTO ${events} (id, organization_id, type, queue_id, operation_id, user_id, device_id, branch_id, entity_type,
                entity_id, details, occurred_at)
         SELECT ${timeOrdered('$1::timestamptz')}, c.organization_id, '${event}', c.id, c.operation_id, c.user_id, c.device_id,
                c.branch_id, c.entity_type, c.entity_id, jsonb_strip_nulls(jsonb_build_object('reason', $2::text)), $1::timestamptz
           FROM changed c
       )${also}
       SELECT ${SWEPT} FROM changed c`,
      [now(), reason, ...values, ...within],
    );
    return rows.map(swept);
  }

  return {
    async streamsWithWork(lane) {
      const rows = await db.query(
        `WITH RECURSIVE stream AS (
           (SELECT q.stream_id, q.organization_id, q.due_at FROM ${queue} q
             WHERE q.runnable AND q.lane = $1 ORDER BY q.stream_id, q.lane, q.due_at LIMIT 1)
           UNION ALL
           SELECT n.stream_id, n.organization_id, n.due_at FROM stream s CROSS JOIN LATERAL (
             SELECT q.stream_id, q.organization_id, q.due_at FROM ${queue} q
              WHERE q.runnable AND q.lane = $1 AND q.stream_id > s.stream_id ORDER BY q.stream_id, q.lane, q.due_at LIMIT 1) n
         )
         SELECT s.organization_id::text AS organization_id, s.stream_id::text AS stream_id FROM stream s
          ORDER BY s.due_at, s.stream_id`,
        [lane],
        'sync-streams-with-work',
      );
      return rows.map((row) => ({
        organizationId: row.organization_id ?? '',
        streamId: row.stream_id ?? '',
      }));
    },

    async releaseExpired(silentMs) {
      const rows = await db.query(
        `UPDATE ${queue} c SET status = 'PENDING', claim_token = NULL, lease_expires_at = NULL, updated_at = $1::timestamptz
          WHERE c.id IN (SELECT q.id FROM ${queue} q
             WHERE ${isWithin('q', 3)} AND q.runnable AND q.status = 'IN_PROGRESS'
               AND q.lease_expires_at < clock_timestamp() - $2::double precision * interval '1 millisecond'
               AND q.claims < ${MOST_CLAIMS}
             LIMIT ${LIMIT} FOR UPDATE SKIP LOCKED)
         RETURNING ${SWEPT}`,
        [now(), silentMs, ...within],
      );
      return rows.map(swept);
    },

    parkPoisoned: () =>
      change(`${poisoned} AND q.conflict_resolution IS NULL`, 'PARKED', 'POISONED', 'PARKED'),

    reopenPoisoned: () =>
      change(
        `${poisoned} AND q.conflict_resolution IS NOT NULL`,
        'CONFLICT',
        'POISONED',
        'CONFLICT_REOPENED',
        [],
        `, reopened AS (
           UPDATE ${db.table('sync_conflicts')} t SET status = 'PENDING_MANUAL', updated_at = $1::timestamptz
             FROM changed c WHERE t.queue_id = c.id AND t.status = 'RESOLVING')`,
      ),

    expireOverdue: () =>
      change(
        `(q.runnable OR q.waiting) AND q.status IN ('PENDING', 'PAUSED', 'WAITING_APPROVAL', 'BLOCKED')
           AND q.expires_at <= $1::timestamptz AND q.lane <> 'CRITICAL' AND q.priority <> 'CRITICAL' AND q.conflict_resolution IS NULL`,
        'EXPIRED',
        'EXPIRED',
        'EXPIRED',
        [],
        closes('EXPIRED'),
      ),

    missingPredecessors: (waitMs) =>
      change(
        `(q.runnable OR q.waiting) AND q.status IN ('PENDING', 'BLOCKED')
           AND q.queued_at < $1::timestamptz - $3::double precision * interval '1 millisecond'
           AND (${lacks} OR ${isIncomplete(db, 'q')} AND NOT EXISTS (
             SELECT FROM ${queue} m WHERE ${sharesBatch('m', 'q')}
                AND (m.status = 'CONFLICT' OR m.status IN ('PENDING', 'BLOCKED') AND m.id < q.id)))`,
        'CONFLICT',
        'PREDECESSOR_MISSING',
        'CONFLICT_DETECTED',
        [waitMs],
      ),

    predecessorsArrived: () =>
      change(
        `q.waiting AND q.status = 'CONFLICT' AND q.status_reason = 'PREDECESSOR_MISSING'
           AND NOT (${lacks} OR ${isIncomplete(db, 'q')})`,
        'PENDING',
        null,
        'RESUMED',
        [],
        closes('CANCELLED', `t.conflict_type = 'DEPENDENCY'`),
      ),

    async raiseLanes() {
      const rows = await db.query(
        `WITH RECURSIVE above AS (
           SELECT q.id, ${waivedBy('q')} AS author, q.approval_waived AS own FROM ${queue} q WHERE q.lane = 'CRITICAL' AND q.runnable
             AND (q.batch_size IS NOT NULL OR EXISTS (SELECT FROM ${edges} e WHERE e.successor_id = q.id))
           UNION
           SELECT q.id, a.author, q.user_id = a.author FROM above a JOIN ${queue} o ON o.id = a.id CROSS JOIN LATERAL (
             SELECT d.queue_id AS id FROM ${edges} e
               JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
              WHERE e.successor_id = o.id
             UNION ALL
             SELECT m.id FROM ${queue} m WHERE ${sharesBatch('m', 'o')}) step
             JOIN ${queue} q ON q.id = step.id AND q.status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')
         )
         UPDATE ${queue} c SET ${RAISED}, updated_at = $1::timestamptz
           FROM (${toBeRaised(queue)} LIMIT ${LIMIT} FOR UPDATE OF l SKIP LOCKED) r
          WHERE c.id = r.id RETURNING ${SWEPT}`,
        [now()],
      );
      return rows.map(swept);
    },

    releaseBlocked: () =>
      change(
        `q.status = 'BLOCKED' AND q.id IN (
           WITH RECURSIVE below AS MATERIALIZED (
             SELECT w.id FROM ${queue} w WHERE ${isWithin('w', 3)} AND w.waiting AND w.status = 'BLOCKED'
           ), ${held(db)}
           SELECT b.id FROM below b EXCEPT SELECT h.id FROM held h)`,
        'PENDING',
        null,
        'RESUMED',
      ),

    takeUpKnown: (known) =>
      change(
        `q.waiting AND q.status = 'PARKED' AND q.status_reason IN ('SCHEMA_UNKNOWN', 'ENTITY_UNKNOWN')
           AND (q.entity_type, q.schema_version) IN (SELECT k.type, k.version::integer FROM unnest($3::text[], $4::text[]) AS k(type, version))`,
        'PENDING',
        null,
        'REDRIVEN',
        [known.map(({ entityType }) => entityType), known.map(({ schemaVersion }) => String(schemaVersion))],
      ),

    breakCycles: () =>
      change(
        `(q.runnable OR q.waiting) AND q.status IN ('PENDING', 'BLOCKED') AND q.id IN (
           WITH RECURSIVE way AS (
             SELECT t.* FROM (
               SELECT ${node('s')} AS start, ${node('s')} AS at, s.id AS last, 0 AS depth FROM ${queue} s
                WHERE s.runnable AND s.status = 'PENDING' AND s.queued_at < $1::timestamptz - interval '1 minute'
                  AND EXISTS (SELECT FROM ${edges} e JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
                         AND d.stream_id <> s.stream_id
                        JOIN ${queue} p ON p.id = d.queue_id AND p.status IN ('PENDING', 'BLOCKED') WHERE e.successor_id = s.id)
                ORDER BY random() LIMIT ${MOST_STARTS}) t
             UNION
             SELECT w.start, ${node('p')}, greatest(w.last, member.id, p.id), w.depth + 1
               FROM way w JOIN ${queue} o ON o.id = w.at
               JOIN LATERAL (SELECT o.id UNION ALL SELECT m.id FROM ${queue} m WHERE ${sharesBatch('m', 'o')}) member ON true
               JOIN ${edges} e ON e.successor_id = member.id
               JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
               JOIN ${queue} p ON p.id = d.queue_id AND p.status IN ('PENDING', 'BLOCKED')
              WHERE w.depth < 64 AND (w.depth = 0 OR w.at <> w.start) AND ${node('p')} <> w.at
           )
           SELECT w.last FROM (SELECT * FROM way LIMIT ${MOST_STEPS}) w WHERE w.depth > 0 AND w.at = w.start)`,
        'FAILED',
        'DEPENDENCY_CYCLE',
        'REJECTED',
      ),

    async unshownHolders() {
      const rows = await db.query(
        `SELECT ${SWEPT}, (c.status = 'CONFLICT' OR c.status = 'BLOCKED' AND c.status_reason = 'PREDECESSOR_CONFLICT')::text AS undecided
           FROM ${queue} c
          WHERE c.holding AND ${isWithin('c', 1)} AND (
            EXISTS (SELECT FROM ${edges} e JOIN ${queue} s ON s.id = e.successor_id AND s.status = 'PENDING'
              WHERE e.organization_id = c.organization_id AND e.predecessor = c.operation_id AND NOT ${passable(db, 'e', 's', 'c')})
            OR EXISTS (SELECT FROM ${queue} m WHERE ${sharesBatch('m', 'c')} AND m.status = 'PENDING'))
          LIMIT ${LIMIT}`,
        within,
      );
      return rows.map((row) => ({
        ...swept(row),
        reason: row.undecided === 'true' ? 'PREDECESSOR_CONFLICT' : 'PREDECESSOR_FAILED',
      }));
    },

    async organizationsToNumber() {
      const rows = await db.query(
        `SELECT DISTINCT c.organization_id::text AS id FROM ${db.table('sync_conflicts')} c
          WHERE c.conflict_number IS NULL LIMIT ${LIMIT}`,
      );
      return rows.map((row) => row.id ?? '');
    },

    async oldestWaiting() {
      const rows = await db.query(
        `SELECT q.organization_id::text AS organization_id, q.lane,
                to_char(min(q.queued_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS queued_at
           FROM ${queue} q WHERE q.runnable GROUP BY q.organization_id, q.lane`,
      );
      return rows.map((row) => ({
        organizationId: row.organization_id ?? '',
        lane: row.lane === 'CRITICAL' ? 'CRITICAL' : 'NORMAL',
        queuedAt: row.queued_at ?? '',
      }));
    },

    async removeEnded(before) {
      const rows = await db.query(
        `WITH old AS (
           SELECT q.* FROM ${queue} q
            WHERE q.id < ${firstId('$1::timestamptz')} AND q.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
              AND coalesce(q.synced_at, q.updated_at) < $1::timestamptz
              AND NOT EXISTS (SELECT FROM ${edges} e JOIN ${queue} s ON s.id = e.successor_id
                WHERE e.organization_id = q.organization_id AND e.predecessor = q.operation_id
                  AND s.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED'))
              AND NOT (q.disjoint_proceeds AND EXISTS (SELECT FROM ${edges} e
                JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
                JOIN ${queue} p ON p.id = d.queue_id AND p.status NOT IN ('COMPLETED', 'CANCELLED')
                WHERE e.successor_id = q.id))
            ORDER BY q.id LIMIT ${LIMIT} FOR UPDATE SKIP LOCKED
         ), cut AS (
           DELETE FROM ${edges} e USING old o WHERE e.successor_id = o.id
         ), kept AS (
           UPDATE ${ids} d SET final_state = ${stateJson('o')} FROM old o
            WHERE d.organization_id = o.organization_id AND d.operation_id = o.operation_id
         )
         DELETE FROM ${queue} q USING old o WHERE q.id = o.id RETURNING q.id::text AS id`,
        [before],
      );
      return rows.length;
    },

    async removeEvents(before) {
      const rows = await db.query(
        `DELETE FROM ${events} e WHERE e.id IN (SELECT o.id FROM ${events} o
           WHERE o.id < ${firstId('$1::timestamptz')} ORDER BY o.id LIMIT ${LIMIT * 10}) RETURNING e.id::text AS id`,
        [before],
      );
      return rows.length;
    },

    async removeIds(before) {
      const rows = await db.query(
        `DELETE FROM ${ids} d WHERE (d.organization_id, d.operation_id) IN (SELECT o.organization_id, o.operation_id FROM ${ids} o
           WHERE o.final_state IS NOT NULL AND o.queue_id < ${firstId('$1::timestamptz')}
           ORDER BY o.queue_id LIMIT ${LIMIT * 10}) RETURNING d.operation_id::text AS id`,
        [before],
      );
      return rows.length;
    },
  };
}

const SWEPT = `c.organization_id::text AS organization_id, c.stream_id::text AS stream_id, c.id::text AS id,
  c.operation_id::text AS operation_id, c.lane`;

const swept = (row: RawRow): SweptOperation => ({
  organizationId: row.organization_id ?? '',
  streamId: row.stream_id ?? '',
  id: row.id ?? '',
  operationId: row.operation_id ?? '',
  lane: row.lane === 'CRITICAL' ? 'CRITICAL' : 'NORMAL',
});

/** The least UUIDv7 of a moment: ids are in the order of time. */
const firstId = (at: string): string =>
  `(lpad(to_hex((extract(epoch FROM ${at}) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid`;

/** A new UUIDv7 of a moment, made by the database. */
const timeOrdered = (at: string): string =>
  `overlay(gen_random_uuid()::text PLACING left(l.hex, 8) || '-' || right(l.hex, 4) || '-7' FROM 1 FOR 15)::uuid`.replaceAll(
    'l.hex',
    `lpad(to_hex((extract(epoch FROM ${at}) * 1000)::bigint), 12, '0')`,
  );
