import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDataProtection } from '../../src/compose.ts';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { faultyStorage } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupEvents } from '../../src/types/events.ts';
import {
  actorOf,
  benchKeyring,
  createBench,
  MASTER_KEY,
  type ServiceBench,
} from '../harness/service-bench.ts';
import { connectionCutter } from '../harness/service-cut.ts';
import { Told } from '../harness/service-leaks.ts';
import { PLANTED, TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

const HOST_SECRET = 'host-secret-AKIA4711';
const ROLE_PASSWORD = 'role-Passw0rd-4711';
const told = new Told();
let bench: ServiceBench;
let used: ObjectStorage;
let keyFails: 'wrap' | 'unwrap' | undefined;
let secrets: readonly string[];

const keyring = benchKeyring();
const failing = (): Promise<never> =>
  Promise.reject(new Error(`${HOST_SECRET} ${MASTER_KEY.toString('hex')}`));
const keys: KeyProvider = {
  ...keyring,
  wrap: (...given) => (keyFails === 'wrap' ? failing() : keyring.wrap(...given)),
  unwrap: (...given) => (keyFails === 'unwrap' ? failing() : keyring.unwrap(...given)),
};
const EVENTS: (keyof BackupEvents)[] = [
  'snapshot.started',
  'snapshot.progress',
  'snapshot.completed',
  'snapshot.failed',
  'snapshot.cancelled',
  'snapshot.verified',
  'restore.started',
  'restore.progress',
  'restore.completed',
  'restore.failed',
];

beforeAll(async () => {
  bench = await createBench(tinyData, { openStorage: () => used, keys, logger: told.logger });
  for (const name of EVENTS) bench.protection.on(name, (event) => told.add(`event ${name}`, event));
  secrets = [
    PLANTED,
    HOST_SECRET,
    ROLE_PASSWORD,
    new URL(bench.database.url).password,
    MASTER_KEY.toString('hex'),
    MASTER_KEY.toString('base64'),
  ].filter((secret) => secret !== '');
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

async function failsQuietly(action: () => Promise<unknown>): Promise<void> {
  const error: unknown = await action().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  told.addError(error);
}

async function everythingStored(): Promise<void> {
  for (const table of [
    'backup_configurations',
    'backup_snapshots',
    'backup_attempts',
    'restore_operations',
    'audit_log',
  ]) {
    const { rows } = await bench.database.pool.query(`SELECT to_jsonb(t) AS row FROM care_backup.${table} t`);
    told.add(table, ...rows);
  }
}

const back = { restoreDestination: { type: 'TEST', schemaName: 'back' } } as const;

test('whatever fails, nobody is told a row, a key or a credential', async () => {
  using cutter = connectionCutter();
  const { id: configurationId } = await bench.configure();
  const run = async () => {
    const { id } = await bench.configure();
    return bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  };
  const sound = memoryStorage();
  used = sound;
  const snapshot = await run();
  const restore = () =>
    bench.backups.createRestoreOperation({ snapshotId: snapshot.id, ...back }, { wait: true });

  const error = new Error(`${HOST_SECRET} ${PLANTED}`);
  for (const call of [1, 2, 3]) {
    used = faultyStorage(sound, [{ call, effect: 'fail', when: 'before', error }]);
    await failsQuietly(run);
  }
  // The second lists the sidecars: where the manifest’s own key opens it, nobody misses them.
  for (const call of [1, 3, 4]) {
    used = faultyStorage(sound, [{ call, effect: 'fail', when: 'before', error }]);
    await failsQuietly(restore);
  }
  used = faultyStorage(sound, [{ operation: 'get', call: 1, effect: 'alter', offset: 90 }]);
  told.add('results', await bench.backups.verifySnapshot(snapshot.id));
  used = faultyStorage(sound, [{ operation: 'get', call: 2, effect: 'alter', offset: 9 }]);
  told.add('results', await bench.backups.verifySnapshot(snapshot.id));
  used = sound;

  keyFails = 'wrap';
  await failsQuietly(run);
  keyFails = 'unwrap';
  await failsQuietly(restore);
  await failsQuietly(() => bench.backups.verifySnapshot(snapshot.id));
  keyFails = undefined;

  for (const text of ['BEGIN ISOLATION LEVEL REPEATABLE READ', 'pg_try_advisory_lock', '"backup_attempts"']) {
    cutter.arm((step) => step.text.includes(text));
    await failsQuietly(run);
  }
  cutter.arm();

  // Rows that PostgreSQL quotes in its own messages: a value that cannot be written out, and one that cannot be stored.
  await bench.database.pool.query(`
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '${PLANTED} %', NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON care_backup.audit_log FOR EACH ROW EXECUTE FUNCTION refuse()`);
  await failsQuietly(run);
  await failsQuietly(() => bench.backups.pauseConfiguration(configurationId));
  await bench.database.pool.query('DROP TRIGGER refuse ON care_backup.audit_log');

  await failsQuietly(() =>
    bench.configure({ name: PLANTED, scope: { includeEntities: [PLANTED] } }).catch((reason: unknown) => {
      throw reason;
    }),
  );
  await failsQuietly(() => bench.backups.createSnapshot({ configurationId, surprise: PLANTED } as never));
  await failsQuietly(() => bench.backups.getSnapshot('018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e'));
  await run();
  expect(told.count).toBeGreaterThan(30);
  await everythingStored();
  told.expectNone(secrets);
});

test('a row that cannot be restored is not quoted', async () => {
  used = memoryStorage();
  const { id: configurationId } = await bench.configure({
    encryptionEnabled: false,
    allowUnencryptedPHI: true,
  });
  await bench.database.pool.query('ALTER TABLE item ADD CONSTRAINT short CHECK (length(secret) < 1000)');
  const { id } = await bench.backups.createSnapshot({ configurationId }, { wait: true });
  await bench.database.pool.query(`
    CREATE FUNCTION stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '${PLANTED}'; END $$;
    CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION stop()`);
  await failsQuietly(() => bench.backups.createRestoreOperation({ snapshotId: id, ...back }, { wait: true }));
  await bench.database.pool.query('DROP EVENT TRIGGER stop');
  await everythingStored();
  told.expectNone(secrets);
});

test('a server that refuses the connection is not told with its password', async () => {
  const url = new URL(bench.database.url);
  url.password = ROLE_PASSWORD;
  const { entities } = tinyData;
  await failsQuietly(() =>
    createDataProtection({ database: url.href, entities: entities(), logger: told.logger }),
  );
  url.port = '1';
  await failsQuietly(() =>
    createDataProtection({ database: url.href, entities: entities(), logger: told.logger }),
  );
  const settings = { host: '127.0.0.1', port: 1, user: 'x', password: ROLE_PASSWORD, database: 'x' };
  await failsQuietly(() =>
    createDataProtection({ database: settings, entities: entities(), logger: told.logger }),
  );
  told.expectNone(secrets);
});

test('the library itself shows no secret when it is printed', () => {
  told.add('inspection', bench.protection, bench.backups, actorOf(TINY_ORGANIZATION));
  told.expectNone(secrets);
});

test('this would be seen', () => {
  const leaky = new Told();
  leaky.logger.info({ note: `x ${PLANTED}` }, 'message');
  expect(() => leaky.expectNone(secrets)).toThrow();
  expect(() => leaky.addError(Object.assign(new Error('x'), { cause: PLANTED }))).toThrow();
});
