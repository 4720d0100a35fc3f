import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type {
  PostgresConnection,
  PostgresConnectionOptions,
  PostgresPoolConfig,
  PostgresQueueBackend,
  QueueBaseOptions,
} from 'bullmq';
import pg from 'pg';
import { DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { BullmqQueue } from './bullmq-queue.ts';
import type { JobQueue } from './jobs.ts';
import {
  patient,
  QUEUE_TIMING,
  type QueueBackend,
  type QueueLink,
  type QueueTiming,
  type Report,
  reportTo,
} from './queue-backend.ts';
import { within } from './waiting.ts';

export interface PostgresQueueOptions {
  /** Where the queue's tables are: the platform's database or another. Not through PgBouncer in transaction mode. */
  readonly connection: pg.ClientConfig;
  /** A schema of the queue's own, such as `care_backup_queue`; made on first use. */
  readonly schema: string;
  readonly logger: Logger;
  readonly timing?: Partial<QueueTiming>;
}

/**
 * The job queue on PostgreSQL 13 or later. Up to 2 sessions where jobs are added; where they are worked on, 2 per
 * kind: one for short statements and one that listens (NOTIFY wakes it, and it looks by itself every 5 s).
 *
 * The first use makes the schema, under BullMQ's advisory lock, so that any number of processes may start at once.
 * For that the role needs CREATE on the database. Where the schema is there and current, the role needs USAGE on it,
 * and SELECT, INSERT, UPDATE and DELETE on its tables and USAGE on its sequences.
 *
 * @throws {DataProtectionError} `CONFIGURATION_INVALID` for a schema name that is not a plain identifier.
 */
export function createPostgresQueue(options: PostgresQueueOptions): JobQueue {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(options.schema)) {
    const message = 'The schema of the queue is not a lower-case identifier of at most 63 characters.';
    throw new DataProtectionError(message, 'CONFIGURATION_INVALID');
  }
  const timing = { ...QUEUE_TIMING, ...options.timing };
  const { host, port, database } = new pg.Client(options.connection);
  const description = `postgres ${host}:${port}/${database ?? ''} ${options.schema}`;
  const report = reportTo(options.logger, description);
  const backend = postgresBackend(description, { ...options, timing, report });
  return new BullmqQueue(backend, { logger: options.logger, report, timing });
}

type BaseOptions = QueueBaseOptions<PostgresConnectionOptions>;

interface BackendOptions extends PostgresQueueOptions {
  readonly timing: QueueTiming;
  readonly report: Report;
}

function postgresBackend(description: string, options: BackendOptions): QueueBackend {
  const { report, timing } = options;
  let migrated: Promise<void> | undefined;
  return {
    description,
    load: () => import('bullmq'),
    connect: async (purpose): Promise<QueueLink> => {
      migrated ??= migrate(options).catch((error: unknown) => {
        migrated = undefined;
        throw error;
      });
      await migrated;
      const bullmq = await import('bullmq');
      const sockets = new Sockets();
      const connections: PostgresConnection[] = [];
      const connect = (max: number): PostgresConnection => {
        const session = { ...sessionOptions(options, sockets), schema: options.schema, max };
        // BullMQ hands them to pg as they are, but its type knows fewer.
        const config = { ...session, application_name: `care-backup-queue-${purpose}` } as PostgresPoolConfig;
        const connection = new bullmq.PostgresConnection(config);
        connection.on('error', report);
        // A client that loses its connection while BullMQ holds it emits where nobody listens.
        connection.pool.on('connect', (client) => client.on('error', report));
        hearErrors(connection, report);
        connections.push(connection);
        return connection;
      };
      const shared = purpose === 'add' ? connect(2) : undefined;
      return {
        producer: (kind) => {
          const connection = shared ?? connect(1);
          const queue = new bullmq.Queue(
            kind,
            { connection: {}, streams: { events: { maxLen: 100 } } },
            (name, backendOptions: BaseOptions): PostgresQueueBackend =>
              new bullmq.PostgresQueueBackend(connection, name, backendOptions, false),
          );
          queue.on('error', report);
          return queue;
        },
        consumer: (kind, process, workerOptions) => {
          const worker = new bullmq.Worker(
            kind,
            process,
            { ...workerOptions, connection: {} },
            (name, backendOptions: BaseOptions): PostgresQueueBackend => {
              const own = new bullmq.PostgresQueueBackend(connect(1), name, backendOptions);
              return patient(own, () => sleep(timing.retryMs));
            },
          );
          worker.on('error', report);
          return worker;
        },
        cut: () => sockets.cut(),
        end: async () => {
          const closing = Promise.allSettled(connections.map((connection) => connection.close()));
          const outcome = await within(closing, timing.closeWaitMs);
          if (outcome !== 'late') return;
          // Neither a session's end nor a pool's has a limit of its own where the server does not answer.
          sockets.cut();
          await within(closing, timing.closeWaitMs);
        },
      };
    },
  };
}

/**
 * The client that listens has nobody who hears of its errors while it connects and after it was closed, and an error
 * that nobody hears of ends the process. (BullMQ 6.7; it takes its client's class from this field.)
 */
function hearErrors(connection: PostgresConnection, report: Report): void {
  class HeardClient extends pg.Client {
    override emit(event: string | symbol, ...values: unknown[]): boolean {
      if (event !== 'error' || this.listenerCount('error') > 0) return super.emit(event, ...values);
      // By then somebody may listen.
      setImmediate(() =>
        this.listenerCount('error') > 0 ? super.emit(event, ...values) : report(values[0]),
      );
      return false;
    }
  }
  Reflect.set(connection, 'pgModule', { Client: HeardClient });
}

/** The sockets of sessions, known so that they can be cut. After that every new one fails at once. */
class Sockets {
  readonly #open = new Set<Socket>();
  #state: 'open' | 'cut' = 'open';

  make(): Socket {
    const socket = new Socket();
    this.#open.add(socket);
    socket.once('close', () => this.#open.delete(socket));
    // Later, since pg listens for errors only once it has the socket.
    if (this.#state === 'cut') setImmediate(() => socket.destroy(new Error('The queue was closed.')));
    return socket;
  }

  cut(): void {
    this.#state = 'cut';
    for (const socket of this.#open) socket.destroy();
  }
}

/** Every socket is known, so that it can be cut; and no wait for a server is without an end. */
function sessionOptions(options: BackendOptions, sockets: Sockets) {
  const { silenceMs } = options.timing;
  return {
    ...options.connection,
    keepAlive: true,
    connectionTimeoutMillis: options.connection.connectionTimeoutMillis ?? 10_000,
    query_timeout: silenceMs,
    stream: (): Socket => sockets.make(),
  };
}

/** Makes or updates BullMQ's schema where it is not current; otherwise needs no right to. */
async function migrate(options: BackendOptions): Promise<void> {
  const { LATEST_SCHEMA_VERSION, runMigrations } = await import('bullmq');
  const sockets = new Sockets();
  const { stream, ...session } = sessionOptions(options, sockets);
  const client = new pg.Client({ ...session, stream, application_name: 'care-backup-queue-migrate' });
  client.on('error', options.report);
  try {
    await client.connect();
    const { rows } = await client.query<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [
      `"${options.schema}".migration`,
    ]);
    if (rows[0]?.there) {
      const { rows: versions } = await client.query<{ version: number | null }>(
        `SELECT max(version)::int AS version FROM "${options.schema}".migration`,
      );
      if ((versions[0]?.version ?? 0) >= LATEST_SCHEMA_VERSION) return;
    }
    await runMigrations(client, options.schema);
  } finally {
    const ended = await within(client.end(), options.timing.closeWaitMs);
    if (ended === 'late') sockets.cut();
  }
}
