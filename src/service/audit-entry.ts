import type { NewAuditEntry } from '../repository/audit-log.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import type { Json } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';

/** The entry for something that happened to a snapshot in a run, under the name of who asked for the run. */
export const auditEntry = (
  context: Pick<ServiceContext, 'worker'>,
  snapshot: Pick<BackupSnapshot, 'id' | 'organizationId' | 'requestedBy' | 'snapshotNumber'>,
  action: string,
  details: { readonly [key: string]: Json },
): NewAuditEntry => ({
  organizationId: snapshot.organizationId,
  action,
  userId: snapshot.requestedBy,
  resourceType: 'backup_snapshot',
  resourceId: snapshot.id,
  details: { snapshotNumber: snapshot.snapshotNumber, worker: context.worker, ...details },
});
