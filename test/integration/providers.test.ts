import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import type { StorageLimits } from '../../src/storage/open-storage.ts';
import type { Credential } from '../../src/types/credentials.ts';
import type { BackupEvents } from '../../src/types/events.ts';
import { PROVIDERS, type Provider, type ProviderName, REFERENCE } from '../harness/provider-bench.ts';
import { actorOf, carePlatform, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { differingTables } from '../harness/service-compare.ts';
import { Told } from '../harness/service-leaks.ts';
import { isGood } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const LIMITS: StorageLimits = { baseDelayMs: 1, maxDelayMs: 5, breakerOpenMs: 0 };
/** So many that the backup is several objects where it is not compressed. */
const LARGE_VISITS = process.env.CARE_SOAK === '1' ? 24_000 : 19_000;
const EVENTS: (keyof BackupEvents)[] = [
  'snapshot.started',
  'snapshot.progress',
  'snapshot.completed',
  'snapshot.failed',
  'snapshot.verified',
  'restore.started',
  'restore.completed',
  'restore.failed',
];
/** Every table of the library's own, those of the queue too. */
const OWN_TABLES = `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname LIKE 'care_backup%'`;

let bench: ServiceBench;
let schemas = 0;

beforeAll(async () => {
  bench = await createBench(tinyData);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

async function everythingStored(told: Told): Promise<number> {
  const { rows: tables } = await bench.database.pool.query<{ name: string }>(OWN_TABLES);
  let rows = 0;
  for (const { name } of tables) {
    const table = await bench.database.pool.query(`SELECT to_jsonb(t) AS row FROM ${name} t`);
    told.add(name, ...table.rows);
    rows += table.rows.length;
  }
  return rows;
}

/** An instance that stores with the provider, and everything that it tells. */
async function open(provider: Provider, over: { destination?: Provider['destination']; answer?: unknown }) {
  const told = new Told();
  const { destination = provider.destination } = over;
  const asked: string[] = [];
  const protection = await bench.open({
    storageDestination: destination,
    storageLimits: LIMITS,
    logger: told.logger,
    ...(over.answer === 'NO_PROVIDER'
      ? {}
      : {
          credentials: (reference: string) => {
            asked.push(reference);
            if (over.answer === 'THROWS') throw new Error(provider.secrets.join(' '));
            return (over.answer ?? provider.credential) as Credential;
          },
        }),
  });
  for (const name of EVENTS) protection.on(name, (event) => told.add(`event ${name}`, event));
  const backups = protection.backups(actorOf(TINY_ORGANIZATION));
  return { protection, backups, told, asked };
}

const configure = async (backups: ReturnType<DataProtection['backups']>) =>
  (await backups.createConfiguration({ name: `c-${crypto.randomUUID()}`, scope: {} })).id;

const outcomeOf = (run: Promise<unknown>): Promise<unknown> =>
  run.then(
    () => undefined,
    (error: unknown) => error,
  );

describe.each(Object.keys(PROVIDERS) as ProviderName[])('%s', { timeout: 60_000 }, (name) => {
  let provider: Provider;

  beforeAll(async () => {
    provider = await PROVIDERS[name]();
  });
  afterAll(async () => {
    await provider[Symbol.asyncDispose]();
  });

  test('backs up, verifies and restores, and tells no credential', async () => {
    const { protection, backups, told, asked } = await open(provider, {});
    const configurationId = await configure(backups);
    const snapshot = await backups.createSnapshot({ configurationId }, { wait: true });
    told.add('results', snapshot);
    expect(snapshot).toMatchObject({ status: 'COMPLETED', integrityVerified: true });
    const keys = await provider.keys();
    expect(keys.filter((key) => key.endsWith('/manifest'))).toHaveLength(1);
    expect(keys).toHaveLength(2);
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    schemas += 1;
    const schemaName = `back_${schemas}`;
    const restore = await backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName } },
      { wait: true },
    );
    told.add('results', restore);
    expect(restore.status).toBe('COMPLETED');
    expect(await tinyDifferences(bench.database.pool, schemaName)).toBe(0);

    const health = protection.storageHealth();
    told.add('health', health);
    expect(health).toHaveLength(name === 'LOCAL_FILESYSTEM' ? 0 : 1);
    for (const one of health) expect(one).toMatchObject({ state: 'CLOSED', failures: 0, retries: 0 });
    expect(new Set(asked)).toEqual(new Set(provider.credential === undefined ? [] : [REFERENCE]));
    told.add('inspection', protection, backups);
    expect(await everythingStored(told)).toBeGreaterThan(5);
    told.expectNone([...provider.secrets]);
    await protection.close();
  });

  /** What a host may get wrong, and the codes that say so. */
  const wrongs: readonly (readonly [string, () => Parameters<typeof open>[1] | undefined, RegExp, RegExp])[] =
    [
      [
        'a wrong credential',
        () => provider.wrongCredential && { answer: provider.wrongCredential },
        /^(STORAGE_DENIED|CREDENTIALS_UNAVAILABLE)$/,
        /./,
      ],
      [
        'a place that is not there',
        () => provider.missing && { destination: provider.missing },
        /^(CONFIGURATION_INVALID|STORAGE_NOT_MOUNTED)$/,
        /bucket|container|mount/i,
      ],
      [
        'no credential provider',
        () => provider.credential && { answer: 'NO_PROVIDER' },
        /^CREDENTIALS_UNAVAILABLE$/,
        /`credentials` of createDataProtection/,
      ],
      [
        'a credential provider that throws',
        () => provider.credential && { answer: 'THROWS' },
        /^CREDENTIALS_UNAVAILABLE$/,
        /`credentials` of createDataProtection/,
      ],
      [
        'a credential without its fields',
        () => provider.credential && { answer: { other: 'x' } },
        /^CREDENTIALS_UNAVAILABLE$/,
        /credential/i,
      ],
    ];

  test.each(wrongs)('%s is told with its remedy, and leaves nothing', async (_, given, code, remedy) => {
    const over = given();
    if (over === undefined) return expect(['NETWORK_SHARE', 'LOCAL_FILESYSTEM', 'SFTP']).toContain(name);
    const before = await provider.keys();
    const { protection, backups, told } = await open(provider, over);
    const configurationId = await configure(backups);
    const error = await outcomeOf(backups.createSnapshot({ configurationId }, { wait: true }));
    told.addError(error);
    expect(error).toMatchObject({
      code: expect.stringMatching(code),
      message: expect.stringMatching(remedy),
    });
    const { items } = await backups.listSnapshots({ configurationId });
    told.add('results', items);
    expect(items.map(({ status }) => status)).toEqual(['FAILED']);
    expect(await provider.keys()).toEqual(before);
    await everythingStored(told);
    told.expectNone([...provider.secrets]);
    await protection.close();

    // The host mends it, and the next run finds nothing in its way.
    if (over.destination !== undefined) return;
    const mended = await open(provider, {});
    const next = await mended.backups.createSnapshot({ configurationId }, { wait: true });
    expect(next.status).toBe('COMPLETED');
    const all = await mended.backups.listSnapshots({ configurationId });
    expect(all.items.filter(isGood)).toHaveLength(1);
    await mended.protection.close();
  });
});

/** Without CARE_SOAK one of the clouds, and what is none. */
const MANY =
  process.env.CARE_SOAK === '1'
    ? (['AWS_S3', 'AZURE_BLOB', 'GOOGLE_CLOUD_STORAGE', 'SFTP'] as const)
    : (['AWS_S3', 'SFTP'] as const);

describe('many objects', () => {
  let large: ServiceBench;

  beforeAll(async () => {
    large = await createBench(carePlatform(LARGE_VISITS));
  });
  afterAll(async () => {
    await large[Symbol.asyncDispose]();
  });

  test.each(MANY)('the care platform comes back whole from %s', { timeout: 120_000 }, async (name) => {
    await using provider = await PROVIDERS[name]();
    const { credential } = provider;
    if (credential === undefined) throw new Error('no credential');
    const protection = await large.open({
      storageDestination: provider.destination,
      credentials: () => credential,
    });
    const [organization] = large.organizations;
    const backups = protection.backups(actorOf(organization));
    // Not compressed, so that there are several objects.
    const { id: configurationId } = await backups.createConfiguration({
      name: `c-${name}`,
      scope: { includeSoftDeleted: true },
      compressionEnabled: false,
    });
    const snapshot = await backups.createSnapshot({ configurationId }, { wait: true });
    expect(snapshot).toMatchObject({ status: 'COMPLETED', integrityVerified: true });
    expect((await provider.keys()).length).toBeGreaterThan(3);
    const schema = name.toLowerCase();
    const restore = { type: 'TEST', schemaName: schema } as const;
    await backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: restore, validationEnabled: false },
      { wait: true },
    );
    expect(await differingTables(large.database.pool, { organization, schema })).toEqual([]);
    await large.database.pool.query(`DROP SCHEMA "${schema}" CASCADE`);
    await protection.close();
  });
});
