import type { UUID } from '../types/ids.ts';
import {
  type DeviceHealth,
  type Percentiles,
  SYNC_OUTCOMES,
  SYNC_PRIORITIES,
  SYNC_QUEUE_STATUSES,
  type SyncStatistics,
} from '../types/offline-sync.ts';
import { float, integer, json, nullable, timestamp } from './column.ts';
import type { RawRow } from './database.ts';
import { type AuthorScope, authored, visibleTo } from './sync-page.ts';

export interface SyncStatisticsQueries {
  /** Of what was handed in during a period; 30 days until now where left out. */
  syncStatistics(input: {
    readonly from?: string | Date;
    readonly to?: string | Date;
    readonly deviceId?: string;
  }): Promise<SyncStatistics>;
  /** undefined: nothing was ever handed in by it. */
  deviceHealth(deviceId: string, delayedAfterMs: number): Promise<DeviceHealth | undefined>;
}

const PERIOD_MS = 30 * 24 * 3_600_000;

export function syncStatisticsQueries(scope: AuthorScope): SyncStatisticsQueries {
  const { db } = scope;
  const queue = db.table('offline_sync_queue');
  return {
    async syncStatistics({ from, to, deviceId }) {
      const now = db.clock.now();
      const until = to === undefined ? now : new Date(to);
      const since = from === undefined ? new Date(until.getTime() - PERIOD_MS) : new Date(from);
      const into = authored(scope);
      const conditions = [
        visibleTo('q'),
        `q.queued_at >= ${into.add(since.toISOString(), 'timestamptz')}`,
        `q.queued_at < ${into.add(new Date(until.getTime() + (to === undefined ? 1 : 0)).toISOString(), 'timestamptz')}`,
        ...(deviceId === undefined ? [] : [`q.device_id = ${into.add(deviceId, 'text')}`]),
      ];
      const counts = (column: string): string =>
        `(SELECT coalesce(json_object_agg(c.word, c.n), '{}') FROM (SELECT o.${column} AS word, count(*) AS n FROM own o
           WHERE o.${column} IS NOT NULL GROUP BY o.${column}) c)::text`;
      const percentiles = (name: string, milliseconds: string, where: string): string =>
        ['0.5', '0.95', '0.99', '1']
          .map(
            (share, i) =>
              `(SELECT percentile_cont(${share}) WITHIN GROUP (ORDER BY ${milliseconds}) FROM own o WHERE ${where})::text AS ${name}${i}`,
          )
          .join(', ');
      const ms = (a: string, b: string): string => `extract(epoch FROM ${a} - ${b}) * 1000`;
      const [row] = await db.query(
        `WITH own AS MATERIALIZED (SELECT q.* FROM ${queue} q WHERE ${conditions.join(' AND ')})
         SELECT ${counts('status')} AS by_status, ${counts('outcome')} AS by_outcome, ${counts('priority')} AS by_priority,
                (SELECT count(*) FROM own)::text AS total, (SELECT count(DISTINCT device_id) FROM own)::text AS devices,
                (SELECT coalesce(sum(retry_count), 0) FROM own)::text AS retries,
                (SELECT to_char(min(o.queued_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') FROM own o WHERE o.runnable) AS oldest,
                (SELECT coalesce(json_object_agg(c.status, c.n), '{}') FROM (SELECT s.status, count(*) AS n FROM own o
                   JOIN ${db.table('sync_conflicts')} s ON s.id = o.conflict_id GROUP BY s.status) c)::text AS conflicts,
                ${percentiles('latency', ms('o.synced_at', 'o.queued_at'), `o.status = 'COMPLETED'`)},
                ${percentiles('offline', `greatest(${ms('o.queued_at', 'coalesce(o.effective_at, o.occurred_at)')}, 0)`, 'true')}`,
        into.values,
      );
      const raw = row ?? {};
      const conflicts = numbers(raw, 'conflicts');
      return {
        byStatus: complete(SYNC_QUEUE_STATUSES, numbers(raw, 'by_status')),
        byOutcome: complete(SYNC_OUTCOMES, numbers(raw, 'by_outcome')),
        byPriority: complete(SYNC_PRIORITIES, numbers(raw, 'by_priority')),
        total: integer('total').decode(raw.total ?? null),
        latencyMs: percentilesOf(raw, 'latency'),
        offlineMs: percentilesOf(raw, 'offline'),
        retries: integer('retries').decode(raw.retries ?? null),
        conflicts: {
          open: ['DETECTED', 'AUTO_RESOLVING', 'PENDING_MANUAL', 'RESOLVING'].reduce(
            (sum, status) => sum + (conflicts[status] ?? 0),
            0,
          ),
          autoResolved: conflicts.AUTO_RESOLVED ?? 0,
          resolved: conflicts.RESOLVED ?? 0,
        },
        oldestPendingAt: nullable(timestamp('oldest')).decode(raw.oldest ?? null),
        devices: integer('devices').decode(raw.devices ?? null),
      };
    },

    async deviceHealth(deviceId, delayedAfterMs) {
      const into = authored(scope);
      const device = into.add(deviceId, 'text');
      const iso = (value: string): string =>
        `to_char(${value} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
      const [row] = await db.query(
        `WITH of_device AS (
           SELECT * FROM ${db.table('sync_streams')} s WHERE s.organization_id = $1::uuid AND s.device_id = ${device}
         ), own AS (
           SELECT q.* FROM of_device s JOIN ${queue} q ON q.stream_id = s.id WHERE ${visibleTo('q')}
         ), streams AS (
           SELECT * FROM of_device s WHERE $2::uuid[] IS NULL OR s.user_id = $3::uuid
               OR EXISTS (SELECT FROM own o WHERE o.stream_id = s.id)
         )
         SELECT (SELECT json_agg(DISTINCT s.user_id) FROM streams s)::text AS users,
                (SELECT ${iso('max(s.last_seen_at)')} FROM streams s) AS seen,
                (SELECT ${iso('max(o.synced_at)')} FROM own o WHERE o.status = 'COMPLETED') AS applied,
                (SELECT count(*) FROM own o WHERE o.runnable)::text AS pending,
                (SELECT count(*) FROM own o WHERE o.waiting)::text AS attention,
                (SELECT ${iso('min(o.queued_at)')} FROM own o WHERE o.runnable) AS oldest,
                (SELECT s.clock_skew_ms::text FROM streams s WHERE s.clock_skew_ms IS NOT NULL ORDER BY s.last_seen_at DESC LIMIT 1) AS skew`,
        into.values,
      );
      const users = nullable(json<readonly UUID[]>('users')).decode(row?.users ?? null);
      if (row === undefined || users === null) return undefined;
      const pending = integer('pending').decode(row.pending ?? null);
      const attention = integer('attention').decode(row.attention ?? null);
      const oldestPendingAt = nullable(timestamp('oldest')).decode(row.oldest ?? null);
      const waited = oldestPendingAt === null ? 0 : db.clock.now().getTime() - Date.parse(oldestPendingAt);
      return {
        deviceId,
        userIds: users,
        lastSeenAt: nullable(timestamp('seen')).decode(row.seen ?? null),
        lastAppliedAt: nullable(timestamp('applied')).decode(row.applied ?? null),
        pending,
        attention,
        oldestPendingAt,
        clockSkewMs: nullable(integer('skew')).decode(row.skew ?? null),
        state: attention > 0 ? 'NEEDS_ATTENTION' : waited > delayedAfterMs ? 'DELAYED' : 'HEALTHY',
      };
    },
  };
}

const numbers = (row: RawRow, name: string): Readonly<Record<string, number>> =>
  json<Readonly<Record<string, number>>>(name).decode(row[name] ?? null);

function complete<Word extends string>(
  words: readonly Word[],
  found: Readonly<Record<string, number>>,
): Readonly<Record<Word, number>> {
  return Object.fromEntries(words.map((word) => [word, found[word] ?? 0])) as Record<Word, number>;
}

function percentilesOf(row: RawRow, name: string): Percentiles | null {
  const [p50, p95, p99, max] = [0, 1, 2, 3].map((i) =>
    nullable(float(name)).decode(row[`${name}${i}`] ?? null),
  );
  if (p50 == null || p95 == null || p99 == null || max == null) return null;
  return { p50, p95, p99, max };
}
