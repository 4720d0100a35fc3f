import type {
  BackupProgress,
  BackupSnapshot,
  ListSnapshotsInput,
  Page,
  StorageLocation,
} from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { nextNumber } from './counters.ts';
import { readPage } from './page.ts';
import { setList } from './row-mapping.ts';
import { requeue } from './run-queue.ts';
import {
  type BoundScope,
  configurationVisible,
  idParameter,
  requireOwnBranches,
  scoped,
  snapshotVisible,
} from './scope.ts';
import {
  type AttemptToken,
  beginAgain,
  endSnapshot,
  type FailedAs,
  lockRunningAttempt,
  type SnapshotCancellation,
  type SnapshotEnd,
  type SnapshotFailure,
  type SnapshotResult,
} from './snapshot-end.ts';
import {
  RUNNING_STATUSES,
  type RunningSnapshotStatus,
  SUCCESSFUL_STATUSES,
  snapshotRow,
} from './snapshot-row.ts';

/** What the caller decides of a new snapshot. It begins QUEUED. */
export type NewSnapshot = Pick<
  BackupSnapshot,
  | 'id'
  | 'configurationId'
  | 'snapshotType'
  | 'trigger'
  | 'generation'
  | 'scheduledAt'
  | 'checksumAlgorithm'
  | 'encrypted'
  | 'encryptionKeyId'
  | 'encryptionAlgorithm'
  | 'compressed'
  | 'compressionAlgorithm'
  | 'expiresAt'
  | 'parentSnapshotId'
  | 'tags'
  | 'notes'
  | 'customFields'
  | 'requestedBy'
>;

export interface SnapshotProgressUpdate {
  readonly status?: RunningSnapshotStatus;
  readonly startedAt?: Timestamp;
  readonly progress?: BackupProgress;
  /** Set before the first object is stored, so that the remains of a dead attempt can be found. */
  readonly storageLocation?: StorageLocation;
  /** Set before anything that it wraps can count, so that it is not retired. */
  readonly encryptionKeyId?: string;
}

/** A snapshot and its attempt; null: the snapshot never had one. */
export interface EndedBy {
  readonly snapshotId: UUID;
  readonly attemptId: UUID | null;
}

export interface SnapshotQueries {
  /** Queues a snapshot under the next number. Undefined: the configuration is not visible or was deleted. */
  insertSnapshot(snapshot: NewSnapshot): Promise<BackupSnapshot | undefined>;
  findSnapshotById(id: UUID): Promise<BackupSnapshot | undefined>;
  /** Every snapshot of a configuration that was not deleted, of any status, newest first. */
  findSnapshotsByConfig(configurationId: UUID): Promise<readonly BackupSnapshot[]>;
  /** The newest by order of creation, not by clock, that is COMPLETED or COMPLETED_WITH_WARNINGS. */
  getLastSuccessfulBackup(configurationId: UUID): Promise<BackupSnapshot | undefined>;
  /** Newest first. Throws VALIDATION_FAILED for a wrong limit or cursor. */
  listSnapshots(input?: ListSnapshotsInput): Promise<Page<BackupSnapshot>>;
  /** Only while the attempt is RUNNING and the snapshot has not ended; otherwise false, and the worker must stop. */
  updateSnapshotProgress(token: AttemptToken, update: SnapshotProgressUpdate): Promise<boolean>;
  /**
   * Makes a snapshot count, seals its attempt and enters it in the configuration's totals. Only while the attempt is
   * RUNNING and the snapshot has not ended; otherwise false, and nothing changes.
   */
  finalizeSnapshot(token: AttemptToken, result: SnapshotResult): Promise<boolean>;
  /**
   * Likewise; the attempt becomes CLAIMED, so that what it has stored is swept. Where a worker runs the snapshot, the
   * failure may pass and tries are left, it is QUEUED again instead. A configuration whose scheduled runs failed
   * `MAX_CONSECUTIVE_FAILURES` times in a row becomes SUSPENDED. Undefined: it may not end it.
   */
  failSnapshot(ended: EndedBy, failure: SnapshotFailure): Promise<FailedAs | undefined>;
  /** Likewise. */
  cancelSnapshot(ended: EndedBy, cancellation: SnapshotCancellation): Promise<boolean>;
  /** Notes where a snapshot that counts is stored: its copies, or, once it was moved, another place. */
  recordLocation(id: UUID, location: StorageLocation): Promise<boolean>;
  /** Notes the outcome of a verification of a snapshot that counts. */
  recordVerification(
    id: UUID,
    verification: Pick<BackupSnapshot, 'integrityVerified' | 'integrityVerifiedAt'>,
  ): Promise<boolean>;
  /** Notes which key wraps the data key of a snapshot that counts. */
  recordKey(id: UUID, encryptionKeyId: string): Promise<boolean>;
}

export function snapshotQueries(scope: BoundScope): SnapshotQueries {
  const { db } = scope;
  const table = db.table('backup_snapshots');
  const rowType = snapshotRow(db);
  const select = rowType.select('t');
  const live = `${snapshotVisible(scope, 't')} AND t.deleted_at IS NULL`;
  const running = `t.status IN (${RUNNING_STATUSES.map((status) => `'${status}'`).join(', ')})`;
  const successful = `t.status IN (${SUCCESSFUL_STATUSES.map((status) => `'${status}'`).join(', ')})`;
  const now = (): Timestamp => db.clock.now().toISOString();

  /** Ends a snapshot and its attempt together, or neither. */
  const end = (
    ended: EndedBy,
    state: 'SEALED' | 'CLAIMED',
    how: SnapshotEnd,
  ): Promise<FailedAs | undefined> =>
    db.withTransaction(async (tx) => {
      const inside = { ...scope, db: tx };
      const { attemptId, snapshotId } = ended;
      if (attemptId === null) {
        if (!(await lockUnattempted(inside, snapshotId))) return undefined;
      } else {
        const locked = await lockRunningAttempt(inside, { attemptId, snapshotId });
        if (!locked?.snapshotRuns) return undefined;
        await tx.query(`UPDATE ${db.table('backup_attempts')} SET state = $2 WHERE id = $1`, [
          attemptId,
          state,
        ]);
        if (how.status === 'FAILED' && locked.cancelRequested) {
          const { completedAt } = how;
          await endSnapshot(inside, snapshotId, {
            status: 'CANCELLED',
            statusReason: 'Cancelled',
            completedAt,
          });
          return 'CANCELLED';
        }
      }
      if (how.status === 'FAILED' && how.error.recoverable && (await requeue(inside, snapshotId, now()))) {
        await beginAgain(inside, snapshotId, how);
        return 'QUEUED';
      }
      return endSnapshot(inside, snapshotId, how);
    });

  /** Locks a visible, running snapshot, and only then looks whether an attempt was begun. */
  async function lockUnattempted(inside: BoundScope, snapshotId: UUID): Promise<boolean> {
    const into = scoped(scope);
    const id = into.add(idParameter(snapshotId), 'uuid');
    const locked = await inside.db.query(
      `SELECT t.id::text AS id FROM ${table} t WHERE t.id = ${id} AND ${live} AND ${running} FOR NO KEY UPDATE OF t`,
      into.values,
    );
    if (locked.length === 0) return false;
    const attempts = await inside.db.query(
      `SELECT id::text AS id FROM ${db.table('backup_attempts')}
        WHERE organization_id = $1 AND snapshot_id = $2 AND state IN ('RUNNING', 'SEALED')`,
      [scope.organizationId, snapshotId],
    );
    return attempts.length === 0;
  }

  async function note(id: UUID, fields: Partial<BackupSnapshot>): Promise<boolean> {
    const into = scoped(scope);
    const assigned = rowType.assign(fields, into);
    const rows = await db.query(
      `UPDATE ${table} AS t SET ${setList(assigned)}, updated_at = greatest(t.updated_at, ${into.add(now(), 'timestamptz')})
        WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live} AND ${successful} RETURNING t.id::text AS id`,
      into.values,
    );
    return rows.length === 1;
  }

  return {
    insertSnapshot: (snapshot) =>
      db.withTransaction(async (tx) => {
        const target = scoped(scope);
        const [configuration] = await tx.query(
          `SELECT 1::text AS found FROM ${db.table('backup_configurations')} c
            WHERE c.id = ${target.add(idParameter(snapshot.configurationId), 'uuid')}
              AND ${configurationVisible('c')} AND c.deleted_at IS NULL FOR SHARE OF c`,
          target.values,
        );
        if (!configuration) return undefined;
        const into = scoped(scope);
        const columns = rowType.assign(
          {
            ...snapshot,
            organizationId: scope.organizationId,
            snapshotNumber: await nextNumber({ ...scope, db: tx }, 'SNAPSHOT'),
            status: 'QUEUED',
            createdAt: now(),
            updatedAt: now(),
          },
          into,
        );
        const [row] = await tx.query(
          `INSERT INTO ${table} AS t (${columns.map(({ column }) => column).join(', ')}, branch_ids)
           SELECT ${columns.map(({ value }) => value).join(', ')}, c.branch_ids
             FROM ${db.table('backup_configurations')} c
            WHERE c.id = ${into.add(snapshot.configurationId, 'uuid')} AND ${configurationVisible('c')}
           RETURNING ${select}`,
          into.values,
        );
        return row && rowType.decode(row);
      }),

    async findSnapshotById(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live}`,
        into.values,
      );
      return row && rowType.decode(row);
    },

    async findSnapshotsByConfig(configurationId) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.configuration_id = ${into.add(idParameter(configurationId), 'uuid')}
            AND ${live} ORDER BY t.ordinal DESC`,
        into.values,
      );
      return rows.map(rowType.decode);
    },

    async getLastSuccessfulBackup(configurationId) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.configuration_id = ${into.add(idParameter(configurationId), 'uuid')}
            AND ${live} AND ${successful} ORDER BY t.ordinal DESC LIMIT 1`,
        into.values,
      );
      return row && rowType.decode(row);
    },

    listSnapshots: (input = {}) =>
      readPage(scope, input, {
        table: 'backup_snapshots',
        selectList: select,
        where: (into) =>
          [
            live,
            ...(input.configurationId === undefined
              ? []
              : [`t.configuration_id = ${into.add(idParameter(input.configurationId), 'uuid')}`]),
            ...(input.status ? [`t.status = ANY (${into.add(input.status, 'text[]')})`] : []),
          ].join(' AND '),
        decode: rowType.decode,
      }),

    async updateSnapshotProgress(token, update) {
      const into = scoped(scope);
      const assigned = rowType.assign(update, into);
      const rows = await db.query(
        `UPDATE ${table} AS t
            SET ${setList([...assigned, { column: 'updated_at', value: `greatest(t.updated_at, ${into.add(now(), 'timestamptz')})` }])}
           FROM ${db.table('backup_attempts')} a
          WHERE t.id = ${into.add(idParameter(token.snapshotId), 'uuid')} AND ${live} AND ${running}
            AND a.id = ${into.add(idParameter(token.attemptId), 'uuid')} AND a.snapshot_id = t.id AND a.state = 'RUNNING'
         RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },

    finalizeSnapshot: async (token, result) => {
      requireOwnBranches(scope, result.branchIds);
      return (await end(token, 'SEALED', result)) !== undefined;
    },
    failSnapshot: (ended, failure) => end(ended, 'CLAIMED', { status: 'FAILED', ...failure }),
    cancelSnapshot: async (ended, cancellation) =>
      (await end(ended, 'CLAIMED', { status: 'CANCELLED', ...cancellation })) !== undefined,

    recordLocation: (id, storageLocation) => note(id, { storageLocation }),
    recordVerification: note,
    recordKey: (id, encryptionKeyId) => note(id, { encryptionKeyId }),
  };
}
