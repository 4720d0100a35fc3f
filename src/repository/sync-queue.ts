import { uuidv7 } from 'uuidv7';
import type { Page } from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import {
  type EntityRow,
  type ListOperationsInput,
  type OfflineSyncQueue,
  type OperationState,
  SYNC_LANES,
  SYNC_OPERATIONS,
  SYNC_OUTCOMES,
  SYNC_PRIORITIES,
  SYNC_QUEUE_STATUSES,
  type SyncEventType,
} from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import {
  boolean,
  type Column,
  float,
  integer,
  json,
  jsonText,
  nullable,
  text,
  timestamp,
  uuid,
  word,
} from './column.ts';
import type { RawRow } from './database.ts';
import { decodeColumns, type Parameters, type RowMapping, selectColumns } from './row-mapping.ts';
import { idParameter } from './scope.ts';
import { ENDED_BADLY, isIncomplete, isMissing, sharesBatch } from './sync-blocking.ts';
import { type AuthorScope, authored, filters, pageById, visibleTo } from './sync-page.ts';

const uuidArray = (name: string): Column<readonly UUID[]> => ({
  ...json<readonly UUID[]>(name),
  select: (alias) => `to_json(${alias}.${name})::text`,
});

const OPERATION: RowMapping<OfflineSyncQueue> = {
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
  sessionId: nullable(uuid('session_id')),
  operation: word('operation', SYNC_OPERATIONS),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  schemaVersion: integer('schema_version'),
  payload: json('payload'),
  originalPayload: nullable(json('original_payload')),
  editedBy: nullable(uuid('edited_by')),
  previousVersion: nullable(json('previous_version')),
  occurredAt: timestamp('occurred_at'),
  effectiveAt: nullable(timestamp('effective_at')),
  clockSkewMs: nullable(integer('clock_skew_ms')),
  clientStamp: nullable(json('client_stamp')),
  queuedAt: timestamp('queued_at'),
  attemptedAt: nullable(timestamp('attempted_at')),
  syncedAt: nullable(timestamp('synced_at')),
  status: word('status', SYNC_QUEUE_STATUSES),
  statusReason: nullable(text('status_reason')),
  outcome: nullable(word('outcome', SYNC_OUTCOMES)),
  appliedVersion: nullable(integer('applied_version')),
  superseded: json('superseded'),
  priority: word('priority', SYNC_PRIORITIES),
  lane: word('lane', SYNC_LANES),
  expiresAt: nullable(timestamp('expires_at')),
  retryCount: integer('retry_count'),
  maxRetries: integer('max_retries'),
  nextRetryAt: nullable(timestamp('next_retry_at')),
  backoffMultiplier: float('backoff_multiplier'),
  hasConflict: boolean('has_conflict'),
  conflictId: nullable(uuid('conflict_id')),
  dependsOn: uuidArray('depends_on'),
  previousOperationId: nullable(uuid('previous_operation_id')),
  validationErrors: json('validation_errors'),
  requiresApproval: boolean('requires_approval'),
  approvedBy: nullable(uuid('approved_by')),
  approvedAt: nullable(timestamp('approved_at')),
  reviewRequired: boolean('review_required'),
  lastAttemptError: nullable(text('last_attempt_error')),
  lastAttemptStatusCode: nullable(integer('last_attempt_status_code')),
  metadata: json('metadata'),
  createdAt: timestamp('created_at'),
  updatedAt: timestamp('updated_at'),
};

const STATE: RowMapping<OperationState> = {
  operationId: uuid('operation_id'),
  status: word('status', SYNC_QUEUE_STATUSES),
  outcome: nullable(word('outcome', SYNC_OUTCOMES)),
  reason: nullable(text('status_reason')),
  appliedVersion: nullable(integer('applied_version')),
  conflictId: nullable(uuid('conflict_id')),
  superseded: json('superseded'),
};

/** An `OperationState` as JSON, of the row under `alias`. */
export const stateJson = (alias: string): string => `jsonb_build_object('operationId', ${alias}.operation_id,
  'status', ${alias}.status, 'outcome', ${alias}.outcome, 'reason', ${alias}.status_reason,
  'appliedVersion', ${alias}.applied_version, 'conflictId', ${alias}.conflict_id, 'superseded', ${alias}.superseded)`;

/** What somebody does to an operation that has not been applied. */
export type Intervention =
  | { readonly kind: 'PAUSE' | 'CANCEL' | 'REDRIVE' | 'REFUSE' }
  /** Of one that is BLOCKED: lets go what it waits for and what will not come any more. */
  | { readonly kind: 'RESUME' }
  | {
      readonly kind: 'APPROVE';
      readonly approvedBy: UUID;
      /** Of the entity. */
      readonly seenVersion: number;
      /** Of the operation. */
      readonly seenUpdatedAt: Timestamp;
    }
  | {
      readonly kind: 'EDIT';
      readonly editedBy: UUID;
      readonly payload: EntityRow;
      readonly schemaVersion: number;
      readonly fields: readonly string[];
      /** Whether what it says now has to be approved. */
      readonly requiresApproval: boolean;
      /** Whether nobody knows here what the host's schema says of it. */
      readonly unchecked: boolean;
    }
  /** Carries out a person's decision on its conflict; it is his approval too, unless he is the author or edited it last. */
  | {
      readonly kind: 'DECIDE';
      readonly decision: object;
      readonly decidedBy: UUID;
      /** null: it holds for any. */
      readonly seenVersion: number | null;
    };

export interface SyncQueueQueries {
  /** undefined: there is none that may be seen. */
  findOperation(operationId: UUID): Promise<OfflineSyncQueue | undefined>;
  /** What of a device has not ended, in the order of its streams. */
  findPendingOperations(deviceId: string): Promise<readonly OfflineSyncQueue[]>;
  /** Newest first. */
  listOperations(input: ListOperationsInput): Promise<Page<OfflineSyncQueue>>;
  /** Also of operations that were removed since. Of one author's only, where he is given. */
  operationStates(operationIds: readonly UUID[], authorId?: UUID): Promise<readonly OperationState[]>;
  /** The seed's name. Never touches what a worker has. False: there is none, or a worker has it. */
  updateQueueItem(
    id: UUID,
    fields: Partial<Pick<OfflineSyncQueue, 'status' | 'retryCount' | 'nextRetryAt'>>,
  ): Promise<boolean>;
  /**
   * Changes an operation that no worker has and whose status allows it; what shares its atomic batch goes on with it.
   * Gives the operation; undefined: it does not allow it now. The event is entered with it. Needs a transaction.
   */
  intervene(id: UUID, intervention: Intervention): Promise<OfflineSyncQueue | undefined>;
  /** The streams of a device; of one user's only, where he is given. */
  streamsOfDevice(deviceId: string, userId?: UUID): Promise<readonly UUID[]>;
}

const ENDED = `('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')`;

interface InterventionRule {
  readonly from: readonly string[];
  readonly event: SyncEventType;
  /** The columns that it sets, with the time as $4; what depends on the intervention itself is added to them. */
  readonly sets: readonly string[];
}

const becomes = (status: string, reason: SyncReason | null = null): readonly string[] => [
  `status = ${status}, status_reason = ${reason === null ? 'NULL' : `'${reason}'`}`,
  status === `'FAILED'`
    ? `outcome = 'REJECTED', synced_at = $4::timestamptz`
    : 'outcome = NULL, synced_at = NULL',
];
const AFRESH = `claims = 0, retry_count = 0, next_retry_at = NULL, last_attempt_error = NULL, validation_errors = '[]'`;

/** Where an approval is needed and not there. */
const WAITS = `q.requires_approval AND q.approved_by IS NULL AND NOT q.approval_waived`;
const PENDING_OR_WAITING = `CASE WHEN ${WAITS} THEN 'WAITING_APPROVAL' ELSE 'PENDING' END`;
const REASON_OR_WAITING = `CASE WHEN ${WAITS} THEN 'APPROVAL' END`;

const RULES: Readonly<Record<Intervention['kind'], InterventionRule>> = {
  PAUSE: { from: ['PENDING', 'WAITING_APPROVAL'], event: 'PAUSED', sets: becomes(`'PAUSED'`, 'PAUSED') },
  RESUME: {
    from: ['PAUSED', 'BLOCKED'],
    event: 'RESUMED',
    sets: [`status = ${PENDING_OR_WAITING}, status_reason = ${REASON_OR_WAITING}`],
  },
  CANCEL: {
    from: ['PENDING', 'CONFLICT', 'PAUSED', 'WAITING_APPROVAL', 'BLOCKED', 'PARKED', 'FAILED', 'EXPIRED'],
    event: 'CANCELLED',
    sets: becomes(`'CANCELLED'`, 'CANCELLED'),
  },
  REDRIVE: {
    from: ['PARKED', 'FAILED', 'EXPIRED'],
    event: 'REDRIVEN',
    // Whoever wants it applied after its time says so with it.
    sets: [
      ...becomes(`'PENDING'`),
      AFRESH,
      'expires_at = CASE WHEN q.expires_at > $4::timestamptz THEN q.expires_at END',
    ],
  },
  REFUSE: {
    from: ['WAITING_APPROVAL'],
    event: 'REJECTED',
    sets: [...becomes(`'FAILED'`, 'APPROVAL_REFUSED'), 'conflict_resolution = NULL'],
  },
  APPROVE: { from: ['WAITING_APPROVAL'], event: 'APPROVED', sets: becomes(`'PENDING'`) },
  EDIT: {
    from: ['PENDING', 'PAUSED', 'WAITING_APPROVAL', 'BLOCKED', 'PARKED', 'FAILED'],
    event: 'EDITED',
    // What was approved or decided was something else.
    sets: [
      'original_payload = coalesce(q.original_payload, q.payload)',
      'original_schema_version = coalesce(q.original_schema_version, q.schema_version)',
      'approved_by = NULL, approved_at = NULL, approval_version = NULL, conflict_resolution = NULL',
    ],
  },
  DECIDE: { from: ['CONFLICT'], event: 'CONFLICT_RESOLVED', sets: [...becomes(`'PENDING'`), AFRESH] },
};

/** What an intervention sets of its own. */
function ownSets(intervention: Intervention, into: Parameters): readonly string[] {
  switch (intervention.kind) {
    case 'APPROVE':
      return [
        `approved_by = ${into.add(intervention.approvedBy, 'uuid')}, approved_at = $4::timestamptz`,
        `approval_version = ${into.add(intervention.seenVersion, 'bigint')}`,
      ];
    case 'EDIT': {
      const needs = `(q.requires_approval OR ${into.add(intervention.requiresApproval, 'boolean')})`;
      const waits = `q.status = 'PENDING' AND ${needs} AND NOT q.approval_waived`;
      return [
        `edited_by = ${into.add(intervention.editedBy, 'uuid')}`,
        `payload = ${into.add(jsonText(intervention.payload), 'jsonb')}`,
        `schema_version = ${into.add(intervention.schemaVersion, 'integer')}`,
        `fields = ${into.add(intervention.fields, 'text[]')}`,
        `unchecked = ${into.add(intervention.unchecked, 'boolean')}`,
        `requires_approval = ${needs}`,
        `review_required = q.review_required OR ${needs} AND q.approval_waived`,
        `status = CASE WHEN ${waits} THEN 'WAITING_APPROVAL' ELSE q.status END`,
        `status_reason = CASE WHEN ${waits} THEN 'APPROVAL' ELSE q.status_reason END`,
      ];
    }
    case 'DECIDE': {
      const by = into.add(intervention.decidedBy, 'uuid');
      const approves = `q.requires_approval AND q.user_id <> ${by} AND q.edited_by IS DISTINCT FROM ${by}`;
      return [
        `conflict_resolution = ${into.add(jsonText(intervention.decision), 'jsonb')}`,
        `approved_by = CASE WHEN ${approves} THEN ${by} END, approved_at = CASE WHEN ${approves} THEN $4::timestamptz END`,
        `approval_version = CASE WHEN ${approves} THEN ${into.add(intervention.seenVersion, 'bigint')} END`,
      ];
    }
    default:
      return [];
  }
}

export function syncQueueQueries(scope: AuthorScope): SyncQueueQueries {
  const { db } = scope;
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const now = (): Timestamp => db.clock.now().toISOString();
  const select = selectColumns(OPERATION, 't');
  const edges = db.table('sync_predecessors');
  /** That what the edge `e` leads to is over without having been applied. */
  const isOver = `e.kind <> 'ORDER' AND EXISTS (SELECT FROM ${ids} d JOIN ${queue} p ON p.id = d.queue_id AND p.status IN ${ENDED_BADLY}
    WHERE d.organization_id = e.organization_id AND d.operation_id = e.predecessor)`;
  /** That the operation `q` waits for what will not come any more. */
  const waitsInVain = `(EXISTS (SELECT FROM ${edges} e WHERE e.successor_id = q.id AND ${isOver})
    OR NOT ${isIncomplete(db, 'q')} AND EXISTS (SELECT FROM ${queue} m WHERE ${sharesBatch('m', 'q')} AND m.status = 'CANCELLED'))`;

  /**
   * An operation no longer waits for these of its predecessors, but for what they waited for on its entity; nor for what
   * its batch lacks or somebody cancelled of it.
   */
  async function letGo(operation: OfflineSyncQueue, which: string): Promise<void> {
    const { id, streamId, batchId, batchSize } = operation;
    await db.query(
      `WITH RECURSIVE gone AS (
         SELECT e.predecessor, e.kind FROM ${edges} e WHERE e.successor_id = $1::uuid AND ${which}
         UNION
         SELECT e.predecessor, e.kind FROM gone g
           JOIN ${ids} o ON o.organization_id = $2::uuid AND o.operation_id = g.predecessor
           JOIN ${edges} e ON e.successor_id = o.queue_id AND e.kind = 'PREVIOUS' AND ${isOver}
          WHERE g.kind = 'PREVIOUS'
       ), cut AS (
         DELETE FROM ${edges} e USING gone g WHERE e.successor_id = $1::uuid AND e.predecessor = g.predecessor
       )
       INSERT INTO ${edges} (successor_id, organization_id, predecessor, kind)
       SELECT DISTINCT $1::uuid, $2::uuid, e.predecessor, e.kind FROM gone g
         JOIN ${ids} o ON o.organization_id = $2::uuid AND o.operation_id = g.predecessor
         JOIN ${edges} e ON e.successor_id = o.queue_id AND e.kind = 'PREVIOUS' AND NOT (${isOver})
        WHERE g.kind = 'PREVIOUS'
       ON CONFLICT DO NOTHING`,
      [id, operation.organizationId],
    );
    if (batchSize === null) return;
    await db.query(
      `UPDATE ${queue} q SET batch_size = CASE WHEN q.status <> 'CANCELLED' THEN n.members END
         FROM (SELECT count(*) FILTER (WHERE m.status <> 'CANCELLED') AS members FROM ${queue} m
                WHERE m.stream_id = $1::uuid AND m.batch_id = $2::uuid AND m.batch_size IS NOT NULL) n
        WHERE q.stream_id = $1::uuid AND q.batch_id = $2::uuid AND q.batch_size IS NOT NULL`,
      [streamId, batchId],
    );
  }

  return {
    async findOperation(operationId) {
      const into = authored(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${ids} d JOIN ${queue} t ON t.id = d.queue_id
          WHERE d.organization_id = $1::uuid AND d.operation_id = ${into.add(idParameter(operationId), 'uuid')} AND ${visibleTo('t')}`,
        into.values,
      );
      return row && decodeColumns(OPERATION, row);
    },

    async findPendingOperations(deviceId) {
      const into = authored(scope);
      const device = into.add(deviceId, 'text');
      const rows = await db.query(
        `SELECT ${select} FROM ${db.table('sync_streams')} s
           JOIN ${queue} t ON t.stream_id = s.id AND (t.runnable OR t.waiting) AND t.status NOT IN ${ENDED}
          WHERE s.organization_id = $1::uuid AND s.device_id = ${device} AND ${visibleTo('t')}
          ORDER BY t.stream_id, t.sequence_number`,
        into.values,
      );
      return rows.map((row) => decodeColumns(OPERATION, row));
    },

    listOperations: (input) =>
      pageById(scope, input, {
        table: 'offline_sync_queue',
        select,
        where: (into) =>
          filters(into, {
            status: input.status,
            device_id: input.deviceId,
            user_id: input.userId,
            entity_type: input.entityType,
            entity_id: input.entityId,
          }),
        decode: (row) => decodeColumns(OPERATION, row),
      }),

    async operationStates(operationIds, authorId) {
      const known = operationIds.filter((id) => idParameter(id) !== null);
      const rows = await db.query(
        `SELECT d.operation_id::text AS asked, d.final_state::text AS final, ${selectColumns(STATE, 't')}
           FROM ${ids} d LEFT JOIN ${queue} t ON t.id = d.queue_id
          WHERE d.organization_id = $1::uuid AND d.operation_id = ANY ($2::uuid[])
            AND ($3::uuid IS NULL OR EXISTS (SELECT FROM ${db.table('sync_streams')} s
              WHERE s.id = d.stream_id AND s.user_id = $3::uuid))`,
        [scope.organizationId, known, authorId ?? null],
        'sync-states',
      );
      return rows.flatMap((row: RawRow): OperationState[] => {
        if (row.operationId !== null) return [decodeColumns(STATE, row)];
        return row.final == null ? [] : [JSON.parse(row.final) as OperationState];
      });
    },

    async updateQueueItem(id, fields) {
      const into = authored(scope);
      const sets = [
        ...(fields.status === undefined ? [] : [`status = ${into.add(fields.status, 'text')}`]),
        ...(fields.retryCount === undefined
          ? []
          : [`retry_count = ${into.add(fields.retryCount, 'integer')}`]),
        ...(fields.nextRetryAt === undefined
          ? []
          : [`next_retry_at = ${into.add(fields.nextRetryAt, 'timestamptz')}`]),
        `updated_at = ${into.add(now(), 'timestamptz')}`,
      ];
      const rows = await db.query(
        `UPDATE ${queue} t SET ${sets.join(', ')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status <> 'IN_PROGRESS' AND ${visibleTo('t')}
         RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },

    async intervene(id, intervention) {
      const { kind } = intervention;
      const rule = RULES[kind];
      const into = authored(scope);
      const at = into.add(now(), 'timestamptz');
      const sets = [
        ...rule.sets,
        ...ownSets(intervention, into),
        // Always another, so that it tells whether the operation is still what somebody saw.
        `updated_at = greatest(${at}, q.updated_at + interval '1 millisecond')`,
      ];
      const conditions = [
        `q.id = ${into.add(idParameter(id), 'uuid')} AND q.status = ANY (${into.add(rule.from, 'text[]')})`,
        visibleTo('q'),
        ...(kind === 'APPROVE'
          ? [`q.updated_at = ${into.add(intervention.seenUpdatedAt, 'timestamptz')}`]
          : []),
        ...(kind === 'RESUME' ? [`(q.status <> 'BLOCKED' OR ${waitsInVain})`] : []),
      ];
      const [row] = await db.query(
        `WITH chosen AS (
           SELECT q.id, q.status FROM ${queue} q WHERE ${conditions.join(' AND ')} FOR UPDATE
         ), changed AS (
           UPDATE ${queue} q SET ${sets.join(', ')} FROM chosen c WHERE q.id = c.id RETURNING q.*
         ), told AS (
           INSERT INTO ${db.table('sync_events')} (id, organization_id, type, queue_id, operation_id, user_id, device_id,
                  branch_id, entity_type, entity_id, details, occurred_at)
           SELECT ${into.add(uuidv7(), 'uuid')}, c.organization_id, ${into.add(rule.event, 'text')}, c.id, c.operation_id, c.user_id,
                  c.device_id, c.branch_id, c.entity_type, c.entity_id, ${into.add(jsonText(authorOf(scope)), 'jsonb')}, ${at}
             FROM changed c
         )
         SELECT ${select}, (SELECT status FROM chosen) AS before FROM changed t`,
        into.values,
      );
      if (row === undefined) return undefined;
      const operation = decodeColumns(OPERATION, row);
      if (kind === 'DECIDE') await letGo(operation, `(${isOver} OR ${isMissing(db)})`);
      if (row.before === 'BLOCKED' && kind === 'RESUME') await letGo(operation, isOver);
      if (operation.batchSize !== null && operation.status === 'PENDING') {
        await db.query(
          `UPDATE ${queue} q SET status = 'PENDING', status_reason = NULL, outcome = NULL, synced_at = NULL, updated_at = $3::timestamptz
            WHERE q.stream_id = $1::uuid AND q.batch_id = $2::uuid AND q.batch_size IS NOT NULL
              AND (q.status = 'BLOCKED' OR q.status = 'FAILED' AND q.status_reason = 'GROUP_FAILED')`,
          [operation.streamId, operation.batchId, now()],
        );
      }
      return operation;
    },

    async streamsOfDevice(deviceId, userId) {
      const rows = await db.query(
        `SELECT s.id::text AS id FROM ${db.table('sync_streams')} s
          WHERE s.organization_id = $1::uuid AND s.device_id = $2 AND ($3::uuid IS NULL OR s.user_id = $3::uuid)
          ORDER BY s.created_at, s.id`,
        [scope.organizationId, deviceId, userId ?? null],
      );
      return rows.map((row) => row.id ?? '');
    },
  };
}

const authorOf = (scope: AuthorScope): object => (scope.authorId === null ? {} : { by: scope.authorId });
