import { formatNumber } from '../utils/sequence-number.ts';
import { integer } from './column.ts';
import type { Transaction } from './database.ts';
import type { BoundScope } from './scope.ts';

/** What is numbered: `BKP-2026-000123`, `RST-2026-000007`, `OFF-2026-000003`. */
export type CounterKind = 'SNAPSHOT' | 'RESTORE' | 'SESSION';

const PREFIXES: Readonly<Record<CounterKind, string>> = {
  SNAPSHOT: 'BKP',
  RESTORE: 'RST',
  SESSION: 'OFF',
};
const LAST_VALUE = integer('last_value');

/**
 * The next number of the organization in the current UTC year. Held by the transaction: another insert of the
 * organization waits for its end, and a rollback gives the number back.
 */
export async function nextNumber(
  scope: BoundScope & { readonly db: Transaction },
  kind: CounterKind,
): Promise<string> {
  const year = scope.db.clock.now().getUTCFullYear();
  const [row] = await scope.db.query(
    `INSERT INTO ${scope.db.table('counters')} AS c (organization_id, kind, year, last_value) VALUES ($1, $2, $3, 1)
     ON CONFLICT (organization_id, kind, year) DO UPDATE SET last_value = c.last_value + 1
     RETURNING ${LAST_VALUE.select('c')} AS last_value`,
    [scope.organizationId, kind, year],
  );
  return formatNumber(PREFIXES[kind], year, LAST_VALUE.decode(row?.last_value ?? null));
}
