import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { memoryStorage } from '../../src/storage/memory.ts';
import { createStorages, type StoragesOptions } from '../../src/storage/open-storage.ts';
import type { CloudStorage, StorageDestination } from '../../src/types/backup.ts';
import { systemClock } from '../../src/utils/clock.ts';
import { PROVIDERS, type Provider, REFERENCE } from '../harness/provider-bench.ts';
import { actorOf, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { Told } from '../harness/service-leaks.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';
import type { ChildOrder } from './open-storage-child.ts';

const told = new Told();

const storages = (over: Partial<StoragesOptions> = {}) =>
  createStorages({
    own: undefined,
    credentials: undefined,
    limits: undefined,
    clock: systemClock,
    logger: told.logger,
    ...over,
  });

const s3 = (over: Partial<CloudStorage> = {}): StorageDestination => ({
  type: 'AWS_S3',
  cloudStorage: { provider: 'AWS', bucketName: 'backups', region: 'eu-central-1', ...over },
});
const local = (path: string): StorageDestination => ({
  type: 'LOCAL_FILESYSTEM',
  localStorage: { path },
});

describe('places', () => {
  it('are one storage, whatever the prefix and the order of the settings', () => {
    const opened = storages();
    const first = opened.open(s3({ prefix: 'one/', serverSideEncryption: { type: 'KMS', keyId: 'k' } }));
    const again = opened.open({
      type: 'AWS_S3',
      cloudStorage: {
        serverSideEncryption: { keyId: 'k', type: 'KMS' },
        region: 'eu-central-1',
        prefix: 'two',
        bucketName: 'backups',
        provider: 'AWS',
      },
      quotaBytes: 5,
    });
    expect(again.storage).toBe(first.storage);
    expect([first.prefix, again.prefix]).toEqual(['one', 'two']);
    expect(opened.health()).toHaveLength(1);
  });

  it.each<[string, Partial<CloudStorage>]>([
    ['bucket', { bucketName: 'other' }],
    ['region', { region: 'eu-west-1' }],
    ['endpoint', { endpoint: 'http://127.0.0.1:9000' }],
    ['credential', { credentialsRef: 'other' }],
    ['storage class', { storageClass: 'GLACIER' }],
    ['encryption', { serverSideEncryption: { type: 'KMS', keyId: 'k' } }],
    ['lock', { objectLock: { mode: 'GOVERNANCE', retainDays: 1 } }],
  ])('of another %s are another', (_, over) => {
    const opened = storages();
    expect(opened.open(s3(over)).storage).not.toBe(opened.open(s3()).storage);
    expect(opened.health()).toHaveLength(2);
  });

  it('are shared by several configurations and by what lies in several stores', () => {
    const opened = storages();
    const multi: StorageDestination = {
      type: 'MULTI',
      destinations: [s3({ prefix: 'a' }), s3({ bucketName: 'other' }), local('/tmp/x')],
      minimumConfirmations: 2,
    };
    opened.open(s3({ prefix: 'b' }));
    const { storage } = opened.open(multi);
    expect(opened.open(structuredClone(multi)).storage).toBe(storage);
    expect(opened.open({ ...multi, minimumConfirmations: 1 }).storage).not.toBe(storage);
    expect(opened.health().map(({ description }) => description)).toHaveLength(2);
    expect(storage.copies?.map((copy) => copy.index)).toEqual([0, 1, 2]);
  });

  it('that the host opens are the host’s to close', async () => {
    let closed = 0;
    const own = () => ({
      ...memoryStorage(),
      close: async () => {
        closed += 1;
      },
    });
    const opened = storages({ own: ({ type }) => (type === 'LOCAL_FILESYSTEM' ? own() : undefined) });
    opened.open(local('/a'));
    opened.open({ type: 'MULTI', destinations: [local('/a'), local('/b')] });
    await opened.close();
    expect(closed).toBe(0);
    expect(opened.health()).toEqual([]);
  });
});

describe('what is missing is named', () => {
  const sftp = { host: 'backup.example.com', path: '/backups' };

  it.each([
    ['the host key', { ...sftp, credentialsRef: 'x' }],
    ['the credential', { ...sftp, hostKey: 'ssh-ed25519 AAAA' }],
  ])('%s of SFTP', (_, settings) => {
    expect(() => storages().open({ type: 'SFTP', sftp: settings })).toThrow(
      expect.objectContaining({
        code: 'CONFIGURATION_INVALID',
        message: expect.stringMatching(/ssh-keyscan backup\.example\.com.*credentialsRef/),
      }),
    );
  });

  it.each(['AWS_S3', 'SFTP', 'NETWORK_SHARE', 'LOCAL_FILESYSTEM'] as const)('the settings of %s', (type) => {
    expect(() => storages().open({ type })).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID', message: expect.stringContaining(type) }),
    );
  });

  it.each([undefined, null, 'text', 5])('a credential that is %j', async (answer) => {
    const { storage } = storages({
      limits: { attempts: 1 },
      credentials: () => answer as never,
    }).open(s3({ endpoint: 'http://127.0.0.1:1', credentialsRef: 'the-name' }));
    await expect(storage.stat('a')).rejects.toMatchObject({
      code: 'CREDENTIALS_UNAVAILABLE',
      message: expect.stringMatching(/the-name.*`credentials` of createDataProtection/),
    });
  });
});

it('limits that are no limits are refused when a storage is opened, and by their name', () => {
  expect(() => storages({ limits: { attempts: 0 } }).open(s3())).toThrow(
    expect.objectContaining({ code: 'CONFIGURATION_INVALID', message: expect.stringContaining('attempts') }),
  );
  expect(() => storages({ limits: { bytesPerSecond: -1 } }).open(s3())).toThrow(
    expect.objectContaining({
      code: 'CONFIGURATION_INVALID',
      message: expect.stringContaining('bytesPerSecond'),
    }),
  );
});

describe('a process of its own', { timeout: 60_000 }, () => {
  let bench: ServiceBench;
  const providers: [string, Provider][] = [];

  beforeAll(async () => {
    bench = await createBench(tinyData);
    for (const name of ['AWS_S3', 'AZURE_BLOB', 'GOOGLE_CLOUD_STORAGE', 'SFTP'] as const)
      providers.push([name, await PROVIDERS[name]()]);
  });
  afterAll(async () => {
    await bench[Symbol.asyncDispose]();
    for (const [, provider] of providers) await provider[Symbol.asyncDispose]();
  });

  /** Rejects where the child does not end by itself. */
  async function run(provider: Provider, without?: string): Promise<Record<string, string>> {
    const order: ChildOrder = {
      url: bench.database.url,
      destination: provider.destination,
      credential: provider.credential ?? {},
      ...(without === undefined ? {} : { without }),
    };
    const script = fileURLToPath(new URL('./open-storage-child.ts', import.meta.url));
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [script, JSON.stringify(order)], {
      timeout: 30_000,
    });
    for (const secret of provider.secrets) expect(`${stdout}${stderr}`).not.toContain(secret);
    expect(stderr).not.toMatch(/MaxListeners|Unhandled/);
    return JSON.parse(stdout);
  }

  test('ends by itself after `close`, and without its package says which to install', async () => {
    const packages: Record<string, string> = {
      AWS_S3: '@aws-sdk/client-s3',
      AZURE_BLOB: '@azure/storage-blob',
      GOOGLE_CLOUD_STORAGE: '@google-cloud/storage',
      SFTP: 'ssh2',
    };
    for (const [name, provider] of providers) {
      const before = await provider.keys();
      // Where a bearer token is given, Google's package has nothing to do.
      if (name !== 'GOOGLE_CLOUD_STORAGE') {
        expect(await run(provider, packages[name]), name).toEqual({
          code: 'DEPENDENCY_MISSING',
          message: expect.stringContaining(`npm install ${packages[name]}`),
        });
        expect(await provider.keys(), name).toEqual(before);
      }
      expect(await run(provider), name).toEqual({ status: 'COMPLETED' });
      expect((await provider.keys()).length, name).toBe(before.length + 2);
    }
  });

  test('a service account of Google without its package is told the same', async () => {
    const provider = providers.find(([name]) => name === 'GOOGLE_CLOUD_STORAGE')?.[1];
    if (provider === undefined) throw new Error('no provider');
    const credential = { clientEmail: 'a@b.iam.gserviceaccount.com', privateKey: 'PRIVATE' };
    expect(await run({ ...provider, credential }, '@google-cloud/storage')).toMatchObject({
      code: 'DEPENDENCY_MISSING',
      message: expect.stringContaining('npm install @google-cloud/storage'),
    });
  });

  test('two configurations of one destination share a breaker, and `storageHealth` shows every provider', async () => {
    const credentials = new Map(providers.map(([name, { credential }]) => [name, credential ?? {}]));
    const named = (name: string, { destination }: Provider): StorageDestination =>
      JSON.parse(JSON.stringify(destination).replaceAll(REFERENCE, name));
    const protection = await bench.open({
      credentials: (reference) => credentials.get(reference) ?? {},
    });
    const backups = protection.backups(actorOf(TINY_ORGANIZATION));
    for (const [name, provider] of providers) {
      for (const turn of [1, 2]) {
        const { id: configurationId } = await backups.createConfiguration({
          name: `${name} ${turn}`,
          scope: {},
          storageDestination: named(name, provider),
        });
        const { status } = await backups.createSnapshot({ configurationId }, { wait: true });
        expect(status, name).toBe('COMPLETED');
      }
    }
    const health = protection.storageHealth();
    expect(health.map(({ description }) => description.split(' ')[0]).sort()).toEqual(
      providers.map(([name]) => name).sort(),
    );
    for (const one of health) {
      expect(one).toMatchObject({ state: 'CLOSED', failures: 0 });
      expect(one.calls).toBeGreaterThanOrEqual(6);
      expect(one.latencyMs).toBeGreaterThan(0);
    }
    await protection.close();
  });
});
