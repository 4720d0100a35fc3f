import type {
  BackupDataMetrics,
  BackupErrorRecord,
  BackupProgress,
  BackupSnapshot,
  BackupWarning,
  StorageLocation,
} from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { jsonText } from './column.ts';
import { parameters, setList } from './row-mapping.ts';
import { dequeue } from './run-queue.ts';
import { type BoundScope, idParameter, ofVisibleSnapshot, scoped } from './scope.ts';
import { RUNNING_STATUSES, type SuccessfulSnapshotStatus, snapshotRow } from './snapshot-row.ts';

/** How a run ended well. */
export interface SnapshotResult {
  readonly status: SuccessfulSnapshotStatus;
  readonly statusReason?: string | null;
  /** The branches whose rows it holds, as the run has read them; null: all of the organization's. */
  readonly branchIds: readonly UUID[] | null;
  readonly startedAt: Timestamp;
  readonly completedAt: Timestamp;
  /** Milliseconds. */
  readonly duration: number;
  readonly dataMetrics: BackupDataMetrics;
  readonly storageLocation: StorageLocation;
  readonly checksum: string;
  readonly integrityVerified: boolean;
  readonly integrityVerifiedAt: Timestamp | null;
  readonly encryptionKeyId?: string | null;
  readonly compressionRatio: number | null;
  readonly warnings: readonly BackupWarning[];
  readonly progress?: BackupProgress;
  readonly expiresAt?: Timestamp | null;
}

/** How a run failed. */
export interface SnapshotFailure {
  readonly statusReason: string;
  readonly completedAt: Timestamp;
  readonly duration?: number | null;
  readonly error: BackupErrorRecord;
}

/** How a run was cancelled. */
export type SnapshotCancellation = Omit<SnapshotFailure, 'error'>;

export type SnapshotEnd =
  | SnapshotResult
  | (SnapshotFailure & { readonly status: 'FAILED' })
  | (SnapshotCancellation & { readonly status: 'CANCELLED' });

/** QUEUED: it will be tried again. CANCELLED: somebody had asked for that before it failed. SUSPENDED: it has ended, and with it the configuration's runs until somebody resumes them. */
export type FailedAs = 'QUEUED' | 'ENDED' | 'SUSPENDED' | 'CANCELLED';

/** How many scheduled runs of a configuration may fail in a row before it is SUSPENDED. */
const MAX_CONSECUTIVE_FAILURES = 5;

/** What a worker holds while it works at a snapshot. */
export interface AttemptToken {
  readonly snapshotId: UUID;
  readonly attemptId: UUID;
}

const RUNNING = RUNNING_STATUSES.map((status) => `'${status}'`).join(', ');

/**
 * Locks a visible attempt that is RUNNING, and then its snapshot: the order of every transaction that touches both.
 * Undefined: there is none, or the token names another snapshot.
 */
export async function lockRunningAttempt(
  scope: BoundScope,
  token: { readonly attemptId: UUID; readonly snapshotId?: UUID },
): Promise<
  { readonly snapshotId: UUID; readonly snapshotRuns: boolean; readonly cancelRequested: boolean } | undefined
> {
  const into = scoped(scope);
  const conditions = [
    `a.id = ${into.add(idParameter(token.attemptId), 'uuid')}`,
    `a.state = 'RUNNING'`,
    ofVisibleSnapshot(scope, 'a'),
    ...(token.snapshotId === undefined
      ? []
      : [`a.snapshot_id = ${into.add(idParameter(token.snapshotId), 'uuid')}`]),
  ];
  const [attempt] = await scope.db.query(
    `SELECT a.snapshot_id::text AS id, (a.cancel_requested_at IS NOT NULL)::text AS cancel FROM ${scope.db.table('backup_attempts')} a
      WHERE ${conditions.join(' AND ')} FOR NO KEY UPDATE OF a`,
    into.values,
  );
  const snapshotId = attempt?.id;
  if (!snapshotId) return undefined;
  const [snapshot] = await scope.db.query(
    `SELECT (s.status IN (${RUNNING}))::text AS runs FROM ${scope.db.table('backup_snapshots')} s
      WHERE s.id = $1 FOR NO KEY UPDATE OF s`,
    [snapshotId],
  );
  return {
    snapshotId,
    snapshotRuns: snapshot?.runs === 'true',
    cancelRequested: attempt.cancel === 'true',
  };
}

/**
 * Ends a snapshot that the transaction has locked and seen running, and enters it in its configuration: the time of the
 * last run, and of a good one the time, the count and the bytes.
 */
export async function endSnapshot(
  scope: BoundScope,
  snapshotId: UUID,
  end: SnapshotEnd,
): Promise<Exclude<FailedAs, 'QUEUED'>> {
  const { db } = scope;
  const into = parameters(snapshotId);
  const { fields, added } = changesOf(end);
  const assigned = [...snapshotRow(db).assign(fields, into)];
  if (added)
    assigned.push({ column: 'errors', value: `s.errors || ${into.add(jsonText([added]), 'jsonb')}` });
  if ('branchIds' in end) assigned.push({ column: 'branch_ids', value: into.add(end.branchIds, 'uuid[]') });
  const now = into.add(db.clock.now().toISOString(), 'timestamptz');
  await db.query(
    `UPDATE ${db.table('backup_snapshots')} AS s SET ${setList(assigned)}, updated_at = greatest(s.updated_at, ${now})
      WHERE s.id = $1::uuid`,
    into.values,
  );
  // The configuration before the queue: whoever queues a run locks them in this order too.
  const became =
    end.status === 'CANCELLED'
      ? await lockConfiguration(scope, snapshotId)
      : await enterInConfiguration(scope, snapshotId, end);
  await dequeue(scope, snapshotId);
  return became;
}

async function lockConfiguration({ db }: BoundScope, snapshotId: UUID): Promise<'ENDED'> {
  await db.query(
    `SELECT 1 FROM ${db.table('backup_configurations')} c JOIN ${db.table('backup_snapshots')} s
         ON s.organization_id = c.organization_id AND s.configuration_id = c.id
      WHERE s.id = $1::uuid FOR NO KEY UPDATE OF c`,
    [snapshotId],
  );
  return 'ENDED';
}

/** A snapshot whose try has failed waits for the next: QUEUED, with the error noted. */
export async function beginAgain(
  scope: BoundScope,
  snapshotId: UUID,
  failure: SnapshotFailure,
): Promise<void> {
  const { db } = scope;
  const into = parameters(snapshotId);
  const status = { status: 'QUEUED', statusReason: failure.statusReason, progress: null } as const;
  const assigned = snapshotRow(db).assign(status, into);
  const now = into.add(db.clock.now().toISOString(), 'timestamptz');
  await db.query(
    `UPDATE ${db.table('backup_snapshots')} AS s
        SET ${setList(assigned)}, errors = s.errors || ${into.add(jsonText([failure.error]), 'jsonb')},
            updated_at = greatest(s.updated_at, ${now})
      WHERE s.id = $1::uuid`,
    into.values,
  );
}

function changesOf(end: SnapshotEnd): { fields: Partial<BackupSnapshot>; added?: BackupErrorRecord } {
  if ('error' in end) {
    const { error, ...fields } = end;
    return { fields, added: error };
  }
  if ('branchIds' in end) {
    const { branchIds: _, ...fields } = end;
    return { fields };
  }
  return { fields: end };
}

async function enterInConfiguration(
  scope: BoundScope,
  snapshotId: UUID,
  end: Exclude<SnapshotEnd, { readonly status: 'CANCELLED' }>,
): Promise<'ENDED' | 'SUSPENDED'> {
  const { db } = scope;
  const good = end.status === 'FAILED' ? undefined : end.dataMetrics.storedSizeBytes;
  const into = parameters(snapshotId, end.completedAt);
  // One that no worker took up in time says nothing of the configuration.
  const counts = `(s.trigger = 'SCHEDULED' AND EXISTS (SELECT 1 FROM ${db.table('backup_attempts')} a
    WHERE a.organization_id = s.organization_id AND a.snapshot_id = s.id))`;
  const failures = `(c.consecutive_failures + CASE WHEN ${counts} THEN 1 ELSE 0 END)`;
  const suspended = `(c.status = 'ACTIVE' AND ${counts} AND c.consecutive_failures + 1 >= ${MAX_CONSECUTIVE_FAILURES})`;
  const totals =
    good === undefined
      ? `, consecutive_failures = ${failures},
          status = CASE WHEN ${suspended} THEN 'SUSPENDED' ELSE c.status END,
          status_reason = CASE WHEN ${suspended}
            THEN (c.consecutive_failures + 1)::text || ' scheduled backups in a row have failed' ELSE c.status_reason END,
          updated_at = CASE WHEN ${suspended} THEN c.updated_at + interval '1 millisecond' ELSE c.updated_at END`
      : `, consecutive_failures = 0, last_successful_backup_at = greatest(c.last_successful_backup_at, $2::timestamptz),
          total_backups_created = c.total_backups_created + 1,
          total_storage_used = c.total_storage_used + ${into.add(good, 'bigint')}`;
  const [row] = await db.query(
    `UPDATE ${db.table('backup_configurations')} AS c
        SET last_backup_at = greatest(c.last_backup_at, $2::timestamptz)${totals}
       FROM ${db.table('backup_snapshots')} s
      WHERE s.id = $1::uuid AND c.organization_id = s.organization_id AND c.id = s.configuration_id
     RETURNING (c.status = 'SUSPENDED' AND s.trigger = 'SCHEDULED')::text AS suspended`,
    into.values,
  );
  return row?.suspended === 'true' ? 'SUSPENDED' : 'ENDED';
}
