import type { Timestamp, UUID } from '../types/ids.ts';
import { integer, nullable, text, timestamp, uuid } from './column.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import { type BoundScope, scoped, snapshotVisible } from './scope.ts';
import { SUCCESSFUL_STATUSES, UNKEPT_STATUSES } from './snapshot-row.ts';

/** What kept snapshots need a key for. */
export interface KeptByKey {
  readonly keyId: string;
  readonly snapshots: number;
  readonly oldestSnapshotAt: Timestamp;
  readonly newestSnapshotAt: Timestamp;
  /** The newest that counts. */
  readonly newestId: UUID | null;
}

export interface KeyUseQueries {
  /** The keys that kept snapshots need, those that have not ended among them; the one of the newest first. */
  listKeptByKey(): Promise<readonly KeptByKey[]>;
  /** Configurations, deleted ones too, with snapshots that count and are wrapped by another key; the oldest first. */
  findConfigsWrappedOtherwise(keyId: string): Promise<readonly UUID[]>;
}

const KEPT: RowMapping<KeptByKey> = {
  keyId: text('key_id'),
  snapshots: integer('snapshots'),
  oldestSnapshotAt: timestamp('oldest'),
  newestSnapshotAt: timestamp('newest'),
  newestId: nullable(uuid('newest_id')),
};

export function keyUseQueries(scope: BoundScope): KeyUseQueries {
  const { db } = scope;
  const table = db.table('backup_snapshots');
  const visible = `${snapshotVisible(scope, 't')} AND t.encryption_key_id IS NOT NULL
    AND t.status NOT IN (${UNKEPT_STATUSES})`;
  const counts = `t.status IN (${SUCCESSFUL_STATUSES.map((status) => `'${status}'`).join(', ')}) AND t.deleted_at IS NULL`;

  return {
    async listKeptByKey() {
      const rows = await db.query(
        `SELECT ${selectColumns(KEPT, 'k')} FROM (
           SELECT t.encryption_key_id AS key_id, count(*) AS snapshots, min(t.created_at) AS oldest,
                  max(t.created_at) AS newest, max(t.ordinal) AS last,
                  (array_agg(t.id ORDER BY t.ordinal DESC) FILTER (WHERE ${counts}))[1] AS newest_id
             FROM ${table} t WHERE ${visible} GROUP BY t.encryption_key_id) k
          ORDER BY k.last DESC`,
        scoped(scope).values,
      );
      return rows.map((row) => decodeColumns(KEPT, row));
    },

    async findConfigsWrappedOtherwise(keyId) {
      const into = scoped(scope);
      const rows = await db.query(
        `SELECT t.configuration_id::text AS id FROM ${table} t
          WHERE ${visible} AND ${counts} AND t.encryption_key_id <> ${into.add(keyId, 'text')}
          GROUP BY t.configuration_id ORDER BY min(t.ordinal)`,
        into.values,
      );
      return rows.map(({ id }) => id ?? '');
    },
  };
}
