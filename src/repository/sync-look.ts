import type { Timestamp, UUID } from '../types/ids.ts';
import type { SyncLane } from '../types/offline-sync.ts';
import type { Database, RawRow } from './database.ts';
import type { BoundScope } from './scope.ts';
import { ENDED_BADLY, isOpen } from './sync-blocking.ts';

/** Of how many operations ahead of it one may pass some: each of them is a predecessor of its own. */
export const MOST_AHEAD = 64;

/** What an admission wants to know of what is there before it takes an operation. */
export interface AdmissionQuestion {
  /** In the call. */
  readonly position: number;
  readonly operationId: UUID;
  /** null: its id only. */
  readonly stream: {
    readonly id: UUID;
    /** Where the stream has come so far already: whether it is taken, and what lies around it. */
    readonly lateNumber: number | null;
    /** The last operation before it that was not cancelled; or (`open`) all that have not ended, up to MOST_AHEAD + 1. */
    readonly lastOf: {
      readonly entityType: string;
      readonly entityId: string;
      readonly before: number | null;
      readonly open: boolean;
    } | null;
    readonly previousOperationId: UUID | null;
    readonly sessionId: UUID | null;
  } | null;
}

/** What is there already. */
export interface AdmissionFinding {
  readonly position: number;
  /** The operation that has its id. */
  readonly taken: TakenId | null;
  /** The lane of what waits for it; null: nothing does. */
  readonly waitedIn: SyncLane | null;
  /** Whether something of the same author waits for it that is applied without an approval. */
  readonly waives: boolean;
  readonly numberTaken: boolean;
  /** When the operations around its number took effect. */
  readonly effectiveBefore: Timestamp | null;
  readonly effectiveAfter: Timestamp | null;
  /** The nearest last; whether all of them may pass others. */
  readonly open: Pick<Ahead, 'ahead' | 'disjointProceeds'>;
  readonly last: (Ahead & { readonly operationId: UUID; readonly sequenceNumber: number }) | null;
  /** Whose the operation is that it names as the one before it. Of one that has been removed the entity is not known. */
  readonly previous:
    | (Ahead & {
        readonly userId: UUID;
        readonly installationId: string;
        readonly entityType: string | null;
        readonly entityId: string | null;
      })
    | null;
  /** Whose the session is that it names. */
  readonly sessionUserId: UUID | null;
}

/** What an operation says of what is ahead of it on its entity. */
export interface Ahead {
  /** COMPLETED, or so long ago that it has been removed. */
  readonly done: boolean;
  /** Whether it may have passed something. */
  readonly disjointProceeds: boolean;
  /** Where it may have: what is ahead of it and has not ended well. */
  readonly ahead: readonly UUID[];
}

/** An operation that took an id before. */
export interface TakenId {
  /** Hexadecimal. */
  readonly payloadHash: string;
  /** Whose it is. */
  readonly userId: UUID;
}

/** What is there of operations that are to be taken; of one of which there is nothing it says nothing. */
export function syncLook({ db, organizationId }: BoundScope) {
  const statement = lookStatement(db);
  return async (questions: readonly AdmissionQuestion[]): Promise<readonly AdmissionFinding[]> => {
    const rows = await db.query(
      statement,
      [organizationId, JSON.stringify(questions.map(asked))],
      'sync-look',
    );
    return rows.map(finding);
  };
}

/** A question as the statement reads it: what is not asked is left out. */
function asked({ position, operationId, stream }: AdmissionQuestion): { readonly [field: string]: unknown } {
  if (stream === null) return { position, operationId };
  const { id, lateNumber, lastOf, previousOperationId, sessionId } = stream;
  return { position, operationId, streamId: id, lateNumber, ...lastOf, previousOperationId, sessionId };
}

const iso = (value: string): string =>
  `to_char(${value} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

/** One statement for all that is asked. Every part of it is a few steps in an index, for those that ask it only. */
function lookStatement(db: Database): string {
  const streams = db.table('sync_streams');
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const predecessors = db.table('sync_predecessors');
  const sessions = db.table('offline_sessions');
  const neighbour = (comparison: '<' | '>', order: 'DESC' | 'ASC'): string => `
    SELECT o.effective_at FROM (
      SELECT n.queue_id FROM ${ids} n WHERE n.stream_id = a."streamId" AND n.sequence_number ${comparison} a."lateNumber"
       ORDER BY n.sequence_number ${order} LIMIT 1) n JOIN ${queue} o ON o.id = n.queue_id`;
  const before = `l.stream_id = a."streamId" AND l.entity_type = a."entityType" AND l.entity_id = a."entityId"
           AND l.sequence_number < coalesce(a."before", ${2n ** 63n - 1n})`;
  return `
    SELECT a."position"::text AS position, encode(taken.payload_hash, 'hex') AS taken_hash,
           taken.user_id::text AS taken_by, waits.critical::text AS critical, waits.waives::text AS waives,
           same.number_taken::text AS number_taken,
           ${iso('below.effective_at')} AS effective_before, ${iso('above.effective_at')} AS effective_after,
           last.operation_id::text AS last_id, last.sequence_number::text AS last_number,
           coalesce(last.done, previous.done)::text AS done, coalesce(last.disjoint_proceeds, previous.disjoint_proceeds)::text AS proceeds,
           ahead.ahead::text AS ahead, open.ids::text AS open, open.proceed::text AS open_proceed,
           previous.user_id::text AS previous_user, previous.installation_id AS previous_installation,
           previous.entity_type AS previous_type, previous.entity_id AS previous_entity,
           session.user_id::text AS session_user
      FROM json_to_recordset($2::json) AS a("position" integer, "operationId" uuid, "streamId" uuid, "lateNumber" bigint,
             "entityType" text, "entityId" text, "before" bigint, "open" boolean, "previousOperationId" uuid, "sessionId" uuid)
      LEFT JOIN LATERAL (
        SELECT d.payload_hash, s.user_id FROM ${ids} d JOIN ${streams} s ON s.id = d.stream_id
         WHERE d.organization_id = $1::uuid AND d.operation_id = a."operationId" LIMIT 1) taken ON true
      LEFT JOIN LATERAL (
        SELECT bool_or(q.lane = 'CRITICAL' AND q.status NOT IN ${ENDED_BADLY}) AS critical,
               bool_or(q.approval_waived AND q.status NOT IN ${ENDED_BADLY} AND q.user_id = (SELECT s.user_id FROM ${streams} s WHERE s.id = a."streamId")) AS waives
          FROM ${predecessors} p JOIN ${queue} q ON q.id = p.successor_id
         WHERE p.organization_id = $1::uuid AND p.predecessor = a."operationId") waits ON true
      LEFT JOIN LATERAL (
        SELECT true AS number_taken FROM ${ids} n
         WHERE n.stream_id = a."streamId" AND n.sequence_number = a."lateNumber" LIMIT 1) same ON true
      LEFT JOIN LATERAL (${neighbour('<', 'DESC')}) below ON true
      LEFT JOIN LATERAL (${neighbour('>', 'ASC')}) above ON true
      LEFT JOIN LATERAL (
        SELECT l.id, l.operation_id, l.sequence_number, l.disjoint_proceeds, l.status = 'COMPLETED' AS done FROM ${queue} l
         WHERE NOT a."open" AND ${before} AND l.status <> 'CANCELLED' ORDER BY l.sequence_number DESC LIMIT 1) last ON true
      LEFT JOIN LATERAL (
        SELECT json_agg(n.operation_id ORDER BY n.sequence_number) AS ids, bool_and(n.disjoint_proceeds) AS proceed FROM (
          SELECT l.operation_id, l.sequence_number, l.disjoint_proceeds FROM ${queue} l
           WHERE a."open" AND ${before} AND ${isOpen('l')} ORDER BY l.sequence_number DESC LIMIT ${MOST_AHEAD + 1}) n) open ON true
      LEFT JOIN LATERAL (
        SELECT s.user_id, s.installation_id, q.entity_type, q.entity_id, q.id, q.disjoint_proceeds,
               q.status IS NOT DISTINCT FROM 'COMPLETED' OR q.id IS NULL AND d.final_state ->> 'status' = 'COMPLETED' AS done
          FROM ${ids} d JOIN ${streams} s ON s.id = d.stream_id LEFT JOIN ${queue} q ON q.id = d.queue_id
         WHERE d.organization_id = $1::uuid AND d.operation_id = a."previousOperationId" LIMIT 1) previous ON true
      LEFT JOIN LATERAL (
        SELECT json_agg(e.predecessor) AS ahead
          FROM ${queue} o JOIN ${predecessors} e ON e.successor_id = o.id
          LEFT JOIN ${ids} d ON d.organization_id = e.organization_id AND d.operation_id = e.predecessor
          LEFT JOIN ${queue} p ON p.id = d.queue_id
         WHERE o.id = coalesce(last.id, previous.id) AND o.disjoint_proceeds
           AND (e.kind <> 'DEPENDS_ON' OR (p.entity_type, p.entity_id) = (o.entity_type, o.entity_id))
           AND p.status IS DISTINCT FROM 'COMPLETED' AND p.status IS DISTINCT FROM 'CANCELLED' AND d.final_state IS NULL) ahead ON true
      LEFT JOIN LATERAL (
        SELECT o.user_id FROM ${sessions} o
         WHERE o.id = a."sessionId" AND o.organization_id = $1::uuid LIMIT 1) session ON true
     WHERE coalesce(taken.user_id, last.operation_id, previous.user_id, session.user_id) IS NOT NULL
        OR open.ids IS NOT NULL OR waits.critical IS NOT NULL OR a."lateNumber" IS NOT NULL`;
}

function finding(row: RawRow): AdmissionFinding {
  const { taken_by, taken_hash, critical, last_id, previous_user } = row;
  const ahead: Ahead = {
    done: row.done === 'true',
    disjointProceeds: row.proceeds === 'true',
    ahead: JSON.parse(row.ahead ?? '[]') as Ahead['ahead'],
  };
  return {
    position: Number(row.position),
    taken: taken_by == null ? null : { userId: taken_by, payloadHash: taken_hash ?? '' },
    waitedIn: critical == null ? null : critical === 'true' ? 'CRITICAL' : 'NORMAL',
    waives: row.waives === 'true',
    numberTaken: row.number_taken === 'true',
    effectiveBefore: row.effective_before ?? null,
    effectiveAfter: row.effective_after ?? null,
    open: {
      ahead: JSON.parse(row.open ?? '[]') as readonly UUID[],
      disjointProceeds: row.open_proceed !== 'false',
    },
    last:
      last_id == null ? null : { ...ahead, operationId: last_id, sequenceNumber: Number(row.last_number) },
    previous:
      previous_user == null
        ? null
        : {
            ...ahead,
            userId: previous_user,
            installationId: row.previous_installation ?? '',
            entityType: row.previous_type ?? null,
            entityId: row.previous_entity ?? null,
          },
    sessionUserId: row.session_user ?? null,
  };
}
