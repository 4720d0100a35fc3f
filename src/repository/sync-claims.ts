import type { Json, Timestamp, UUID } from '../types/ids.ts';
import {
  type ConflictResolution,
  type DataVersion,
  type EntityRow,
  SYNC_OPERATIONS,
  SYNC_OUTCOMES,
  SYNC_PRIORITIES,
  SYNC_QUEUE_STATUSES,
  type SyncLane,
  type SyncOperation,
  type SyncOutcome,
  type SyncPriority,
  type SyncQueueStatus,
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
  readonly previousVersion: Partial<DataVersion> | null;
  readonly baseTrusted: boolean;
  readonly previousOperationId: UUID | null;
  readonly occurredAt: Timestamp;
  readonly effectiveAt: Timestamp | null;
  readonly queuedAt: Timestamp;
  readonly priority: SyncPriority;
  readonly retryCount: number;
  readonly maxRetries: number;
  readonly backoffMultiplier: number;
  readonly claims: number;
  readonly conflictId: UUID | null;
  readonly conflictResolution: ConflictResolution | null;
  readonly requiresApproval: boolean;
  readonly approvedBy: UUID | null;
  readonly approvalVersion: number | null;
  readonly reviewRequired: boolean;
  readonly actor: Json;
  readonly metadata: { readonly [key: string]: Json };
  /** Operations claimed together with it that come before it. */
  readonly after: readonly UUID[];
}

/** What a successor has to know of the operation before it. */
export interface Predecessor {
  readonly operationId: UUID;
  readonly entityType: string;
  readonly entityId: string;
  readonly operation: SyncOperation;
  readonly schemaVersion: number;
  readonly payload: EntityRow;
  readonly previousVersion: Partial<DataVersion> | null;
  readonly baseTrusted: boolean;
  readonly previousOperationId: UUID | null;
  readonly status: SyncQueueStatus;
  readonly outcome: SyncOutcome | null;
  readonly appliedVersion: number | null;
  /** undefined: not known; null: deleted. */
  readonly clientImage: EntityRow | null | undefined;
}

export interface ClaimRequest {
  readonly streamId: UUID;
  readonly lane: SyncLane;
  readonly token: UUID;
  readonly leaseMs: number;
  readonly limit: number;
  /** Only what comes after this place. */
  readonly after?: ClaimPlace | undefined;
}

/** A place in a stream's order. */
export interface ClaimPlace {
  readonly dueAt: string;
  readonly sequenceNumber: string;
}

export interface Claim {
  readonly operations: readonly ClaimedOperation[];
  /** Where to look on; undefined: all was looked at. */
  readonly next: ClaimPlace | undefined;
}

export interface SyncClaims {
  /**
   * Takes what is ready, in order: no predecessor outside of the claim that has not ended well. What was taken before
   * without an outcome is taken alone.
   */
  claim(request: ClaimRequest): Promise<Claim>;
  /** Takes one atomic batch that is complete and ready, whole. Empty: there is none. */
  claimBatch(request: ClaimRequest): Promise<readonly ClaimedOperation[]>;
  /** One operation, whatever its lane, where it is ready. undefined: it is not, or somebody has it. */
  claimOne(id: UUID, request: Pick<ClaimRequest, 'token' | 'leaseMs'>): Promise<ClaimedOperation | undefined>;
  /** Of these operation ids, those that are still known. */
  predecessors(organizationId: UUID, operationIds: readonly UUID[]): Promise<readonly Predecessor[]>;
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
  previousVersion: nullable(json('previous_version')),
  baseTrusted: boolean('base_trusted'),
  previousOperationId: nullable(uuid('previous_operation_id')),
  occurredAt: timestamp('occurred_at'),
  effectiveAt: nullable(timestamp('effective_at')),
  queuedAt: timestamp('queued_at'),
  priority: word('priority', SYNC_PRIORITIES),
  retryCount: integer('retry_count'),
  maxRetries: integer('max_retries'),
  backoffMultiplier: float('backoff_multiplier'),
  claims: integer('claims'),
  conflictId: nullable(uuid('conflict_id')),
  conflictResolution: nullable(json('conflict_resolution')),
  requiresApproval: boolean('requires_approval'),
  approvedBy: nullable(uuid('approved_by')),
  approvalVersion: nullable(integer('approval_version')),
  reviewRequired: boolean('review_required'),
  actor: json('actor'),
  metadata: json('metadata'),
};
const AFTER = uuidArray('after');

const PREDECESSOR: RowMapping<Omit<Predecessor, 'clientImage'>> = {
  operationId: uuid('operation_id'),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  operation: word('operation', SYNC_OPERATIONS),
  schemaVersion: integer('schema_version'),
  payload: json('payload'),
  previousVersion: nullable(json('previous_version')),
  baseTrusted: boolean('base_trusted'),
  previousOperationId: nullable(uuid('previous_operation_id')),
  status: word('status', SYNC_QUEUE_STATUSES),
  outcome: nullable(word('outcome', SYNC_OUTCOMES)),
  appliedVersion: nullable(integer('applied_version')),
};

/** An operation that was claimed as often without an outcome is not claimed again: see `parkPoisoned`. */
export const MOST_CLAIMS = 3;

export function syncClaims(db: Database): SyncClaims {
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const predecessors = db.table('sync_predecessors');
  const now = (): Timestamp => db.clock.now().toISOString();

  /** What may be taken: it waits and its time has come, or its worker has been silent for too long. */
  const claimable = (alias: string, at: string): string => `${alias}.runnable AND CASE ${alias}.status
      WHEN 'PENDING' THEN ${alias}.next_retry_at IS NULL OR ${alias}.next_retry_at <= ${at}
      ELSE ${alias}.lease_expires_at < clock_timestamp() AND ${alias}.claims < ${MOST_CLAIMS} END
    AND (${alias}.expires_at IS NULL OR ${alias}.expires_at > ${at} OR ${alias}.priority = 'CRITICAL')`;

  /** Has ended well, be it so long ago that only its id is left. */
  const endedWell = (state: string, id: string): string =>
    `(${state}.status = 'COMPLETED' OR ${state}.id IS NULL AND ${id}.final_state ->> 'status' = 'COMPLETED')`;

  /**
   * Of the operations in `candidate`, those with a predecessor that has not ended well and is not taken with them;
   * and of those that follow. An operation may pass one that waits for a decision where the entity allows it and no
   * column of all that is ahead of it is its own.
   */
  const readiness = `
    ahead AS (
      SELECT c.id AS candidate, c.fields AS mine, p.id AS ahead, p.status, p.fields
        FROM candidate c JOIN ${predecessors} e ON e.successor_id = c.id AND e.kind = 'PREVIOUS'
        LEFT JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
        LEFT JOIN ${queue} p ON p.id = d.queue_id
       WHERE c.disjoint_proceeds AND NOT coalesce(${endedWell('p', 'd')}, false)
      UNION
      SELECT a.candidate, a.mine, p.id, p.status, p.fields
        FROM ahead a JOIN ${predecessors} e ON e.successor_id = a.ahead AND e.kind = 'PREVIOUS'
        LEFT JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
        LEFT JOIN ${queue} p ON p.id = d.queue_id
       WHERE NOT coalesce(${endedWell('p', 'd')}, false)
    ), may_pass AS (
      SELECT a.candidate FROM ahead a GROUP BY a.candidate
      HAVING bool_and(coalesce(a.status IN ('CONFLICT', 'PARKED', 'BLOCKED', 'WAITING_APPROVAL', 'PAUSED')
        AND NOT a.mine && a.fields AND NOT '*' = ANY (a.mine) AND NOT '*' = ANY (a.fields), false))
    ), edge AS MATERIALIZED (
      SELECT c.id AS successor, e.predecessor, within.id AS within
        FROM candidate c JOIN ${predecessors} e ON e.successor_id = c.id
        LEFT JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
        LEFT JOIN ${queue} p ON p.id = d.queue_id
        LEFT JOIN candidate within ON within.id = d.queue_id
       WHERE NOT coalesce(${endedWell('p', 'd')}, false)
         AND NOT (e.kind = 'PREVIOUS' AND c.disjoint_proceeds AND c.id IN (SELECT m.candidate FROM may_pass m))
    ), unready AS (
      SELECT e.successor FROM edge e WHERE e.within IS NULL
      UNION
      SELECT e.successor FROM edge e JOIN unready u ON u.successor = e.within
    )`;

  const take = (from: string, token: string, lease: string, at: string): string => `
    UPDATE ${queue} q SET status = 'IN_PROGRESS', claim_token = ${token}::uuid, claims = q.claims + 1,
           lease_expires_at = clock_timestamp() + ${lease}::double precision * interval '1 millisecond',
           attempted_at = ${at}, updated_at = ${at}
      FROM ${from}`;

  const claimText = `
    WITH RECURSIVE seen AS MATERIALIZED (
      SELECT q.id, q.due_at, q.sequence_number, q.claims, q.fields, q.disjoint_proceeds,
             row_number() OVER () AS place
        FROM (SELECT * FROM ${queue} q
               WHERE q.stream_id = $1::uuid AND q.lane = $2 AND q.batch_size IS NULL AND ${claimable('q', '$5::timestamptz')}
                 AND ($7::timestamptz IS NULL OR (q.due_at, q.sequence_number) > ($7::timestamptz, $8::bigint))
               ORDER BY q.due_at, q.sequence_number LIMIT $6::bigint FOR UPDATE SKIP LOCKED) q
    ), candidate AS MATERIALIZED (
      SELECT s.* FROM seen s CROSS JOIN (SELECT claims FROM seen ORDER BY place LIMIT 1) f
       WHERE CASE WHEN f.claims > 0 THEN s.place = 1 ELSE s.claims = 0 END
    ), ${readiness}, taken AS (
      ${take('candidate c', '$3', '$4', '$5::timestamptz')}
       WHERE q.id = c.id AND NOT EXISTS (SELECT FROM unready u WHERE u.successor = c.id)
      RETURNING q.*
    )
    SELECT ${selectColumns(CLAIMED, 't')}, s.due_at::text AS place_due, s.sequence_number::text AS place_sequence,
           (SELECT count(*) FROM seen)::text AS seen, (c.id IS NOT NULL)::text AS considered,
           (SELECT coalesce(json_agg(e.predecessor), '[]') FROM edge e WHERE e.successor = t.id AND e.within IS NOT NULL)::text AS after
      FROM seen s LEFT JOIN candidate c ON c.id = s.id LEFT JOIN taken t ON t.id = s.id ORDER BY s.place`;

  const batchText = `
    WITH RECURSIVE batch AS (
      SELECT q.batch_id, max(q.batch_size) AS size, min(q.due_at) AS due_at, min(q.sequence_number) AS sequence_number
        FROM ${queue} q
       WHERE q.stream_id = $1::uuid AND q.lane = $2 AND q.runnable AND q.batch_size IS NOT NULL
       GROUP BY q.batch_id ORDER BY 3, 4 LIMIT $6::bigint
    ), member AS MATERIALIZED (
      SELECT q.id, q.batch_id, q.fields, false AS disjoint_proceeds, coalesce(${claimable('q', '$5::timestamptz')}, false) AS claimable
        FROM ${queue} q WHERE q.stream_id = $1::uuid AND q.batch_size IS NOT NULL
         AND q.batch_id IN (SELECT b.batch_id FROM batch b) ORDER BY q.id FOR UPDATE SKIP LOCKED
    ), complete AS (
      SELECT m.batch_id FROM member m JOIN batch b ON b.batch_id = m.batch_id
       GROUP BY m.batch_id, b.size HAVING count(*) = b.size AND bool_and(m.claimable)
    ), candidate AS MATERIALIZED (
      SELECT m.* FROM member m WHERE m.batch_id IN (SELECT c.batch_id FROM complete c)
    ), ${readiness}, ready AS (
      SELECT b.batch_id FROM batch b JOIN complete c ON c.batch_id = b.batch_id
       WHERE NOT EXISTS (SELECT FROM candidate m JOIN unready u ON u.successor = m.id WHERE m.batch_id = b.batch_id)
         AND NOT EXISTS (SELECT FROM edge e JOIN candidate m ON m.id = e.successor JOIN candidate w ON w.id = e.within
                          WHERE m.batch_id = b.batch_id AND w.batch_id <> b.batch_id)
       ORDER BY b.due_at, b.sequence_number LIMIT 1
    ), taken AS (
      ${take('candidate c', '$3', '$4', '$5::timestamptz')}
       WHERE q.id = c.id AND c.batch_id IN (SELECT r.batch_id FROM ready r)
      RETURNING q.*
    )
    SELECT ${selectColumns(CLAIMED, 't')},
           (SELECT coalesce(json_agg(e.predecessor), '[]') FROM edge e WHERE e.successor = t.id AND e.within IS NOT NULL)::text AS after
      FROM taken t ORDER BY t.sequence_number, t.id`;

  const oneText = `
    WITH RECURSIVE candidate AS MATERIALIZED (
      SELECT q.id, q.fields, q.disjoint_proceeds FROM ${queue} q
       WHERE q.id = $1::uuid AND q.batch_size IS NULL AND ${claimable('q', '$4::timestamptz')} FOR UPDATE SKIP LOCKED
    ), ${readiness}, taken AS (
      ${take('candidate c', '$2', '$3', '$4::timestamptz')}
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
    async claim({ streamId, lane, token, leaseMs, limit, after }) {
      const rows = await db.query(
        claimText,
        [streamId, lane, token, leaseMs, now(), limit, after?.dueAt ?? null, after?.sequenceNumber ?? null],
        'sync-claim',
      );
      const last = rows.findLast((row) => row.considered === 'true') ?? rows[0];
      const whole = Number(rows[0]?.seen ?? 0) < limit && rows.at(-1) === last;
      return {
        operations: rows.filter((row) => row.id !== null).map(decodeClaimed),
        next:
          whole || last === undefined
            ? undefined
            : { dueAt: last.place_due ?? '', sequenceNumber: last.place_sequence ?? '' },
      };
    },

    async claimBatch({ streamId, lane, token, leaseMs, limit }) {
      const rows = await db.query(
        batchText,
        [streamId, lane, token, leaseMs, now(), limit],
        'sync-claim-batch',
      );
      return rows.map(decodeClaimed);
    },

    async claimOne(id, { token, leaseMs }) {
      const [row] = await db.query(oneText, [id, token, leaseMs, now()], 'sync-claim-one');
      return row && decodeClaimed(row);
    },

    async predecessors(organizationId, operationIds) {
      const rows = await db.query(
        `SELECT ${selectColumns(PREDECESSOR, 'q')}, q.client_image::text AS client_image
           FROM ${ids} d JOIN ${queue} q ON q.id = d.queue_id
          WHERE d.organization_id = $1::uuid AND d.operation_id = ANY ($2::uuid[])`,
        [organizationId, operationIds],
        'sync-predecessors',
      );
      return rows.map((row) => {
        const image = row.client_image ?? null;
        return {
          ...decodeColumns(PREDECESSOR, row),
          clientImage: image === null ? undefined : (JSON.parse(image) as EntityRow | null),
        };
      });
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

const decodeClaimed = (row: RawRow): ClaimedOperation => ({
  ...decodeColumns(CLAIMED, row),
  after: AFTER.decode(row.after ?? null),
});
