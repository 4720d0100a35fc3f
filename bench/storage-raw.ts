import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { S3 } from '@aws-sdk/client-s3';
import { ContainerClient, StorageSharedKeyCredential } from '@azure/storage-blob';
import { Storage } from '@google-cloud/storage';
import { Client } from 'ssh2';
import { azureBlobStorage } from '../src/storage/azure-blob.ts';
import { googleCloudStorage } from '../src/storage/google-cloud.ts';
import { s3Storage } from '../src/storage/s3.ts';
import { sftpStorage } from '../src/storage/sftp.ts';
import type { ObjectStorage } from '../src/storage/storage.ts';
import { startAzurite } from '../test/harness/azurite.ts';
import { startFakeGcs } from '../test/harness/fake-gcs.ts';
import { startFakeS3 } from '../test/harness/fake-s3.ts';
import { startSshServer } from '../test/harness/ssh-server.ts';

/** The provider's own client, used as its documentation begins. */
export interface RawClient {
  put(key: string, body: Buffer): Promise<unknown>;
  get(key: string): Promise<Uint8Array>;
  close(): void;
}

/** A server, the library's storage on it, and the raw client on the same. */
export interface Contest extends AsyncDisposable {
  readonly ours: ObjectStorage;
  readonly raw: RawClient;
}

export const CONTESTS: Readonly<Record<string, () => Promise<Contest>>> = {
  AWS_S3: s3,
  AZURE_BLOB: azure,
  GOOGLE_CLOUD_STORAGE: googleCloud,
  SFTP: sftp,
};

async function s3(): Promise<Contest> {
  const fake = await startFakeS3();
  const { endpoint, region, bucketName, keys } = fake;
  const client = new S3({ endpoint, region, credentials: keys, forcePathStyle: true });
  const ours = s3Storage({ bucket: bucketName, endpoint, region, credentials: async () => ({ ...keys }) });
  return {
    ours,
    raw: {
      put: (Key, Body) => client.putObject({ Bucket: bucketName, Key, Body }),
      get: async (Key) =>
        (await (await client.getObject({ Bucket: bucketName, Key })).Body?.transformToByteArray()) ??
        new Uint8Array(),
      close: () => client.destroy(),
    },
    async [Symbol.asyncDispose]() {
      await ours.close?.();
      await fake.close();
    },
  };
}

async function azure(): Promise<Contest> {
  const azurite = await startAzurite();
  const { accountName, accountKey, endpoint } = azurite;
  const { containerName } = await azurite.container();
  const credential = new StorageSharedKeyCredential(accountName, accountKey);
  const client = new ContainerClient(`${endpoint}/${accountName}/${containerName}`, credential);
  const settings = { container: containerName, accountName, endpoint };
  return {
    ours: azureBlobStorage({ ...settings, credentials: async () => ({ accountKey }) }),
    raw: {
      put: (key, body) => client.getBlockBlobClient(key).upload(body, body.byteLength),
      get: (key) => client.getBlobClient(key).downloadToBuffer(),
      close: () => undefined,
    },
    [Symbol.asyncDispose]: () => azurite.stop(),
  };
}

async function googleCloud(): Promise<Contest> {
  const fake = await startFakeGcs();
  const bucket = new Storage({ apiEndpoint: fake.url, projectId: 'bench' }).bucket('test-bucket');
  return {
    ours: googleCloudStorage({ bucket: 'test-bucket', endpoint: fake.url }),
    raw: {
      put: (key, body) => bucket.file(key).save(body, { resumable: false }),
      get: async (key) => (await bucket.file(key).download())[0],
      close: () => undefined,
    },
    [Symbol.asyncDispose]: () => fake.close(),
  };
}

async function sftp(): Promise<Contest> {
  const server = await startSshServer();
  const { port, username, privateKey, hostKey } = server;
  const path = join(server.folder, 'ours');
  const ours = sftpStorage({
    host: '127.0.0.1',
    port,
    path,
    hostKey,
    credentials: async () => ({ username, privateKey }),
  });
  const connection = new Client();
  await new Promise<void>((resolve, reject) => {
    connection
      .on('ready', resolve)
      .on('error', reject)
      .connect({ host: '127.0.0.1', port, username, privateKey });
  });
  const session = await new Promise<Parameters<Parameters<Client['sftp']>[0]>[1]>((resolve, reject) => {
    connection.sftp((error, opened) => (error === undefined ? resolve(opened) : reject(error)));
  });
  await mkdir(join(server.folder, 'raw'));
  const remote = (key: string): string => join(server.folder, 'raw', key.replaceAll('/', '-'));
  return {
    ours,
    raw: {
      put: (key, body) =>
        new Promise<void>((resolve, reject) =>
          session.writeFile(remote(key), body, (error) => (error ? reject(error) : resolve())),
        ),
      get: (key) =>
        new Promise((resolve, reject) =>
          session.readFile(remote(key), (error, bytes) => (error ? reject(error) : resolve(bytes))),
        ),
      close: () => void connection.end(),
    },
    async [Symbol.asyncDispose]() {
      await ours.close?.();
      await server.stop();
    },
  };
}

export const freshKey = (): string => `bench/${randomUUID()}`;
