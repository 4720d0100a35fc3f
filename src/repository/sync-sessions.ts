import { uuidv7 } from 'uuidv7';
import type { Timestamp, UUID } from '../types/ids.ts';
import {
  type DeviceInfo,
  type NetworkStatus,
  OFFLINE_SESSION_STATUSES,
  type OfflineSession,
} from '../types/offline-sync.ts';
import {
  type Column,
  computed,
  integer,
  json,
  jsonText,
  nullable,
  text,
  timestamp,
  uuid,
  word,
} from './column.ts';
import { nextNumber } from './counters.ts';
import { decodeColumns, parameters, type RowMapping, selectColumns } from './row-mapping.ts';
import { type BoundScope, idParameter, within } from './scope.ts';

export interface SyncSessionQueries {
  /** Begins a session; gives the one that goes on where there is one. */
  startSession(session: {
    readonly userId: UUID;
    readonly deviceId: string;
    readonly networkStatus: NetworkStatus;
    readonly deviceInfo: DeviceInfo;
  }): Promise<OfflineSession>;
  /** undefined: the user has no such open one. */
  updateNetwork(id: UUID, userId: UUID, status: NetworkStatus): Promise<OfflineSession | undefined>;
  /** undefined: the user has no such open one. */
  endSession(id: UUID, userId: UUID): Promise<OfflineSession | undefined>;
}

export function syncSessionQueries(scope: BoundScope): SyncSessionQueries {
  const { db, organizationId } = scope;
  const table = db.table('offline_sessions');
  const queue = db.table('offline_sync_queue');
  const now = (): Timestamp => db.clock.now().toISOString();
  /** A number of the session's operations, never counted by hand. */
  const counted = (condition: string): Column<number> =>
    computed(
      integer('counted'),
      (alias) =>
        `(SELECT count(*) FROM ${queue} o WHERE o.session_id = ${alias}.id AND o.organization_id = ${alias}.organization_id AND (${condition}))::text`,
    );
  const session: RowMapping<OfflineSession> = {
    id: uuid('id'),
    organizationId: uuid('organization_id'),
    userId: uuid('user_id'),
    deviceId: text('device_id'),
    sessionNumber: text('session_number'),
    startedAt: timestamp('started_at'),
    endedAt: nullable(timestamp('ended_at')),
    duration: computed(
      nullable(integer('duration')),
      (alias) => `(extract(epoch FROM ${alias}.ended_at - ${alias}.started_at) * 1000)::bigint::text`,
    ),
    status: word('status', OFFLINE_SESSION_STATUSES),
    networkStatus: json('network_status'),
    lastOnlineAt: nullable(timestamp('last_online_at')),
    lastSyncAt: computed(
      nullable(timestamp('last_sync_at')),
      (alias) =>
        `(SELECT to_char(max(o.synced_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') FROM ${queue} o WHERE o.session_id = ${alias}.id)`,
    ),
    operationCount: counted('true'),
    createCount: counted(`o.operation IN ('CREATE', 'UPSERT')`),
    updateCount: counted(`o.operation IN ('UPDATE', 'PATCH', 'MERGE')`),
    deleteCount: counted(`o.operation = 'DELETE'`),
    syncedOperations: counted(`o.status = 'COMPLETED'`),
    failedOperations: counted(`o.status IN ('FAILED', 'PARKED', 'EXPIRED')`),
    conflictOperations: counted(`o.status = 'CONFLICT'`),
    pendingOperations: counted(
      `o.status IN ('PENDING', 'IN_PROGRESS', 'BLOCKED', 'PAUSED', 'WAITING_APPROVAL', 'AWAITING_EFFECT')`,
    ),
    deviceInfo: json('device_info'),
    createdAt: timestamp('created_at'),
    updatedAt: timestamp('updated_at'),
  };
  const select = selectColumns(session, 't');
  const open = `t.organization_id = $1::uuid AND t.ended_at IS NULL`;

  return {
    startSession: ({ userId, deviceId, networkStatus, deviceInfo }) =>
      db.withTransaction(async (transaction) => {
        const find = async (): Promise<OfflineSession | undefined> => {
          const [found] = await transaction.query(
            `SELECT ${select} FROM ${table} t WHERE ${open} AND t.user_id = $2::uuid AND t.device_id = $3`,
            [organizationId, userId, deviceId],
          );
          return found && decodeColumns(session, found);
        };
        const going = await find();
        if (going !== undefined) return going;
        // The counter's lock lets one begin at a time; whoever waited finds the other's.
        const sessionNumber = await nextNumber({ ...within(scope, transaction), db: transaction }, 'SESSION');
        const into = parameters(organizationId, now());
        const [made] = await transaction.query(
          `INSERT INTO ${table} AS t (id, organization_id, user_id, device_id, session_number, started_at, status, network_status,
                  last_online_at, device_info, created_at, updated_at)
           SELECT ${into.add(uuidv7(), 'uuid')}, $1::uuid, ${into.add(userId, 'uuid')}, ${into.add(deviceId, 'text')},
                  ${into.add(sessionNumber, 'text')}, $2::timestamptz, 'ACTIVE', ${into.add(jsonText(networkStatus), 'jsonb')},
                  CASE WHEN ${into.add(networkStatus.online, 'boolean')} THEN $2::timestamptz END,
                  ${into.add(jsonText(deviceInfo), 'jsonb')}, $2::timestamptz, $2::timestamptz
           ON CONFLICT (organization_id, user_id, device_id) WHERE ended_at IS NULL DO NOTHING
           RETURNING ${select}`,
          into.values,
        );
        const begun = made === undefined ? await find() : decodeColumns(session, made);
        if (begun === undefined) throw new Error('A session was neither made nor found');
        return begun;
      }),

    async updateNetwork(id, userId, status) {
      const into = parameters(organizationId, now());
      const [found] = await db.query(
        `UPDATE ${table} t SET network_status = ${into.add(jsonText(status), 'jsonb')}, updated_at = $2::timestamptz,
                status = CASE WHEN ${into.add(status.online, 'boolean')} THEN 'SYNCING' ELSE 'ACTIVE' END,
                last_online_at = CASE WHEN ${into.add(status.online, 'boolean')} THEN $2::timestamptz ELSE t.last_online_at END
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.user_id = ${into.add(userId, 'uuid')} AND ${open}
         RETURNING ${select}`,
        into.values,
      );
      return found && decodeColumns(session, found);
    },

    async endSession(id, userId) {
      const into = parameters(organizationId, now());
      const of = (condition: string): string =>
        `EXISTS (SELECT FROM ${queue} o WHERE o.session_id = t.id AND ${condition})`;
      const [found] = await db.query(
        `UPDATE ${table} t SET ended_at = $2::timestamptz, updated_at = $2::timestamptz,
                status = CASE WHEN NOT ${of(`o.status <> 'COMPLETED'`)} THEN 'COMPLETED'
                  WHEN NOT ${of(`o.status NOT IN ('FAILED', 'PARKED', 'EXPIRED')`)} THEN 'FAILED' ELSE 'PARTIAL' END
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND t.user_id = ${into.add(userId, 'uuid')} AND ${open}
         RETURNING ${select}`,
        into.values,
      );
      return found && decodeColumns(session, found);
    },
  };
}
