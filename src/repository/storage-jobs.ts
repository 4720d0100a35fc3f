import { violatedConstraint } from '../postgres/errors.ts';
import {
  type BackupErrorRecord,
  STORAGE_JOB_KINDS,
  STORAGE_JOB_STATUSES,
  type StorageJob,
  type StorageJobProgress,
} from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import { StorageJobSchema } from '../validation/index.ts';
import { integer, json, nullable, timestamp, uuid, word } from './column.ts';
import { defineRow, setList } from './row-mapping.ts';
import { type BoundScope, configurationVisible, idParameter, scoped, snapshotVisible } from './scope.ts';

const JOB_ROW = defineRow<StorageJob>(
  {
    id: uuid('id'),
    organizationId: uuid('organization_id'),
    kind: word('kind', STORAGE_JOB_KINDS),
    configurationId: uuid('configuration_id'),
    snapshotId: nullable(uuid('snapshot_id')),
    input: json('input'),
    status: word('status', STORAGE_JOB_STATUSES),
    attempts: integer('attempts'),
    maxAttempts: integer('max_attempts'),
    notBefore: timestamp('not_before'),
    progress: nullable(json('progress')),
    result: nullable(json('result')),
    error: nullable(json('error')),
    requestedBy: uuid('requested_by'),
    startedAt: nullable(timestamp('started_at')),
    completedAt: nullable(timestamp('completed_at')),
    createdAt: timestamp('created_at'),
    updatedAt: timestamp('updated_at'),
  },
  StorageJobSchema,
);

/** What the caller decides of a new job. It begins QUEUED. */
export type NewStorageJob = Pick<
  StorageJob,
  'id' | 'kind' | 'configurationId' | 'snapshotId' | 'input' | 'maxAttempts' | 'requestedBy'
>;

export interface StorageJobQueries {
  /** Undefined: configuration or snapshot are not visible. Throws INVALID_STATE while the same work is queued or goes on. */
  insertStorageJob(job: NewStorageJob): Promise<StorageJob | undefined>;
  findStorageJobById(id: UUID): Promise<StorageJob | undefined>;
  /** The newest of the kind for a snapshot. */
  findLastStorageJob(kind: StorageJob['kind'], snapshotId: UUID): Promise<StorageJob | undefined>;
  /** The one of the kind over all of a configuration that has not ended. */
  findUnendedStorageJob(kind: StorageJob['kind'], configurationId: UUID): Promise<StorageJob | undefined>;
  /** Begins a try of a job that has not ended. Undefined: it has. The caller holds the job's lock. */
  startStorageJob(id: UUID): Promise<StorageJob | undefined>;
  updateStorageJobProgress(id: UUID, progress: StorageJobProgress): Promise<boolean>;
  /** False: it had ended. */
  completeStorageJob(id: UUID, result: { readonly [key: string]: Json }): Promise<boolean>;
  /** Notes a failure: QUEUED again from `retryAt`, or, where that is null, FAILED. False: it had ended. */
  failStorageJob(id: UUID, error: BackupErrorRecord, retryAt: Timestamp | null): Promise<boolean>;
  /** False: it had ended. */
  cancelStorageJob(id: UUID): Promise<boolean>;
}

const UNENDED = `('QUEUED', 'IN_PROGRESS')`;

export function storageJobQueries(scope: BoundScope): StorageJobQueries {
  const { db } = scope;
  const table = db.table('storage_jobs');
  const select = JOB_ROW.select('t');
  const visible = `t.organization_id = $1::uuid AND EXISTS (SELECT 1 FROM ${db.table('backup_configurations')} c
    WHERE c.id = t.configuration_id AND ${configurationVisible('c')})
    AND (t.snapshot_id IS NULL OR EXISTS (SELECT 1 FROM ${db.table('backup_snapshots')} own
      WHERE own.id = t.snapshot_id AND ${snapshotVisible(scope, 'own')}))`;
  const now = (): Timestamp => db.clock.now().toISOString();

  async function change(id: UUID, fields: Partial<StorageJob>): Promise<boolean> {
    const into = scoped(scope);
    const assigned = JOB_ROW.assign({ ...fields, updatedAt: now() }, into);
    const rows = await db.query(
      `UPDATE ${table} AS t SET ${setList(assigned)}
        WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status IN ${UNENDED} AND ${visible}
       RETURNING t.id::text AS id`,
      into.values,
    );
    return rows.length === 1;
  }

  return {
    async insertStorageJob(job) {
      const into = scoped(scope);
      const at = now();
      const { configurationId, snapshotId } = job;
      const columns = JOB_ROW.assign(
        {
          ...job,
          organizationId: scope.organizationId,
          status: 'QUEUED',
          attempts: 0,
          notBefore: at,
          createdAt: at,
          updatedAt: at,
        },
        into,
      );
      const visible = [
        `c.id = ${into.add(idParameter(configurationId), 'uuid')} AND ${configurationVisible('c')}`,
        ...(snapshotId === null
          ? []
          : [
              `EXISTS (SELECT 1 FROM ${db.table('backup_snapshots')} s WHERE s.configuration_id = c.id
                AND s.id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${snapshotVisible(scope, 's')})`,
            ]),
      ];
      const [row] = await db
        .query(
          `INSERT INTO ${table} AS t (${columns.map(({ column }) => column).join(', ')})
           SELECT ${columns.map(({ value }) => value).join(', ')} FROM ${db.table('backup_configurations')} c
            WHERE ${visible.join(' AND ')} RETURNING ${select}`,
          into.values,
        )
        .catch((error: unknown) => {
          if (violatedConstraint(error) !== 'storage_jobs_one_unended') throw error;
          throw new DataProtectionError(`This ${job.kind} is queued or goes on already`, 'INVALID_STATE', {
            cause: error,
          });
        });
      return row && JOB_ROW.decode(row);
    },

    async findStorageJobById(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${visible}`,
        into.values,
      );
      return row && JOB_ROW.decode(row);
    },

    async findLastStorageJob(kind, snapshotId) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.kind = ${into.add(kind, 'text')}
            AND t.snapshot_id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${visible}
          ORDER BY t.created_at DESC, t.id DESC LIMIT 1`,
        into.values,
      );
      return row && JOB_ROW.decode(row);
    },

    async findUnendedStorageJob(kind, configurationId) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.kind = ${into.add(kind, 'text')} AND t.snapshot_id IS NULL
            AND t.configuration_id = ${into.add(idParameter(configurationId), 'uuid')}
            AND t.status IN ${UNENDED} AND ${visible}`,
        into.values,
      );
      return row && JOB_ROW.decode(row);
    },

    async startStorageJob(id) {
      const into = scoped(scope);
      const at = into.add(now(), 'timestamptz');
      const [row] = await db.query(
        `UPDATE ${table} AS t SET status = 'IN_PROGRESS', attempts = t.attempts + 1,
                started_at = coalesce(t.started_at, ${at}), updated_at = ${at}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.status IN ${UNENDED} AND ${visible}
         RETURNING ${select}`,
        into.values,
      );
      return row && JOB_ROW.decode(row);
    },

    updateStorageJobProgress: (id, progress) => change(id, { progress }),
    completeStorageJob: (id, result) => change(id, { status: 'COMPLETED', result, completedAt: now() }),
    failStorageJob: (id, error, retryAt) =>
      change(
        id,
        retryAt === null
          ? { status: 'FAILED', error, completedAt: now() }
          : { status: 'QUEUED', error, notBefore: retryAt },
      ),
    cancelStorageJob: (id) => change(id, { status: 'CANCELLED', completedAt: now() }),
  };
}
