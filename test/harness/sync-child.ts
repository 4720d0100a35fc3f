import { writeSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { createDataProtection } from '../../src/compose.ts';
import type { SyncStep } from '../../src/service/sync-context.ts';
import { benchKeyring } from './service-bench.ts';
import { SYNC_ENTITIES, syncActor, syncTables } from './sync-bench.ts';

flushCompileCache();
process.stdin.on('close', () => process.exit(1)).resume();

/** What a process of offline sync is given. */
export interface SyncOrder {
  readonly url: string;
  /** Dies when it comes to this step for the n-th time. */
  readonly dieAt?: SyncStep;
  readonly nth?: number;
  /** Dies over this entity. */
  readonly poison?: string;
  /** Hands these in, instead of working. */
  readonly admit?: { readonly userId: string; readonly operations: readonly object[] };
  readonly leaseMs?: number;
  readonly redis?: string;
}

const order = JSON.parse(process.argv[2] ?? '{}') as SyncOrder;
const say = (line: string): void => void writeSync(1, `${line}\n`);
const die = (): void => {
  process.kill(process.pid, 'SIGKILL');
};
let met = 0;

const protection = await createDataProtection({
  database: order.url,
  entities: syncTables(),
  keys: benchKeyring(),
  execution: 'worker',
  ...(order.redis === undefined ? {} : { redis: order.redis }),
  sync: {
    entities: SYNC_ENTITIES.map((entity) => ({
      ...entity,
      // Asked for each operation on its way in; the poisoned one kills whoever looks at it.
      rowSchema: {
        '~standard': {
          version: 1 as const,
          vendor: 'test',
          validate: (value: unknown) => {
            if (order.poison !== undefined && JSON.stringify(value).includes(order.poison)) die();
            return { value };
          },
        },
      },
    })),
    limits: { leaseMs: order.leaseMs ?? 1_000 },
  },
  hooks: {
    onSyncStep: (step) => {
      if (step !== order.dieAt) return;
      met += 1;
      if (met === (order.nth ?? 1)) die();
    },
  },
});
if (order.admit === undefined) {
  await protection.startWorker({ pollMs: 100 });
  say('READY');
} else {
  await protection.sync(syncActor(order.admit.userId)).queueOperations(order.admit.operations as never);
  say('DONE');
  await protection.close();
  process.exit(0);
}
