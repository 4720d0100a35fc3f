import { uuidv7 } from 'uuidv7';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import type { EntityRow, SyncEventType, SyncOutcome, SyncQueueStatus } from '../types/offline-sync.ts';
import { boolean, integer, json, jsonText, nullable, text } from './column.ts';
import { type Database, perSchema, type RawRow } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';

export interface EntityKey {
  readonly entityType: string;
  readonly entityId: string;
}

/** The version of an entity, locked until the end of the transaction. */
export interface EntityState extends EntityKey {
  /** 0: never synchronized. */
  readonly version: number;
  /** Hexadecimal; null: deleted or never seen. */
  readonly rowHash: string | null;
  readonly deleted: boolean;
  /** When each column last changed by the server's clock; null: nobody knows. An empty text: all others. */
  readonly times: { readonly [column: string]: Timestamp | null };
  /** Which operation (`id`) last wrote each column, where it was one. An empty text: all others. */
  readonly writers: { readonly [column: string]: UUID };
}

/** What became of a claimed operation. */
export interface OperationEnd {
  readonly id: UUID;
  readonly status: Exclude<SyncQueueStatus, 'IN_PROGRESS'>;
  readonly reason: string | null;
  readonly outcome: SyncOutcome | null;
  readonly appliedVersion: number | null;
  readonly superseded: readonly string[];
  /** undefined: leave it as it is; null: deleted. */
  readonly clientImage?: EntityRow | null;
  readonly conflictId: UUID | null;
  /** Of a try that failed. */
  readonly retryCount: number;
  readonly nextRetryAt: Timestamp | null;
  /** A code and what is safe to log. */
  readonly error: string | null;
  readonly statusCode: number | null;
  readonly validationErrors: readonly { readonly path: string; readonly message: string }[];
  /** The approval or decision that led here counts no more. */
  readonly voided: boolean;
  readonly reviewRequired: boolean;
  /** What is known of where it belongs; null: nothing. */
  readonly branchId: UUID | null;
}

/** An event of an operation; the rest of it stands with the operation. */
export interface NewSyncEvent {
  readonly queueId: UUID;
  readonly type: SyncEventType;
  readonly version: number | null;
  readonly details: { readonly [key: string]: Json };
}

/** What a conflict's resolution has written over. */
export interface Overwriting {
  /** The place of the operation in conflict. */
  readonly streamId: UUID;
  readonly sequenceNumber: number;
  readonly entityType: string;
  readonly entityId: string;
  /** Of the entity, afterwards. */
  readonly version: number;
  readonly conflictId: UUID | null;
  readonly branchId: UUID | null;
  /** By the operations (`id`) that had written them. */
  readonly paths: ReadonlyMap<UUID, readonly string[]>;
}

export interface SyncOutcomes {
  /**
   * Locks the states of entities, in one order for all callers; makes those that are not there (version 0). In no
   * order. Of one that somebody else has made in the same moment it gives none: what was read behind it may be older
   * than the lock, so the caller locks and reads again.
   */
  lockStates(organizationId: UUID, keys: readonly EntityKey[]): Promise<readonly EntityState[]>;
  /** The states as they are, without locks; those that are not there are left out. */
  readStates(organizationId: UUID, keys: readonly EntityKey[]): Promise<readonly EntityState[]>;
  /**
   * Ends a try of operations that the token holds: their state, the entities' versions and the events, in one statement.
   * Gives the ids that it ended: where one is missing, somebody else has taken it over and the caller must roll back.
   */
  finish(
    organizationId: UUID,
    token: UUID,
    ends: readonly OperationEnd[],
    states?: readonly EntityState[],
    events?: readonly NewSyncEvent[],
  ): Promise<ReadonlySet<UUID>>;
  /**
   * Notes with operations that have ended well what stands no more of what they wrote, and enters an event for each; also
   * with such that were removed since, but not with what comes before it in its own stream. Whoever holds the state of
   * their entity locked is the only one to do so: no two wait for each other.
   */
  supersede(organizationId: UUID, overwriting: Overwriting): Promise<void>;
  /** Writes states that were locked before. */
  writeStates(organizationId: UUID, states: readonly EntityState[]): Promise<void>;
}

const STATE: RowMapping<EntityState> = {
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  version: integer('version'),
  rowHash: {
    ...nullable(text('row_hash')),
    select: (alias) => `encode(${alias}.row_hash, 'hex')`,
  },
  deleted: boolean('deleted'),
  times: json('times'),
  writers: json('writers'),
};

const TEXTS = perSchema((db) => {
  const queue = db.table('offline_sync_queue');
  const state = db.table('sync_entity_state');
  const events = db.table('sync_events');
  const ids = db.table('sync_operation_ids');

  const wanted = `json_to_recordset($2::json) AS k("entityType" text, "entityId" text)`;
  /** By the index, however many rows the planner expects: OFFSET 0 keeps it from joining otherwise. */
  const one = (alias: string): string =>
    `SELECT s.* FROM ${state} s WHERE s.organization_id = $1::uuid AND s.entity_type = ${alias}."entityType"
        AND s.entity_id = ${alias}."entityId" OFFSET 0`;
  const upsertStates = (from: string): string => `
      INSERT INTO ${state} AS s (organization_id, entity_type, entity_id, version, row_hash, deleted, times, writers, updated_at)
      SELECT $1::uuid, i."entityType", i."entityId", i."version", decode(i."rowHash", 'hex'), i."deleted", i."times", i."writers",
             $2::timestamptz
        FROM json_to_recordset(${from}::json) AS i("entityType" text, "entityId" text, "version" bigint, "rowHash" text,
             "deleted" boolean, "times" jsonb, "writers" jsonb)
       ORDER BY i."entityType" COLLATE "C", i."entityId" COLLATE "C"
      ON CONFLICT (organization_id, entity_type, entity_id) DO UPDATE
        SET version = excluded.version, row_hash = excluded.row_hash, deleted = excluded.deleted,
            times = excluded.times, writers = excluded.writers, updated_at = excluded.updated_at`;

  const finish = `
    WITH ended AS (
      UPDATE ${queue} q
         SET status = e."status", status_reason = e."reason", outcome = e."outcome", applied_version = e."appliedVersion",
             superseded = e."superseded", client_image = CASE WHEN e."imageKnown" THEN coalesce(e."clientImage", 'null'::jsonb) ELSE q.client_image END,
             conflict_id = coalesce(e."conflictId", q.conflict_id), has_conflict = q.has_conflict OR e."conflictId" IS NOT NULL,
             retry_count = e."retryCount", next_retry_at = e."nextRetryAt", last_attempt_error = e."error",
             last_attempt_status_code = e."statusCode", validation_errors = e."validationErrors",
             conflict_resolution = CASE WHEN e."voided" THEN NULL ELSE q.conflict_resolution END,
             approved_by = CASE WHEN e."voided" THEN NULL ELSE q.approved_by END,
             approved_at = CASE WHEN e."voided" THEN NULL ELSE q.approved_at END,
             approval_version = CASE WHEN e."voided" THEN NULL ELSE q.approval_version END,
             review_required = e."reviewRequired", branch_id = coalesce(q.branch_id, e."branchId"),
             synced_at = CASE WHEN e."status" IN ('COMPLETED', 'FAILED') THEN $2::timestamptz END,
             claim_token = NULL, lease_expires_at = NULL, claims = 0, updated_at = $2::timestamptz
        FROM json_to_recordset($4::json) AS e("id" uuid, "status" text, "reason" text, "outcome" text, "appliedVersion" bigint,
             "superseded" jsonb, "clientImage" jsonb, "imageKnown" boolean, "conflictId" uuid, "retryCount" integer,
             "nextRetryAt" timestamptz, "error" text, "statusCode" integer, "validationErrors" jsonb, "voided" boolean,
             "reviewRequired" boolean, "branchId" uuid)
       WHERE q.id = e."id" AND q.id = ANY ($7::uuid[]) AND q.claim_token = $3::uuid AND q.status = 'IN_PROGRESS' AND q.organization_id = $1::uuid
      RETURNING q.id, q.operation_id, q.user_id, q.device_id, q.branch_id, q.entity_type, q.entity_id
    ), versions AS (${upsertStates('$5')}
    ), told AS (
      INSERT INTO ${events} (id, organization_id, type, queue_id, operation_id, user_id, device_id, branch_id, entity_type,
             entity_id, version, details, occurred_at)
      SELECT v."id", $1::uuid, v."type", e.id, e.operation_id, e.user_id, e.device_id, e.branch_id, e.entity_type, e.entity_id,
             v."version", v."details", $2::timestamptz
        FROM json_to_recordset($6::json) AS v("id" uuid, "queueId" uuid, "type" text, "version" bigint, "details" jsonb)
        JOIN ended e ON e.id = v."queueId"
    )
    SELECT id::text AS id FROM ended`;

  const lock = `
    WITH wanted AS MATERIALIZED (
      SELECT k."entityType", k."entityId" FROM ${wanted}
       ORDER BY k."entityType" COLLATE "C", k."entityId" COLLATE "C"
    ), made AS (
      INSERT INTO ${state} (organization_id, entity_type, entity_id, version, updated_at)
      SELECT $1::uuid, w."entityType", w."entityId", 0, $3::timestamptz FROM wanted w
       WHERE NOT EXISTS (${one('w')})
      ON CONFLICT DO NOTHING RETURNING *
    )
    SELECT ${selectColumns(STATE, 'l')} FROM wanted w CROSS JOIN LATERAL (${one('w')} FOR UPDATE) l
     WHERE (SELECT count(*) FROM made) >= 0
    UNION ALL SELECT ${selectColumns(STATE, 'm')} FROM made m`;

  const read = `SELECT ${selectColumns(STATE, 's')} FROM ${wanted} JOIN ${state} s ON s.organization_id = $1::uuid
      AND s.entity_type = k."entityType" AND s.entity_id = k."entityId"`;

  const lost = `json_to_recordset($3::json) AS l("id" uuid, "paths" jsonb, "event" uuid, "details" jsonb)`;
  const isOther = (alias: string): string =>
    `(${alias}.stream_id <> $5::uuid OR ${alias}.sequence_number > $6::bigint)`;
  const withPaths = (before: string): string => `${before} || (
    SELECT coalesce(jsonb_agg(p), '[]') FROM jsonb_array_elements(l."paths") AS p WHERE NOT ${before} @> jsonb_build_array(p))`;
  const tell = `INSERT INTO ${events} (id, organization_id, type, queue_id, operation_id, user_id, device_id, branch_id,
      entity_type, entity_id, version, details, occurred_at)`;

  const supersede = `
    WITH changed AS (
      UPDATE ${queue} q SET superseded = ${withPaths('q.superseded')}, updated_at = $2::timestamptz
        FROM ${lost} WHERE q.id = l."id" AND q.id = ANY ($4::uuid[]) AND q.organization_id = $1::uuid
         AND q.status = 'COMPLETED' AND ${isOther('q')}
      RETURNING q.*, l."event", l."details"
    )
    ${tell}
    SELECT c."event", $1::uuid, 'SUPERSEDED', c.id, c.operation_id, c.user_id, c.device_id, c.branch_id, c.entity_type,
           c.entity_id, $7::bigint, c."details", $2::timestamptz FROM changed c
    RETURNING queue_id::text AS id`;

  const supersedeRemoved = `
    WITH changed AS (
      UPDATE ${ids} d SET final_state = jsonb_set(d.final_state, '{superseded}', ${withPaths(`(d.final_state -> 'superseded')`)})
        FROM ${lost} JOIN (SELECT o.queue_id FROM ${ids} o WHERE o.queue_id = ANY ($4::uuid[]) AND o.final_state IS NOT NULL
           AND o.organization_id = $1::uuid AND ${isOther('o')} FOR UPDATE SKIP LOCKED) k ON k.queue_id = l."id"
       WHERE d.queue_id = k.queue_id AND d.final_state IS NOT NULL
      RETURNING d.*, l."event", l."details"
    )
    ${tell}
    SELECT c."event", $1::uuid, 'SUPERSEDED', c.queue_id, c.operation_id, s.user_id, s.device_id, $10::uuid, $8, $9,
           $7::bigint, c."details", $2::timestamptz FROM changed c JOIN ${db.table('sync_streams')} s ON s.id = c.stream_id`;

  return { finish, lock, read, write: upsertStates('$3'), supersede, supersedeRemoved };
});

export function syncOutcomes(db: Database): SyncOutcomes {
  const texts = TEXTS(db);
  const now = (): Timestamp => db.clock.now().toISOString();
  const states = (rows: readonly RawRow[]): readonly EntityState[] =>
    rows.map((row) => decodeColumns(STATE, row));
  return {
    lockStates: async (organizationId, keys) =>
      states(await db.query(texts.lock, [organizationId, JSON.stringify(keys), now()], 'sync-lock-states')),

    readStates: async (organizationId, keys) =>
      states(await db.query(texts.read, [organizationId, JSON.stringify(keys)])),

    async finish(organizationId, token, ends, changed = [], told = []) {
      const rows = await db.query(
        texts.finish,
        [
          organizationId,
          now(),
          token,
          jsonText(ends.map((end) => ({ ...end, imageKnown: end.clientImage !== undefined }))),
          JSON.stringify(changed),
          jsonText(told.map((event) => ({ ...event, id: uuidv7() }))),
          ends.map(({ id }) => id),
        ],
        'sync-finish',
      );
      return new Set(rows.map((row) => row.id ?? ''));
    },

    async supersede(organizationId, { paths, streamId, sequenceNumber, version, conflictId, ...entity }) {
      const lost = [...paths].map(([id, own]) => ({
        id,
        paths: own,
        event: uuidv7(),
        details: { conflictId, superseded: own.length },
      }));
      const which = [organizationId, now(), jsonText(lost), [...paths.keys()]];
      const values = [...which, streamId, sequenceNumber, version];
      const rows = await db.query(texts.supersede, values);
      if (rows.length === lost.length) return;
      // A statement of its own: what was removed while the first one waited is seen by it.
      const { entityType, entityId, branchId } = entity;
      await db.query(texts.supersedeRemoved, [...values, entityType, entityId, branchId]);
    },

    async writeStates(organizationId, changed) {
      await db.query(texts.write, [organizationId, now(), JSON.stringify(changed)]);
    },
  };
}
