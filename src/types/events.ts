import type { AuditProblem } from './audit.ts';
import type {
  BackupProgress,
  BackupSnapshot,
  BackupWarning,
  RestoreOperation,
  RestoreProgress,
  StorageJob,
  ValidationResults,
} from './backup.ts';
import type { ErrorCode } from './errors.ts';
import type { Timestamp, UUID } from './ids.ts';
import type { RotatedKey } from './keys.ts';
import type { SyncLane, SyncOutcome, SyncQueueStatus } from './offline-sync.ts';
import type { QuotaUsage } from './usage.ts';

/** What the services tell while they work. Listeners must not throw; what they throw is logged and dropped. */
export interface BackupEvents {
  'snapshot.started': { readonly snapshot: BackupSnapshot };
  'snapshot.progress': {
    readonly snapshotId: UUID;
    readonly organizationId: UUID;
    readonly progress: BackupProgress;
  };
  'snapshot.completed': { readonly snapshot: BackupSnapshot; readonly warnings: readonly BackupWarning[] };
  'snapshot.failed': {
    readonly snapshotId: UUID;
    readonly organizationId: UUID;
    readonly code: ErrorCode;
    readonly message: string;
  };
  /** A try has failed and another follows later; the snapshot is QUEUED. */
  'snapshot.retrying': {
    readonly snapshotId: UUID;
    readonly organizationId: UUID;
    readonly code: ErrorCode;
    readonly message: string;
  };
  'snapshot.cancelled': { readonly snapshotId: UUID; readonly organizationId: UUID };
  'snapshot.verified': {
    readonly snapshotId: UUID;
    readonly organizationId: UUID;
    readonly results: ValidationResults;
  };
  /** Scheduled backups have failed too often in a row; none starts until somebody resumes the configuration. */
  'configuration.suspended': { readonly configurationId: UUID; readonly organizationId: UUID };
  /**
   * A backup has ended with 80 % or more of a quota used, or was refused since all of it is: `description` names the
   * storage, `share` is used ÷ quota.
   */
  'storage.quota': { readonly organizationId: UUID } & QuotaUsage;
  /**
   * The key that a backup was wrapped with is older than 90 days. Once a day for a key, however many organizations,
   * backups and processes there are: a key serves them all.
   */
  'keys.rotation_due': { readonly keyId: string; readonly since: Timestamp; readonly ageDays: number };
  'keys.rotated': RotatedKey;
  'keys.retired': { readonly keyId: string };
  'storage-job.progress': { readonly job: StorageJob };
  'storage-job.ended': { readonly job: StorageJob };
  'restore.started': { readonly restore: RestoreOperation };
  'restore.progress': {
    readonly restoreId: UUID;
    readonly organizationId: UUID;
    readonly progress: RestoreProgress;
  };
  'restore.completed': { readonly restore: RestoreOperation };
  'restore.failed': {
    readonly restoreId: UUID;
    readonly organizationId: UUID;
    readonly code: ErrorCode;
    readonly message: string;
  };
  /** The audit log does not verify: somebody has to look. */
  'audit.broken': { readonly organizationId: UUID; readonly problem: AuditProblem };
  /** An offline operation has been applied, has ended otherwise, or waits for somebody. */
  'sync.operation': {
    readonly organizationId: UUID;
    readonly operationId: UUID;
    readonly userId: UUID;
    readonly deviceId: string;
    readonly entityType: string;
    readonly entityId: string;
    readonly status: SyncQueueStatus;
    readonly outcome: SyncOutcome | null;
    readonly reason: string | null;
    readonly version: number | null;
    readonly conflictId: UUID | null;
    /** Paths of what its author had written and something newer stands in place of. */
    readonly superseded: readonly string[];
  };
  /** The oldest operation that waits for the library has waited too long. Told again whenever as long has passed. */
  'sync.delayed': {
    readonly organizationId: UUID;
    readonly lane: SyncLane;
    readonly oldestPendingAt: Timestamp;
    /** Milliseconds. */
    readonly waited: number;
  };
}
