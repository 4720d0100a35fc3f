import type { ValidationResults } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import type { RunningStorageJob } from './storage-job.ts';
import { verifySnapshotArchive } from './verify-snapshot.ts';

/** VERIFICATION: the result is the `ValidationResults`. */
export async function verifyInBackground({
  context,
  job,
  signal,
}: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const snapshot = job.snapshotId === null ? undefined : await repository.findSnapshotById(job.snapshotId);
  if (snapshot === undefined) throw new DataProtectionError('The snapshot is gone', 'NOT_FOUND');
  const results: ValidationResults = await verifySnapshotArchive(context, snapshot, job.requestedBy, signal);
  return { ...results, checks: results.checks.map((check) => ({ ...check })) };
}
