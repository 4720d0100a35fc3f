import type { Timestamp, UUID } from '../types/ids.ts';
import { integer, nullable, timestamp } from './column.ts';
import type { Database, Transaction } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';
import { UNKEPT_STATUSES } from './snapshot-row.ts';

/** What the catalog knows of a key. */
export interface KnownKey {
  readonly firstUsedAt: Timestamp | null;
  readonly retiredAt: Timestamp | null;
}

/** Snapshots that need a key. */
export interface KeyNeed {
  /** Of the organization that asks. */
  readonly own: number;
  readonly others: number;
}

/**
 * The keys that wrap data keys, of all organizations. Whether a key may be used and whether it may go is decided under
 * the lock of its row: whoever wraps a data key notes that before anything counts, and who retires a key looks for such
 * notes after it has said that no more may come. So no key goes that something needs, however the two meet.
 */
export interface WrappingKeys {
  find(keyId: string): Promise<KnownKey | undefined>;
  /** Notes that a data key is wrapped by it, with what the transaction records of that. RETIRED: it must not be. */
  use(transaction: Transaction, keyId: string): Promise<'USABLE' | 'RETIRED'>;
  /**
   * Says that nothing new may be wrapped by it, and gives what still needs it: the caller rolls back where that is
   * anything. `retiredBefore`: an earlier call had said so.
   */
  retire(
    transaction: Transaction,
    keyId: string,
    organizationId: UUID,
  ): Promise<KeyNeed & { readonly retiredBefore: boolean }>;
  /** Takes back that it was retired, where it could not be removed. */
  reinstate(transaction: Transaction, keyId: string): Promise<void>;
  /** Whether nobody was told since `since` that its rotation is due; then that is noted. One of many callers hears true. */
  remind(keyId: string, since: Timestamp): Promise<boolean>;
}

const KNOWN: RowMapping<KnownKey> = {
  firstUsedAt: nullable(timestamp('first_used_at')),
  retiredAt: nullable(timestamp('retired_at')),
};
const NEED: RowMapping<KeyNeed> = { own: integer('own'), others: integer('others') };

export function createWrappingKeys(db: Database): WrappingKeys {
  const table = db.table('wrapping_keys');
  const known = selectColumns(KNOWN, 'k');
  const now = (): Timestamp => db.clock.now().toISOString();

  return {
    async find(keyId) {
      const [row] = await db.query(`SELECT ${known} FROM ${table} k WHERE k.key_id = $1`, [keyId]);
      return row && decodeColumns(KNOWN, row);
    },

    async use(transaction, keyId) {
      const [row] = await transaction.query(
        `INSERT INTO ${table} AS k (key_id, first_used_at) VALUES ($1, $2::timestamptz)
         ON CONFLICT (key_id) DO UPDATE SET first_used_at = coalesce(k.first_used_at, excluded.first_used_at)
         RETURNING ${known}`,
        [keyId, now()],
      );
      return decodeColumns(KNOWN, row ?? {}).retiredAt === null ? 'USABLE' : 'RETIRED';
    },

    async retire(transaction, keyId, organizationId) {
      await transaction.query(`INSERT INTO ${table} (key_id) VALUES ($1) ON CONFLICT DO NOTHING`, [keyId]);
      // Waits for those who are noting a use; those who come later wait for us.
      const [row] = await transaction.query(
        `SELECT ${known} FROM ${table} k WHERE k.key_id = $1 FOR UPDATE`,
        [keyId],
      );
      const before = decodeColumns(KNOWN, row ?? {});
      await transaction.query(
        `UPDATE ${table} SET retired_at = coalesce(retired_at, $2::timestamptz) WHERE key_id = $1`,
        [keyId, now()],
      );
      const [need] = await transaction.query(
        `SELECT count(*) FILTER (WHERE s.organization_id = $2::uuid)::text AS own,
                count(*) FILTER (WHERE s.organization_id <> $2::uuid)::text AS others
           FROM ${db.table('backup_snapshots')} s
          WHERE s.encryption_key_id = $1 AND s.status NOT IN (${UNKEPT_STATUSES})`,
        [keyId, organizationId],
      );
      return { ...decodeColumns(NEED, need ?? {}), retiredBefore: before.retiredAt !== null };
    },

    async reinstate(transaction, keyId) {
      await transaction.query(`UPDATE ${table} SET retired_at = NULL WHERE key_id = $1`, [keyId]);
    },

    async remind(keyId, since) {
      const rows = await db.query(
        `UPDATE ${table} SET reminded_at = $2::timestamptz
          WHERE key_id = $1 AND (reminded_at IS NULL OR reminded_at <= $3::timestamptz) RETURNING key_id`,
        [keyId, now(), since],
      );
      return rows.length === 1;
    },
  };
}
