import type { Page } from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import {
  type ListOperationsInput,
  type OfflineSyncQueue,
  type OperationState,
  SYNC_LANES,
  SYNC_OPERATIONS,
  SYNC_OUTCOMES,
  SYNC_PRIORITIES,
  SYNC_QUEUE_STATUSES,
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
import type { RawRow } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import { idParameter } from './scope.ts';
import { type AuthorScope, authored, filters, pageById, visibleTo } from './sync-page.ts';

const uuidArray = (name: string): Column<readonly UUID[]> => ({
  ...json<readonly UUID[]>(name),
  select: (alias) => `to_json(${alias}.${name})::text`,
});

export const OPERATION: RowMapping<OfflineSyncQueue> = {
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
  /** The streams of a device; of one user's only, where he is given. */
  streamsOfDevice(deviceId: string, userId?: UUID): Promise<readonly UUID[]>;
}

const ENDED = `('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')`;

export function syncQueueQueries(scope: AuthorScope): SyncQueueQueries {
  const { db } = scope;
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const now = (): Timestamp => db.clock.now().toISOString();
  const select = selectColumns(OPERATION, 't');
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
