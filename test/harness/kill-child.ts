import { writeSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import pg from 'pg';
import { createDataProtection } from '../../src/compose.ts';
import { localKeyring } from '../../src/keys/local-keyring.ts';
import { localStorage } from '../../src/storage/local.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { KillOrder } from './kill-process.ts';
import { tinyData } from './service-tiny.ts';

/**
 * A process that backs up or restores, and kills or stops itself at its n-th step. A step is a moment before or after a
 * call of the storage, or before, right after the sending of, or after the answer to a statement. Run by `runChild`.
 */
const order = JSON.parse(process.argv[2] ?? '{}') as KillOrder;
let steps = 0;
let counting = false;

function step(name: string): void {
  if (!counting) return;
  steps += 1;
  if (order.trace) writeSync(1, `STEP ${steps} ${name}\n`);
  if (steps !== order.at && (order.atName === undefined || !name.includes(order.atName))) return;
  if (order.atName !== undefined) counting = false;
  writeSync(1, `AT ${name}\n`);
  process.kill(process.pid, order.signal ?? 'SIGKILL');
}

function watchStatements(): void {
  const prototype = pg.Client.prototype as unknown as { query: (...values: unknown[]) => unknown };
  const original = prototype.query;
  prototype.query = function (this: unknown, ...values: unknown[]): unknown {
    const [first] = values;
    const text =
      typeof first === 'string' ? first : String((first as { text?: string } | null)?.text ?? 'COPY');
    const name = text.replaceAll(/\s+/g, ' ').slice(0, 60);
    const last = values.at(-1);
    step(`before ${name}`);
    if (typeof last === 'function') {
      values[values.length - 1] = (...answer: unknown[]): unknown => {
        step(`after ${name}`);
        return last(...answer);
      };
    }
    const result = original.apply(this, values);
    step(`sent ${name}`);
    if (!(result instanceof Promise)) return result;
    return result.then((answer: unknown) => {
      step(`after ${name}`);
      return answer;
    });
  };
}

function watched(storage: ObjectStorage): ObjectStorage {
  const around = async <T>(name: string, call: () => Promise<T>): Promise<T> => {
    step(`before ${name}`);
    const answer = await call();
    step(`after ${name}`);
    return answer;
  };
  const last = (key: string): string => key.split('/').at(-1) ?? '';
  return {
    description: storage.description,
    put: (key, body, options) => around(`put ${last(key)}`, () => storage.put(key, body, options)),
    get: (key, options) => around(`get ${last(key)}`, () => storage.get(key, options)),
    stat: (key, options) => around(`stat ${last(key)}`, () => storage.stat(key, options)),
    delete: (key, options) => around(`delete ${last(key)}`, () => storage.delete(key, options)),
    async *list(prefix, options) {
      step('before list');
      yield* storage.list(prefix, options);
      step('after list');
    },
  };
}

flushCompileCache();
watchStatements();
const protection = await createDataProtection({
  database: order.url,
  entities: tinyData
    .entities()
    .map((entity) =>
      entity.type === 'ITEM' && order.disableTriggers !== undefined
        ? { ...entity, restore: { disableTriggers: order.disableTriggers } }
        : entity,
    ),
  keys: localKeyring({
    keys: [{ id: 'bench-key', key: Buffer.from(order.key, 'hex') }],
    current: 'bench-key',
  }),
  openStorage: () => watched(localStorage({ path: order.folder })),
});
const backups = protection.backups({
  userId: '00000000-0000-4000-8000-0000000000aa',
  organizationId: tinyData.organizations[0],
  branchIds: 'ALL',
  permissions: ['backup:admin'],
});
counting = true;
try {
  if (order.rollBack !== undefined) {
    await backups.rollbackRestore(order.rollBack);
  } else if (order.snapshotId === undefined) {
    await backups.createSnapshot({ configurationId: order.configurationId }, { wait: true });
  } else {
    await backups.createRestoreOperation(
      {
        snapshotId: order.snapshotId,
        ...(order.schema === undefined
          ? { requiresApproval: false }
          : { restoreDestination: { type: 'STAGING', schemaName: order.schema } }),
      },
      { wait: true },
    );
  }
  writeSync(1, `DONE ${steps}\n`);
} catch (error) {
  writeSync(1, `ERROR ${(error as { code?: string }).code} ${String(error)}\n`);
}
counting = false;
await protection.close();
