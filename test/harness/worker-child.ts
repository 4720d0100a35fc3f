import { writeSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDataProtection, type DataProtection } from '../../src/compose.ts';
import { localKeyring } from '../../src/keys/local-keyring.ts';
import { localStorage } from '../../src/storage/local.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { runWorker } from '../../src/worker/index.ts';
import { tinyData } from './service-tiny.ts';
import type { WorkerOrder } from './worker-fleet.ts';

flushCompileCache();
process.stdin.on('close', () => process.exit(1)).resume();
if ('unref' in process.stdin && typeof process.stdin.unref === 'function') process.stdin.unref();

/** A worker process, as a host would write it. Says `READY` once it has begun, and `PUT` at each object stored. */
const order = JSON.parse(process.argv[2] ?? '{}') as WorkerOrder;
const say = (line: string): void => void writeSync(1, `${line}\n`);

function watched(storage: ObjectStorage): ObjectStorage {
  return {
    ...storage,
    put: async (key, body, options) => {
      if (!key.endsWith('/manifest')) {
        if (order.poison !== undefined && key.includes(order.poison)) process.kill(process.pid, 'SIGKILL');
        say(`PUT ${key}`);
        await sleep(order.slowMs ?? 0, undefined, { signal: options?.signal });
      }
      return storage.put(key, body, options);
    },
  };
}

const told = (level: string) => (fields: object, message: string) =>
  say(`${level} ${message} ${JSON.stringify(fields)}`);
const skewMs = order.skewMs ?? 0;
const protection = await createDataProtection({
  database: order.url,
  entities: tinyData.entities(),
  keys: localKeyring({
    keys: [{ id: 'bench-key', key: Buffer.from(order.key, 'hex') }],
    current: 'bench-key',
  }),
  openStorage: () => watched(localStorage({ path: order.folder })),
  execution: 'worker',
  clock: { now: () => new Date(Date.now() + skewMs) },
  logger: { debug: told('debug'), info: told('info'), warn: told('warn'), error: told('error') },
  ...(order.redis === undefined ? {} : { redis: order.redis }),
});
const heard: Pick<DataProtection, 'startWorker' | 'close'> = {
  async startWorker(options) {
    const worker = await protection.startWorker(options);
    say('READY');
    return worker;
  },
  close: () => protection.close(),
};
await runWorker(heard, {
  pollMs: order.pollMs,
  ...(order.graceMs === undefined ? {} : { graceMs: order.graceMs }),
});
say('CLOSED');
