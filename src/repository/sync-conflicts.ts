import { uuidv7 } from 'uuidv7';
import type { Page } from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import {
  CONFLICT_STATUSES,
  CONFLICT_STRATEGIES,
  CONFLICT_TYPES,
  type ConflictResolution,
  type ConflictStrategy,
  type ConflictType,
  type EntityRow,
  type FieldConflict,
  type ListConflictsInput,
  type SyncConflict,
} from '../types/offline-sync.ts';
import { formatNumber } from '../utils/sequence-number.ts';
import {
  boolean,
  type Column,
  integer,
  json,
  jsonText,
  nullable,
  text,
  timestamp,
  uuid,
  word,
} from './column.ts';
import { decodeColumns, parameters, type RowMapping, selectColumns } from './row-mapping.ts';
import { idParameter } from './scope.ts';
import type { ClaimedOperation } from './sync-claims.ts';
import { type AuthorScope, authored, filters, pageById, visibleTo } from './sync-page.ts';

/** JSON null and SQL NULL both read as null. */
const row = (name: string): Column<EntityRow | null> => nullable(json<EntityRow | null>(name));

const CONFLICT: RowMapping<SyncConflict> = {
  id: uuid('id'),
  organizationId: uuid('organization_id'),
  branchId: nullable(uuid('branch_id')),
  operationId: uuid('operation_id'),
  userId: uuid('user_id'),
  deviceId: text('device_id'),
  conflictNumber: nullable(text('conflict_number')),
  conflictType: word('conflict_type', CONFLICT_TYPES),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  baseVersion: row('base_version'),
  clientVersion: row('client_version'),
  serverVersion: row('server_version'),
  serverVersionNumber: integer('server_version_number'),
  conflictingFields: json('conflicting_fields'),
  status: word('status', CONFLICT_STATUSES),
  resolution: nullable(json('resolution')),
  autoResolutionAttempted: boolean('auto_resolution_attempted'),
  autoResolutionStrategy: nullable(word('auto_resolution_strategy', CONFLICT_STRATEGIES)),
  autoResolutionFailed: boolean('auto_resolution_failed'),
  autoResolutionFailureReason: nullable(text('auto_resolution_failure_reason')),
  requiresManualResolution: boolean('requires_manual_resolution'),
  assignedTo: nullable(uuid('assigned_to')),
  resolvedAt: nullable(timestamp('resolved_at')),
  detectedAt: timestamp('detected_at'),
  redetections: integer('redetections'),
  createdAt: timestamp('created_at'),
  updatedAt: timestamp('updated_at'),
};

/** A conflict as it was found, and what became of it at once. */
export interface NewConflict {
  readonly detected: {
    readonly type: ConflictType;
    readonly base: EntityRow | null;
    readonly client: EntityRow | null;
    readonly server: EntityRow | null;
    readonly fields: readonly FieldConflict[];
  };
  readonly serverVersionNumber: number;
  /** Set where strategies decided it at once. */
  readonly resolution: ConflictResolution | null;
  readonly autoResolution: {
    readonly attempted: boolean;
    readonly strategy: ConflictStrategy | null;
    readonly failureReason: string | null;
  };
}

/** What a conflict has to know of its operation. */
export type ConflictingOperation = Pick<
  ClaimedOperation,
  'id' | 'operationId' | 'userId' | 'deviceId' | 'branchId' | 'entityType' | 'entityId'
>;

export interface SyncConflictQueries {
  /** Enters a conflict of an operation; one of it that is open already is brought up to date instead. Gives its id. */
  storeConflict(operation: ConflictingOperation, found: NewConflict, branchId: UUID | null): Promise<UUID>;
  /** Notes on an operation that no worker has which conflict it waits for. */
  linkConflict(queueId: UUID, conflictId: UUID): Promise<void>;
  findConflict(id: UUID): Promise<SyncConflict | undefined>;
  /** Newest first. */
  listConflicts(input: ListConflictsInput): Promise<Page<SyncConflict>>;
  /** undefined: there is no open one. */
  assignConflict(id: UUID, assignedTo: UUID | null): Promise<SyncConflict | undefined>;
  /** Notes that a decision is on its way. False: it is not open any more, or shows another version. */
  beginResolving(id: UUID, resolution: ConflictResolution): Promise<boolean>;
  /** Ends the open conflict of an operation. `by`: the library's doing, or a person's. */
  closeConflict(
    queueId: UUID,
    status: 'RESOLVED' | 'AUTO_RESOLVED' | 'CANCELLED',
    resolution: ConflictResolution | null,
  ): Promise<void>;
  /** A decision that could not be carried out: the conflict waits for a person again. */
  reopenConflict(queueId: UUID): Promise<void>;
  /** An entity has come to be: operations that waited for it as DEPENDENCY conflicts go on. */
  reopenDependency(entityType: string, entityId: string): Promise<number>;
  /** Gives numbers to conflicts that have none. */
  numberConflicts(): Promise<void>;
}

/** States of a conflict that is not over. */
export const OPEN = `('DETECTED', 'AUTO_RESOLVING', 'PENDING_MANUAL', 'RESOLVING')`;
const MOST_NUMBERED = 200;

export function syncConflictQueries(scope: AuthorScope): SyncConflictQueries {
  const { db, organizationId } = scope;
  const table = db.table('sync_conflicts');
  const queue = db.table('offline_sync_queue');
  const now = (): Timestamp => db.clock.now().toISOString();
  const select = selectColumns(CONFLICT, 't');
  const jsonOrNull = (value: EntityRow | null): string | null => (value === null ? null : jsonText(value));

  return {
    async storeConflict(operation, found, branchId) {
      const { detected, resolution, autoResolution } = found;
      const status = resolution === null ? 'PENDING_MANUAL' : 'AUTO_RESOLVED';
      const at = now();
      const into = parameters(organizationId, operation.id, at);
      const sets: readonly (readonly [string, string])[] = [
        ['conflict_type', into.add(detected.type, 'text')],
        ['base_version', into.add(jsonOrNull(detected.base), 'jsonb')],
        ['client_version', into.add(jsonOrNull(detected.client), 'jsonb')],
        ['server_version', into.add(jsonOrNull(detected.server), 'jsonb')],
        ['server_version_number', into.add(found.serverVersionNumber, 'bigint')],
        ['conflicting_fields', into.add(jsonText(detected.fields), 'jsonb')],
        ['status', into.add(status, 'text')],
        ['resolution', into.add(resolution === null ? null : jsonText(resolution), 'jsonb')],
        ['auto_resolution_attempted', into.add(autoResolution.attempted, 'boolean')],
        ['auto_resolution_strategy', into.add(autoResolution.strategy, 'text')],
        ['auto_resolution_failed', into.add(autoResolution.attempted && resolution === null, 'boolean')],
        ['auto_resolution_failure_reason', into.add(autoResolution.failureReason, 'text')],
        ['requires_manual_resolution', into.add(resolution === null, 'boolean')],
        ['resolved_at', into.add(resolution === null ? null : at, 'timestamptz')],
      ];
      // Where the row belongs now, as far as its author may see it: that decides who may read the conflict.
      const branch = into.add(branchId, 'uuid');
      const [known] = await db.query(
        `UPDATE ${table} t SET ${sets.map(([column, value]) => `${column} = ${value}`).join(', ')},
                branch_id = coalesce(${branch}, t.branch_id), redetections = t.redetections + 1, updated_at = $3::timestamptz
          WHERE t.organization_id = $1::uuid AND t.queue_id = $2::uuid AND t.status IN ${OPEN} RETURNING t.id::text AS id`,
        into.values,
      );
      if (known !== undefined) return known.id ?? '';
      const id = uuidv7();
      const whose: readonly (readonly [string, string])[] = [
        ['id', into.add(id, 'uuid')],
        ['operation_id', into.add(operation.operationId, 'uuid')],
        ['user_id', into.add(operation.userId, 'uuid')],
        ['device_id', into.add(operation.deviceId, 'text')],
        ['entity_type', into.add(operation.entityType, 'text')],
        ['entity_id', into.add(operation.entityId, 'text')],
        ['branch_id', `coalesce(${branch}, ${into.add(operation.branchId, 'uuid')})`],
      ];
      const all = [...sets, ...whose];
      await db.query(
        `INSERT INTO ${table} (organization_id, queue_id, detected_at, created_at, updated_at, ${all.map(([column]) => column).join(', ')})
         VALUES ($1::uuid, $2::uuid, $3::timestamptz, $3::timestamptz, $3::timestamptz, ${all.map(([, value]) => value).join(', ')})`,
        into.values,
      );
      return id;
    },

    async linkConflict(queueId, conflictId) {
      await db.query(
        `UPDATE ${queue} q SET conflict_id = $3::uuid, has_conflict = true
          WHERE q.organization_id = $1::uuid AND q.id = $2::uuid AND q.status = 'CONFLICT'`,
        [organizationId, queueId, conflictId],
      );
    },

    async findConflict(id) {
      const into = authored(scope);
      const [found] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${visibleTo('t')}`,
        into.values,
      );
      return found && decodeColumns(CONFLICT, found);
    },

    listConflicts: (input) =>
      pageById(scope, input, {
        table: 'sync_conflicts',
        select,
        where: (into) =>
          filters(into, {
            status: input.status,
            device_id: input.deviceId,
            assigned_to: input.assignedTo,
            entity_type: input.entityType,
            entity_id: input.entityId,
          }),
        decode: (found) => decodeColumns(CONFLICT, found),
      }),

    async assignConflict(id, assignedTo) {
      const into = authored(scope);
      const [found] = await db.query(
        `UPDATE ${table} t SET assigned_to = ${into.add(assignedTo, 'uuid')}, updated_at = ${into.add(now(), 'timestamptz')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status IN ${OPEN} AND ${visibleTo('t')} RETURNING ${select}`,
        into.values,
      );
      return found && decodeColumns(CONFLICT, found);
    },

    async beginResolving(id, resolution) {
      const into = authored(scope);
      const rows = await db.query(
        `UPDATE ${table} t SET status = 'RESOLVING', resolution = ${into.add(jsonText(resolution), 'jsonb')},
                updated_at = ${into.add(now(), 'timestamptz')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status IN ('DETECTED', 'PENDING_MANUAL')
            AND t.server_version_number = ${into.add(resolution.seenVersion, 'bigint')} AND ${visibleTo('t')}
         RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },

    async closeConflict(queueId, status, resolution) {
      await db.query(
        `UPDATE ${table} t SET status = $3, resolution = coalesce($4::jsonb, t.resolution), resolved_at = $5::timestamptz,
                updated_at = $5::timestamptz
          WHERE t.organization_id = $1::uuid AND t.queue_id = $2::uuid AND t.status IN ${OPEN}`,
        [organizationId, queueId, status, resolution === null ? null : jsonText(resolution), now()],
      );
    },

    async reopenConflict(queueId) {
      await db.query(
        `UPDATE ${table} t SET status = 'PENDING_MANUAL', updated_at = $3::timestamptz
          WHERE t.organization_id = $1::uuid AND t.queue_id = $2::uuid AND t.status = 'RESOLVING'`,
        [organizationId, queueId, now()],
      );
    },

    async reopenDependency(entityType, entityId) {
      const rows = await db.query(
        `WITH closed AS (
           UPDATE ${table} t SET status = 'CANCELLED', resolved_at = $2::timestamptz, updated_at = $2::timestamptz
            WHERE t.organization_id = $1::uuid AND t.status IN ${OPEN} AND t.conflict_type = 'DEPENDENCY'
              AND t.entity_type = $3 AND t.entity_id = $4
           RETURNING t.queue_id
         )
         UPDATE ${queue} q SET status = 'PENDING', status_reason = NULL, conflict_id = NULL, next_retry_at = NULL,
                updated_at = $2::timestamptz
           FROM closed c WHERE q.id = c.queue_id AND q.status = 'CONFLICT' RETURNING q.id::text AS id`,
        [organizationId, now(), entityType, entityId],
      );
      return rows.length;
    },

    async numberConflicts() {
      await db.withTransaction(async (transaction) => {
        const year = transaction.clock.now().getUTCFullYear();
        const rows = await transaction.query(
          `SELECT t.id::text AS id FROM ${table} t WHERE t.organization_id = $1::uuid AND t.conflict_number IS NULL
            ORDER BY t.ordinal LIMIT ${MOST_NUMBERED} FOR UPDATE SKIP LOCKED`,
          [organizationId],
        );
        if (rows.length === 0) return;
        const [counter] = await transaction.query(
          `INSERT INTO ${transaction.table('counters')} AS c (organization_id, kind, year, last_value)
           VALUES ($1::uuid, 'CONFLICT', $2::integer, $3::bigint)
           ON CONFLICT (organization_id, kind, year) DO UPDATE SET last_value = c.last_value + $3::bigint
           RETURNING c.last_value::text AS last`,
          [organizationId, year, rows.length],
        );
        const first = Number(counter?.last ?? 0) - rows.length + 1;
        await transaction.query(
          `UPDATE ${table} t SET conflict_number = n.number FROM unnest($2::uuid[], $3::text[]) AS n(id, number)
            WHERE t.organization_id = $1::uuid AND t.id = n.id`,
          [
            organizationId,
            rows.map((found) => found.id ?? ''),
            rows.map((_, i) => formatNumber('CNF', year, first + i)),
          ],
        );
      });
    },
  };
}
