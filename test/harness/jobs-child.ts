import { randomUUID } from 'node:crypto';
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JobQueue } from '../../src/jobs/jobs.ts';
import { createPostgresQueue } from '../../src/jobs/postgres-queue.ts';
import type { QueueTiming } from '../../src/jobs/queue-backend.ts';
import { createRedisQueue } from '../../src/jobs/redis-queue.ts';
import { aborted } from '../../src/jobs/waiting.ts';
import type { Logger } from '../../src/types/logger.ts';

/** Where a child finds the queue. */
export type QueuePlace =
  | { readonly kind: 'redis'; readonly url: string; readonly prefix: string }
  | { readonly kind: 'postgres'; readonly url: string; readonly schema: string };

/** What a child is to do. It says `ready`, and `got <snapshotId>` per job. */
export interface JobsOrder {
  readonly place: QueuePlace;
  readonly timing: Partial<QueueTiming>;
  /** `take`: jobs of 20 ms; `hold`: jobs that end with their signal, and a close on SIGTERM;
   * `once`: one job, then it closes and must end by itself;
   * `idle`: makes the queue, and says which of the clients are loaded. */
  readonly mode: 'take' | 'hold' | 'once' | 'idle';
}

export function openQueue(place: QueuePlace, timing: Partial<QueueTiming>, logger: Logger): JobQueue {
  return place.kind === 'redis'
    ? createRedisQueue({ connection: place.url, prefix: place.prefix, timing, logger })
    : createPostgresQueue({
        connection: { connectionString: place.url },
        schema: place.schema,
        timing,
        logger,
      });
}

const argument = process.argv[2];
if (argument?.startsWith('{') && import.meta.main) await main(JSON.parse(argument));

async function main({ place, timing, mode }: JobsOrder): Promise<void> {
  const tell = (fields: object, message: string): void => say(`${message} ${JSON.stringify(fields)}`);
  const queue = openQueue(place, timing, { debug: tell, info: tell, warn: tell, error: tell });
  if (mode === 'idle') {
    const loaded = Object.keys(createRequire(import.meta.url).cache);
    const clients = ['bullmq', 'ioredis'].filter((name) =>
      loaded.some((file) => file.includes(`/node_modules/${name}/`)),
    );
    say(`loaded: ${clients.join(' ') || 'none'}`);
    return queue.close();
  }
  const first = Promise.withResolvers<void>();
  await queue.work({
    BACKUP: {
      concurrency: 1,
      handle: async ({ snapshotId }, signal) => {
        say(`got ${snapshotId}`);
        first.resolve();
        await (mode === 'hold' ? aborted(signal) : sleep(20));
      },
    },
  });
  process.once('SIGTERM', () => {
    void queue.close().then(() => say('closed'));
  });
  say('ready');
  if (mode !== 'once') return;
  const organizationId = randomUUID();
  await queue.add({ kind: 'BACKUP', key: 'once', data: { organizationId, snapshotId: organizationId } });
  await first.promise;
  await queue.stop({ graceMs: 5_000 });
  await queue.close();
  say('closed');
}

function say(line: string): void {
  writeSync(1, `${line}\n`);
}
