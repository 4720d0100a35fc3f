import type { Page } from '../types/backup.ts';
import { type ListSyncEventsInput, SYNC_EVENT_TYPES, type SyncEvent } from '../types/offline-sync.ts';
import { integer, json, nullable, text, timestamp, uuid, word } from './column.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import { type AuthorScope, filters, pageById } from './sync-page.ts';

const EVENT: RowMapping<SyncEvent> = {
  id: uuid('id'),
  organizationId: uuid('organization_id'),
  type: word('type', SYNC_EVENT_TYPES),
  operationId: uuid('operation_id'),
  userId: uuid('user_id'),
  deviceId: text('device_id'),
  entityType: text('entity_type'),
  entityId: text('entity_id'),
  version: nullable(integer('version')),
  details: json('details'),
  occurredAt: timestamp('occurred_at'),
};

export interface SyncEventQueries {
  /** Newest first. */
  listEvents(input: ListSyncEventsInput): Promise<Page<SyncEvent>>;
}

export function syncEventQueries(scope: AuthorScope): SyncEventQueries {
  return {
    listEvents: (input) =>
      pageById(scope, input, {
        table: 'sync_events',
        select: selectColumns(EVENT, 't'),
        where: (into) =>
          filters(into, {
            type: input.type,
            operation_id: input.operationId,
            device_id: input.deviceId,
            entity_type: input.entityType,
            entity_id: input.entityId,
          }),
        decode: (row) => decodeColumns(EVENT, row),
      }),
  };
}
