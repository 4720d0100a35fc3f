import { hostname } from 'node:os';
import pg from 'pg';
import { createRowExporter } from './export/row-exporter.ts';
import type { JobQueue } from './jobs/jobs.ts';
import { createPostgresQueue } from './jobs/postgres-queue.ts';
import { createRedisQueue, type RedisQueueOptions } from './jobs/redis-queue.ts';
import type { KeyProvider } from './keys/keys.ts';
import { createSessionLocks } from './repository/advisory-lock.ts';
import { createAuditLog } from './repository/audit-log.ts';
import { createBackupRepository } from './repository/backup-repository.ts';
import { createDatabase, transactionOver } from './repository/database.ts';
import { assertMigrated, migrate } from './repository/migrate.ts';
import { DEFAULT_SCHEMA } from './repository/schema-name.ts';
import { createWrappingKeys } from './repository/wrapping-keys.ts';
import { createRestoreTarget } from './restore/apply.ts';
import { BackupService } from './service/backup-service.ts';
import type { ServiceContext } from './service/context.ts';
import { createDuties } from './service/due-work.ts';
import { EventBus } from './service/event-bus.ts';
import { codeOf } from './service/failure.ts';
import { OfflineSyncService } from './service/offline-sync-service.ts';
import { RunningWork } from './service/running-work.ts';
import { baseSigner } from './service/sync-bases.ts';
import { type SyncContext, type SyncStep, syncLimits } from './service/sync-context.ts';
import { createSyncDuties } from './service/sync-duties.ts';
import { syncEntities } from './service/sync-entities.ts';
import { createPostgresSource } from './source/postgres-source.ts';
import type { SnapshotSource } from './source/source.ts';
import { createTableHandlers } from './source/table-handler.ts';
import { createStorages, type StorageLimits } from './storage/open-storage.ts';
import type { StorageHealth } from './storage/resilient.ts';
import type { ObjectStorage } from './storage/storage.ts';
import type { Actor } from './types/actor.ts';
import type { StorageDestination } from './types/backup.ts';
import type { Clock } from './types/clock.ts';
import type { CredentialProvider } from './types/credentials.ts';
import type { EntityDefinition } from './types/entity.ts';
import { DataProtectionError } from './types/errors.ts';
import type { BackupEvents } from './types/events.ts';
import type { LogFields, Logger } from './types/logger.ts';
import type { SyncOptions } from './types/sync-handler.ts';
import type { StoragePrices } from './types/usage.ts';
import { systemClock } from './utils/clock.ts';
import { parseInput, StorageDestinationSchema } from './validation/index.ts';
import { StoragePricesSchema } from './validation/usage.ts';
import { startWorker, type Worker, type WorkerOptions } from './worker/worker.ts';

export interface DataProtectionOptions {
  /**
   * The host's PostgreSQL: a connection string, a configuration or a pool (whose configuration is taken; its
   * connections are not used). Holds the library's own tables, and by default the data too.
   */
  readonly database: string | pg.ClientConfig | pg.Pool;
  /** A session connection, where `database` leads through a transaction-pooling proxy: locks and snapshots need one. */
  readonly directUrl?: string | pg.ClientConfig;
  /** Another server that holds the data, a hot standby say. */
  readonly source?: string | pg.ClientConfig;
  /** Schema of the library's own tables, `care_backup` when left out. */
  readonly schema?: string;
  readonly entities: readonly EntityDefinition[];
  /** Left out: nothing is encrypted, and configurations whose scope holds PHI must say `allowUnencryptedPHI`. */
  readonly keys?: KeyProvider;
  /** Where configurations that name no destination store their snapshots. */
  readonly storageDestination?: StorageDestination;
  /** Gives the credentials that destinations refer to by name. Left out: the chains of the cloud SDKs. */
  readonly credentials?: CredentialProvider;
  /** Time limits, attempts, concurrency and rates of every storage but local folders and the host's own. */
  readonly storageLimits?: StorageLimits;
  /**
   * What storage costs, by storage class or type, for `getStorageAnalytics`: `{ AWS_S3: { perGbMonth: 0.023 } }`, where
   * GB = 10^9 bytes. Places without a price are named there.
   */
  readonly storagePrices?: StoragePrices;
  /** Opens a destination in the host's own way; undefined leaves it to the library. For tests and own providers. */
  readonly openStorage?: (destination: StorageDestination) => ObjectStorage | undefined;
  /**
   * `inline` (left out): backups and jobs run in the background of this process. `worker`: they are queued, and run by
   * the processes that called `startWorker`.
   */
  readonly execution?: 'inline' | 'worker';
  /** Redis for the queue, a URL or options of ioredis. Left out: the queue is in PostgreSQL, in a schema of its own. */
  readonly redis?: RedisQueueOptions['connection'];
  /**
   * Takes in what devices did offline: which entities, and how. Left out: nothing is synchronized. The entities must be
   * in `database`; with `source` on another server it is refused.
   */
  readonly sync?: SyncOptions;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** How long one backup may hold its database snapshot, in milliseconds; 6 hours when left out. */
  readonly maxSnapshotAgeMs?: number;
  /** Between two looks whether archived objects that a restore waits for can be read; 5 minutes when left out. */
  readonly thawPollMs?: number;
  /** How long a restore into live tables tries to lock rows that others hold, in milliseconds; 30 s when left out. */
  readonly restoreLockWaitMs?: number;
  /** For tests and proofs that look at a run from outside. What a hook rejects with ends the run. */
  readonly hooks?: {
    /**
     * Awaited in every backup once the tables are locked and the database snapshot is open, before the first row is
     * read. Until it resolves, a session of the same database sees exactly what the backup will hold after
     * `BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '<exportedId>'`, and goes on seeing it for as
     * long as that transaction lasts.
     */
    readonly onSnapshotOpen?: (exportedId: string) => void | Promise<void>;
    /** Awaited between the steps of taking in offline operations. */
    readonly onSyncStep?: (step: SyncStep) => void | Promise<void>;
  };
}

/** The library, bound to a host's database, entities, keys and storage. */
export interface DataProtection extends AsyncDisposable {
  /** Creates or updates the library's schema. Harmless to repeat and to run from many processes. `MIGRATION_FAILED`, `SCHEMA_NEWER`. */
  migrate(): Promise<void>;
  /** Throws `SCHEMA_MISSING` or `SCHEMA_NEWER` unless the schema is this version's, and `ENTITY_*` unless the entities fit the database. */
  check(): Promise<void>;
  /** Backups on behalf of one authenticated person. Free: bind one per request. */
  backups(actor: Actor): BackupService;
  /** Offline sync on behalf of one authenticated person. Free: bind one per request. `CONFIGURATION_INVALID` without `sync`. */
  sync(actor: Actor): OfflineSyncService;
  /**
   * Starts to do the work in this process: scheduled backups when they are due, what was queued, and what dead workers
   * left. As many processes as there are need may; each run is done once. Throws `SCHEMA_*`, `CONFIGURATION_INVALID`,
   * `DATABASE_UNAVAILABLE`.
   */
  startWorker(options?: WorkerOptions): Promise<Worker>;
  /** The state of every storage that was opened in this process: breaker, failures, latency. */
  storageHealth(): readonly StorageHealth[];
  /** Subscribes to an event; the function that it gives ends the subscription. */
  on<Name extends keyof BackupEvents>(name: Name, listener: (event: BackupEvents[Name]) => void): () => void;
  /**
   * Stops workers and jobs over storage, which stay QUEUED; waits for the backups and restores that run in this process;
   * then closes every connection.
   */
  close(): Promise<void>;
}

const DEFAULT_MAX_SNAPSHOT_AGE_MS = 6 * 60 * 60 * 1000;
const DEFAULT_RESTORE_LOCK_WAIT_MS = 30_000;
const DEFAULT_THAW_POLL_MS = 5 * 60 * 1000;
/** Connections of the control pool: metadata only, so that a backup never starves the host's requests. */
const CONTROL_CONNECTIONS = 4;
/** Connections for offline operations: opened when they are needed, given back after ten idle seconds. */
const SYNC_CONNECTIONS = 8;

/**
 * Builds the library. Reads the catalog of the source once, so that an entity whose table or column is missing is an
 * error here (`ENTITY_INVALID`) and not at night. Errors: `CONFIGURATION_INVALID`, `VALIDATION_FAILED`, `ENTITY_*`,
 * `DATABASE_*`.
 */
export async function createDataProtection(options: DataProtectionOptions): Promise<DataProtection> {
  const clock = options.clock ?? systemClock;
  const logger = unfailing(options.logger ?? SILENT);
  refuseTwins(options.entities);
  const control = clientConfig(options.database, 'database');
  const direct = options.directUrl === undefined ? control : clientConfig(options.directUrl, 'directUrl');
  const data = options.source === undefined ? direct : clientConfig(options.source, 'source');
  const defaultDestination =
    options.storageDestination === undefined
      ? undefined
      : parseInput(StorageDestinationSchema, '`storageDestination`', options.storageDestination);
  const storagePrices = parseInput(StoragePricesSchema, '`storagePrices`', options.storagePrices ?? {});
  const source = withHook(
    createPostgresSource({ connection: data, entities: options.entities }),
    options.hooks?.onSnapshotOpen,
  );
  await source.inspect();

  const pool = new pg.Pool({
    ...control,
    max: CONTROL_CONNECTIONS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    application_name: 'care-backup',
  });
  onErrors(pool, (error) => logger.warn({ error: error.name }, 'An idle connection to PostgreSQL was lost'));
  const schemaOption = options.schema === undefined ? {} : { schema: options.schema };
  const db = createDatabase({ pool, clock, ...schemaOption });
  const work = new RunningWork();
  const storages = createStorages({
    own: options.openStorage,
    credentials: options.credentials,
    limits: options.storageLimits,
    clock,
    logger,
  });
  const workers: Promise<Worker>[] = [];
  const queues: JobQueue[] = [];
  const openOwnQueue = (): JobQueue => {
    const opened = openQueue(options, direct, logger);
    queues.push(opened);
    return opened;
  };
  /** What is asked for goes through the first, which the first worker takes from too. */
  const queue = (): JobQueue => queues[0] ?? openOwnQueue();
  const context: ServiceContext = {
    db,
    locks: createSessionLocks(direct),
    audit: createAuditLog(),
    repository: (scope, within = db) => createBackupRepository(within, scope),
    source,
    restoreTarget: createRestoreTarget({
      connection: data,
      lockWaitMs: options.restoreLockWaitMs ?? DEFAULT_RESTORE_LOCK_WAIT_MS,
      clock,
      logger,
    }),
    rowExporter: createRowExporter(),
    dataIsOwn: options.source === undefined,
    within: (client) => transactionOver(client, { clock, ...schemaOption }),
    keys: options.keys,
    wrappingKeys: createWrappingKeys(db),
    openStorage: storages.open,
    defaultDestination,
    storagePrices,
    clock,
    logger,
    events: new EventBus(logger),
    worker: `${hostname()
      .replace(/[^\x20-\x7e]/g, '?')
      .slice(0, 100)}:${process.pid}`,
    maxSnapshotAgeMs: options.maxSnapshotAgeMs ?? DEFAULT_MAX_SNAPSHOT_AGE_MS,
    work,
    execution: options.execution ?? 'inline',
    thawPollMs: options.thawPollMs ?? DEFAULT_THAW_POLL_MS,
    wake: async (job) => {
      if (options.execution !== 'worker' && workers.length === 0) return;
      await queue()
        .add(job)
        // The worker that looks by itself finds it too, only later.
        .catch((error: unknown) =>
          logger.debug({ kind: job.kind, error: codeOf(error) }, 'A wake-up was lost'),
        );
    },
  };
  const limits = syncLimits(options.sync?.limits);
  const syncPool = options.sync === undefined ? undefined : openSyncPool(direct, limits, logger);
  const sync =
    options.sync === undefined || syncPool === undefined
      ? undefined
      : syncContext(options, options.sync, context, { pool: syncPool, connection: direct, limits });
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closed ??= (async () => {
      const started = await Promise.allSettled(workers);
      await Promise.all(started.map((one) => (one.status === 'fulfilled' ? one.value.stop() : undefined)));
      await work.ended();
      await Promise.allSettled([...queues.map((one) => one.close()), storages.close()]);
      await Promise.all([pool.end(), syncPool?.end()]);
    })();
    return closed;
  };
  return {
    async migrate() {
      await migrate({ connection: direct, ...schemaOption });
    },
    async check() {
      await assertMigrated({ connection: pool, ...schemaOption });
      await source.inspect();
    },
    backups: (actor) => new BackupService(context, actor),
    sync: (actor) => {
      if (sync === undefined) {
        throw new DataProtectionError(
          'Nothing is synchronized: give `sync` to createDataProtection',
          'CONFIGURATION_INVALID',
        );
      }
      return new OfflineSyncService(sync, actor);
    },
    async startWorker(workerOptions = {}) {
      await assertMigrated({ connection: pool, ...schemaOption });
      if (closed !== undefined) {
        throw new DataProtectionError('A worker was started on what has been closed', 'INVALID_STATE');
      }
      const own = workers.length === 0 ? queue() : openOwnQueue();
      const worker = startWorker(
        {
          duties: createDuties(context, sync === undefined ? undefined : createSyncDuties(sync)),
          queue: own,
          logger,
        },
        workerOptions,
      );
      workers.push(worker);
      return worker;
    },
    storageHealth: () => storages.health(),
    on: (name, listener) => context.events.on(name, listener),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function openSyncPool(connection: pg.ClientConfig, limits: SyncContext['limits'], logger: Logger): pg.Pool {
  const pool = new pg.Pool({
    ...connection,
    max: SYNC_CONNECTIONS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    application_name: 'care-backup sync',
    // What opens a transaction and what is read in it go out together: two answers fewer are waited for per operation.
    pipeline: true,
    // Plans that are kept and not compiled, by indexes also where they are made while the tables are small; time limits,
    // and how values are written as text; nothing that would change what the host's triggers do, such as the time zone.
    onConnect: (client) =>
      client.query(
        `SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET extra_float_digits = 3;
         SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; SET lock_timeout = ${limits.lockTimeoutMs}; SET statement_timeout = ${limits.statementTimeoutMs}`,
      ),
  });
  onErrors(pool, (error) => logger.warn({ error: error.name }, 'An idle connection of sync was lost'));
  return pool;
}

/** Also those that come in the moment in which a connection is handed out, which would end the process unheard. */
function onErrors(pool: pg.Pool, note: (error: Error) => void): void {
  pool.on('error', note);
  pool.on('connect', (client) => client.on('error', () => undefined));
}

/** Throws `CONFIGURATION_INVALID`. */
function syncContext(
  options: DataProtectionOptions,
  sync: SyncOptions,
  context: ServiceContext,
  {
    pool,
    connection,
    limits,
  }: {
    readonly pool: pg.Pool;
    readonly connection: pg.ClientConfig;
    readonly limits: SyncContext['limits'];
  },
): SyncContext {
  if (options.source !== undefined) {
    throw new DataProtectionError(
      '`sync` needs the entities in `database`, and `source` names another server',
      'CONFIGURATION_INVALID',
    );
  }
  const { clock, logger, audit, events, keys, wake } = context;
  const tables = createTableHandlers({ connection, entities: options.entities });
  const registered = new Set(options.entities.map(({ type }) => type));
  return {
    db: createDatabase({ pool, clock, ...(options.schema === undefined ? {} : { schema: options.schema }) }),
    entities: syncEntities(sync.entities, (type) =>
      registered.has(type) ? tables.handlerFor(type) : undefined,
    ),
    options: sync,
    limits,
    signer: baseSigner(keys),
    ...{ audit, clock, logger, events, wake },
    onStep: options.hooks?.onSyncStep ?? (() => undefined),
  };
}

function clientConfig(given: string | pg.ClientConfig | pg.Pool, field: string): pg.ClientConfig {
  if (typeof given === 'string') return { connectionString: given };
  if (typeof given === 'object' && given !== null) return withSecrets(isPool(given) ? given.options : given);
  throw new DataProtectionError(
    `\`${field}\` must be a connection string, a configuration or a pg.Pool`,
    'CONFIGURATION_INVALID',
  );
}

/** By its shape: the host's pool may come from another copy of pg. */
const isPool = (given: pg.ClientConfig | pg.Pool): given is pg.Pool =>
  'options' in given && 'totalCount' in given;

/** A copy with what pg hides from enumeration in a pool's options. */
function withSecrets(config: pg.ClientConfig): pg.ClientConfig {
  return config.password === undefined ? { ...config } : { ...config, password: config.password };
}

/** What a host's logger throws must not end a backup. */
function unfailing(logger: Logger): Logger {
  const safely = (level: keyof Logger) => (fields: LogFields, message: string) => {
    try {
      logger[level](fields, message);
    } catch {
      // There is nobody left to tell.
    }
  };
  return {
    debug: safely('debug'),
    info: safely('info'),
    warn: safely('warn'),
    error: safely('error'),
  };
}

function refuseTwins(entities: readonly EntityDefinition[]): void {
  if (entities.length === 0) {
    throw new DataProtectionError(
      '`entities` is empty: register what is to be backed up with defineEntity',
      'CONFIGURATION_INVALID',
    );
  }
  const seen = new Set<string>();
  for (const entity of entities) {
    for (const name of [`type ${entity.type}`, `table ${entity.schema}.${entity.table}`]) {
      if (seen.has(name))
        throw new DataProtectionError(`\`entities\` holds ${name} twice`, 'CONFIGURATION_INVALID');
      seen.add(name);
    }
  }
}

function withHook(
  source: SnapshotSource,
  onSnapshotOpen: ((exportedId: string) => void | Promise<void>) | undefined,
): SnapshotSource {
  if (onSnapshotOpen === undefined) return source;
  return {
    ...source,
    async open(request) {
      const snapshot = await source.open(request);
      try {
        await onSnapshotOpen(snapshot.exportedId);
        return snapshot;
      } catch (error) {
        await snapshot.close();
        throw error;
      }
    },
  };
}

/** Its tables are the queue's own: losing them loses no work. */
function openQueue(options: DataProtectionOptions, direct: pg.ClientConfig, logger: Logger): JobQueue {
  const name = options.schema ?? DEFAULT_SCHEMA;
  return options.redis === undefined
    ? createPostgresQueue({ connection: direct, schema: `${name}_queue`, logger })
    : createRedisQueue({ connection: options.redis, prefix: `{${name}}`, logger });
}

const SILENT: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
