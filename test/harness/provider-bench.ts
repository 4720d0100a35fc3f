import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StorageDestination } from '../../src/types/backup.ts';
import type { Credential } from '../../src/types/credentials.ts';
import { startAzurite } from './azurite.ts';
import { startFakeGcs } from './fake-gcs.ts';
import { startFakeS3 } from './fake-s3.ts';
import { filesBelow } from './service-bench.ts';
import { startSshServer } from './ssh-server.ts';

/** Name by which every provider here asks for its credential. */
export const REFERENCE = 'bench-credential';

/** A place for backups, as a host would describe it, and a look at what lies there that is not the library's. */
export interface Provider extends AsyncDisposable {
  readonly destination: StorageDestination;
  /** Another address for the same place, through a proxy say. Clouds only. */
  at(endpoint: string): StorageDestination;
  /** The port of the cloud's server; 0 where there is none. */
  readonly port: number;
  readonly credential: Credential | undefined;
  /** What the server refuses; undefined where nothing is asked. */
  readonly wrongCredential: Credential | undefined;
  /** A place that does not exist; undefined where it is made. */
  readonly missing: StorageDestination | undefined;
  /** Texts that nobody may ever be told. */
  readonly secrets: readonly string[];
  /** Every key, by the server's own word. */
  keys(): Promise<readonly string[]>;
}

export type ProviderName =
  | 'AWS_S3'
  | 'AZURE_BLOB'
  | 'GOOGLE_CLOUD_STORAGE'
  | 'SFTP'
  | 'NETWORK_SHARE'
  | 'LOCAL_FILESYSTEM';

export const PROVIDERS: Readonly<Record<ProviderName, () => Promise<Provider>>> = {
  AWS_S3: s3,
  AZURE_BLOB: azure,
  GOOGLE_CLOUD_STORAGE: googleCloud,
  SFTP: sftp,
  NETWORK_SHARE: networkShare,
  LOCAL_FILESYSTEM: local,
};

async function s3(): Promise<Provider> {
  const fake = await startFakeS3();
  const at = (endpoint: string, bucketName = fake.bucketName): StorageDestination => ({
    type: 'AWS_S3',
    cloudStorage: { provider: 'AWS', bucketName, endpoint, region: fake.region, credentialsRef: REFERENCE },
  });
  const { secretAccessKey } = fake.keys;
  const wrong = `wrong-${randomUUID()}`;
  return {
    destination: at(fake.endpoint),
    at: (endpoint) => at(endpoint),
    port: Number(new URL(fake.endpoint).port),
    credential: { ...fake.keys },
    wrongCredential: { ...fake.keys, secretAccessKey: wrong },
    missing: at(fake.endpoint, 'no-such-bucket'),
    secrets: [secretAccessKey, wrong],
    keys: async () => [...fake.bucket.objects.keys()].filter((key) => fake.bucket.current(key) !== undefined),
    [Symbol.asyncDispose]: () => fake.close(),
  };
}

async function azure(): Promise<Provider> {
  const azurite = await startAzurite();
  const container = await azurite.container();
  const at = (endpoint: string, bucketName = container.containerName): StorageDestination => ({
    type: 'AZURE_BLOB',
    cloudStorage: {
      provider: 'AZURE',
      bucketName,
      endpoint,
      accountName: azurite.accountName,
      credentialsRef: REFERENCE,
    },
  });
  const wrong = randomBytes(64).toString('base64');
  return {
    destination: at(azurite.endpoint),
    at: (endpoint) => at(endpoint),
    port: Number(new URL(azurite.endpoint).port),
    credential: { accountKey: azurite.accountKey },
    wrongCredential: { accountKey: wrong },
    missing: at(azurite.endpoint, 'no-such-container'),
    secrets: [azurite.accountKey, wrong],
    async keys() {
      const keys: string[] = [];
      for await (const { name } of container.listBlobsFlat()) keys.push(name);
      return keys;
    },
    [Symbol.asyncDispose]: () => azurite.stop(),
  };
}

async function googleCloud(): Promise<Provider> {
  const accessToken = `ya29.${randomUUID()}`;
  const fake = await startFakeGcs({ tokens: new Set([accessToken]) });
  const at = (endpoint: string, bucketName = 'test-bucket'): StorageDestination => ({
    type: 'GOOGLE_CLOUD_STORAGE',
    cloudStorage: { provider: 'GCP', bucketName, endpoint, credentialsRef: REFERENCE },
  });
  const wrong = `ya29.wrong-${randomUUID()}`;
  return {
    destination: at(fake.url),
    at: (endpoint) => at(endpoint),
    port: Number(new URL(fake.url).port),
    credential: { accessToken },
    wrongCredential: { accessToken: wrong },
    missing: at(fake.url, 'no-such-bucket'),
    secrets: [accessToken, wrong],
    keys: async () => [...fake.bucket.live.keys()],
    [Symbol.asyncDispose]: () => fake.close(),
  };
}

async function sftp(): Promise<Provider> {
  const server = await startSshServer();
  const { hostKey, port, username, privateKey } = server;
  const at = (path: string): StorageDestination => ({
    type: 'SFTP',
    sftp: { host: '127.0.0.1', port, path, hostKey, credentialsRef: REFERENCE },
  });
  const wrong = `wrong-${randomUUID()}`;
  const folder = join(server.folder, 'backups');
  return {
    destination: at(folder),
    at: () => at(folder),
    port,
    credential: { username, privateKey },
    wrongCredential: { username, password: wrong },
    missing: undefined,
    secrets: [privateKey, ...privateKey.split('\n').filter((line) => line.length > 60), wrong],
    keys: () => filesBelow(folder),
    [Symbol.asyncDispose]: () => server.stop(),
  };
}

/** A mount that every Linux has, and that whoever runs the tests can write to. */
const MOUNT = '/dev/shm';

async function networkShare(): Promise<Provider> {
  const base = await mkdtemp(join(MOUNT, 'care-share-'));
  const path = join(base, 'backups');
  const destination: StorageDestination = {
    type: 'NETWORK_SHARE',
    networkShare: { path, mountPoint: MOUNT },
  };
  return {
    ...withoutCredential(destination, path),
    // Nothing is mounted there.
    missing: { type: 'NETWORK_SHARE', networkShare: { path: join(tmpdir(), 'care-no-share') } },
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  };
}

async function local(): Promise<Provider> {
  const path = await mkdtemp(join(tmpdir(), 'care-local-'));
  return {
    ...withoutCredential({ type: 'LOCAL_FILESYSTEM', localStorage: { path } }, path),
    missing: undefined,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

const withoutCredential = (destination: StorageDestination, folder: string) => ({
  destination,
  at: () => destination,
  port: 0,
  credential: undefined,
  wrongCredential: undefined,
  secrets: [],
  // The share's marker and the folder of unfinished uploads are no objects.
  keys: async () => (await filesBelow(folder)).filter((key) => !/(^|\/)\./.test(key)),
});
