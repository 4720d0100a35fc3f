import { expect, it } from 'vitest';
import type * as z from 'zod';
import type * as audit from '../../src/types/audit.ts';
import type * as types from '../../src/types/backup.ts';
import type { EntityInput } from '../../src/types/entity.ts';
import type { ExportSnapshotInput } from '../../src/types/export.ts';
import type * as sync from '../../src/types/offline-sync.ts';
import * as schemas from '../../src/validation/index.ts';
import { holds, type Same } from './same.ts';

type Of<Name extends keyof typeof schemas> =
  (typeof schemas)[Name] extends z.ZodType<infer Output> ? Output : never;

/** The interface of every schema. */
interface Interfaces {
  readonly CreateBackupConfigSchema: types.CreateBackupConfigInput;
  readonly UpdateBackupConfigSchema: types.UpdateBackupConfigInput;
  readonly BackupScheduleSchema: types.BackupSchedule;
  readonly BackupScopeSchema: types.BackupScope;
  readonly CustomFilterSchema: types.CustomFilter;
  readonly RetentionPolicySchema: types.RetentionPolicy;
  readonly StorageDestinationSchema: types.StorageDestination;
  readonly NotificationSettingsSchema: types.NotificationSettings;
  readonly ComplianceRequirementSchema: types.ComplianceRequirement;
  readonly CreateSnapshotSchema: types.CreateSnapshotInput;
  readonly CreateRestoreOperationSchema: types.CreateRestoreOperationInput;
  readonly ResolveRestoreConflictSchema: types.ResolveRestoreConflictInput;
  readonly RestoreScopeSchema: types.RestoreScope;
  readonly RestoreDestinationSchema: types.RestoreDestination;
  readonly ListConfigurationsSchema: types.ListConfigurationsInput;
  readonly ListSnapshotsSchema: types.ListSnapshotsInput;
  readonly EntityInputSchema: EntityInput;
  readonly ExportSnapshotSchema: ExportSnapshotInput;
  readonly BackupConfigurationSchema: types.BackupConfiguration;
  readonly BackupSnapshotSchema: types.BackupSnapshot;
  readonly BackupProgressSchema: types.BackupProgress;
  readonly BackupDataMetricsSchema: types.BackupDataMetrics;
  readonly StorageLocationSchema: types.StorageLocation;
  readonly BackupErrorRecordSchema: types.BackupErrorRecord;
  readonly BackupWarningSchema: types.BackupWarning;
  readonly StorageJobSchema: types.StorageJob;
  readonly RestoreOperationSchema: types.RestoreOperation;
  readonly RestoreConflictSchema: types.RestoreConflict;
  readonly RestoreProgressSchema: types.RestoreProgress;
  readonly RestoreDataMetricsSchema: types.RestoreDataMetrics;
  readonly ValidationCheckSchema: types.ValidationCheck;
  readonly ValidationResultsSchema: types.ValidationResults;
  readonly ListAuditLogSchema: audit.ListAuditLogInput;
  readonly PruneAuditLogSchema: audit.PruneAuditLogInput;
  readonly QueueOperationSchema: sync.QueueOperationInput;
  readonly QueueOptionsSchema: sync.QueueOptions;
  readonly ClientStampSchema: sync.ClientStamp;
  readonly ResolveConflictSchema: sync.ResolveConflictInput;
  readonly NetworkStatusSchema: sync.NetworkStatus;
  readonly DeviceInfoSchema: sync.DeviceInfo;
  readonly ApproveOperationSchema: sync.ApproveOperationInput;
  readonly EditOperationSchema: sync.EditOperationInput;
  readonly ListOperationsSchema: sync.ListOperationsInput;
  readonly ListConflictsSchema: sync.ListConflictsInput;
  readonly ListSyncEventsSchema: sync.ListSyncEventsInput;
  readonly StartOfflineSessionSchema: sync.StartOfflineSessionInput;
  readonly SyncStatisticsInputSchema: sync.SyncStatisticsInput;
}

type SchemaName = Extract<keyof typeof schemas, `${string}Schema`>;

/** The names of the schemas that are not their interface, or have none here. */
type Drifted = {
  [Name in SchemaName]: Name extends keyof Interfaces
    ? Same<Of<Name>, Interfaces[Name]> extends true
      ? never
      : Name
    : Name;
}[SchemaName];

// The compiler is the test: a schema that drifts from its interface does not compile, and the error names it.
it('holds every schema to its interface, both ways', () => {
  holds<[Drifted] extends [never] ? true : Drifted>();
  expect(Object.keys(schemas).filter((name) => name.endsWith('Schema')).length).toBeGreaterThan(20);
});

it('notices drift: an optional key more or less, at any depth, and `| undefined`', () => {
  type Base = { readonly a: string; readonly b?: { readonly c?: number } };
  holds<Same<Base, { a: string; b?: { c?: number } }>>();
  // @ts-expect-error a key is missing
  holds<Same<Base, { a: string }>>();
  // @ts-expect-error an optional key too many
  holds<Same<Base, { a: string; b?: { c?: number }; d?: string }>>();
  // @ts-expect-error an optional key too many, one level down
  holds<Same<Base, { a: string; b?: { c?: number; d?: string } }>>();
  // @ts-expect-error undefined is not absence
  holds<Same<Base, { a: string; b?: { c?: number } | undefined }>>();
  // @ts-expect-error required is not optional
  holds<Same<Base, { a: string; b: { c?: number } }>>();
  // @ts-expect-error another kind of value
  holds<Same<Base, { a: string; b?: { c?: string } }>>();
  // @ts-expect-error a narrower value
  holds<Same<{ a: 'X' | 'Y' }, { a: 'X' }>>();
  expect.assertions(0);
});
