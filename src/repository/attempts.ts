import { violatedConstraint } from '../postgres/errors.ts';
import type { BackupSnapshot, StorageDestination } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { json, nullable, text, timestamp, uuid, word } from './column.ts';
import {
  decodeColumns,
  type Parameters,
  parameters,
  type RowMapping,
  selectColumns,
  setList,
} from './row-mapping.ts';
import { type BoundScope, idParameter, ofVisibleSnapshot, scoped, snapshotVisible, within } from './scope.ts';
import { endSnapshot, lockRunningAttempt, type SnapshotFailure } from './snapshot-end.ts';
import { RUNNING_STATUSES, snapshotRow } from './snapshot-row.ts';

/** RUNNING: may finish its snapshot. SEALED: has. CLAIMED: was declared dead or gave up, and may not. */
export const ATTEMPT_STATES = ['RUNNING', 'SEALED', 'CLAIMED'] as const;
export type AttemptState = (typeof ATTEMPT_STATES)[number];

/** One try at a snapshot. Its id is the token without which nobody finishes the snapshot. */
export interface BackupAttempt {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  readonly snapshotId: UUID;
  /** Where its objects are, and only its. */
  readonly storagePrefix: string;
  readonly state: AttemptState;
  /** Who runs it, for people to read. */
  readonly worker: string;
  readonly heartbeatAt: Timestamp;
  readonly cancelRequestedAt: Timestamp | null;
  /** Where it stores; null: entered by an earlier version. */
  readonly destination: StorageDestination | null;
  /** When what it had stored was last swept; only of a CLAIMED one. */
  readonly sweptAt: Timestamp | null;
  readonly createdAt: Timestamp;
}

export interface NewAttempt extends Pick<BackupAttempt, 'id' | 'snapshotId' | 'storagePrefix' | 'worker'> {
  readonly destination?: StorageDestination;
  /** How it stores, which may have changed since the snapshot was asked for. */
  readonly settings?: Pick<
    BackupSnapshot,
    'encrypted' | 'encryptionAlgorithm' | 'compressed' | 'compressionAlgorithm' | 'checksumAlgorithm'
  >;
}

const ATTEMPT: RowMapping<BackupAttempt> = {
  id: uuid('id'),
  organizationId: uuid('organization_id'),
  configurationId: uuid('configuration_id'),
  snapshotId: uuid('snapshot_id'),
  storagePrefix: text('storage_prefix'),
  state: word('state', ATTEMPT_STATES),
  worker: text('worker'),
  heartbeatAt: timestamp('heartbeat_at'),
  cancelRequestedAt: nullable(timestamp('cancel_requested_at')),
  destination: nullable(json('destination')),
  sweptAt: nullable(timestamp('swept_at')),
  createdAt: timestamp('created_at'),
};

export interface AttemptQueries {
  /**
   * Begins an attempt at a snapshot that has not ended. Undefined: the snapshot is not visible or has ended. Throws
   * BACKUP_ALREADY_RUNNING while another attempt of the same configuration is RUNNING.
   */
  createAttempt(attempt: NewAttempt): Promise<BackupAttempt | undefined>;
  findAttemptById(id: UUID): Promise<BackupAttempt | undefined>;
  /** Undefined: the attempt is no longer RUNNING, its worker must stop. */
  heartbeat(id: UUID): Promise<{ readonly cancelRequested: boolean } | undefined>;
  /** Asks the running attempt of a snapshot to stop; its worker sees it at the next heartbeat. False: none is running. */
  requestCancel(snapshotId: UUID): Promise<boolean>;
  /** RUNNING to CLAIMED, and its snapshot, unless it has ended, to FAILED. False: it was not RUNNING. */
  claimAttempt(id: UUID, failure: SnapshotFailure): Promise<boolean>;
  /** RUNNING to SEALED, where the snapshot was finished elsewhere. False: it was not RUNNING. */
  sealAttempt(id: UUID): Promise<boolean>;
  /** Notes that a CLAIMED attempt's objects are gone. It may be swept again. */
  markSwept(id: UUID): Promise<boolean>;
  /** The RUNNING attempts of a configuration, the oldest first. */
  findUnfinishedAttempts(configurationId: UUID): Promise<readonly BackupAttempt[]>;
  /** CLAIMED attempts that were never swept, or were begun since `since` and may have stored more; oldest first. */
  findClaimedAttempts(configurationId: UUID, since: Timestamp): Promise<readonly BackupAttempt[]>;
}

export function attemptQueries(scope: BoundScope): AttemptQueries {
  const { db } = scope;
  const table = db.table('backup_attempts');
  const select = selectColumns(ATTEMPT, 'a');
  const visible = ofVisibleSnapshot(scope, 'a');
  const now = (): Timestamp => db.clock.now().toISOString();

  /** Changes the attempt where it is in `state`; whether it was. */
  async function change(id: UUID, state: AttemptState, set: (into: Parameters) => string): Promise<boolean> {
    const into = scoped(scope);
    const rows = await db.query(
      `UPDATE ${table} AS a SET ${set(into)} WHERE a.id = ${into.add(idParameter(id), 'uuid')}
          AND a.state = ${into.add(state, 'text')} AND ${visible} RETURNING a.id::text AS id`,
      into.values,
    );
    return rows.length === 1;
  }

  return {
    createAttempt: (attempt) =>
      db.withTransaction(async (tx) => {
        const lock = scoped(scope);
        const snapshotId = lock.add(idParameter(attempt.snapshotId), 'uuid');
        // Attempt before snapshot, as everywhere, so that nobody waits for each other.
        await tx.query(
          `SELECT 1 FROM ${table} a WHERE a.snapshot_id = ${snapshotId} AND a.state = 'RUNNING' AND ${visible} FOR NO KEY UPDATE OF a`,
          lock.values,
        );
        const [snapshot] = await tx.query(
          `SELECT s.configuration_id::text AS configuration_id FROM ${db.table('backup_snapshots')} s
            WHERE s.id = ${snapshotId} AND ${snapshotVisible(scope, 's')} AND s.deleted_at IS NULL
              AND s.status IN (${RUNNING_STATUSES.map((status) => `'${status}'`).join(', ')}) FOR NO KEY UPDATE OF s`,
          lock.values,
        );
        if (!snapshot) return undefined;
        if (attempt.settings !== undefined) {
          const into = parameters(attempt.snapshotId);
          await tx.query(
            `UPDATE ${db.table('backup_snapshots')} AS s SET ${setList(snapshotRow(db).assign(attempt.settings, into))}
              WHERE s.id = $1::uuid`,
            into.values,
          );
        }
        const [row] = await tx
          .query(
            `INSERT INTO ${table} AS a (id, organization_id, configuration_id, snapshot_id, storage_prefix, state, worker,
                    heartbeat_at, created_at, destination)
             VALUES ($1, $2, $3, $4, $5, 'RUNNING', $6, $7, $7, $8::jsonb) RETURNING ${select}`,
            [
              attempt.id,
              scope.organizationId,
              snapshot.configuration_id ?? null,
              attempt.snapshotId,
              attempt.storagePrefix,
              attempt.worker,
              now(),
              attempt.destination === undefined ? null : JSON.stringify(attempt.destination),
            ],
          )
          .catch(refuseSecond);
        return decodeColumns(ATTEMPT, row ?? {});
      }),

    async findAttemptById(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} a WHERE a.id = ${into.add(idParameter(id), 'uuid')} AND ${visible}`,
        into.values,
      );
      return row && decodeColumns(ATTEMPT, row);
    },

    async heartbeat(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `UPDATE ${table} AS a SET heartbeat_at = greatest(a.heartbeat_at, ${into.add(now(), 'timestamptz')})
          WHERE a.id = ${into.add(idParameter(id), 'uuid')} AND a.state = 'RUNNING' AND ${visible}
         RETURNING (a.cancel_requested_at IS NOT NULL)::text AS cancel`,
        into.values,
      );
      return row && { cancelRequested: row.cancel === 'true' };
    },

    async requestCancel(snapshotId) {
      const into = scoped(scope);
      const rows = await db.query(
        `UPDATE ${table} AS a SET cancel_requested_at = coalesce(a.cancel_requested_at, ${into.add(now(), 'timestamptz')})
          WHERE a.snapshot_id = ${into.add(idParameter(snapshotId), 'uuid')} AND a.state = 'RUNNING' AND ${visible}
         RETURNING a.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },

    claimAttempt: (id, failure) =>
      db.withTransaction(async (tx) => {
        const inside = within(scope, tx);
        const locked = await lockRunningAttempt(inside, { attemptId: id });
        if (!locked) return false;
        await tx.query(`UPDATE ${table} SET state = 'CLAIMED' WHERE id = $1`, [id]);
        if (locked.snapshotRuns)
          await endSnapshot(inside, locked.snapshotId, { status: 'FAILED', ...failure });
        return true;
      }),

    sealAttempt: (id) => change(id, 'RUNNING', () => `state = 'SEALED'`),

    markSwept: (id) => change(id, 'CLAIMED', (into) => `swept_at = ${into.add(now(), 'timestamptz')}`),

    async findUnfinishedAttempts(configurationId) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT ${select} FROM ${table} a WHERE a.configuration_id = ${into.add(idParameter(configurationId), 'uuid')}
            AND a.state = 'RUNNING' AND ${visible} ORDER BY a.ordinal`,
        into.values,
      );
      return rows.map((row) => decodeColumns(ATTEMPT, row));
    },

    async findClaimedAttempts(configurationId, since) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT ${select} FROM ${table} a WHERE a.configuration_id = ${into.add(idParameter(configurationId), 'uuid')}
            AND a.state = 'CLAIMED' AND (a.swept_at IS NULL OR a.created_at >= ${into.add(since, 'timestamptz')})
            AND ${visible} ORDER BY a.ordinal`,
        into.values,
      );
      return rows.map((row) => decodeColumns(ATTEMPT, row));
    },
  };
}

function refuseSecond(error: unknown): never {
  if (violatedConstraint(error) === 'backup_attempts_one_running') {
    throw new DataProtectionError(
      'Another attempt of the configuration is running',
      'BACKUP_ALREADY_RUNNING',
      {
        cause: error,
      },
    );
  }
  throw error;
}
