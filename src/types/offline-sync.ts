import type { BackupEntityType } from './backup.ts';
import type { ErrorCode } from './errors.ts';
import type { Json, Timestamp, UUID } from './ids.ts';

/** CREATE and UPSERT bring a row; UPDATE replaces the fields that it names; PATCH is RFC 7396; MERGE is UPSERT with PATCH. */
export const SYNC_OPERATIONS = ['CREATE', 'UPDATE', 'DELETE', 'PATCH', 'MERGE', 'UPSERT'] as const;
export type SyncOperation = (typeof SYNC_OPERATIONS)[number];

export const SYNC_PRIORITIES = ['CRITICAL', 'HIGH', 'NORMAL', 'LOW', 'BACKGROUND'] as const;
export type SyncPriority = (typeof SYNC_PRIORITIES)[number];

/** CRITICAL has worker slots of its own. */
export const SYNC_LANES = ['CRITICAL', 'NORMAL'] as const;
export type SyncLane = (typeof SYNC_LANES)[number];

/** Which changes are allowed stands in `docs/sync-protocol.md` and in the database. AWAITING_EFFECT is for payments. */
export const SYNC_QUEUE_STATUSES = [
  'PENDING',
  'IN_PROGRESS',
  'COMPLETED',
  'FAILED',
  'CONFLICT',
  'EXPIRED',
  'CANCELLED',
  'PAUSED',
  'WAITING_APPROVAL',
  'BLOCKED',
  'AWAITING_EFFECT',
  'PARKED',
] as const;
export type SyncQueueStatus = (typeof SYNC_QUEUE_STATUSES)[number];

/** How an operation ended: COMPLETED with one of the first three, FAILED with REJECTED. */
export const SYNC_OUTCOMES = ['APPLIED', 'MERGED', 'SUPERSEDED', 'REJECTED'] as const;
export type SyncOutcome = (typeof SYNC_OUTCOMES)[number];

/** The client's side is named first. */
export const CONFLICT_TYPES = [
  'UPDATE_UPDATE',
  'UPDATE_DELETE',
  'DELETE_UPDATE',
  'CREATE_CREATE',
  'FIELD_LEVEL',
  'DEPENDENCY',
] as const;
export type ConflictType = (typeof CONFLICT_TYPES)[number];

export const CONFLICT_STATUSES = [
  'DETECTED',
  'AUTO_RESOLVING',
  'AUTO_RESOLVED',
  'PENDING_MANUAL',
  'RESOLVING',
  'RESOLVED',
  'EXPIRED',
  'CANCELLED',
] as const;
export type ConflictStatus = (typeof CONFLICT_STATUSES)[number];

export const CONFLICT_STRATEGIES = [
  'CLIENT_WINS',
  'SERVER_WINS',
  'NEWEST_WINS',
  'MANUAL',
  'FIELD_LEVEL_MERGE',
  'CUSTOM',
] as const;
export type ConflictStrategy = (typeof CONFLICT_STRATEGIES)[number];

export const OFFLINE_SESSION_STATUSES = ['ACTIVE', 'SYNCING', 'COMPLETED', 'PARTIAL', 'FAILED'] as const;
export type OfflineSessionStatus = (typeof OFFLINE_SESSION_STATUSES)[number];

/**
 * An entity's row as it is exchanged: one value per column. Numbers that JavaScript would change (bigint, numeric) and
 * points in time are text. A column that is null may be left out.
 */
export type EntityRow = { readonly [column: string]: Json };

/** What a client changed an entity from: handed out by `readForOffline`, given back unchanged. */
export interface DataVersion {
  /** The entity's version on the server; counts up, also through deletions. */
  readonly version: number;
  readonly data: EntityRow;
  /** Without it, or where it does not fit, only an unchanged `version` is believed. */
  readonly signature?: string;
}

/** When a device did something, by its own clocks. Never trusted, always kept: an EVV audit needs it. */
export interface ClientStamp {
  /** Changes when the monotonic clock begins anew: at a reboot, or with a new process. */
  readonly bootId: string;
  /** Milliseconds of the monotonic clock. */
  readonly monotonicMs: number;
  /** The wall clock. */
  readonly wallTime: Timestamp;
  /** Counts up with every operation of the stream, whatever the clocks do. */
  readonly counter: number;
}

/** One thing that was done without a network, as a device hands it in. */
export interface QueueOperationInput {
  /** The actor's where left out; must be it where given. */
  readonly organizationId?: UUID;
  readonly userId?: UUID;
  readonly deviceId?: string;
  /** Names the installation of the app, where that is more than the device; `deviceId` where left out. */
  readonly installationId?: string;
  /** Counts up whenever the installation's outbox begins anew; 1 where left out. */
  readonly epoch?: number;
  /** Of the client's making. Where left out, nothing deduplicates. */
  readonly operationId?: UUID;
  /** Counts up in the stream. A device sends it always or never. */
  readonly sequenceNumber?: number;
  readonly operation: SyncOperation;
  readonly entityType: BackupEntityType;
  readonly entityId: string;
  /** The row or the changes; of a DELETE nothing, `{}`. */
  readonly payload?: EntityRow;
  /** Of the payload; 1 where left out. */
  readonly schemaVersion?: number;
  /** What the client changed. */
  readonly previousVersion?: Partial<DataVersion>;
  /**
   * The one before it on the same entity, of the same user and installation. null: there is none, it starts from
   * `previousVersion`; what is open on the entity in its stream it does not overtake. Where left out, the last one there:
   * clients should say, since only they know.
   */
  readonly previousOperationId?: UUID | null;
  /** Operations that must have ended well before. */
  readonly dependsOn?: readonly UUID[];
  /** Operations that belong together. */
  readonly batchId?: UUID;
  /** With it, the batch is atomic: as many operations, applied all or none. 1 to 50. */
  readonly batchSize?: number;
  /** By entity type where left out. CRITICAL counts as HIGH where the entity is not. */
  readonly priority?: SyncPriority;
  /** When it was done, by the device's wall clock; the time of arrival where left out. */
  readonly occurredAt?: Timestamp;
  readonly stamp?: ClientStamp;
  readonly expiresAt?: Timestamp;
  readonly maxRetries?: number;
  readonly requiresApproval?: boolean;
  readonly branchId?: UUID;
  /** One of the user's own; the one that the device is in where left out. */
  readonly sessionId?: UUID;
  /** The host's own, such as the app's version: JSON of bounded size. */
  readonly metadata?: { readonly [key: string]: Json };
}

/** What holds for all operations of one call. */
export interface QueueOptions {
  /** The device's clocks at the moment of sending: gives the offset of its clocks. */
  readonly sentAt?: ClientStamp;
}

/** What an operation came to, as it is told to its author. */
export interface OperationState {
  readonly operationId: UUID;
  readonly status: SyncQueueStatus;
  readonly outcome: SyncOutcome | null;
  /** Why: a code of `docs/sync-protocol.md`. */
  readonly reason: string | null;
  /** The entity's version afterwards. */
  readonly appliedVersion: number | null;
  readonly conflictId: UUID | null;
  /**
   * Paths of what the author had written and something else stands in place of; an empty text: his deletion, or all of
   * it. Grows where a later conflict is decided against an operation that was applied.
   */
  readonly superseded: readonly string[];
}

/** The answer to one operation that was handed in. */
export type AdmissionAnswer =
  | { readonly operationId: UUID; readonly status: 'ACCEPTED'; readonly sequenceNumber: number }
  /** It was accepted before, and came to this. */
  | { readonly operationId: UUID; readonly status: 'DUPLICATE'; readonly state: OperationState }
  | {
      readonly operationId: UUID;
      readonly status: 'REJECTED';
      readonly code: ErrorCode;
      readonly message: string;
      readonly issues: readonly {
        readonly path: string;
        readonly message: string;
        readonly remedy: string;
      }[];
      /** With IDEMPOTENCY_MISMATCH: what the other operation under the id came to. */
      readonly state?: OperationState;
    };

/** An operation as it stands in the queue. */
export interface OfflineSyncQueue {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly branchId: UUID | null;
  readonly userId: UUID;
  readonly deviceId: string;
  readonly streamId: UUID;
  readonly operationId: UUID;
  readonly sequenceNumber: number;
  readonly batchId: UUID | null;
  readonly batchSize: number | null;
  readonly sessionId: UUID | null;
  readonly operation: SyncOperation;
  readonly entityType: string;
  readonly entityId: string;
  readonly schemaVersion: number;
  readonly payload: EntityRow;
  /** As it was handed in, where somebody edited it since. */
  readonly originalPayload: EntityRow | null;
  /** Who edited it last. */
  readonly editedBy: UUID | null;
  readonly previousVersion: Partial<DataVersion> | null;
  readonly occurredAt: Timestamp;
  /** When it happened, by the server's clock; null where the device's clocks do not tell. */
  readonly effectiveAt: Timestamp | null;
  /** How far the device's wall clock was ahead. */
  readonly clockSkewMs: number | null;
  readonly clientStamp: ClientStamp | null;
  readonly queuedAt: Timestamp;
  readonly attemptedAt: Timestamp | null;
  /** When it ended. */
  readonly syncedAt: Timestamp | null;
  readonly status: SyncQueueStatus;
  readonly statusReason: string | null;
  readonly outcome: SyncOutcome | null;
  readonly appliedVersion: number | null;
  readonly superseded: readonly string[];
  readonly priority: SyncPriority;
  /** CRITICAL also for what a CRITICAL operation waits for; of another author's, once it has the approval that it needs. */
  readonly lane: SyncLane;
  readonly expiresAt: Timestamp | null;
  readonly retryCount: number;
  readonly maxRetries: number;
  readonly nextRetryAt: Timestamp | null;
  readonly backoffMultiplier: number;
  readonly hasConflict: boolean;
  readonly conflictId: UUID | null;
  readonly dependsOn: readonly UUID[];
  readonly previousOperationId: UUID | null;
  readonly validationErrors: readonly { readonly path: string; readonly message: string }[];
  readonly requiresApproval: boolean;
  readonly approvedBy: UUID | null;
  readonly approvedAt: Timestamp | null;
  /** It was applied at once and somebody is to look at it. */
  readonly reviewRequired: boolean;
  /** A code and what is safe to log. */
  readonly lastAttemptError: string | null;
  /** What an HTTP API would have answered. */
  readonly lastAttemptStatusCode: number | null;
  readonly metadata: { readonly [key: string]: Json };
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

/** One path that both sides changed. A side that has no such path leaves its value out. */
export interface FieldConflict {
  /** A JSON Pointer (RFC 6901), such as `/notes` or `/vitals/pulse`. */
  readonly path: string;
  readonly baseValue?: Json;
  readonly clientValue?: Json;
  readonly serverValue?: Json;
}

/** How a conflict was, or is to be, decided. */
export interface ConflictResolution {
  readonly strategy: ConflictStrategy;
  /** null: by the library. */
  readonly resolvedBy: UUID | null;
  readonly notes: string | null;
  /** The version of the entity that was seen. */
  readonly seenVersion: number;
  /** The row that is to stand; null: deleted, or, where nothing is to be written, as it is. */
  readonly data: EntityRow | null;
}

/** Two versions of an entity that cannot both stand. Both are kept, also after it is resolved. */
export interface SyncConflict {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly branchId: UUID | null;
  /** The operation (its `operationId`). */
  readonly operationId: UUID;
  readonly userId: UUID;
  readonly deviceId: string;
  /** `CNF-2026-000012`; null until shortly after it was found. */
  readonly conflictNumber: string | null;
  readonly conflictType: ConflictType;
  readonly entityType: string;
  readonly entityId: string;
  /** What the client started from; null where nobody knows. */
  readonly baseVersion: EntityRow | null;
  /** null: deleted. */
  readonly clientVersion: EntityRow | null;
  /** null: deleted, or not there. */
  readonly serverVersion: EntityRow | null;
  /** The version of the entity that `serverVersion` is. */
  readonly serverVersionNumber: number;
  readonly conflictingFields: readonly FieldConflict[];
  readonly status: ConflictStatus;
  readonly resolution: ConflictResolution | null;
  readonly autoResolutionAttempted: boolean;
  readonly autoResolutionStrategy: ConflictStrategy | null;
  readonly autoResolutionFailed: boolean;
  readonly autoResolutionFailureReason: string | null;
  readonly requiresManualResolution: boolean;
  readonly assignedTo: UUID | null;
  readonly resolvedAt: Timestamp | null;
  readonly detectedAt: Timestamp;
  /** How often it was found again since the entity had moved on. */
  readonly redetections: number;
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

export interface ResolveConflictInput {
  readonly conflictId: UUID;
  /** MANUAL and CUSTOM take `data`. */
  readonly strategy: ConflictStrategy;
  /** The version of the entity that the person saw: `serverVersionNumber` of the conflict as it was shown. */
  readonly seenVersion: number;
  /** With FIELD_LEVEL_MERGE: whose value stands, by path; the client's where left out. */
  readonly fields?: { readonly [path: string]: 'CLIENT' | 'SERVER' };
  /** With MANUAL and CUSTOM: the row that is to stand; null deletes it. */
  readonly data?: EntityRow | null;
  /** Must be the actor where given. */
  readonly resolvedBy?: UUID;
  readonly notes?: string;
}

/** Whether and how a device is connected, as it says itself. */
export interface NetworkStatus {
  readonly online: boolean;
  /** Such as `wifi`, `4g`. */
  readonly connectionType?: string;
  readonly downlinkMbps?: number;
  readonly rttMs?: number;
}

/** JSON of bounded size: platform, model, versions. */
export type DeviceInfo = { readonly [key: string]: Json };

/** A time that a device spent without a network. */
export interface OfflineSession {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly userId: UUID;
  readonly deviceId: string;
  /** `OFF-2026-000003`. */
  readonly sessionNumber: string;
  readonly startedAt: Timestamp;
  readonly endedAt: Timestamp | null;
  /** Milliseconds. */
  readonly duration: number | null;
  readonly status: OfflineSessionStatus;
  readonly networkStatus: NetworkStatus;
  readonly lastOnlineAt: Timestamp | null;
  readonly lastSyncAt: Timestamp | null;
  /** Counted from the operations of the session. */
  readonly operationCount: number;
  readonly createCount: number;
  readonly updateCount: number;
  readonly deleteCount: number;
  readonly syncedOperations: number;
  readonly failedOperations: number;
  readonly conflictOperations: number;
  readonly pendingOperations: number;
  readonly deviceInfo: DeviceInfo;
  readonly createdAt: Timestamp;
  readonly updatedAt: Timestamp;
}

/** What happened to operations, in the order in which it happened. Ids, codes and counts only. */
export const SYNC_EVENT_TYPES = [
  'APPLIED',
  'MERGED',
  'SUPERSEDED',
  'REJECTED',
  'CONFLICT_DETECTED',
  'CONFLICT_RESOLVED',
  'CONFLICT_REOPENED',
  'RETRY',
  'PARKED',
  'BLOCKED',
  'EXPIRED',
  'CANCELLED',
  'PAUSED',
  'RESUMED',
  'APPROVED',
  'EDITED',
  'REDRIVEN',
  'REVIEW_REQUIRED',
] as const;
export type SyncEventType = (typeof SYNC_EVENT_TYPES)[number];

export interface SyncEvent {
  readonly id: UUID;
  readonly organizationId: UUID;
  readonly type: SyncEventType;
  readonly operationId: UUID;
  readonly userId: UUID;
  readonly deviceId: string;
  readonly entityType: string;
  readonly entityId: string;
  /** The entity's version afterwards, where it changed. */
  readonly version: number | null;
  readonly details: { readonly [key: string]: Json };
  readonly occurredAt: Timestamp;
}

/** Milliseconds. */
export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

export interface SyncStatistics {
  /** Operations handed in during the period, by how they stand now. */
  readonly byStatus: Readonly<Record<SyncQueueStatus, number>>;
  readonly byOutcome: Readonly<Record<SyncOutcome, number>>;
  readonly byPriority: Readonly<Record<SyncPriority, number>>;
  readonly total: number;
  /** From acceptance to the end, of those that ended well; null: none has. */
  readonly latencyMs: Percentiles | null;
  /** From when it was done on the device to acceptance. */
  readonly offlineMs: Percentiles | null;
  readonly retries: number;
  readonly conflicts: {
    readonly open: number;
    readonly autoResolved: number;
    readonly resolved: number;
  };
  /** The oldest that has not ended and waits for the library. */
  readonly oldestPendingAt: Timestamp | null;
  readonly devices: number;
}

export interface DeviceHealth {
  readonly deviceId: string;
  readonly userIds: readonly UUID[];
  readonly lastSeenAt: Timestamp | null;
  readonly lastAppliedAt: Timestamp | null;
  /** Not ended, and waiting for the library. */
  readonly pending: number;
  /** Waiting for somebody. */
  readonly attention: number;
  readonly oldestPendingAt: Timestamp | null;
  readonly clockSkewMs: number | null;
  /** HEALTHY: nothing waits long or for somebody. */
  readonly state: 'HEALTHY' | 'DELAYED' | 'NEEDS_ATTENTION';
}

/** A row for offline use. */
export interface OfflineEntity extends DataVersion {
  readonly entityType: string;
  readonly entityId: string;
}

/** What `processPendingOperations` did. */
export interface ProcessingSummary {
  readonly processed: number;
  readonly applied: number;
  readonly merged: number;
  readonly superseded: number;
  readonly rejected: number;
  readonly conflicts: number;
  /** They failed for a reason that may pass, and are tried again later. */
  readonly retried: number;
  readonly parked: number;
  /** What has not ended when it returns. */
  readonly remaining: number;
}

export interface ApproveOperationInput {
  /** The version of the entity that the approver saw; the one that it has now where left out. */
  readonly seenVersion?: number;
  /** `updatedAt` of the operation that the approver saw; as it is now where left out. */
  readonly seenUpdatedAt?: Timestamp;
}

/** A corrected operation. */
export interface EditOperationInput {
  readonly payload: EntityRow;
  /** As it was where left out. */
  readonly schemaVersion?: number;
}

export interface ListOperationsInput {
  readonly limit?: number;
  readonly cursor?: string;
  readonly status?: readonly SyncQueueStatus[];
  readonly deviceId?: string;
  readonly userId?: UUID;
  readonly entityType?: BackupEntityType;
  readonly entityId?: string;
}

export interface ListConflictsInput {
  readonly limit?: number;
  readonly cursor?: string;
  readonly status?: readonly ConflictStatus[];
  readonly deviceId?: string;
  readonly assignedTo?: UUID;
  readonly entityType?: BackupEntityType;
  readonly entityId?: string;
}

export interface ListSyncEventsInput {
  readonly limit?: number;
  readonly cursor?: string;
  readonly type?: readonly SyncEventType[];
  readonly operationId?: UUID;
  readonly deviceId?: string;
  readonly entityType?: BackupEntityType;
  readonly entityId?: string;
}

/** Operations handed in from `from` (30 days ago where left out) until before `to` (now). */
export interface SyncStatisticsInput {
  readonly from?: Timestamp;
  readonly to?: Timestamp;
  readonly deviceId?: string;
}

export interface StartOfflineSessionInput {
  readonly userId: UUID;
  readonly deviceId: string;
  readonly organizationId: UUID;
  readonly networkStatus?: NetworkStatus;
  readonly deviceInfo?: DeviceInfo;
}
