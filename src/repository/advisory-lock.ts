import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import type { UUID } from '../types/ids.ts';

/** A lock that its holder's death releases: the server drops it with the session. */
export interface SessionLock {
  /** Aborts when the session, and so the lock, is lost. */
  readonly lost: AbortSignal;
  /** Harmless to repeat. Never rejects. */
  release(): Promise<void>;
}

export interface SessionLocks {
  /**
   * The lock of one configuration's runs, across all processes; undefined while somebody else holds it.
   * Errors: `DATABASE_*`.
   */
  tryConfiguration(configurationId: UUID): Promise<SessionLock | undefined>;
  /** The lock of one restore, which its process holds from before it is in the catalog; undefined while it does. */
  tryRestore(restoreId: UUID): Promise<SessionLock | undefined>;
  /** The lock of one storage job, held while it runs. */
  tryStorageJob(jobId: UUID): Promise<SessionLock | undefined>;
}

/** How often an idle lock session is asked whether it is still there; a half-open connection shows by then. */
const PING_MS = 15_000;
/** How long a server may take to say goodbye before the connection is cut. */
const GOODBYE_MS = 2_000;

/** Locks on session connections of their own (`connection` must not lead through a transaction-pooling proxy). */
export function createSessionLocks(connection: pg.ClientConfig): SessionLocks {
  const tryLock = async (kind: string, id: UUID): Promise<SessionLock | undefined> => {
    const client = await openSession({ connection, name: 'care-backup lock' });
    try {
      const { rows } = await client.query<{ locked: string }>(
        "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('care-backup ' || $1 || ' ' || $2, 0))::text AS locked",
        [kind, id.toLowerCase()],
      );
      if (rows[0]?.locked === 'true') return hold(client);
    } catch (error) {
      destroySession(client);
      throw databaseError(error, `Taking the lock of the ${kind}`);
    }
    destroySession(client);
    return undefined;
  };
  return {
    tryConfiguration: (configurationId) => tryLock('configuration', configurationId),
    tryRestore: (restoreId) => tryLock('restore', restoreId),
    tryStorageJob: (jobId) => tryLock('storage job', jobId),
  };
}

function hold(client: pg.Client): SessionLock {
  const lost = new AbortController();
  const lose = (): void => lost.abort();
  client.on('end', lose);
  client.on('error', lose);
  const ping = setInterval(() => {
    const answer = setTimeout(() => destroySession(client), PING_MS);
    answer.unref();
    client.query('SELECT 1').then(() => clearTimeout(answer), lose);
  }, PING_MS);
  ping.unref();
  let released: Promise<void> | undefined;
  const release = async (): Promise<void> => {
    clearInterval(ping);
    client.removeListener('end', lose);
    client.removeListener('error', lose);
    client.on('error', () => undefined);
    const late = setTimeout(() => destroySession(client), GOODBYE_MS);
    await client.end().catch(() => destroySession(client));
    clearTimeout(late);
  };
  return {
    lost: lost.signal,
    release() {
      released ??= release();
      return released;
    },
  };
}
