import {
  type BackupErrorRecord,
  type BackupWarning,
  CONFLICT_RESOLUTION_STRATEGIES,
  type EntityChanges,
  type ListInput,
  type Page,
  RESTORE_CONFLICT_KINDS,
  RESTORE_STATUSES,
  RESTORE_TYPES,
  type RestoreConflict,
  type RestoreDataMetrics,
  type RestoreOperation,
  type RestoreProgress,
  type RestoreStatus,
  type ValidationResults,
} from '../types/backup.ts';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import { RestoreConflictSchema, RestoreOperationSchema } from '../validation/index.ts';
import {
  boolean,
  type Column,
  computed,
  freeText,
  json,
  jsonText,
  nullable,
  text,
  timestamp,
  uuid,
  wholeMilliseconds,
  word,
} from './column.ts';
import { nextNumber } from './counters.ts';
import { readPage } from './page.ts';
import { defineRow, type Parameters, parameters } from './row-mapping.ts';
import { type BoundScope, idParameter, ofVisibleSnapshot, scoped, snapshotVisible } from './scope.ts';

const RESTORE_ROW = defineRow<RestoreOperation>(
  {
    id: uuid('id'),
    organizationId: uuid('organization_id'),
    snapshotId: uuid('snapshot_id'),
    restoreNumber: text('restore_number'),
    restoreType: word('restore_type', RESTORE_TYPES),
    requestedAt: timestamp('requested_at'),
    requestedBy: uuid('requested_by'),
    startedAt: nullable(timestamp('started_at')),
    completedAt: nullable(timestamp('completed_at')),
    duration: nullable(wholeMilliseconds('duration')),
    scope: json('scope'),
    restoreDestination: json('restore_destination'),
    status: word('status', RESTORE_STATUSES),
    statusReason: nullable(freeText('status_reason')),
    progress: nullable(json('progress')),
    dataMetrics: nullable(json('data_metrics')),
    validationEnabled: boolean('validation_enabled'),
    validationResults: nullable(json('validation_results')),
    conflictResolutionStrategy: word('conflict_resolution_strategy', CONFLICT_RESOLUTION_STRATEGIES),
    conflictsDetected: json('conflicts_detected'),
    errors: json('errors'),
    warnings: json('warnings'),
    requiresApproval: boolean('requires_approval'),
    approvedBy: nullable(uuid('approved_by')),
    approvedAt: nullable(timestamp('approved_at')),
    approvalNotes: nullable(text('approval_notes')),
    rollbackEnabled: boolean('rollback_enabled'),
    rollbackSnapshotId: nullable(uuid('rollback_snapshot_id')),
    deleteNotInBackup: boolean('delete_not_in_backup'),
    allowCascades: boolean('allow_cascades'),
    columnMapping: json('column_mapping'),
    changes: json('changes'),
    rolledBackAt: nullable(timestamp('rolled_back_at')),
    rolledBackBy: nullable(uuid('rolled_back_by')),
    notes: nullable(text('notes')),
    customFields: json('custom_fields'),
    createdAt: timestamp('created_at'),
    updatedAt: timestamp('updated_at'),
  },
  RestoreOperationSchema,
);

/** A row of the host's as texts by column. */
const rowImage = (name: 'backup' | 'existing'): Column<RestoreConflict['backup'] & object> =>
  computed(json(name), (alias) => `json_object(${alias}.columns, ${alias}.${name})::text`);

const CONFLICT_ROW = defineRow<RestoreConflict>(
  {
    id: uuid('id'),
    organizationId: uuid('organization_id'),
    restoreId: uuid('restore_id'),
    entityType: text('entity_type'),
    recordId: text('record_id'),
    kind: word('kind', RESTORE_CONFLICT_KINDS),
    fields: computed(json('fields'), (alias) => `to_jsonb(${alias}.fields)::text`),
    detail: nullable(text('detail')),
    backup: nullable(rowImage('backup')),
    existing: nullable(rowImage('existing')),
    version: nullable(text('version')),
    status: word('status', ['PENDING', 'RESOLVED']),
    resolution: nullable(word('resolution', ['BACKUP', 'EXISTING', 'FIELDS'])),
    resolvedBy: nullable(uuid('resolved_by')),
    resolvedAt: nullable(timestamp('resolved_at')),
    notes: nullable(text('notes')),
    detectedAt: timestamp('detected_at'),
  },
  RestoreConflictSchema,
);

const WAITING = ['APPROVED', 'QUEUED'] as const satisfies readonly RestoreStatus[];
const WORKING = ['PREPARING', 'IN_PROGRESS', 'VALIDATING'] as const satisfies readonly RestoreStatus[];
const SUCCESSFUL = ['COMPLETED', 'COMPLETED_WITH_WARNINGS'] as const satisfies readonly RestoreStatus[];
export type WorkingRestoreStatus = (typeof WORKING)[number];

/** What the caller decides of a new restore. */
export type NewRestoreOperation = Pick<
  RestoreOperation,
  | 'id'
  | 'snapshotId'
  | 'restoreType'
  | 'requestedBy'
  | 'scope'
  | 'restoreDestination'
  | 'validationEnabled'
  | 'conflictResolutionStrategy'
  | 'requiresApproval'
  | 'rollbackEnabled'
  | 'deleteNotInBackup'
  | 'allowCascades'
  | 'columnMapping'
  | 'notes'
  | 'customFields'
> & { readonly status: 'PENDING_APPROVAL' | 'QUEUED' };

export interface RestoreProgressUpdate {
  readonly status?: WorkingRestoreStatus;
  readonly progress?: RestoreProgress;
}

/** How a restore ended. FAILED and CANCELLED may end one that never began. */
export interface RestoreEnd {
  readonly status: 'COMPLETED' | 'COMPLETED_WITH_WARNINGS' | 'FAILED' | 'CANCELLED';
  readonly statusReason?: string | null;
  readonly completedAt: Timestamp;
  /** Milliseconds. */
  readonly duration?: number | null;
  readonly progress?: RestoreProgress;
  readonly dataMetrics?: RestoreDataMetrics;
  readonly validationResults?: ValidationResults;
  readonly conflictsDetected?: readonly Json[];
  readonly changes?: readonly EntityChanges[];
  readonly warnings?: readonly BackupWarning[];
  readonly error?: BackupErrorRecord;
}

export interface ListRestoresInput extends ListInput {
  readonly snapshotId?: UUID;
  readonly status?: readonly RestoreStatus[];
}

export interface RestoreQueries {
  /** Enters a restore under the next number. Undefined: the snapshot is not visible or was deleted. */
  insertRestore(restore: NewRestoreOperation): Promise<RestoreOperation | undefined>;
  findRestoreById(id: UUID): Promise<RestoreOperation | undefined>;
  /** Newest first. Throws VALIDATION_FAILED for a wrong limit or cursor. */
  listRestores(input?: ListRestoresInput): Promise<Page<RestoreOperation>>;
  /** Decides on a PENDING_APPROVAL restore. False: it is not pending, or `approvedBy` is who requested it. */
  decideRestore(
    id: UUID,
    decision: {
      readonly status: 'APPROVED' | 'REJECTED';
      readonly approvedBy: UUID;
      readonly approvalNotes: string | null;
    },
  ): Promise<boolean>;
  /** QUEUED or APPROVED to PREPARING: of several workers, one gets true. */
  startRestore(id: UUID, startedAt: Timestamp): Promise<boolean>;
  /** Only while it is PREPARING, IN_PROGRESS or VALIDATING; otherwise false, and the worker must stop. */
  updateRestoreProgress(id: UUID, update: RestoreProgressUpdate): Promise<boolean>;
  /**
   * Ends a restore that has not ended; one that COMPLETED is counted on its snapshot. False, and nothing changes, where
   * it has ended, or is to be COMPLETED and was not at work.
   */
  finishRestore(id: UUID, end: RestoreEnd): Promise<boolean>;
  /** A completed restore that keeps what rows were to ROLLED_BACK. False: it is not one, or not any more. */
  rollBackRestore(
    id: UUID,
    by: {
      readonly rolledBackBy: UUID;
      readonly rolledBackAt: Timestamp;
      readonly statusReason: string | null;
    },
  ): Promise<boolean>;
  /** Newest first. Throws VALIDATION_FAILED for a wrong limit or cursor. */
  listRestoreConflicts(restoreId: UUID, input?: ListInput): Promise<Page<RestoreConflict>>;
  findRestoreConflict(id: UUID): Promise<RestoreConflict | undefined>;
  /** Enters the decision about a PENDING conflict. False: it has been decided. */
  resolveRestoreConflict(
    id: UUID,
    decision: Pick<RestoreConflict, 'resolvedBy' | 'resolvedAt' | 'notes'> & {
      readonly resolution: 'BACKUP' | 'EXISTING' | 'FIELDS';
    },
  ): Promise<boolean>;
}

export function restoreQueries(scope: BoundScope): RestoreQueries {
  const { db } = scope;
  const table = db.table('restore_operations');
  const snapshots = db.table('backup_snapshots');
  const select = RESTORE_ROW.select('t');
  const visible = ofVisibleSnapshot(scope, 't');
  const conflicts = db.table('restore_conflicts');
  const ofVisibleRestore = (alias: string): string =>
    `EXISTS (SELECT FROM ${table} r WHERE r.id = ${alias}.restore_id AND ${ofVisibleSnapshot(scope, 'r')})`;
  const now = (): Timestamp => db.clock.now().toISOString();

  /** Changes a visible restore that is in one of `from`; the snapshot's id where it was. */
  async function change(
    run: BoundScope['db'],
    id: UUID,
    from: readonly RestoreStatus[],
    fields: Partial<RestoreOperation>,
    more: (into: Parameters) => { readonly set?: string; readonly where?: string } = () => ({}),
  ): Promise<string | undefined> {
    const into = scoped(scope);
    const assigned = RESTORE_ROW.assign(fields, into);
    const { set, where } = more(into);
    const [row] = await run.query(
      `UPDATE ${table} AS t
          SET ${[...assigned.map(({ column, value }) => `${column} = ${value}`), ...(set ? [set] : [])].join(', ')},
              updated_at = greatest(t.updated_at, ${into.add(now(), 'timestamptz')})
        WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status = ANY (${into.add(from, 'text[]')})
          AND ${visible}${where ? ` AND ${where}` : ''} RETURNING t.snapshot_id::text AS snapshot_id`,
      into.values,
    );
    return row?.snapshot_id ?? undefined;
  }

  return {
    insertRestore: (restore) =>
      db.withTransaction(async (tx) => {
        const target = scoped(scope);
        const [snapshot] = await tx.query(
          `SELECT 1::text AS found FROM ${snapshots} s WHERE s.id = ${target.add(idParameter(restore.snapshotId), 'uuid')}
              AND ${snapshotVisible(scope, 's')} AND s.deleted_at IS NULL FOR SHARE OF s`,
          target.values,
        );
        if (!snapshot) return undefined;
        const into = parameters();
        const columns = RESTORE_ROW.assign(
          {
            ...restore,
            organizationId: scope.organizationId,
            restoreNumber: await nextNumber({ ...scope, db: tx }, 'RESTORE'),
            requestedAt: now(),
            createdAt: now(),
            updatedAt: now(),
          },
          into,
        );
        const [row] = await tx.query(
          `INSERT INTO ${table} AS t (${columns.map(({ column }) => column).join(', ')})
           VALUES (${columns.map(({ value }) => value).join(', ')}) RETURNING ${select}`,
          into.values,
        );
        return RESTORE_ROW.decode(row ?? {});
      }),

    async findRestoreById(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${visible}`,
        into.values,
      );
      return row && RESTORE_ROW.decode(row);
    },

    listRestores: (input = {}) =>
      readPage(scope, input, {
        table: 'restore_operations',
        selectList: select,
        where: (into) =>
          [
            visible,
            ...(input.snapshotId === undefined
              ? []
              : [`t.snapshot_id = ${into.add(idParameter(input.snapshotId), 'uuid')}`]),
            ...(input.status ? [`t.status = ANY (${into.add(input.status, 'text[]')})`] : []),
          ].join(' AND '),
        decode: RESTORE_ROW.decode,
      }),

    async decideRestore(id, decision) {
      const changed = await change(
        db,
        id,
        ['PENDING_APPROVAL'],
        { ...decision, approvedAt: now() },
        (into) => ({
          where: `t.requested_by <> ${into.add(decision.approvedBy, 'uuid')}`,
        }),
      );
      return changed !== undefined;
    },

    async startRestore(id, startedAt) {
      return (await change(db, id, WAITING, { status: 'PREPARING', startedAt })) !== undefined;
    },

    async updateRestoreProgress(id, update) {
      return (await change(db, id, WORKING, update)) !== undefined;
    },

    async rollBackRestore(id, by) {
      const changed = await change(db, id, SUCCESSFUL, { status: 'ROLLED_BACK', ...by }, () => ({
        where: 't.rollback_enabled',
      }));
      return changed !== undefined;
    },

    listRestoreConflicts: (restoreId, input = {}) =>
      readPage(scope, input, {
        table: 'restore_conflicts',
        selectList: CONFLICT_ROW.select('t'),
        where: (into) =>
          `t.restore_id = ${into.add(idParameter(restoreId), 'uuid')} AND ${ofVisibleRestore('t')}`,
        decode: CONFLICT_ROW.decode,
      }),

    async findRestoreConflict(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${CONFLICT_ROW.select('t')} FROM ${conflicts} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${ofVisibleRestore('t')}`,
        into.values,
      );
      return row && CONFLICT_ROW.decode(row);
    },

    async resolveRestoreConflict(id, { resolution, resolvedBy, resolvedAt, notes }) {
      const into = scoped(scope);
      const rows = await db.query(
        `UPDATE ${conflicts} AS t SET status = 'RESOLVED', resolution = ${into.add(resolution, 'text')}, resolved_by = ${into.add(resolvedBy, 'uuid')},
                resolved_at = ${into.add(resolvedAt, 'timestamptz')}, notes = ${into.add(notes, 'text')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status = 'PENDING' AND ${ofVisibleRestore('t')} RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length > 0;
    },

    finishRestore: (id, end) =>
      db.withTransaction(async (tx) => {
        const { error, ...fields } = end;
        const good = SUCCESSFUL.some((status) => status === end.status);
        const from = good ? WORKING : [...WORKING, ...WAITING, 'PENDING_APPROVAL' as const];
        const snapshotId = await change(tx, id, from, fields, (into) =>
          error ? { set: `errors = t.errors || ${into.add(jsonText([error]), 'jsonb')}` } : {},
        );
        if (snapshotId === undefined) return false;
        if (good) {
          await tx.query(
            `UPDATE ${snapshots} AS s SET restore_count = s.restore_count + 1,
                    last_restored_at = greatest(s.last_restored_at, $2::timestamptz) WHERE s.id = $1::uuid`,
            [snapshotId, end.completedAt],
          );
        }
        return true;
      }),
  };
}
