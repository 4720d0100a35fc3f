import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import { quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { sessionName, tryLock, unlock } from './hidden-schema.ts';

/** How often the session that holds the lock is asked whether it is still there; one unanswered question ends it. */
const PING_INTERVAL_MS = 30_000;

/**
 * The session that holds the lock of a restore, from before its schema exists until after the rename: as long as it
 * lives, `sweep` leaves the restore alone. Its keepalive finds a dead peer within a minute.
 */
export class RestoreLock {
  readonly client: pg.Client;
  readonly #restoreId: UUID;
  readonly #ping: NodeJS.Timeout;
  #waiting = false;

  /** Errors: `INVALID_STATE` where the restore runs already, `DATABASE_*`. `onLost` is called at most once. */
  static async take(connection: pg.ClientConfig, restoreId: UUID, onLost: () => void): Promise<RestoreLock> {
    const client = await openSession({ connection, name: `${sessionName(restoreId)}-lock` });
    try {
      await setWhereKnown(client, {
        tcp_keepalives_idle: '30',
        tcp_keepalives_interval: '10',
        tcp_keepalives_count: '3',
      });
      // The rename puts on disk what was loaded without waiting for it, whatever the role's default.
      await client.query(
        `SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
          WHERE pg_catalog.current_setting('synchronous_commit') = 'off'`,
      );
      if (await tryLock(client, restoreId)) return new RestoreLock(client, restoreId, onLost);
    } catch (error) {
      destroySession(client);
      throw databaseError(error, 'Locking the restore');
    }
    destroySession(client);
    throw new DataProtectionError(`Restore ${restoreId} is running already`, 'INVALID_STATE');
  }

  private constructor(client: pg.Client, restoreId: UUID, onLost: () => void) {
    this.client = client;
    this.#restoreId = restoreId;
    client.once('end', onLost);
    this.#ping = setInterval(() => {
      if (this.#waiting) destroySession(client);
      this.#waiting = true;
      client.query('SELECT 1').then(
        () => {
          this.#waiting = false;
        },
        () => undefined,
      );
    }, PING_INTERVAL_MS);
    this.#ping.unref();
  }

  async release(): Promise<void> {
    clearInterval(this.#ping);
    this.client.removeAllListeners('end');
    await unlock(this.client, this.#restoreId).catch(() => undefined);
    destroySession(this.client);
  }
}

/** A job may name others that may begin once it is done. */
export interface Job {
  readonly run: (client: pg.Client) => Promise<unknown>;
  readonly next?: readonly Job[];
}

/** The sessions that load and build side by side. The first failure, and the signal, cut all of them at once. */
export class WorkSessions implements AsyncDisposable {
  readonly clients: readonly pg.Client[];
  readonly #stop: AbortController;
  readonly #cut = (): void => {
    for (const client of this.clients) destroySession(client);
  };

  /** `stop` is aborted with the first failure; aborting it from outside does the same. */
  static async open(options: {
    readonly connection: pg.ClientConfig;
    readonly restoreId: UUID;
    readonly count: number;
    readonly stop: AbortController;
  }): Promise<WorkSessions> {
    const { connection, restoreId, count, stop } = options;
    const opening = Array.from({ length: count }, async () => {
      const client = await openSession({ connection, name: sessionName(restoreId) });
      try {
        await prepare(client);
      } catch (error) {
        destroySession(client);
        throw databaseError(error, 'Preparing a session');
      }
      return client;
    });
    const opened = await Promise.allSettled(opening);
    const sessions = new WorkSessions(
      opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])),
      stop,
    );
    const failed = opened.find((result) => result.status === 'rejected');
    if (failed !== undefined) sessions.#cut();
    if (failed !== undefined) throw failed.reason;
    return sessions;
  }

  private constructor(clients: readonly pg.Client[], stop: AbortController) {
    this.clients = clients;
    this.#stop = stop;
    stop.signal.addEventListener('abort', this.#cut, { once: true });
    if (stop.signal.aborted) this.#cut();
  }

  /** The session for what is done one after the other. */
  get first(): pg.Client {
    const [client] = this.clients;
    if (client === undefined) throw new DataProtectionError('A restore needs a session', 'INTERNAL');
    return client;
  }

  /** Names in definitions stand as they resolve under this path; rows are read and written with the path empty. */
  async useSearchPath(schemas: readonly string[]): Promise<void> {
    const path = schemas.map(quoteIdent).join(', ');
    await Promise.all(
      this.clients.map((client) =>
        client.query("SELECT pg_catalog.set_config('search_path', $1, false)", [path]),
      ),
    );
  }

  /** Runs the jobs, in order, over all sessions. Rejects with the first failure once every session has stopped. */
  async run(jobs: readonly Job[]): Promise<void> {
    const queue = [...jobs];
    let running = 0;
    let wake: PromiseWithResolvers<void> = Promise.withResolvers();
    const work = async (client: pg.Client): Promise<void> => {
      for (;;) {
        this.#stop.signal.throwIfAborted();
        const job = queue.shift();
        if (job === undefined) {
          if (running === 0) return;
          await wake.promise;
          continue;
        }
        running += 1;
        try {
          await job.run(client);
          queue.unshift(...(job.next ?? []));
        } catch (error) {
          this.#stop.abort(error);
          throw error;
        } finally {
          running -= 1;
          wake.resolve();
          wake = Promise.withResolvers();
        }
      }
    };
    await Promise.allSettled(this.clients.map(work));
    this.#stop.signal.throwIfAborted();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.signal.removeEventListener('abort', this.#cut);
    this.#cut();
  }
}

/** Enough for an index over a million rows in memory; a server that gives more by itself keeps its setting. */
const MAINTENANCE_WORK_MEM_KB = 256 * 1024;

async function prepare(client: pg.Client): Promise<void> {
  const [row] = await selectRows<{ role: string; memory: number }>(
    client,
    `SELECT pg_catalog.current_setting('session_replication_role') AS role,
            (SELECT s.setting::bigint FROM pg_catalog.pg_settings s WHERE s.name = 'maintenance_work_mem') AS memory`,
  );
  // Under `replica`, foreign keys and triggers would be passed over in silence.
  if (row?.role !== 'origin') await client.query('SET session_replication_role = origin');
  // What it loses in a crash belongs to a restore that the crash has ended; the rename flushes it.
  await client.query('SET synchronous_commit = off');
  const memory = Math.max(MAINTENANCE_WORK_MEM_KB, row?.memory ?? 0);
  await client.query(`SET maintenance_work_mem = '${memory}kB'`);
}

async function setWhereKnown(client: pg.Client, settings: Readonly<Record<string, string>>): Promise<void> {
  await client.query(
    `SELECT pg_catalog.set_config(w.name, w.value, false) FROM unnest($1::text[], $2::text[]) AS w(name, value)
       JOIN pg_catalog.pg_settings s ON s.name = w.name`,
    [Object.keys(settings), Object.values(settings)],
  );
}
