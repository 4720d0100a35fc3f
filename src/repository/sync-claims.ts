import type { Json, Timestamp, UUID } from '../types/ids.ts';
import {
  type ConflictResolution,
  type DataVersion,
  type EntityRow,
  SYNC_LANES,
  SYNC_OPERATIONS,
  SYNC_PRIORITIES,
  type SyncLane,
  type SyncOperation,
  type SyncPriority,
} from '../types/offline-sync.ts';
import {
  boolean,
  type Column,
  float,
  integer,
  json,
  nullable,
  text,
  timestamp,
  uuid,
  word,
} from './column.ts';
import type { Database, RawRow } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import { passable, STANDING } from './sync-blocking.ts';

/** An operation that this worker alone may apply, until its lease ends. */
export interface ClaimedOperation {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly branchId: UUID | null;
  readonly userId: UUID;
  readonly deviceId: string;
  readonly streamId: UUID;
  readonly operationId: UUID;
  readonly sequenceNumber: number;
  readonly batchId: UUID | null;
  readonly batchSize: number | null;
  readonly operation: SyncOperation;
  readonly entityType: string;
  readonly entityId: string;
  readonly schemaVersion: number;
  readonly payload: EntityRow;
  /** As the device has it, of one that was edited; its version too. */
  readonly originalPayload: EntityRow | null;
  readonly originalSchemaVersion: number | null;
  readonly previousVersion: Partial<DataVersion> | null;
  readonly baseTrusted: boolean;
  readonly previousOperationId: UUID | null;
  readonly occurredAt: Timestamp;
  readonly effectiveAt: Timestamp | null;
  readonly queuedAt: Timestamp;
  readonly priority: SyncPriority;
  readonly lane: SyncLane;
  readonly retryCount: number;
  readonly maxRetries: number;
  readonly backoffMultiplier: number;
  readonly claims: number;
  readonly conflictId: UUID | null;
  readonly conflictResolution: ConflictResolution | null;
  readonly requiresApproval: boolean;
  readonly approvedBy: UUID | null;
  readonly approvalVersion: number | null;
  readonly approvalWaived: boolean;
  readonly reviewRequired: boolean;
  /** The host's schema has not been asked about its payload. */
  readonly unchecked: boolean;
  readonly actor: Json;
  readonly metadata: { readonly [key: string]: Json };
  /** Operations claimed together with it that come before it. */
  readonly after: readonly UUID[];
}

export interface ClaimRequest {
  readonly streamId: UUID;
  readonly lane: SyncLane;
  readonly token: UUID;
  readonly leaseMs: number;
  readonly limit: number;
  /** Only what comes after this place. */
  readonly after?: ClaimPlace | undefined;
  /** Atomic batches that are not ready: what comes after them does not wait for them. */
  readonly unready?: readonly UUID[];
}

/** A place in a stream's order. */
export interface ClaimPlace {
  readonly dueAt: string;
  readonly sequenceNumber: string;
}

export interface Claim {
  readonly operations: readonly ClaimedOperation[];
  /** Where to look on; undefined: all was looked at, up to `batch`. */
  readonly next: ClaimPlace | undefined;
  /** The place of the next atomic batch: what comes after it is not taken before it. */
  readonly batch: ClaimPlace | undefined;
}

export interface BatchClaim {
  /** All of the batch; empty: it is not ready. */
  readonly operations: readonly ClaimedOperation[];
  /** The batches that come first and are not ready. */
  readonly unready: readonly UUID[];
}

export interface SyncClaims {
  /**
   * Takes what is ready, in order, as far as the next atomic batch: no predecessor outside of the claim that has not ended
   * well. What was taken before without an outcome is taken alone.
   */
  claim(request: ClaimRequest): Promise<Claim>;
  /** Takes the first atomic batch, whole, where it is complete and ready. */
  claimBatch(request: ClaimRequest): Promise<BatchClaim>;
  /** One operation, whatever its lane, where it is ready. undefined: it is not, or somebody has it. */
  claimOne(id: UUID, request: Pick<ClaimRequest, 'token' | 'leaseMs'>): Promise<ClaimedOperation | undefined>;
  /**
   * Gives claims back as if they had never been taken: neither an attempt nor a claim is counted. Gives those that
   * the token still held.
   */
  release(token: UUID, ids: readonly UUID[]): Promise<readonly UUID[]>;
  /** The same for all that the token holds in a stream. */
  releaseStream(token: UUID, streamId: UUID): Promise<readonly UUID[]>;
  /** Claims of these operations that an outage has ended: they do not count, though the token is gone. */
  forgive(ids: readonly UUID[]): Promise<void>;
  /** Lengthens the leases that the token holds. */
  renew(token: UUID, ids: readonly UUID[], leaseMs: number): Promise<void>;
}

const uuidArray = (name: string): Column<readonly UUID[]> => ({
  ...json<readonly UUID[]>(name),
  select: (alias) => `to_json(${alias}.${name})::text`,
});

const CLAIMED: RowMapping<Omit<ClaimedOperation, 'after'>> = {
  id: uuid('id'),
  organizationId: uuid('organization_id'),
  branchId: nullable(uuid('branch_id')),
  userId: uuid('user_id'),
  deviceId: text('device_id'),
  streamId: uuid('stream_id'),
  operationId: uuid('operation_id'),
  sequenceNumber: integer('sequence_number'),
  batchId: nullable(uuid('batch_id')),
  batchSize: nullable(integer('batch_size')),
  operation: word('operation', SYNC_OPERATIONS),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  schemaVersion: integer('schema_version'),
  payload: json('payload'),
  originalPayload: nullable(json('original_payload')),
  originalSchemaVersion: nullable(integer('original_schema_version')),
  previousVersion: nullable(json('previous_version')),
  baseTrusted: boolean('base_trusted'),
  previousOperationId: nullable(uuid('previous_operation_id')),
  occurredAt: timestamp('occurred_at'),
  effectiveAt: nullable(timestamp('effective_at')),
  queuedAt: timestamp('queued_at'),
  priority: word('priority', SYNC_PRIORITIES),
  lane: word('lane', SYNC_LANES),
  retryCount: integer('retry_count'),
  maxRetries: integer('max_retries'),
  backoffMultiplier: float('backoff_multiplier'),
  claims: integer('claims'),
  conflictId: nullable(uuid('conflict_id')),
  conflictResolution: nullable(json('conflict_resolution')),
  requiresApproval: boolean('requires_approval'),
  approvedBy: nullable(uuid('approved_by')),
  approvalVersion: nullable(integer('approval_version')),
  approvalWaived: boolean('approval_waived'),
  reviewRequired: boolean('review_required'),
  unchecked: boolean('unchecked'),
  actor: json('actor'),
  metadata: json('metadata'),
};
const AFTER = uuidArray('after');
const UNREADY = uuidArray('unready');

/** An operation that was claimed as often without an outcome is not claimed again: see `parkPoisoned`. */
export const MOST_CLAIMS = 3;
/** Of how many members the batches are found that come first; what comes later is looked at in the next claim. */
const MEMBERS_PER_BATCH = 10;

export function syncClaims(db: Database): SyncClaims {
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const predecessors = db.table('sync_predecessors');
  const now = (): Timestamp => db.clock.now().toISOString();

  /** What may be taken: it waits and its time has come, or its worker has been silent for too long. */
  const claimable = (alias: string, at: string): string => `${alias}.runnable AND CASE ${alias}.status
      WHEN 'PENDING' THEN ${alias}.next_retry_at IS NULL OR ${alias}.next_retry_at <= ${at}
      ELSE ${alias}.lease_expires_at < clock_timestamp() AND ${alias}.claims < ${MOST_CLAIMS} END
    AND (${alias}.expires_at IS NULL OR ${alias}.expires_at > ${at} OR ${alias}.lane = 'CRITICAL'
      OR ${alias}.conflict_resolution IS NOT NULL)`;

  /** Has ended well, be it so long ago that only its id is left. */
  const endedWell = (state: string, id: string): string =>
    `(${state}.status = 'COMPLETED' OR ${state}.id IS NULL AND ${id}.final_state ->> 'status' = 'COMPLETED')`;

  /**
   * What keeps the operations in `candidate` from being taken: what has not ended well before them, and which they may not
   * pass (see `passable`). An operation of a type whose operations pass others has all that is ahead of it on its entity
   * for its predecessors, so that nothing need be followed. Those are unready of which that is not taken with them; and
   * those that wait for such.
   */
  const readiness = `
    edge AS MATERIALIZED (
      SELECT c.id AS successor, e.predecessor, w.id AS within
        FROM candidate c
       CROSS JOIN LATERAL (SELECT * FROM ${predecessors} i WHERE i.successor_id = c.id OFFSET 0) e
        LEFT JOIN LATERAL (SELECT * FROM ${ids} i WHERE i.organization_id = c.organization_id AND i.operation_id = e.predecessor OFFSET 0) d ON true
        LEFT JOIN LATERAL (SELECT * FROM ${queue} i WHERE i.id = d.queue_id OFFSET 0) p ON true
        LEFT JOIN candidate w ON w.id = d.queue_id
       WHERE NOT coalesce(${endedWell('p', 'd')}, false)
         AND NOT CASE WHEN p.id IS NULL THEN e.kind = 'ORDER' ELSE p.status IN ${STANDING} AND ${passable(db, 'e', 'c', 'p')} END
    ), unready AS (
      SELECT e.successor FROM edge e WHERE e.within IS NULL
      UNION
      SELECT e.successor FROM edge e JOIN unready u ON u.successor = e.within
    )`;

  const candidateColumns = 'q.id, q.organization_id, q.fields, q.disjoint_proceeds';

  /** What something CRITICAL of its author waits for is applied before anybody has approved it, and reviewed afterwards. */
  const take = (token: string, lease: string, at: string): string => `
    UPDATE ${queue} q SET status = 'IN_PROGRESS', claim_token = ${token}::uuid, claims = q.claims + 1,
           review_required = q.review_required OR q.approval_waived AND q.requires_approval AND q.approved_by IS NULL,
           lease_expires_at = clock_timestamp() + ${lease}::double precision * interval '1 millisecond',
           attempted_at = ${at}, updated_at = ${at}
      FROM candidate c`;

  const claimText = `
    WITH RECURSIVE batch AS MATERIALIZED (
      SELECT q.due_at, q.sequence_number FROM ${queue} q
       WHERE q.stream_id = $1::uuid AND q.lane = $2 AND q.batch_size IS NOT NULL AND ${claimable('q', '$5::timestamptz')}
         AND NOT q.batch_id = ANY ($9::uuid[])
       ORDER BY q.due_at, q.sequence_number LIMIT 1
    ), seen AS MATERIALIZED (
      SELECT q.*, row_number() OVER () AS place
        FROM (SELECT ${candidateColumns}, q.due_at, q.sequence_number, q.claims FROM ${queue} q
               WHERE q.stream_id = $1::uuid AND q.lane = $2 AND q.batch_size IS NULL AND ${claimable('q', '$5::timestamptz')}
                 AND ($7::timestamptz IS NULL OR (q.due_at, q.sequence_number) > ($7::timestamptz, $8::bigint))
                 AND (q.due_at, q.sequence_number) < (coalesce((SELECT b.due_at FROM batch b), 'infinity'),
                   coalesce((SELECT b.sequence_number FROM batch b), 0))
               ORDER BY q.due_at, q.sequence_number LIMIT $6::bigint FOR UPDATE SKIP LOCKED) q
    ), candidate AS MATERIALIZED (
      SELECT s.* FROM seen s CROSS JOIN (SELECT claims FROM seen ORDER BY place LIMIT 1) f
       WHERE CASE WHEN f.claims > 0 THEN s.place = 1 ELSE s.claims = 0 END
    ), ${readiness}, taken AS (
      ${take('$3', '$4', '$5::timestamptz')}
       WHERE q.id = c.id AND NOT EXISTS (SELECT FROM unready u WHERE u.successor = c.id)
      RETURNING q.*
    )
    SELECT ${selectColumns(CLAIMED, 't')}, s.due_at::text AS place_due, s.sequence_number::text AS place_sequence,
           (SELECT b.due_at FROM batch b)::text AS batch_due, (SELECT b.sequence_number FROM batch b)::text AS batch_sequence,
           (SELECT count(*) FROM seen)::text AS seen, (c.id IS NOT NULL)::text AS considered,
           (SELECT coalesce(json_agg(e.predecessor), '[]') FROM edge e WHERE e.successor = t.id AND e.within IS NOT NULL)::text AS after
      FROM (VALUES (true)) AS always LEFT JOIN seen s ON true LEFT JOIN candidate c ON c.id = s.id LEFT JOIN taken t ON t.id = s.id
     ORDER BY s.place`;

  const batchText = `
    WITH RECURSIVE batch AS MATERIALIZED (
      SELECT q.batch_id, max(q.batch_size) AS size, min(q.due_at) AS due_at, min(q.sequence_number) AS sequence_number
        FROM (SELECT * FROM ${queue} q
               WHERE q.stream_id = $1::uuid AND q.lane = $2 AND q.batch_size IS NOT NULL AND ${claimable('q', '$5::timestamptz')}
                 AND NOT q.batch_id = ANY ($7::uuid[])
               ORDER BY q.due_at, q.sequence_number LIMIT $6::bigint * ${MEMBERS_PER_BATCH}) q
       GROUP BY q.batch_id ORDER BY 3, 4 LIMIT $6::bigint
    ), member AS MATERIALIZED (
      SELECT ${candidateColumns}, q.batch_id, coalesce(${claimable('q', '$5::timestamptz')}, false) AS claimable
        FROM ${queue} q WHERE q.stream_id = $1::uuid AND q.batch_size IS NOT NULL
         AND q.batch_id IN (SELECT b.batch_id FROM batch b) ORDER BY q.id FOR UPDATE SKIP LOCKED
    ), complete AS (
      SELECT m.batch_id FROM member m JOIN batch b ON b.batch_id = m.batch_id
       GROUP BY m.batch_id, b.size HAVING count(*) = b.size AND bool_and(m.claimable)
    ), candidate AS MATERIALIZED (
      SELECT m.* FROM member m WHERE m.batch_id IN (SELECT c.batch_id FROM complete c)
    ), ${readiness}, ready AS MATERIALIZED (
      SELECT b.* FROM batch b JOIN complete c ON c.batch_id = b.batch_id
       WHERE NOT EXISTS (SELECT FROM candidate m JOIN unready u ON u.successor = m.id WHERE m.batch_id = b.batch_id)
         AND NOT EXISTS (SELECT FROM edge e JOIN candidate m ON m.id = e.successor JOIN candidate w ON w.id = e.within
                          WHERE m.batch_id = b.batch_id AND w.batch_id <> b.batch_id)
       ORDER BY b.due_at, b.sequence_number LIMIT 1
    ), unfit AS MATERIALIZED (
      SELECT b.batch_id FROM batch b WHERE NOT EXISTS (
        SELECT FROM ready r WHERE (r.due_at, r.sequence_number) <= (b.due_at, b.sequence_number))
    ), taken AS (
      ${take('$3', '$4', '$5::timestamptz')}
       WHERE q.id = c.id AND c.batch_id IN (SELECT r.batch_id FROM ready r) AND NOT EXISTS (SELECT FROM unfit)
      RETURNING q.*
    )
    SELECT ${selectColumns(CLAIMED, 't')}, (SELECT coalesce(json_agg(u.batch_id), '[]') FROM unfit u)::text AS unready,
           (SELECT coalesce(json_agg(e.predecessor), '[]') FROM edge e WHERE e.successor = t.id AND e.within IS NOT NULL)::text AS after
      FROM (VALUES (true)) AS always LEFT JOIN taken t ON true ORDER BY t.sequence_number, t.id`;

  const oneText = `
    WITH RECURSIVE candidate AS MATERIALIZED (
      SELECT ${candidateColumns} FROM ${queue} q
       WHERE q.id = $1::uuid AND q.batch_size IS NULL AND ${claimable('q', '$4::timestamptz')} FOR UPDATE SKIP LOCKED
    ), ${readiness}, taken AS (
      ${take('$2', '$3', '$4::timestamptz')}
       WHERE q.id = c.id AND NOT EXISTS (SELECT FROM unready u WHERE u.successor = c.id)
      RETURNING q.*
    )
    SELECT ${selectColumns(CLAIMED, 't')}, '[]' AS after FROM taken t`;

  const release = async (where: string, token: UUID, which: UUID | readonly UUID[]): Promise<UUID[]> => {
    const rows = await db.query(
      `UPDATE ${queue} q SET status = 'PENDING', claim_token = NULL, lease_expires_at = NULL,
              claims = greatest(q.claims - 1, 0), updated_at = $3::timestamptz
        WHERE ${where} AND q.claim_token = $1::uuid RETURNING q.id::text AS id`,
      [token, which, now()],
    );
    return rows.map((row) => row.id ?? '');
  };

  return {
    async claim({ streamId, lane, token, leaseMs, limit, after, unready = [] }) {
      const rows = await db.query(
        claimText,
        [
          ...[streamId, lane, token, leaseMs, now(), limit],
          ...[after?.dueAt ?? null, after?.sequenceNumber ?? null, unready],
        ],
        'sync-claim',
      );
      const last = rows.findLast((row) => row.considered === 'true') ?? rows[0];
      const whole = Number(rows[0]?.seen ?? 0) < limit && rows.at(-1) === last;
      return {
        operations: rows.filter((row) => row.id !== null).map(decodeClaimed),
        next: whole ? undefined : placeOf(last?.place_due, last?.place_sequence),
        batch: placeOf(rows[0]?.batch_due, rows[0]?.batch_sequence),
      };
    },

    async claimBatch({ streamId, lane, token, leaseMs, limit, unready = [] }) {
      const rows = await db.query(
        batchText,
        [streamId, lane, token, leaseMs, now(), limit, unready],
        'sync-claim-batch',
      );
      return {
        operations: rows.filter((row) => row.id !== null).map(decodeClaimed),
        unready: UNREADY.decode(rows[0]?.unready ?? '[]'),
      };
    },

    async claimOne(id, { token, leaseMs }) {
      const [row] = await db.query(oneText, [id, token, leaseMs, now()], 'sync-claim-one');
      return row && decodeClaimed(row);
    },

    release: (token, released) => release('q.id = ANY ($2::uuid[])', token, released),

    releaseStream: (token, streamId) => release('q.stream_id = $2::uuid AND q.runnable', token, streamId),

    async forgive(forgiven) {
      await db.query(
        `UPDATE ${queue} q SET claims = q.claims - 1
          WHERE q.id = ANY ($1::uuid[]) AND q.status IN ('PENDING', 'IN_PROGRESS') AND q.claims > 0`,
        [forgiven],
      );
    },

    async renew(token, renewed, leaseMs) {
      await db.query(
        `UPDATE ${queue} q SET lease_expires_at = clock_timestamp() + $3::double precision * interval '1 millisecond'
          WHERE q.id = ANY ($2::uuid[]) AND q.claim_token = $1::uuid`,
        [token, renewed, leaseMs],
      );
    },
  };
}

const placeOf = (
  dueAt: string | null | undefined,
  sequenceNumber: string | null | undefined,
): ClaimPlace | undefined =>
  dueAt == null || sequenceNumber == null ? undefined : { dueAt, sequenceNumber };

const decodeClaimed = (row: RawRow): ClaimedOperation => ({
  ...decodeColumns(CLAIMED, row),
  after: AFTER.decode(row.after ?? null),
});
