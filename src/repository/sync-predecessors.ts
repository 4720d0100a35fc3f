import type { UUID } from '../types/ids.ts';
import {
  type EntityRow,
  SYNC_OPERATIONS,
  SYNC_OUTCOMES,
  SYNC_QUEUE_STATUSES,
  type SyncOutcome,
  type SyncQueueStatus,
} from '../types/offline-sync.ts';
import { boolean, integer, json, nullable, text, uuid, word } from './column.ts';
import { type Database, perSchema } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import type { ClaimedOperation } from './sync-claims.ts';

/** What a successor has to know of the operation before it. */
export interface Predecessor
  extends Pick<
    ClaimedOperation,
    | 'operationId'
    | 'entityType'
    | 'entityId'
    | 'operation'
    | 'schemaVersion'
    | 'payload'
    | 'originalPayload'
    | 'originalSchemaVersion'
    | 'previousVersion'
    | 'baseTrusted'
    | 'previousOperationId'
  > {
  readonly status: SyncQueueStatus;
  readonly outcome: SyncOutcome | null;
  readonly appliedVersion: number | null;
  /** undefined: not known; null: deleted. */
  readonly clientImage: EntityRow | null | undefined;
}

const PREDECESSOR: RowMapping<Omit<Predecessor, 'clientImage'>> = {
  operationId: uuid('operation_id'),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  operation: word('operation', SYNC_OPERATIONS),
  schemaVersion: integer('schema_version'),
  payload: json('payload'),
  originalPayload: nullable(json('original_payload')),
  originalSchemaVersion: nullable(integer('original_schema_version')),
  previousVersion: nullable(json('previous_version')),
  baseTrusted: boolean('base_trusted'),
  previousOperationId: nullable(uuid('previous_operation_id')),
  status: word('status', SYNC_QUEUE_STATUSES),
  outcome: nullable(word('outcome', SYNC_OUTCOMES)),
  appliedVersion: nullable(integer('applied_version')),
};

const TEXT = perSchema(
  (db) => `SELECT ${selectColumns(PREDECESSOR, 'q')}, q.client_image::text AS client_image
  FROM ${db.table('sync_operation_ids')} d JOIN ${db.table('offline_sync_queue')} q ON q.id = d.queue_id
 WHERE d.organization_id = $1::uuid AND d.operation_id = ANY ($2::uuid[])`,
);

/** Of these operation ids, those that are still known. */
export async function readPredecessors(
  db: Database,
  organizationId: UUID,
  operationIds: readonly UUID[],
): Promise<readonly Predecessor[]> {
  const rows = await db.query(TEXT(db), [organizationId, operationIds], 'sync-predecessors');
  return rows.map((row) => {
    const image = row.client_image ?? null;
    return {
      ...decodeColumns(PREDECESSOR, row),
      clientImage: image === null ? undefined : (JSON.parse(image) as EntityRow | null),
    };
  });
}
