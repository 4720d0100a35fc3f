import { registerHooks } from 'node:module';
import { createDataProtection } from '../../src/compose.ts';
import type { StorageDestination } from '../../src/types/backup.ts';
import type { Credential } from '../../src/types/credentials.ts';
import { actorOf, benchKeyring } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

/** A process that backs up once, closes the library, says how it went, and has nothing left to do. */
export interface ChildOrder {
  readonly url: string;
  readonly destination: StorageDestination;
  readonly credential: Credential;
  /** A package that is not installed, as far as this process can see. */
  readonly without?: string;
}

const order = JSON.parse(process.argv[2] ?? '{}') as ChildOrder;
registerHooks({
  resolve(specifier, context, next) {
    if (specifier !== order.without) return next(specifier, context);
    throw Object.assign(new Error(`Cannot find package '${specifier}'`), { code: 'ERR_MODULE_NOT_FOUND' });
  },
});
const protection = await createDataProtection({
  database: order.url,
  entities: tinyData.entities(),
  keys: benchKeyring(),
  storageDestination: order.destination,
  credentials: () => order.credential,
  storageLimits: { baseDelayMs: 1, maxDelayMs: 5 },
});
const backups = protection.backups(actorOf(TINY_ORGANIZATION));
const { id: configurationId } = await backups.createConfiguration({ name: 'child', scope: {} });
const outcome = await backups.createSnapshot({ configurationId }, { wait: true }).then(
  ({ status }) => ({ status }),
  ({ code, message }: { code: string; message: string }) => ({ code, message }),
);
await protection.close();
process.stdout.write(JSON.stringify(outcome));
