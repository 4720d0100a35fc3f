import type {
  BackupProgress,
  BackupSnapshot,
  BackupWarning,
  RestoreOperation,
  RestoreProgress,
  ValidationResults,
} from './backup.ts';
import type { ErrorCode } from './errors.ts';
import type { UUID } from './ids.ts';

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
  'snapshot.cancelled': { readonly snapshotId: UUID; readonly organizationId: UUID };
  'snapshot.verified': {
    readonly snapshotId: UUID;
    readonly organizationId: UUID;
    readonly results: ValidationResults;
  };
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
}
