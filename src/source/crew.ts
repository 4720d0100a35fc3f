import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import { qualified, quoteLiteral } from '../postgres/quote.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import type { TableNode } from './tables.ts';

export interface Enlistment {
  readonly connection: pg.ClientConfig;
  readonly exportedId: string;
  readonly signal: AbortSignal;
}

/**
 * Opens the sessions that read, each with the snapshot imported and the tables locked by itself. They need locks of
 * their own from the start: later, a session that wants one would stand in line behind an ACCESS EXCLUSIVE request
 * which waits for the leader, and wait for ever, with all writers of the table behind it. For the same reason they
 * do not wait: SQLSTATE 55P03 means that such a request is there already, and that the leader must let go first.
 * Rejects with pg's own error or a `DATABASE_*`; then no session is left.
 */
export async function enlist(
  enlistment: Enlistment,
  count: number,
  tables: readonly TableNode[],
): Promise<pg.Client[]> {
  const names = [...new Set(tables.map(qualified))].map((name) => `ONLY ${name}`);
  const opened = await Promise.allSettled(
    Array.from({ length: count }, async () => {
      const session = await importSnapshot(enlistment);
      try {
        if (names.length > 0)
          await session.query(`LOCK TABLE ${names.join(', ')} IN ACCESS SHARE MODE NOWAIT`);
        return session;
      } catch (error) {
        destroySession(session);
        throw error;
      }
    }),
  );
  const sessions = opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  for (const result of opened) {
    if (result.status === 'fulfilled') continue;
    sessions.forEach(destroySession);
    throw result.reason;
  }
  return sessions;
}

/** SQLSTATEs of an exported snapshot that is there no more, as different versions have it. */
const EXPORT_GONE = {
  '22023': 'DATABASE_UNAVAILABLE',
  '42704': 'DATABASE_UNAVAILABLE',
  '55000': 'DATABASE_UNAVAILABLE',
} as const;

/** A session in a transaction that sees what the leader sees. Rejects with a `DATABASE_*`. */
export async function importSnapshot({ connection, exportedId, signal }: Enlistment): Promise<pg.Client> {
  const session = await openSession({ connection, name: 'care-backup extraction', signal });
  try {
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await session.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(exportedId)}`);
    return session;
  } catch (error) {
    destroySession(session);
    throw databaseError(error, 'Importing the snapshot', EXPORT_GONE);
  }
}
