import type { Actor } from './actor.ts';
import type { ValidationIssue } from './errors.ts';
import type { Json, Timestamp, UUID } from './ids.ts';
import type { ConflictStrategy, EntityRow, SyncOperation, SyncPriority } from './offline-sync.ts';

/** The transaction that an operation is applied in. What is written through it stands or falls with the operation. */
export interface HostTransaction {
  /**
   * Runs one statement. Rows have what the host's type parsers make of them. With a `name` of its own the session keeps
   * the statement's plan, for one that runs all the time. Never COMMIT or ROLLBACK with it.
   */
  query<Row extends object = Record<string, unknown>>(
    text: string,
    values?: readonly unknown[],
    name?: string,
  ): Promise<{ readonly rows: readonly Row[]; readonly rowCount: number | null }>;
}

/** On whose behalf a handler works, and where. */
export interface HandlerContext {
  readonly organizationId: UUID;
  /** Whoever did what is applied, with the rights that the host says he had. */
  readonly actor: Actor;
  readonly tx: HostTransaction;
  readonly now: Date;
}

/** How the values of a column are compared: 12.5 is 12.50, 10:00Z is 11:00+01:00, and 1 is not '1' but in numbers. */
export type FieldKind = 'TEXT' | 'NUMBER' | 'BOOLEAN' | 'INSTANT' | 'DATE' | 'UUID' | 'DOCUMENT';

/** What the library has to know of an entity's columns. Columns without a kind are compared as JSON. */
export interface EntityShape {
  readonly kinds: { readonly [column: string]: FieldKind };
  /** Written by the server alone: they never conflict, and what a client says of them is passed over. */
  readonly serverOwned: readonly string[];
  /** Ids are UUIDs: devices may write them with capital letters, and mean the same. */
  readonly idKind?: 'UUID';
}

/** An entity's row as it stands in the host's tables, locked. */
export interface LoadedEntity {
  readonly row: EntityRow;
  /** Whether the actor may see it. Of one that he may not, nothing is stored or shown. */
  readonly visible: boolean;
  /** Marked as deleted. */
  readonly deleted: boolean;
  readonly branchId: UUID | null;
  /** When it last changed, where the entity says so. */
  readonly updatedAt: Timestamp | null;
}

/** What is to be done to a row. */
export interface EntityChange {
  readonly kind: 'CREATE' | 'UPDATE' | 'DELETE';
  readonly entityId: string;
  readonly before: EntityRow | null;
  /** The whole row as it is to stand; null with DELETE. */
  readonly after: EntityRow | null;
  /** The columns that differ. */
  readonly changed: readonly string[];
  /** The operation behind it. */
  readonly operation: {
    readonly operationId: UUID;
    readonly operation: SyncOperation;
    readonly payload: EntityRow;
    readonly occurredAt: Timestamp;
    readonly deviceId: string;
    readonly metadata: { readonly [key: string]: Json };
  };
}

/**
 * How the operations of an entity type reach the host's data. All calls for one operation share its transaction.
 * A handler may be called again for the same operation when the transaction was rolled back: what it does outside the
 * database belongs into an outbox row.
 */
export interface EntityHandler {
  /** Asked once. Left out: values are compared as JSON, and no column is the server's own. */
  describe?(): Promise<EntityShape>;
  /**
   * The rows of these ids, locked until the end of the transaction, in the order of their keys. Ids without a row are
   * left out. Rows that the actor may not see are given with `visible: false`.
   */
  load(
    ids: readonly string[],
    context: HandlerContext,
    /** `READ`: for `readForOffline`; without locks. */
    purpose: 'APPLY' | 'READ',
  ): Promise<ReadonlyMap<string, LoadedEntity>>;
  /**
   * Writes a change and gives the row as it then stands, null when it is gone. Throws `FORBIDDEN` where the actor may
   * not, `VALIDATION_FAILED` where the row cannot be.
   */
  apply(change: EntityChange, context: HandlerContext): Promise<EntityRow | null>;
  /** The same for several entities, each once, in one go. Fails as a whole. */
  applyMany?(
    changes: readonly EntityChange[],
    context: HandlerContext,
  ): Promise<readonly (EntityRow | null)[]>;
  /** Throws `FORBIDDEN` where the actor may not do this; asked for before anything is written. */
  authorize?(change: EntityChange, context: HandlerContext): void | Promise<void>;
  /** What is wrong with the row that is to stand, also after a merge. Empty: nothing. */
  validate?(
    change: EntityChange,
    context: HandlerContext,
  ): readonly ValidationIssue[] | Promise<readonly ValidationIssue[]>;
  /** The host's own merge, with the strategy CUSTOM; undefined: it cannot, a person decides. */
  merge?(
    versions: {
      readonly base: EntityRow | null;
      readonly server: EntityRow | null;
      readonly client: EntityRow | null;
    },
    context: HandlerContext,
  ): EntityRow | null | undefined | Promise<EntityRow | null | undefined>;
}

/** Validates an unknown value: the interface that Zod, Valibot and ArkType share (https://standardschema.dev). */
export interface StandardSchema {
  readonly '~standard': {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult | Promise<StandardResult>;
  };
}

export type StandardResult =
  | { readonly value: unknown; readonly issues?: undefined }
  | {
      readonly issues: readonly {
        readonly message: string;
        readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
      }[];
    };

/** How two versions of one array are merged; ATOMIC, as a whole, where nothing is said. */
export type ArrayPolicy =
  | 'ATOMIC'
  /** Each value at most once; order does not matter. */
  | 'SET'
  /** Entries are added only; each has the operation's own key in `key`. */
  | { readonly append: string }
  /** Objects that this field tells apart. */
  | { readonly keyedBy: string };

/** How a path is merged. COUNTER: a number whose differences add up. */
export type MergePolicy = ArrayPolicy | 'COUNTER';

/** What happens to an entity type's operations. */
export interface SyncEntityOptions {
  /** A registered entity type, or any name where `handler` is given. */
  readonly type: string;
  /** Left out: the entity's table, by `tableHandler`. */
  readonly handler?: EntityHandler;
  /** Of payloads that clients write now; 1 where left out. */
  readonly schemaVersion?: number;
  /** Checks payloads of `schemaVersion`: one for all operations, or one for each. */
  readonly schema?: StandardSchema | { readonly [Operation in SyncOperation]?: StandardSchema };
  /** Make a payload of version n + 1 of one of version n. A version without a way to `schemaVersion` is held. */
  readonly upcasters?: {
    readonly [version: number]: (payload: EntityRow, operation: SyncOperation) => EntityRow;
  };
  /** Checks the whole row that is to stand. */
  readonly rowSchema?: StandardSchema;
  /** By entity type where left out: EVV_RECORD CRITICAL, VISIT HIGH, others NORMAL. */
  readonly priority?: SyncPriority;
  /** Tried first to last where both sides changed the same; then a person decides. FIELD_LEVEL_MERGE where left out. */
  readonly strategies?: readonly ConflictStrategy[];
  /** Another strategy for some paths (JSON Pointers); the longest that fits counts. */
  readonly fieldStrategies?: { readonly [path: string]: ConflictStrategy };
  /** Changes of different paths are merged without asking; true where left out. */
  readonly mergeDisjoint?: boolean;
  /** By path (JSON Pointer). */
  readonly merge?: { readonly [path: string]: MergePolicy };
  /** Only CREATE is taken; true for EVV_RECORD where left out. */
  readonly appendOnly?: boolean;
  /** Later operations of a stream that touch other columns go on past one that waits for a decision; false where left out. */
  readonly disjointProceed?: boolean;
  /** Whether a second person has to approve it first. CRITICAL operations are applied first and reviewed then. */
  readonly requiresApproval?: (operation: {
    readonly operation: SyncOperation;
    readonly entityId: string;
    readonly payload: EntityRow;
    readonly userId: UUID;
  }) => boolean;
}

/** The host's side of offline sync. */
export interface SyncOptions {
  readonly entities: readonly SyncEntityOptions[];
  /**
   * Who a user was when he did something. undefined: unknown, or not allowed to then; the operation is parked for
   * review (`ACTOR_UNKNOWN`). Left out: the rights with which the operation was handed in.
   */
  readonly resolveActor?: (question: {
    readonly organizationId: UUID;
    readonly userId: UUID;
    readonly deviceId: string;
    readonly occurredAt: Timestamp;
  }) => Actor | undefined | Promise<Actor | undefined>;
  /** Other strategies for an organization; undefined: the entity's. */
  readonly strategiesFor?: (
    organizationId: UUID,
    entityType: string,
  ) => Pick<SyncEntityOptions, 'strategies' | 'fieldStrategies'> | undefined;
  /** false: every conflict waits for a person. */
  readonly autoConflictResolution?: boolean;
  /** Session settings of each transaction, for row-level security: `{ 'app.organization_id': (o) => o }`. */
  readonly tenantSettings?: { readonly [setting: string]: (organizationId: UUID) => string };
  readonly limits?: SyncLimits;
}

export interface SyncLimits {
  /** How long the outbox of a device may be away; older operations are parked as TOO_OLD. 90 days. */
  readonly maxOfflineMs?: number;
  /** How long a missing predecessor is waited for; 24 hours. */
  readonly predecessorWaitMs?: number;
  /** How long a worker may be silent over what it has claimed; 60 s. */
  readonly leaseMs?: number;
  /** How many operations of a stream share a transaction at the most, 1 to 50; 50. */
  readonly operationsPerTransaction?: number;
  /** For row locks; 5 s. */
  readonly lockTimeoutMs?: number;
  /** For each statement; 30 s. */
  readonly statementTimeoutMs?: number;
  /** When the oldest waiting operation raises `sync.delayed`: CRITICAL 60 s, others 15 min. */
  readonly alarmMs?: { readonly critical?: number; readonly normal?: number };
  /** How long ended operations and events are kept; 400 days. The record that deduplicates stays twice as long. */
  readonly historyMs?: number;
}
