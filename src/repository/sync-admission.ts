import type { Json, Timestamp, UUID } from '../types/ids.ts';
import type {
  ClientStamp,
  DataVersion,
  EntityRow,
  SyncLane,
  SyncOperation,
  SyncPriority,
  SyncQueueStatus,
} from '../types/offline-sync.ts';
import { integer, json, jsonText, nullable, text, timestamp, uuid } from './column.ts';
import type { Transaction } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import type { BoundScope } from './scope.ts';
import { type AdmissionFinding, type AdmissionQuestion, syncLook } from './sync-look.ts';

/** What tells one outbox from another. */
export interface StreamKey {
  readonly userId: UUID;
  readonly deviceId: string;
  readonly installationId: string;
  readonly epoch: number;
}

/** An outbox, locked: nobody else admits to it until the transaction ends. */
export interface LockedStream {
  readonly id: UUID;
  readonly numberedBy: string | null;
  readonly lastSequence: number;
  readonly clock: Json;
  readonly lastEffectiveAt: Timestamp | null;
  /** The offline session that the device is in. */
  readonly sessionId: UUID | null;
}

/** What an admission leaves on the stream. */
export interface StreamProgress {
  readonly id: UUID;
  readonly numberedBy: 'CLIENT' | 'SERVER' | null;
  readonly lastSequence: number;
  readonly clock: Json;
  readonly clockSkewMs: number | null;
  readonly lastEffectiveAt: Timestamp | null;
}

/** An operation that has been checked, as it is to be stored. */
export interface NewOperation {
  readonly id: UUID;
  readonly streamId: UUID;
  readonly userId: UUID;
  readonly deviceId: string;
  readonly branchId: UUID | null;
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
  /** Hexadecimal. */
  readonly payloadHash: string;
  readonly previousVersion: Partial<DataVersion> | null;
  readonly baseTrusted: boolean;
  readonly fields: readonly string[];
  readonly dependsOn: readonly UUID[];
  readonly previousOperationId: UUID | null;
  /** What it must not overtake on its entity, besides what it builds on. */
  readonly after: readonly UUID[];
  readonly disjointProceeds: boolean;
  readonly occurredAt: Timestamp;
  readonly effectiveAt: Timestamp | null;
  readonly clockSkewMs: number | null;
  readonly clientStamp: ClientStamp | null;
  readonly status: SyncQueueStatus;
  readonly statusReason: string | null;
  readonly priority: SyncPriority;
  readonly lane: SyncLane;
  readonly dueAt: Timestamp;
  readonly expiresAt: Timestamp | null;
  readonly maxRetries: number;
  readonly requiresApproval: boolean;
  readonly approvalWaived: boolean;
  readonly reviewRequired: boolean;
  /** Its type or version is not known here: the host's schema was not asked. */
  readonly unchecked: boolean;
  /** The same for all operations of a call. */
  readonly actor: Json;
  readonly metadata: { readonly [key: string]: Json };
}

const STREAM: RowMapping<Omit<LockedStream, 'sessionId'>> = {
  id: uuid('id'),
  numberedBy: nullable(text('numbered_by')),
  lastSequence: integer('last_sequence'),
  clock: json('clock'),
  lastEffectiveAt: nullable(timestamp('last_effective_at')),
};

/** A predecessor edge between operations, by their operation ids. */
export interface OperationEdge {
  readonly successor: UUID;
  /** null: it waits for nothing, and stands here as a member of its batch. */
  readonly predecessor: UUID | null;
  /** Set where the successor belongs to an atomic batch. */
  readonly batchId: UUID | null;
}

/** Whose CRITICAL operation waits for the one under `alias`; null: not known. That its own author's does waives its approval. */
export const waivedBy = (alias: string): string =>
  `CASE WHEN ${alias}.approval_waived THEN ${alias}.user_id END`;
/**
 * What goes with something CRITICAL that waits for it, of the CTE `above (id, own)`; `own`: that is of the same author.
 * Another author's raises nothing that waits for an approval.
 */
export const toBeRaised = (queue: string): string => `
  SELECT l.id, a.own FROM ${queue} l
    JOIN (SELECT w.id, coalesce(bool_or(w.own), false) AS own FROM above w GROUP BY w.id) a ON a.id = l.id
   WHERE l.status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED') AND CASE WHEN a.own
      THEN l.lane <> 'CRITICAL' OR NOT l.approval_waived OR l.status = 'WAITING_APPROVAL'
      ELSE l.lane <> 'CRITICAL' AND l.status <> 'WAITING_APPROVAL' AND (NOT l.requires_approval OR l.approved_by IS NOT NULL) END
   ORDER BY l.id`;
/** What becomes of it, with `r` as `toBeRaised`. */
export const RAISED = `lane = 'CRITICAL', approval_waived = approval_waived OR r.own,
  status = CASE WHEN r.own AND status = 'WAITING_APPROVAL' THEN 'PENDING' ELSE status END,
  status_reason = CASE WHEN NOT (r.own AND status = 'WAITING_APPROVAL') THEN status_reason END`;

/** The most edges that are followed in search of a circle; a longer way is left to the sweeper. */
const MOST_EDGES = 20_000;

/** The columns of the queue that an admission writes, with the types that JSON is read as. */
const INSERTED: readonly (readonly [
  column: string,
  field: keyof NewOperation,
  type: string,
  instead?: string,
])[] = [
  ['id', 'id', 'uuid'],
  ['branch_id', 'branchId', 'uuid'],
  ['stream_id', 'streamId', 'uuid'],
  ['operation_id', 'operationId', 'uuid'],
  ['sequence_number', 'sequenceNumber', 'bigint'],
  ['batch_id', 'batchId', 'uuid'],
  ['batch_size', 'batchSize', 'integer'],
  ['session_id', 'sessionId', 'uuid'],
  ['operation', 'operation', 'text'],
  ['entity_type', 'entityType', 'text'],
  ['entity_id', 'entityId', 'text'],
  ['schema_version', 'schemaVersion', 'integer'],
  ['payload', 'payload', 'jsonb'],
  ['previous_version', 'previousVersion', 'jsonb'],
  ['base_trusted', 'baseTrusted', 'boolean', 'false'],
  ['fields', 'fields', 'text[]'],
  ['depends_on', 'dependsOn', 'uuid[]', `'{}'`],
  ['previous_operation_id', 'previousOperationId', 'uuid'],
  ['disjoint_proceeds', 'disjointProceeds', 'boolean', 'false'],
  ['occurred_at', 'occurredAt', 'timestamptz'],
  ['effective_at', 'effectiveAt', 'timestamptz'],
  ['clock_skew_ms', 'clockSkewMs', 'bigint'],
  ['client_stamp', 'clientStamp', 'jsonb'],
  ['status', 'status', 'text'],
  ['status_reason', 'statusReason', 'text'],
  ['priority', 'priority', 'text'],
  ['lane', 'lane', 'text'],
  ['due_at', 'dueAt', 'timestamptz'],
  ['expires_at', 'expiresAt', 'timestamptz'],
  ['max_retries', 'maxRetries', 'integer'],
  ['requires_approval', 'requiresApproval', 'boolean', 'false'],
  ['approval_waived', 'approvalWaived', 'boolean', 'false'],
  ['review_required', 'reviewRequired', 'boolean', 'false'],
  ['unchecked', 'unchecked', 'boolean', 'false'],
  ['metadata', 'metadata', 'jsonb', `'{}'`],
];

/** Takes operations into the queue. All of it belongs to one transaction, which holds the streams' locks. */
export interface SyncAdmission {
  /** Locks streams, in one order for all callers; makes those that are not there. In the order of the keys. */
  lockStreams(keys: readonly StreamKey[]): Promise<readonly LockedStream[]>;
  /**
   * Lets nobody else admit what leads to or from these operations until the transaction ends: of two admissions that
   * would close a circle together, one sees the other.
   */
  lockOperations(operationIds: readonly UUID[]): Promise<void>;
  /** How many members of atomic batches have been taken, and how many each is to have. */
  batches(asked: readonly { readonly streamId: UUID; readonly batchId: UUID }[]): Promise<
    readonly {
      readonly streamId: UUID;
      readonly batchId: UUID;
      readonly size: number;
      readonly taken: number;
    }[]
  >;
  /** The operation ids of the members of atomic batches that have been taken. */
  batchMates(asked: readonly { readonly streamId: UUID; readonly batchId: UUID }[]): Promise<readonly UUID[]>;
  /** What is there of operations that are to be taken. Of one of which there is nothing it says nothing. */
  look(questions: readonly AdmissionQuestion[]): Promise<readonly AdmissionFinding[]>;
  /** What these operations wait for, and what that waits for, as far as it has not ended well. */
  edgesFrom(operationIds: readonly UUID[]): Promise<readonly OperationEdge[]>;
  /**
   * Stores operations: with ids and edges. Gives the ids (`id`) of those that were stored; of the others the operation
   * id was taken by another stream meanwhile.
   */
  insert(
    operations: readonly NewOperation[],
    progress: readonly StreamProgress[],
  ): Promise<ReadonlySet<UUID>>;
  /** Raises what these operations wait for into the CRITICAL lane. Gives the streams that have work there now. */
  raiseAncestors(operationIds: readonly UUID[]): Promise<readonly UUID[]>;
}

export function syncAdmission(scope: BoundScope & { readonly db: Transaction }): SyncAdmission {
  const { db, organizationId } = scope;
  const streams = db.table('sync_streams');
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const predecessors = db.table('sync_predecessors');
  const sessions = db.table('offline_sessions');
  const now = (): Timestamp => db.clock.now().toISOString();

  const find = (keys: string) =>
    db.query(
      `SELECT s.user_id::text AS user_id, s.installation_id, s.epoch::text AS epoch, ${selectColumns(STREAM, 's')},
              (SELECT o.id FROM ${sessions} o
                WHERE o.organization_id = s.organization_id AND o.user_id = s.user_id AND o.device_id = s.device_id
                  AND o.ended_at IS NULL)::text AS session_id
         FROM json_to_recordset($2::json) AS k(user_id uuid, installation_id text, epoch bigint)
         JOIN ${streams} s ON s.organization_id = $1::uuid AND s.user_id = k.user_id
          AND s.installation_id = k.installation_id AND s.epoch = k.epoch
        ORDER BY s.user_id, s.installation_id COLLATE "C", s.epoch FOR UPDATE OF s`,
      [organizationId, keys],
      'sync-lock-streams',
    );

  return {
    async lockStreams(keys) {
      if (keys.length === 0) return [];
      const wanted = keys.map((key) => ({
        user_id: key.userId,
        device_id: key.deviceId,
        installation_id: key.installationId,
        epoch: key.epoch,
      }));
      const asked = JSON.stringify(wanted);
      let rows = await find(asked);
      if (rows.length < keys.length) {
        await db.query(
          `INSERT INTO ${streams} (id, organization_id, user_id, device_id, installation_id, epoch, last_seen_at, created_at)
           SELECT gen_random_uuid(), $1::uuid, k.user_id, k.device_id, k.installation_id, k.epoch, $3::timestamptz, $3::timestamptz
             FROM json_to_recordset($2::json) AS k(user_id uuid, device_id text, installation_id text, epoch bigint)
            ORDER BY k.user_id, k.installation_id COLLATE "C", k.epoch
           ON CONFLICT (organization_id, user_id, installation_id, epoch) DO NOTHING`,
          [organizationId, asked, now()],
        );
        rows = await find(asked);
      }
      const found = new Map(
        rows.map((row) => [`${row.user_id} ${row.epoch} ${row.installation_id}`, row] as const),
      );
      return keys.map((key) => {
        const row = found.get(`${key.userId} ${key.epoch} ${key.installationId}`);
        return { ...decodeColumns(STREAM, row ?? {}), sessionId: row?.session_id ?? null };
      });
    },

    async lockOperations(operationIds) {
      await db.query(
        `SELECT pg_catalog.pg_advisory_xact_lock(l.key)::text AS locked FROM (
           SELECT DISTINCT pg_catalog.hashtextextended('care-sync ' || $1 || ' ' || o.id, 0) AS key
             FROM unnest($2::text[]) AS o(id) ORDER BY 1) l`,
        [organizationId, operationIds],
      );
    },

    async batches(asked) {
      const rows = await db.query(
        `SELECT q.stream_id::text AS stream_id, q.batch_id::text AS batch_id, max(q.batch_size)::text AS size, count(*)::text AS taken
           FROM json_to_recordset($1::json) AS a("streamId" uuid, "batchId" uuid)
           JOIN ${queue} q ON q.stream_id = a."streamId" AND q.batch_id = a."batchId" AND q.batch_size IS NOT NULL
          GROUP BY q.stream_id, q.batch_id`,
        [JSON.stringify(asked)],
      );
      return rows.map((row) => ({
        streamId: row.stream_id ?? '',
        batchId: row.batch_id ?? '',
        size: Number(row.size),
        taken: Number(row.taken),
      }));
    },

    async batchMates(asked) {
      if (asked.length === 0) return [];
      const rows = await db.query(
        `SELECT DISTINCT q.operation_id::text AS id
           FROM json_to_recordset($1::json) AS a("streamId" uuid, "batchId" uuid)
           JOIN ${queue} q ON q.stream_id = a."streamId" AND q.batch_id = a."batchId" AND q.batch_size IS NOT NULL`,
        [JSON.stringify(asked)],
      );
      return rows.map((row) => row.id ?? '');
    },

    look: syncLook(scope),

    async edgesFrom(operationIds) {
      const rows = await db.query(
        `WITH RECURSIVE way AS (
           SELECT o.id AS operation_id FROM unnest($2::uuid[]) AS o(id)
           UNION
           SELECT step.id FROM way w
             JOIN ${ids} d ON d.organization_id = $1::uuid AND d.operation_id = w.operation_id
             JOIN ${queue} q ON q.id = d.queue_id AND q.status <> 'COMPLETED'
            CROSS JOIN LATERAL (
              SELECT p.predecessor AS id FROM ${predecessors} p WHERE p.successor_id = q.id
              UNION ALL
              SELECT m.operation_id FROM ${queue} m
               WHERE q.batch_size IS NOT NULL AND m.stream_id = q.stream_id AND m.batch_id = q.batch_id
                 AND m.batch_size IS NOT NULL) step
         )
         SELECT q.operation_id::text AS successor, p.predecessor::text AS predecessor,
                CASE WHEN q.batch_size IS NOT NULL THEN q.batch_id END::text AS batch_id
           FROM (SELECT * FROM way LIMIT ${MOST_EDGES}) w
           JOIN ${ids} d ON d.organization_id = $1::uuid AND d.operation_id = w.operation_id
           JOIN ${queue} q ON q.id = d.queue_id AND q.status <> 'COMPLETED'
           LEFT JOIN ${predecessors} p ON p.successor_id = q.id`,
        [organizationId, operationIds],
      );
      return rows.map((row) => ({
        successor: row.successor ?? '',
        predecessor: row.predecessor ?? null,
        batchId: row.batch_id ?? null,
      }));
    },

    async insert(operations, progress) {
      const at = now();
      const rows = await db.query(
        insertStatement({ streams, queue, ids, predecessors }),
        [
          organizationId,
          at,
          // What PostgreSQL cannot store was refused before.
          JSON.stringify(operations.map(said)),
          JSON.stringify(progress),
          jsonText(operations[0]?.actor ?? {}),
        ],
        'sync-admit',
      );
      return new Set(rows.map((row) => row.id ?? ''));
    },

    async raiseAncestors(operationIds) {
      const rows = await db.query(
        `WITH RECURSIVE above AS (
           SELECT q.id, ${waivedBy('q')} AS author, q.approval_waived AS own, q.stream_id, q.batch_id, q.batch_size
             FROM ${ids} d JOIN ${queue} q ON q.id = d.queue_id
            WHERE d.organization_id = $1::uuid AND d.operation_id = ANY ($2::uuid[])
           UNION
           SELECT q.id, a.author, q.user_id = a.author, q.stream_id, q.batch_id, q.batch_size FROM above a
            CROSS JOIN LATERAL (
              SELECT d.queue_id AS id FROM ${predecessors} p
                JOIN ${ids} d ON d.organization_id = p.organization_id AND d.operation_id = p.predecessor
               WHERE p.successor_id = a.id
              UNION ALL
              SELECT m.id FROM ${queue} m
               WHERE a.batch_size IS NOT NULL AND m.stream_id = a.stream_id AND m.batch_id = a.batch_id
                 AND m.batch_size IS NOT NULL) step
             JOIN ${queue} q ON q.id = step.id AND q.status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')
         ), raised AS (
           UPDATE ${queue} q SET ${RAISED}, updated_at = $3::timestamptz
             FROM (${toBeRaised(queue)} FOR UPDATE OF l) r
            WHERE q.id = r.id RETURNING q.stream_id
         )
         SELECT DISTINCT stream_id::text AS stream_id FROM raised`,
        [organizationId, operationIds, now()],
      );
      return rows.map((row) => row.stream_id ?? '');
    },
  };
}

/** What is not as it is where nothing is said: most fields of most operations say nothing. */
function said(operation: NewOperation): Partial<NewOperation> {
  const { payloadHash, after } = operation;
  const told: Partial<Record<keyof NewOperation, unknown>> = {
    payloadHash,
    ...(after.length === 0 ? {} : { after }),
  };
  for (const [, field] of INSERTED) {
    const value = operation[field];
    if (value !== null && value !== false) told[field] = value;
  }
  return told as Partial<NewOperation>;
}

interface Tables {
  readonly streams: string;
  readonly queue: string;
  readonly ids: string;
  readonly predecessors: string;
}

/** One statement, so that the number of operations does not decide the number of round trips. */
function insertStatement({ streams, queue, ids, predecessors }: Tables): string {
  const record = INSERTED.map(([, field, type]) => `"${field}" ${type}`).join(', ');
  const columns = INSERTED.map(([column]) => column).join(', ');
  const fields = INSERTED.map(([, field, , instead]) =>
    instead === undefined ? `i."${field}"` : `coalesce(i."${field}", ${instead})`,
  ).join(', ');
  return `
    WITH input AS MATERIALIZED (
      SELECT * FROM jsonb_to_recordset($3::jsonb) AS i(${record}, "payloadHash" text, "after" uuid[])
    ), fresh AS (
      INSERT INTO ${ids} (organization_id, operation_id, stream_id, sequence_number, queue_id, payload_hash)
      SELECT $1::uuid, i."operationId", i."streamId", i."sequenceNumber", i."id", decode(i."payloadHash", 'hex')
        FROM input i ORDER BY i."operationId"
      ON CONFLICT DO NOTHING RETURNING queue_id
    ), queued AS (
      INSERT INTO ${queue} (organization_id, queued_at, created_at, updated_at, user_id, device_id, actor, ${columns})
      SELECT $1::uuid, $2::timestamptz, $2::timestamptz, $2::timestamptz, s.user_id, s.device_id, $5::jsonb, ${fields}
        FROM input i JOIN fresh f ON f.queue_id = i."id" JOIN ${streams} s ON s.id = i."streamId"
    ), edges AS (
      INSERT INTO ${predecessors} (successor_id, organization_id, predecessor, kind)
      SELECT i."id", $1::uuid, e.predecessor, min(e.kind)
        FROM input i JOIN fresh f ON f.queue_id = i."id"
       CROSS JOIN LATERAL (
         SELECT unnest(i."dependsOn") AS predecessor, 'DEPENDS_ON' AS kind
         UNION ALL
         SELECT i."previousOperationId", 'PREVIOUS'
         UNION ALL
         SELECT unnest(i."after"), 'ORDER') e
       WHERE e.predecessor IS NOT NULL GROUP BY i."id", e.predecessor
    ), progress AS (
      UPDATE ${streams} s
         SET numbered_by = coalesce(s.numbered_by, p."numberedBy"), last_sequence = p."lastSequence", clock = p."clock",
             clock_skew_ms = coalesce(p."clockSkewMs", s.clock_skew_ms), last_effective_at = p."lastEffectiveAt",
             last_seen_at = greatest(s.last_seen_at, $2::timestamptz)
        FROM json_to_recordset($4::json)
          AS p("id" uuid, "numberedBy" text, "lastSequence" bigint, "clock" jsonb, "clockSkewMs" bigint, "lastEffectiveAt" timestamptz)
       WHERE s.id = p."id"
    )
    SELECT queue_id::text AS id FROM fresh`;
}
