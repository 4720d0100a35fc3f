import type { ChecksumAlgorithm, CompressionAlgorithm, EncryptionAlgorithm } from './encryption.ts';
import type { ErrorCode } from './errors.ts';
import type { Json, Timestamp, UUID } from './ids.ts';

export const BACKUP_CONFIG_TYPES = ['FULL', 'INCREMENTAL', 'DIFFERENTIAL', 'CONTINUOUS'] as const;
export type BackupConfigType = (typeof BACKUP_CONFIG_TYPES)[number];

/** SUSPENDED is set by repeated errors; the others by people. */
export const BACKUP_CONFIG_STATUSES = ['ACTIVE', 'PAUSED', 'SUSPENDED', 'DISABLED', 'ARCHIVED'] as const;
export type BackupConfigStatus = (typeof BACKUP_CONFIG_STATUSES)[number];

/** MINUTES: every `intervalMinutes`; CUSTOM: `cronExpression`. */
export const BACKUP_FREQUENCIES = [
  'CONTINUOUS',
  'MINUTES',
  'HOURLY',
  'DAILY',
  'WEEKLY',
  'MONTHLY',
  'CUSTOM',
] as const;
export type BackupFrequency = (typeof BACKUP_FREQUENCIES)[number];

export const DAYS_OF_WEEK = [
  'MONDAY',
  'TUESDAY',
  'WEDNESDAY',
  'THURSDAY',
  'FRIDAY',
  'SATURDAY',
  'SUNDAY',
] as const;
export type DayOfWeek = (typeof DAYS_OF_WEEK)[number];

/** The entity types of a care platform. ALL stands for every registered entity. Hosts register others by name. */
export const BACKUP_ENTITY_TYPES = [
  'CLIENT',
  'CAREGIVER',
  'VISIT',
  'SCHEDULE',
  'CARE_PLAN',
  'TASK',
  'TIME_ENTRY',
  'EVV_RECORD',
  'INVOICE',
  'PAYMENT',
  'PAYROLL',
  'FAMILY_MEMBER',
  'COMMUNICATION',
  'DOCUMENT',
  'NOTE',
  'ASSESSMENT',
  'MEDICATION',
  'AUTHORIZATION',
  'SHIFT',
  'ORGANIZATION',
  'BRANCH',
  'USER',
  'ALL',
] as const;
export type KnownBackupEntityType = (typeof BACKUP_ENTITY_TYPES)[number];
/** A known entity type, or one that the host registered. Stored normalised: `EVVRecord` becomes EVV_RECORD. */
export type BackupEntityType = KnownBackupEntityType | (string & Record<never, never>);

export const STORAGE_TYPES = [
  'AWS_S3',
  'AZURE_BLOB',
  'GOOGLE_CLOUD_STORAGE',
  'LOCAL_FILESYSTEM',
  'NETWORK_SHARE',
  'SFTP',
  'MULTI',
] as const;
export type StorageType = (typeof STORAGE_TYPES)[number];

export const BACKUP_SNAPSHOT_STATUSES = [
  'QUEUED',
  'PREPARING',
  'IN_PROGRESS',
  'FINALIZING',
  'VERIFYING',
  'COMPLETED',
  'COMPLETED_WITH_WARNINGS',
  'FAILED',
  'CANCELLED',
  'EXPIRED',
  'DELETED',
] as const;
export type BackupSnapshotStatus = (typeof BACKUP_SNAPSHOT_STATUSES)[number];

export const BACKUP_TRIGGERS = ['SCHEDULED', 'MANUAL', 'EMERGENCY', 'SAFETY'] as const;
export type BackupTrigger = (typeof BACKUP_TRIGGERS)[number];

export const BACKUP_PHASES = [
  'INITIALIZING',
  'COLLECTING_METADATA',
  'BACKING_UP_DATA',
  'COMPRESSING',
  'ENCRYPTING',
  'UPLOADING',
  'VERIFYING',
  'FINALIZING',
] as const;
export type BackupPhase = (typeof BACKUP_PHASES)[number];

export const RESTORE_TYPES = ['FULL', 'SELECTIVE', 'POINT_IN_TIME', 'FILE_LEVEL'] as const;
export type RestoreType = (typeof RESTORE_TYPES)[number];

export const RESTORE_STATUSES = [
  'PENDING_APPROVAL',
  'APPROVED',
  'REJECTED',
  'QUEUED',
  'PREPARING',
  'IN_PROGRESS',
  'VALIDATING',
  'COMPLETED',
  'COMPLETED_WITH_WARNINGS',
  'FAILED',
  'CANCELLED',
  'ROLLED_BACK',
] as const;
export type RestoreStatus = (typeof RESTORE_STATUSES)[number];

export const RESTORE_PHASES = [
  'INITIALIZING',
  'THAWING',
  'VERIFYING',
  'LOADING',
  'BUILDING_INDEXES',
  'VALIDATING',
  'FINALIZING',
] as const;
export type RestorePhase = (typeof RESTORE_PHASES)[number];

export const RESTORE_DESTINATION_TYPES = ['PRODUCTION', 'STAGING', 'TEST', 'TEMPORARY'] as const;
export type RestoreDestinationType = (typeof RESTORE_DESTINATION_TYPES)[number];

export const CONFLICT_RESOLUTION_STRATEGIES = [
  'BACKUP_WINS',
  'EXISTING_WINS',
  'NEWEST_WINS',
  'OLDEST_WINS',
  'MERGE',
  'MANUAL',
] as const;
export type ConflictResolutionStrategy = (typeof CONFLICT_RESOLUTION_STRATEGIES)[number];

/** When backups start. `timezone` must agree with the configuration's where both are given. */
export interface BackupSchedule {
  readonly frequency: BackupFrequency;
  /**
   * Wall-clock time `HH:MM` in `timezone`. Left out: 02:00, or with a window a time within it that is the
   * configuration's own and always the same, so that many configurations do not start at once.
   */
  readonly startTime?: string;
  /** IANA name, such as `America/Chicago`. */
  readonly timezone?: string;
  /** For MINUTES: 1 to 1440. */
  readonly intervalMinutes?: number;
  /** For MINUTES instead of `intervalMinutes`: 15, 30 or 60 by the size of the last backup (100 MB, 1 GB). */
  readonly intervalByDatabaseSize?: boolean;
  /** For WEEKLY; several are allowed. */
  readonly daysOfWeek?: readonly DayOfWeek[];
  /** For MONTHLY, 1 to 31; the last day in shorter months. */
  readonly dayOfMonth?: number;
  /** For CUSTOM: five fields. */
  readonly cronExpression?: string;
  /** Runs start only between these wall-clock times, the end excluded, and are ended there; a window may pass midnight. */
  readonly windowStart?: string;
  readonly windowEnd?: string;
  /** A run is ended as failed after this many minutes, and at the end of its window. */
  readonly maxDurationMinutes?: number;
  /** Extraction connections and parallel work of one run, 1 to 32; 2 when left out. */
  readonly maxConcurrency?: number;
}

/** What a row must satisfy to be part of a scope, besides the scope's other fields. Values are quoted by the library. */
export interface CustomFilter {
  readonly entityType: BackupEntityType;
  readonly column: string;
  readonly operator: '=' | '!=' | '<' | '<=' | '>' | '>=' | 'IN' | 'IS_NULL' | 'IS_NOT_NULL';
  /** Compared as the column's type. Absent for IS_NULL and IS_NOT_NULL; an array for IN. */
  readonly value?: string | number | boolean | readonly (string | number | boolean)[];
}

/** What a backup takes in. Left out: every registered entity, without soft-deleted rows, PHI and financial data included. */
export interface BackupScope {
  readonly includeEntities?: readonly BackupEntityType[];
  readonly excludeEntities?: readonly BackupEntityType[];
  readonly branchIds?: readonly UUID[];
  readonly clientIds?: readonly string[];
  readonly caregiverIds?: readonly string[];
  /** Rows whose date column lies in [start, end); rows without a date are taken in. */
  readonly dateRangeStart?: Timestamp;
  readonly dateRangeEnd?: Timestamp;
  readonly includeSoftDeleted?: boolean;
  readonly includeAttachments?: boolean;
  readonly includeDocuments?: boolean;
  readonly includeAuditLogs?: boolean;
  /** false leaves out every entity that holds PHI in any column. */
  readonly includePHI?: boolean;
  /** false leaves out every entity that holds financial data in any column. */
  readonly includeFinancialData?: boolean;
  readonly customFilters?: readonly CustomFilter[];
}

/** How long snapshots are kept. Tiers count non-empty buckets. */
export interface RetentionPolicy {
  /** 0 keeps for ever. */
  readonly retentionDays?: number;
  readonly hourlyRetention?: number;
  readonly dailyRetention?: number;
  readonly weeklyRetention?: number;
  readonly monthlyRetention?: number;
  readonly yearlyRetention?: number;
  readonly keepLast?: number;
  readonly emergencyRetentionDays?: number;
  readonly maxBackups?: number;
  /** Bytes. */
  readonly maxSize?: number;
  readonly maxAgeDays?: number;
  readonly cleanupStrategy?: 'oldest' | 'size' | 'custom';
  /** false: nothing is deleted by itself. */
  readonly autoDeleteExpired?: boolean;
}

export interface CloudStorage {
  readonly provider: 'AWS' | 'AZURE' | 'GCP';
  readonly region?: string;
  readonly bucketName: string;
  readonly prefix?: string;
  /** Another address than the provider's own: an S3-compatible store, an emulator, a private endpoint. */
  readonly endpoint?: string;
  /** For AZURE_BLOB: the storage account. */
  readonly accountName?: string;
  /** Class or tier of the objects (GLACIER, Archive, COLDLINE, ...). Manifests and sidecars stay in the bucket's default. */
  readonly storageClass?: string;
  readonly serverSideEncryption?: ServerSideEncryption;
  readonly objectLock?: ObjectLock;
  /** Name of a credential that the host's credential provider resolves; never the credential itself. */
  readonly credentialsRef?: string;
}

/** Encryption by the provider, besides the library's own. */
export interface ServerSideEncryption {
  /** PROVIDER_KEY: the provider's own (S3 AES256). KMS: `keyId` names the key (S3 SSE-KMS, Azure encryption scope, GCS kmsKeyName). CUSTOMER_KEY: the host's key on every call. */
  readonly type: 'PROVIDER_KEY' | 'KMS' | 'CUSTOMER_KEY';
  readonly keyId?: string;
  /** Name by which the host's credential provider gives `{ key }`, 32 bytes in base64. */
  readonly customerKeyRef?: string;
}

/** A lock on every object as it is written: S3 Object Lock, Azure immutability policies (the container needs version-level immutability), GCS object retention. */
export interface ObjectLock {
  readonly mode: 'GOVERNANCE' | 'COMPLIANCE';
  readonly retainDays: number;
}

/** Where snapshots are stored. Credentials are references, never values. */
export interface StorageDestination {
  readonly type: StorageType;
  readonly cloudStorage?: CloudStorage;
  readonly localStorage?: { readonly path: string; readonly prefix?: string };
  /** `mountPoint`: where the share is mounted, if the file system is not known as a network's (then it must be exactly there). */
  readonly networkShare?: { readonly path: string; readonly mountPoint?: string; readonly prefix?: string };
  readonly sftp?: {
    readonly host: string;
    readonly port?: number;
    readonly path: string;
    readonly credentialsRef?: string;
    /** The server's key, as in known_hosts (`ssh-ed25519 AAAA...`) or its fingerprint (`SHA256:...`). */
    readonly hostKey?: string;
    readonly prefix?: string;
  };
  /** Bytes that the organization may store here; 80 % is a warning, and a backup that begins above all of it is refused. */
  readonly quotaBytes?: number;
  /** For a copy of MULTI: how long it keeps snapshots, where that differs from the configuration. */
  readonly retention?: RetentionPolicy;
  /** For MULTI: the primary first. */
  readonly destinations?: readonly StorageDestination[];
  /** For MULTI: stores that must confirm a write, 1 when left out. */
  readonly minimumConfirmations?: number;
}

export interface NotificationSettings {
  readonly enabled?: boolean;
  readonly onSuccess?: boolean;
  readonly onFailure?: boolean;
  readonly onWarning?: boolean;
  readonly emails?: readonly string[];
  readonly webhookUrl?: string;
}

/** A rule that a configuration must satisfy when it is written. */
export interface ComplianceRequirement {
  readonly regulation: string;
  readonly minimumRetentionDays?: number;
  readonly requiresEncryption?: boolean;
  readonly requiresIntegrityCheck?: boolean;
  readonly description?: string;
}

/** What a person passes to create a configuration; defaults as in CONTRACT. */
export interface CreateBackupConfigInput {
  /** The actor's when left out; where given it must equal it. */
  readonly organizationId?: UUID;
  readonly branchIds?: readonly UUID[];
  readonly name: string;
  readonly description?: string;
  readonly configType?: BackupConfigType;
  /** One or several; none: started by hand only. */
  readonly schedule?: BackupSchedule | readonly BackupSchedule[];
  readonly timezone?: string;
  readonly scope?: BackupScope;
  readonly retention?: RetentionPolicy;
  readonly storageDestination?: StorageDestination;
  readonly encryptionEnabled?: boolean;
  /** Says that PHI may be stored without encryption. */
  readonly allowUnencryptedPHI?: boolean;
  readonly compressionEnabled?: boolean;
  readonly compressionAlgorithm?: CompressionAlgorithm;
  /** 1 (fast) to 9 (small). */
  readonly compressionLevel?: number;
  /** Opens every segment again before it is stored and reads every object back before the snapshot counts. */
  readonly integrityCheckEnabled?: boolean;
  readonly checksumAlgorithm?: ChecksumAlgorithm;
  readonly notificationSettings?: NotificationSettings;
  readonly complianceRequirements?: readonly ComplianceRequirement[];
  readonly auditRetentionDays?: number;
  readonly customFields?: { readonly [key: string]: Json };
}

/** Every field of `CreateBackupConfigInput` may be changed but the organization; a field left out stays as it is. */
export type UpdateBackupConfigInput = Partial<Omit<CreateBackupConfigInput, 'organizationId'>>;

/** A backup policy of an organization, with all defaults filled in. */
export interface BackupConfiguration {
  readonly id: UUID;
  readonly organizationId: UUID;
  /** The branches that it is limited to; null: the whole organization. */
  readonly branchIds: readonly UUID[] | null;
  readonly name: string;
  readonly description: string | null;
  readonly configType: BackupConfigType;
  readonly schedule: readonly BackupSchedule[];
  readonly timezone: string;
  readonly scope: BackupScope;
  readonly retention: RetentionPolicy;
  readonly storageDestination: StorageDestination;
  readonly encryptionEnabled: boolean;
  readonly encryptionKeyId: string | null;
  readonly allowUnencryptedPHI: boolean;
  readonly compressionEnabled: boolean;
  readonly compressionAlgorithm: CompressionAlgorithm;
  readonly compressionLevel: number | null;
  readonly integrityCheckEnabled: boolean;
  readonly checksumAlgorithm: ChecksumAlgorithm;
  readonly notificationSettings: NotificationSettings;
  readonly status: BackupConfigStatus;
  readonly statusReason: string | null;
  readonly lastBackupAt: Timestamp | null;
  readonly lastSuccessfulBackupAt: Timestamp | null;
  readonly nextScheduledBackupAt: Timestamp | null;
  readonly totalBackupsCreated: number;
  readonly totalStorageUsed: number;
  readonly complianceRequirements: readonly ComplianceRequirement[];
  readonly auditRetentionDays: number | null;
  readonly customFields: { readonly [key: string]: Json };
  readonly createdBy: UUID;
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

/** Live progress of a run. Rates are averages since the phase BACKING_UP_DATA began. */
export interface BackupProgress {
  readonly phase: BackupPhase;
  readonly percentage: number;
  readonly currentEntity: string | null;
  readonly entitiesTotal: number;
  readonly entitiesCompleted: number;
  readonly recordsProcessed: number;
  /** Raw bytes read so far, and the estimate of all. */
  readonly bytesProcessed: number;
  readonly bytesTotal: number;
  readonly bytesStored: number;
  readonly bytesPerSecond: number;
  readonly estimatedTimeRemainingMs: number | null;
  readonly updatedAt: Timestamp;
}

/** What a snapshot holds, per entity and in all. PHI, PII and financial counts are rows of entities so classified. */
export interface BackupDataMetrics {
  readonly totalRecords: number;
  readonly totalSizeBytes: number;
  readonly storedSizeBytes: number;
  readonly recordsByEntity: { readonly [entityType: string]: number };
  readonly sizeByEntity: { readonly [entityType: string]: number };
  readonly phiRecords: number;
  readonly piiRecords: number;
  readonly financialRecords: number;
  readonly segments: number;
  readonly objects: number;
}

/** Where a snapshot is stored. */
export interface StorageLocation {
  readonly type: StorageType | 'CUSTOM';
  /** What the storage calls itself; no credential. */
  readonly description: string;
  /** Prefix of the snapshot's objects. */
  readonly path: string;
  readonly manifestKey: string;
  /** The configuration's destination when the snapshot was taken: it is read from there whatever changes later. */
  readonly destination: StorageDestination;
  /** Every copy of a MULTI destination, in its order. */
  readonly replicationLocations: readonly ReplicationLocation[];
  /** Where it lay before `migrateStorage` moved it, as long as nobody has removed what lies there. */
  readonly formerLocations?: readonly FormerLocation[];
}

/** A place that a snapshot was moved away from. */
export interface FormerLocation {
  readonly destination: StorageDestination;
  readonly path: string;
  readonly manifestKey: string;
}

/** PENDING: not known to be whole; COMPLETE: every object was there with its digest; DAMAGED: some were not. */
export const REPLICATION_STATUSES = ['PENDING', 'COMPLETE', 'DAMAGED', 'UNAVAILABLE'] as const;
export type ReplicationStatus = (typeof REPLICATION_STATUSES)[number];

/** One copy of a snapshot. */
export interface ReplicationLocation {
  readonly description: string;
  readonly status: ReplicationStatus;
  /** Its place in the destination's list. */
  readonly index: number;
  /** Objects and bytes known to be there. */
  readonly objects: number;
  readonly bytes: number;
  readonly checkedAt: Timestamp | null;
  /** How long after the snapshot this copy was whole, in milliseconds. */
  readonly lagMs: number | null;
  readonly error: ErrorCode | null;
}

/** What is done over stored snapshots, apart from taking and restoring them. */
export const STORAGE_JOB_KINDS = [
  'VERIFICATION',
  'REPLICATION',
  'HEALING',
  'MIGRATION',
  'REWRAPPING',
] as const;
export type StorageJobKind = (typeof STORAGE_JOB_KINDS)[number];

export const STORAGE_JOB_STATUSES = ['QUEUED', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED'] as const;
export type StorageJobStatus = (typeof STORAGE_JOB_STATUSES)[number];

/** How far a job is; totals grow as it finds what there is to do. */
export interface StorageJobProgress {
  readonly percentage: number;
  readonly objectsTotal: number;
  readonly objectsDone: number;
  readonly bytesTotal: number;
  readonly bytesDone: number;
  readonly bytesPerSecond: number;
  readonly estimatedTimeRemainingMs: number | null;
  readonly updatedAt: Timestamp;
}

/** A verification, replication, healing, migration or re-wrapping of keys. */
export interface StorageJob {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly kind: StorageJobKind;
  readonly configurationId: UUID;
  /** null: every snapshot of the configuration. */
  readonly snapshotId: UUID | null;
  /** What the job was given, besides the snapshot. */
  readonly input: { readonly [key: string]: Json };
  readonly status: StorageJobStatus;
  readonly attempts: number;
  readonly maxAttempts: number;
  readonly notBefore: Timestamp;
  readonly progress: StorageJobProgress | null;
  /** What came of it: counts, names, states of copies. Documented with the call that starts the job. */
  readonly result: { readonly [key: string]: Json } | null;
  /** The last failure; a QUEUED job with one will be tried again. */
  readonly error: BackupErrorRecord | null;
  readonly requestedBy: UUID;
  readonly startedAt: Timestamp | null;
  readonly completedAt: Timestamp | null;
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

export interface BackupErrorRecord {
  readonly code: ErrorCode;
  readonly message: string;
  readonly recoverable: boolean;
  readonly occurredAt: Timestamp;
}

export interface BackupWarning {
  readonly code: string;
  readonly message: string;
}

/** What a person passes to start a backup. */
export interface CreateSnapshotInput {
  readonly configurationId: UUID;
  /** The configuration's when left out. */
  readonly snapshotType?: BackupConfigType;
  /** What an INCREMENTAL or DIFFERENTIAL builds on. The library chooses it when left out; where given it must be what it would choose. */
  readonly parentSnapshotId?: UUID;
  readonly trigger?: 'MANUAL' | 'EMERGENCY';
  readonly tags?: { readonly [key: string]: string };
  readonly notes?: string;
}

/** One backup. Fields not known while it is QUEUED are null. */
export interface BackupSnapshot {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  /** `BKP-2026-000123`, unique per organization, increasing, with gaps. */
  readonly snapshotNumber: string;
  readonly snapshotType: BackupConfigType;
  readonly trigger: BackupTrigger;
  /** 0 for a FULL; a child's is its parent's plus one. */
  readonly generation: number;
  readonly scheduledAt: Timestamp | null;
  readonly startedAt: Timestamp | null;
  readonly completedAt: Timestamp | null;
  /** Milliseconds. */
  readonly duration: number | null;
  readonly status: BackupSnapshotStatus;
  readonly statusReason: string | null;
  readonly progress: BackupProgress | null;
  readonly dataMetrics: BackupDataMetrics | null;
  readonly storageLocation: StorageLocation | null;
  /** Digest of the manifest, which holds the digest of every segment. */
  readonly checksum: string | null;
  readonly checksumAlgorithm: ChecksumAlgorithm;
  readonly integrityVerified: boolean;
  readonly integrityVerifiedAt: Timestamp | null;
  readonly encrypted: boolean;
  readonly encryptionKeyId: string | null;
  readonly encryptionAlgorithm: EncryptionAlgorithm | null;
  readonly compressed: boolean;
  readonly compressionAlgorithm: CompressionAlgorithm;
  /** Raw size ÷ stored size. */
  readonly compressionRatio: number | null;
  readonly errors: readonly BackupErrorRecord[];
  readonly warnings: readonly BackupWarning[];
  readonly expiresAt: Timestamp | null;
  readonly retentionLocked: boolean;
  readonly restoreCount: number;
  readonly lastRestoredAt: Timestamp | null;
  readonly parentSnapshotId: UUID | null;
  readonly childSnapshotIds: readonly UUID[];
  readonly tags: { readonly [key: string]: string };
  readonly notes: string | null;
  readonly customFields: { readonly [key: string]: Json };
  readonly requestedBy: UUID;
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

/** What a restore takes out of a snapshot. Left out: all of it. */
export interface RestoreScope extends BackupScope {
  readonly recordIds?: readonly string[];
  readonly restoreToTimestamp?: Timestamp;
  readonly restoreSoftDeleted?: boolean;
  readonly restoreAttachments?: boolean;
  readonly restoreDocuments?: boolean;
}

/**
 * Where a restore puts the rows. PRODUCTION: the live tables. STAGING and TEST: exactly one of `schemaName`,
 * `tablePrefix`, `databaseConnection` (a reference). TEMPORARY: a schema made for this restore.
 */
export interface RestoreDestination {
  readonly type: RestoreDestinationType;
  readonly schemaName?: string;
  readonly tablePrefix?: string;
  readonly databaseConnection?: string;
}

export interface CreateRestoreOperationInput {
  readonly snapshotId: UUID;
  readonly restoreType?: RestoreType;
  readonly scope?: RestoreScope;
  readonly restoreDestination?: RestoreDestination;
  readonly conflictResolutionStrategy?: ConflictResolutionStrategy;
  readonly validationEnabled?: boolean;
  readonly requiresApproval?: boolean;
  readonly rollbackEnabled?: boolean;
  /** Live tables: rows of the scope that the snapshot covered and does not hold are deleted. Only with BACKUP_WINS and MANUAL. */
  readonly deleteNotInBackup?: boolean;
  /** Live tables: deletes may take along or change the rows of other tables that their foreign keys reach. */
  readonly allowCascades?: boolean;
  readonly columnMapping?: ColumnMapping;
  readonly notes?: string;
}

/**
 * What became of columns since the snapshot, by entity type and name in the snapshot: their name now, or null to leave
 * their values out.
 */
export interface ColumnMapping {
  readonly [entityType: string]: { readonly [column: string]: string | null };
}

/** What a restore into live tables does with the rows of an entity, in rows. */
export interface EntityChanges {
  readonly entityType: string;
  /** Rows of the snapshot that the scope means. */
  readonly archived: number;
  readonly inserts: number;
  readonly updates: number;
  readonly deletes: number;
  /** Differ, and stay by the strategy. */
  readonly kept: number;
  /** Are left to people; a merged row may be among the updates too. */
  readonly conflicts: number;
  /** Stand as the snapshot has them. */
  readonly unchanged: number;
}

/** Rows that a delete takes along or changes in tables through their foreign keys. */
export interface RestoreCascade {
  /** Quoted and qualified. */
  readonly table: string;
  readonly constraint: string;
  readonly action: 'DELETE' | 'SET NULL' | 'SET DEFAULT';
  readonly rows: number;
}

export const RESTORE_CONFLICT_KINDS = [
  'DIFFERENT',
  'FIELDS',
  'UNDATED',
  'OUT_OF_SCOPE',
  'NOT_IN_BACKUP',
  'UNIQUE_TAKEN',
  'MISSING_REFERENCE',
  'REFERENCED',
  'CHANGED_SINCE',
] as const;

/**
 * Why a restore left a row as it stands. DIFFERENT: by MANUAL. FIELDS: both rows have values, by MERGE. UNDATED: one of
 * them has no time to compare, by NEWEST_WINS or OLDEST_WINS. OUT_OF_SCOPE: it belongs to others now. NOT_IN_BACKUP: would be
 * deleted, by MANUAL. UNIQUE_TAKEN: another row holds its unique values. MISSING_REFERENCE: what it refers to is no more.
 * REFERENCED: others refer to it, so that it was not deleted. CHANGED_SINCE: written since the restore that is rolled back.
 */
export type RestoreConflictKind = (typeof RESTORE_CONFLICT_KINDS)[number];

/** A row that a restore or its rollback left to people. */
export interface RestoreConflict {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly restoreId: UUID;
  readonly entityType: string;
  /** The text of the key, or a JSON array of texts for a composite one. */
  readonly recordId: string;
  readonly kind: RestoreConflictKind;
  /** The columns that differ. */
  readonly fields: readonly string[];
  /** The constraint that stands in the way. */
  readonly detail: string | null;
  /** Both rows as PostgreSQL writes their values; null: there is none, or it belongs to others. */
  readonly backup: { readonly [column: string]: string | null } | null;
  readonly existing: { readonly [column: string]: string | null } | null;
  /** Which version of the row stood; null: none. A decision is refused where it is another by then. */
  readonly version: string | null;
  readonly status: 'PENDING' | 'RESOLVED';
  readonly resolution: 'BACKUP' | 'EXISTING' | 'FIELDS' | null;
  readonly resolvedBy: UUID | null;
  readonly resolvedAt: Timestamp | null;
  readonly notes: string | null;
  readonly detectedAt: Timestamp;
}

/** A person's decision about a row that a restore left. */
export interface ResolveRestoreConflictInput {
  readonly conflictId: UUID;
  /** BACKUP: as `backup` has it, deleted where that is null. EXISTING: as it stands. FIELDS: the named columns of `backup`. */
  readonly resolution: 'BACKUP' | 'EXISTING' | 'FIELDS';
  /** Columns of `backup`, with FIELDS. */
  readonly fields?: readonly string[];
  readonly notes?: string;
}

/** What a restore into live tables would do at this moment. */
export interface RestorePreview {
  /** Segments that it reads, and their bytes before compression. */
  readonly segments: number;
  readonly bytes: number;
  readonly entities: readonly EntityChanges[];
  /** Refused unless `allowCascades` is set. */
  readonly cascades: readonly RestoreCascade[];
  readonly disabledTriggers: readonly { readonly entityType: string; readonly trigger: string }[];
  readonly warnings: readonly BackupWarning[];
}

export interface RestoreProgress {
  readonly phase: RestorePhase;
  readonly percentage: number;
  readonly currentEntity: string | null;
  readonly entitiesTotal: number;
  readonly entitiesCompleted: number;
  readonly recordsRestored: number;
  readonly bytesProcessed: number;
  readonly bytesTotal: number;
  readonly bytesPerSecond: number;
  readonly estimatedTimeRemainingMs: number | null;
  readonly updatedAt: Timestamp;
}

export interface RestoreDataMetrics {
  readonly totalRecords: number;
  readonly totalSizeBytes: number;
  readonly recordsByEntity: { readonly [entityType: string]: number };
}

/** One check of a restore or a verification. */
export interface ValidationCheck {
  readonly name: string;
  readonly passed: boolean;
  /** Names and counts only. */
  readonly details: string;
}

/** The outcome of the checks after a restore or of a verification. */
export interface ValidationResults {
  readonly passed: boolean;
  readonly validatedAt: Timestamp;
  readonly recordsExpected: number;
  readonly recordsFound: number;
  readonly checks: readonly ValidationCheck[];
}

export interface RestoreOperation {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly snapshotId: UUID;
  /** `RST-2026-000007`. */
  readonly restoreNumber: string;
  readonly restoreType: RestoreType;
  readonly requestedAt: Timestamp;
  readonly requestedBy: UUID;
  readonly startedAt: Timestamp | null;
  readonly completedAt: Timestamp | null;
  /** Milliseconds. */
  readonly duration: number | null;
  readonly scope: RestoreScope;
  readonly restoreDestination: RestoreDestination;
  readonly status: RestoreStatus;
  readonly statusReason: string | null;
  readonly progress: RestoreProgress | null;
  readonly dataMetrics: RestoreDataMetrics | null;
  readonly validationEnabled: boolean;
  readonly validationResults: ValidationResults | null;
  readonly conflictResolutionStrategy: ConflictResolutionStrategy;
  readonly conflictsDetected: readonly Json[];
  readonly errors: readonly BackupErrorRecord[];
  readonly warnings: readonly BackupWarning[];
  readonly requiresApproval: boolean;
  readonly approvedBy: UUID | null;
  readonly approvedAt: Timestamp | null;
  readonly approvalNotes: string | null;
  readonly rollbackEnabled: boolean;
  readonly rollbackSnapshotId: UUID | null;
  readonly deleteNotInBackup: boolean;
  readonly allowCascades: boolean;
  readonly columnMapping: ColumnMapping;
  /** What it did in live tables; empty for other destinations, and until it is done. */
  readonly changes: readonly EntityChanges[];
  readonly rolledBackAt: Timestamp | null;
  readonly rolledBackBy: UUID | null;
  readonly notes: string | null;
  readonly customFields: { readonly [key: string]: Json };
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

/** Paging of a list: newest first. `cursor` is what the page before gave as `nextCursor`. */
export interface ListInput {
  readonly limit?: number;
  readonly cursor?: string;
}
export interface ListConfigurationsInput extends ListInput {
  readonly status?: readonly BackupConfigStatus[];
}
export interface ListSnapshotsInput extends ListInput {
  readonly configurationId?: UUID;
  readonly status?: readonly BackupSnapshotStatus[];
}
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextCursor: string | null;
}
