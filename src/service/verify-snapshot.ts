import type { BackupSnapshot, ValidationResults } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import { verifyArchive } from './verification.ts';

/** Verifies what is stored of a snapshot, notes the outcome with its audit entry, and tells it. Damage is a result. */
export async function verifySnapshotArchive(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  userId: UUID,
  signal: AbortSignal,
): Promise<ValidationResults> {
  const { id, organizationId } = snapshot;
  const results = await verify(context, snapshot, signal);
  await context.db.withTransaction(async (transaction) => {
    await context.repository({ organizationId, branchIds: 'ALL' }, transaction).recordVerification(id, {
      integrityVerified: results.passed,
      integrityVerifiedAt: context.clock.now().toISOString(),
    });
    await context.audit.append(transaction, {
      organizationId,
      action: 'snapshot.verified',
      userId,
      resourceType: 'backup_snapshot',
      resourceId: id,
      details: { passed: results.passed, records: results.recordsFound },
    });
  });
  context.events.emit('snapshot.verified', { snapshotId: id, organizationId, results });
  return results;
}

async function verify(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  signal: AbortSignal,
): Promise<ValidationResults> {
  try {
    return await verifyArchive(await openSnapshotArchive(context, snapshot, signal), context.clock, signal);
  } catch (error) {
    if (!(error instanceof DataProtectionError) || !error.code.startsWith('ARCHIVE_')) throw error;
    return {
      passed: false,
      validatedAt: context.clock.now().toISOString(),
      recordsExpected: snapshot.dataMetrics?.totalRecords ?? 0,
      recordsFound: 0,
      checks: [{ name: 'manifest', passed: false, details: error.message }],
    };
  }
}
