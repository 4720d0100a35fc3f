import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis, RedisOptions } from 'ioredis';
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

/** The braces put all keys of the queues in one slot of a Redis cluster; elsewhere they mean nothing. */
const DEFAULT_PREFIX = '{care-backup}';

export interface RedisQueueOptions {
  /** `redis://` or `rediss://` (TLS), or the options of ioredis where a URL does not do: sentinels, certificates. */
  readonly connection: string | RedisOptions;
  /** Before every key; two installations on one Redis need two. `{care-backup}` when left out. */
  readonly prefix?: string;
  readonly logger: Logger;
  readonly timing?: Partial<QueueTiming>;
}

/**
 * The job queue on Redis 6.2 or later (5 works), or Valkey. One connection where jobs are added; where they are worked
 * on, one more, and one per kind that waits. Redis needs `maxmemory-policy noeviction`: another is warned of, since it
 * may drop jobs. Without persistence a restart of Redis loses what waits; the sweeper finds it.
 *
 * @throws {DataProtectionError} `CONFIGURATION_INVALID` for a URL that is none.
 */
export function createRedisQueue(options: RedisQueueOptions): JobQueue {
  const timing = { ...QUEUE_TIMING, ...options.timing };
  const description = describe(options.connection);
  const report = reportTo(options.logger, description);
  const backend = redisBackend(description, { ...options, timing, report });
  return new BullmqQueue(backend, { logger: options.logger, report, timing });
}

interface BackendOptions extends RedisQueueOptions {
  readonly timing: QueueTiming;
  readonly report: Report;
}

function redisBackend(description: string, options: BackendOptions): QueueBackend {
  const { report, timing, logger } = options;
  const prefix = options.prefix ?? DEFAULT_PREFIX;
  return {
    description,
    load,
    connect: async (purpose): Promise<QueueLink> => {
      const { Queue, Worker, createRedisBackend } = await load();
      const client = await open(options, purpose);
      if (purpose === 'work') client.once('ready', () => void warnOfEviction(client, description, logger));
      return {
        producer: (kind) => {
          const queue = new Queue(kind, {
            connection: client,
            prefix,
            // The workers' connections check it.
            skipVersionCheck: true,
            streams: { events: { maxLen: 100 } },
          });
          queue.on('error', report);
          return queue;
        },
        consumer: (kind, process, workerOptions) => {
          const worker = new Worker(
            kind,
            process,
            { ...workerOptions, connection: client, prefix },
            (name, backendOptions, use) =>
              patient(createRedisBackend(name, backendOptions, use), () => sleep(timing.retryMs)),
          );
          worker.on('error', report);
          return worker;
        },
        cut: () => client.disconnect(),
        end: async () => {
          if (client.status === 'end') return;
          const ended = new Promise((resolve) => client.once('end', resolve));
          client.disconnect();
          await within(ended, timing.closeWaitMs);
        },
      };
    },
  };
}

async function load() {
  const [bullmq, ioredis] = await Promise.all([import('bullmq'), import('ioredis')]);
  return { ...bullmq, Redis: ioredis.Redis };
}

/**
 * Adding fails at once where the connection is down: what would pile up in memory is in the database anyway. Working
 * waits for the connection to come back, which BullMQ demands of it.
 */
async function open(options: BackendOptions, purpose: 'add' | 'work'): Promise<Redis> {
  const { Redis } = await load();
  const { retryMs, silenceMs } = options.timing;
  const base = {
    ...(typeof options.connection === 'string' ? {} : options.connection),
    connectionName: `care-backup-${purpose}`,
    // What BullMQ's scripts answer is read in this form.
    replyMapping: 'legacy' as const,
    retryStrategy: (times: number): number => Math.min(retryMs * 2 ** Math.min(times - 1, 4), 10_000),
    socketTimeout: silenceMs,
    ...(purpose === 'add'
      ? { enableOfflineQueue: false, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false }
      : { maxRetriesPerRequest: null }),
  };
  const client =
    typeof options.connection === 'string' ? new Redis(options.connection, base) : new Redis(base);
  client.on('error', options.report);
  return client;
}

/** Hosted services may refuse to tell: then nothing is said. */
async function warnOfEviction(client: Redis, queue: string, logger: Logger): Promise<void> {
  const memory = await client.info('memory').catch(() => '');
  const policy = /^maxmemory_policy:(\S+)/m.exec(memory)?.[1];
  if (policy === undefined || policy === 'noeviction') return;
  logger.warn({ queue, policy }, 'Redis may drop jobs when it is full: set maxmemory-policy to noeviction');
}

function describe(connection: string | RedisOptions): string {
  if (typeof connection !== 'string') {
    const { path, host = '127.0.0.1', port = 6379, db = 0, sentinels } = connection;
    if (sentinels) return `redis ${connection.name ?? ''} by sentinels`;
    return path ? `redis ${path}` : `redis ${host}:${port}/${db}`;
  }
  const url = URL.canParse(connection) ? new URL(connection) : undefined;
  if (url === undefined || !['redis:', 'rediss:'].includes(url.protocol)) {
    throw new DataProtectionError('The URL of Redis is not redis:// or rediss://.', 'CONFIGURATION_INVALID');
  }
  return `redis ${url.hostname}:${url.port || '6379'}${url.pathname === '' ? '/0' : url.pathname}`;
}
