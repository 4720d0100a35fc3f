import { uuidv7 } from 'uuidv7';
import type { Timestamp, UUID } from '../types/ids.ts';
import type { EntityRow, OfflineSyncQueue, SyncEventType } from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import { jsonText } from './column.ts';
import { decodeColumns, type Parameters, selectColumns } from './row-mapping.ts';
import { idParameter } from './scope.ts';
import { ENDED_BADLY, isIncomplete, isMissing, isOpen, sharesBatch } from './sync-blocking.ts';
import { type AuthorScope, authored, visibleTo } from './sync-page.ts';
import { OPERATION } from './sync-queue.ts';

/** What somebody does to an operation that has not been applied. */
export type Intervention =
  | { readonly kind: 'PAUSE' | 'CANCEL' | 'REDRIVE' | 'REFUSE' }
  /** Of one that is BLOCKED: lets go what it waits for and what will not come any more. */
  | { readonly kind: 'RESUME' }
  | {
      readonly kind: 'APPROVE';
      readonly approvedBy: UUID;
      /** Of the entity. */
      readonly seenVersion: number;
      /** Of the operation. */
      readonly seenUpdatedAt: Timestamp;
    }
  | {
      readonly kind: 'EDIT';
      readonly editedBy: UUID;
      readonly payload: EntityRow;
      readonly schemaVersion: number;
      readonly fields: readonly string[];
      /** Whether what it says now has to be approved. */
      readonly requiresApproval: boolean;
      /** Whether nobody knows here what the host's schema says of it. */
      readonly unchecked: boolean;
    }
  /** Carries out a person's decision on its conflict; it is his approval too, unless he is the author or edited it last. */
  | {
      readonly kind: 'DECIDE';
      readonly decision: object;
      readonly decidedBy: UUID;
      /** null: it holds for any. */
      readonly seenVersion: number | null;
    };

export interface SyncInterventions {
  /**
   * Changes an operation that no worker has and whose status allows it; what shares its atomic batch goes on with it.
   * Gives the operation; undefined: it does not allow it now. The event is entered with it. Needs a transaction.
   */
  intervene(id: UUID, intervention: Intervention): Promise<OfflineSyncQueue | undefined>;
}

interface InterventionRule {
  readonly from: readonly string[];
  readonly event: SyncEventType;
  /** The columns that it sets, with the time as $4; what depends on the intervention itself is added to them. */
  readonly sets: readonly string[];
}

const becomes = (status: string, reason: SyncReason | null = null): readonly string[] => [
  `status = ${status}, status_reason = ${reason === null ? 'NULL' : `'${reason}'`}`,
  status === `'FAILED'`
    ? `outcome = 'REJECTED', synced_at = $4::timestamptz`
    : 'outcome = NULL, synced_at = NULL',
];
const AFRESH = `claims = 0, retry_count = 0, next_retry_at = NULL, last_attempt_error = NULL, validation_errors = '[]'`;

/** Where an approval is needed and not there. */
const WAITS = `q.requires_approval AND q.approved_by IS NULL AND NOT q.approval_waived`;
const PENDING_OR_WAITING = `CASE WHEN ${WAITS} THEN 'WAITING_APPROVAL' ELSE 'PENDING' END`;
const REASON_OR_WAITING = `CASE WHEN ${WAITS} THEN 'APPROVAL' END`;

const RULES: Readonly<Record<Intervention['kind'], InterventionRule>> = {
  PAUSE: { from: ['PENDING', 'WAITING_APPROVAL'], event: 'PAUSED', sets: becomes(`'PAUSED'`, 'PAUSED') },
  RESUME: {
    from: ['PAUSED', 'BLOCKED'],
    event: 'RESUMED',
    sets: [`status = ${PENDING_OR_WAITING}, status_reason = ${REASON_OR_WAITING}`],
  },
  CANCEL: {
    from: ['PENDING', 'CONFLICT', 'PAUSED', 'WAITING_APPROVAL', 'BLOCKED', 'PARKED', 'FAILED', 'EXPIRED'],
    event: 'CANCELLED',
    sets: becomes(`'CANCELLED'`, 'CANCELLED'),
  },
  REDRIVE: {
    from: ['PARKED', 'FAILED', 'EXPIRED'],
    event: 'REDRIVEN',
    // Whoever wants it applied after its time says so with it.
    sets: [
      ...becomes(`'PENDING'`),
      AFRESH,
      'expires_at = CASE WHEN q.expires_at > $4::timestamptz THEN q.expires_at END',
    ],
  },
  REFUSE: {
    from: ['WAITING_APPROVAL'],
    event: 'REJECTED',
    sets: [...becomes(`'FAILED'`, 'APPROVAL_REFUSED'), 'conflict_resolution = NULL'],
  },
  APPROVE: { from: ['WAITING_APPROVAL'], event: 'APPROVED', sets: becomes(`'PENDING'`) },
  EDIT: {
    from: ['PENDING', 'PAUSED', 'WAITING_APPROVAL', 'BLOCKED', 'PARKED', 'FAILED'],
    event: 'EDITED',
    // What was approved or decided was something else.
    sets: [
      'original_payload = coalesce(q.original_payload, q.payload)',
      'original_schema_version = coalesce(q.original_schema_version, q.schema_version)',
      'approved_by = NULL, approved_at = NULL, approval_version = NULL, conflict_resolution = NULL',
    ],
  },
  DECIDE: { from: ['CONFLICT'], event: 'CONFLICT_RESOLVED', sets: [...becomes(`'PENDING'`), AFRESH] },
};

/** What an intervention sets of its own. */
function ownSets(intervention: Intervention, into: Parameters): readonly string[] {
  switch (intervention.kind) {
    case 'APPROVE':
      return [
        `approved_by = ${into.add(intervention.approvedBy, 'uuid')}, approved_at = $4::timestamptz`,
        `approval_version = ${into.add(intervention.seenVersion, 'bigint')}`,
      ];
    case 'EDIT': {
      const needs = `(q.requires_approval OR ${into.add(intervention.requiresApproval, 'boolean')})`;
      const waits = `q.status = 'PENDING' AND ${needs} AND NOT q.approval_waived`;
      return [
        `edited_by = ${into.add(intervention.editedBy, 'uuid')}`,
        `payload = ${into.add(jsonText(intervention.payload), 'jsonb')}`,
        `schema_version = ${into.add(intervention.schemaVersion, 'integer')}`,
        `fields = ${into.add(intervention.fields, 'text[]')}`,
        `unchecked = ${into.add(intervention.unchecked, 'boolean')}`,
        `requires_approval = ${needs}`,
        `review_required = q.review_required OR ${needs} AND q.approval_waived`,
        `status = CASE WHEN ${waits} THEN 'WAITING_APPROVAL' ELSE q.status END`,
        `status_reason = CASE WHEN ${waits} THEN 'APPROVAL' ELSE q.status_reason END`,
      ];
    }
    case 'DECIDE': {
      const by = into.add(intervention.decidedBy, 'uuid');
      const approves = `q.requires_approval AND q.user_id <> ${by} AND q.edited_by IS DISTINCT FROM ${by}`;
      return [
        `conflict_resolution = ${into.add(jsonText(intervention.decision), 'jsonb')}`,
        `approved_by = CASE WHEN ${approves} THEN ${by} END, approved_at = CASE WHEN ${approves} THEN $4::timestamptz END`,
        `approval_version = CASE WHEN ${approves} THEN ${into.add(intervention.seenVersion, 'bigint')} END`,
      ];
    }
    default:
      return [];
  }
}

export function syncInterventions(scope: AuthorScope): SyncInterventions {
  const { db } = scope;
  const queue = db.table('offline_sync_queue');
  const ids = db.table('sync_operation_ids');
  const edges = db.table('sync_predecessors');
  const now = (): Timestamp => db.clock.now().toISOString();
  const select = selectColumns(OPERATION, 't');
  /** That what the edge `e` leads to is over without having been applied. */
  const isOver = `e.kind <> 'ORDER' AND EXISTS (SELECT FROM ${ids} d JOIN ${queue} p ON p.id = d.queue_id AND p.status IN ${ENDED_BADLY}
    WHERE d.organization_id = e.organization_id AND d.operation_id = e.predecessor)`;
  /** That the operation `q` waits for what will not come any more. */
  const waitsInVain = `(EXISTS (SELECT FROM ${edges} e WHERE e.successor_id = q.id AND ${isOver})
    OR NOT ${isIncomplete(db, 'q')} AND EXISTS (SELECT FROM ${queue} m WHERE ${sharesBatch('m', 'q')} AND m.status = 'CANCELLED'))`;

  /**
   * An operation no longer waits for these of its predecessors, but for all that is open before it and before them on its
   * entity; nor for what its batch lacks or somebody cancelled of it.
   */
  async function letGo(operation: OfflineSyncQueue, which: string): Promise<void> {
    const { id, streamId, batchId, batchSize } = operation;
    const { organizationId, entityType, entityId, sequenceNumber } = operation;
    await db.query(
      `WITH gone AS (
         SELECT e.predecessor FROM ${edges} e WHERE e.successor_id = $1::uuid AND ${which}
       ), cut AS (
         DELETE FROM ${edges} e USING gone g WHERE e.successor_id = $1::uuid AND e.predecessor = g.predecessor
       ), place AS (
         SELECT $5::uuid AS stream_id, $6::bigint AS sequence_number
         UNION ALL
         SELECT o.stream_id, o.sequence_number FROM gone g
           JOIN ${ids} d ON d.organization_id = $2::uuid AND d.operation_id = g.predecessor JOIN ${queue} o ON o.id = d.queue_id
          WHERE (o.entity_type, o.entity_id) = ($3, $4)
       )
       INSERT INTO ${edges} (successor_id, organization_id, predecessor, kind)
       SELECT DISTINCT $1::uuid, $2::uuid, o.operation_id, 'ORDER' FROM place p JOIN ${queue} o ON o.stream_id = p.stream_id
          AND (o.entity_type, o.entity_id) = ($3, $4) AND o.sequence_number < p.sequence_number AND ${isOpen('o')}
       ON CONFLICT DO NOTHING`,
      [id, organizationId, entityType, entityId, streamId, sequenceNumber],
    );
    if (batchSize === null) return;
    await db.query(
      `UPDATE ${queue} q SET batch_size = CASE WHEN q.status <> 'CANCELLED' THEN n.members END
         FROM (SELECT count(*) FILTER (WHERE m.status <> 'CANCELLED') AS members FROM ${queue} m
                WHERE m.stream_id = $1::uuid AND m.batch_id = $2::uuid AND m.batch_size IS NOT NULL) n
        WHERE q.stream_id = $1::uuid AND q.batch_id = $2::uuid AND q.batch_size IS NOT NULL`,
      [streamId, batchId],
    );
  }

  return {
    async intervene(id, intervention) {
      const { kind } = intervention;
      const rule = RULES[kind];
      const into = authored(scope);
      const at = into.add(now(), 'timestamptz');
      const sets = [
        ...rule.sets,
        ...ownSets(intervention, into),
        // Always another, so that it tells whether the operation is still what somebody saw.
        `updated_at = greatest(${at}, q.updated_at + interval '1 millisecond')`,
      ];
      const conditions = [
        `q.id = ${into.add(idParameter(id), 'uuid')} AND q.status = ANY (${into.add(rule.from, 'text[]')})`,
        visibleTo('q'),
        ...(kind === 'APPROVE'
          ? [`q.updated_at = ${into.add(intervention.seenUpdatedAt, 'timestamptz')}`]
          : []),
        ...(kind === 'RESUME' ? [`(q.status <> 'BLOCKED' OR ${waitsInVain})`] : []),
      ];
      const [row] = await db.query(
        `WITH chosen AS (
           SELECT q.id, q.status FROM ${queue} q WHERE ${conditions.join(' AND ')} FOR UPDATE
         ), changed AS (
           UPDATE ${queue} q SET ${sets.join(', ')} FROM chosen c WHERE q.id = c.id RETURNING q.*
         ), told AS (
           INSERT INTO ${db.table('sync_events')} (id, organization_id, type, queue_id, operation_id, user_id, device_id,
                  branch_id, entity_type, entity_id, details, occurred_at)
           SELECT ${into.add(uuidv7(), 'uuid')}, c.organization_id, ${into.add(rule.event, 'text')}, c.id, c.operation_id, c.user_id,
                  c.device_id, c.branch_id, c.entity_type, c.entity_id, ${into.add(jsonText(authorOf(scope)), 'jsonb')}, ${at}
             FROM changed c
         )
         SELECT ${select}, (SELECT status FROM chosen) AS before FROM changed t`,
        into.values,
      );
      if (row === undefined) return undefined;
      const operation = decodeColumns(OPERATION, row);
      if (kind === 'DECIDE') await letGo(operation, `(${isOver} OR ${isMissing(db)})`);
      if (row.before === 'BLOCKED' && kind === 'RESUME') await letGo(operation, isOver);
      if (operation.batchSize !== null && operation.status === 'PENDING') {
        await db.query(
          `UPDATE ${queue} q SET status = 'PENDING', status_reason = NULL, outcome = NULL, synced_at = NULL, updated_at = $3::timestamptz
            WHERE q.stream_id = $1::uuid AND q.batch_id = $2::uuid AND q.batch_size IS NOT NULL
              AND (q.status = 'BLOCKED' OR q.status = 'FAILED' AND q.status_reason = 'GROUP_FAILED')`,
          [operation.streamId, operation.batchId, now()],
        );
      }
      return operation;
    },
  };
}

const authorOf = (scope: AuthorScope): object => (scope.authorId === null ? {} : { by: scope.authorId });
