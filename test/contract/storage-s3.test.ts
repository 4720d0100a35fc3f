import { randomBytes } from 'node:crypto';
import { type S3StorageOptions, s3Storage } from '../../src/storage/s3.ts';
import { type FakeS3, startFakeS3 } from '../harness/fake-s3.ts';
import type { FakeS3Options } from '../harness/fake-s3-wire.ts';
import { storageContract } from './storage.ts';
import { uploadsContract } from './uploads.ts';

const CUSTOMER_KEY = randomBytes(32).toString('base64');

const WITH_CUSTOMER_KEY = {
  serverSideEncryption: { type: 'CUSTOMER_KEY', customerKeyRef: 'key' },
  customerKey: async () => ({ key: CUSTOMER_KEY }),
} as const;

function storageOn(fake: FakeS3, options: Partial<S3StorageOptions>) {
  return s3Storage({
    bucket: fake.bucketName,
    endpoint: fake.endpoint,
    region: fake.region,
    credentials: async () => ({ ...fake.keys }),
    ...options,
  });
}

async function underTest(fakeOptions: FakeS3Options = {}, options: Partial<S3StorageOptions> = {}) {
  const fake = await startFakeS3(fakeOptions);
  const storage = storageOn(fake, options);
  return {
    storage,
    reopen: async () => storageOn(fake, options),
    secrets: [fake.keys.accessKeyId, fake.keys.secretAccessKey, CUSTOMER_KEY],
    async close() {
      await storage.close?.();
      await fake.close();
    },
  };
}

const SMALL = { extent: 'SMALL' } as const;

storageContract('S3', () => underTest());
storageContract('S3 with versions', () => underTest({ versioned: true }), SMALL);
storageContract(
  'S3 with a customer key, on a store that keeps no checksums',
  () => underTest({ withoutChecksums: true }, WITH_CUSTOMER_KEY),
  SMALL,
);

uploadsContract('S3', () => underTest());
uploadsContract(
  'S3 with versions and a customer key',
  () => underTest({ versioned: true }, WITH_CUSTOMER_KEY),
  SMALL,
);

const { TEST_S3_ENDPOINT: endpoint, TEST_S3_BUCKET: bucket, TEST_S3_REGION: region } = process.env;
if (endpoint !== undefined && bucket !== undefined) {
  storageContract(`S3 at ${endpoint}`, async () => {
    const storage = s3Storage({
      bucket,
      endpoint,
      ...(region === undefined ? {} : { region }),
      credentials: async () => ({
        accessKeyId: process.env.TEST_S3_ACCESS_KEY_ID ?? '',
        secretAccessKey: process.env.TEST_S3_SECRET_ACCESS_KEY ?? '',
      }),
    });
    for await (const { key } of storage.list('')) await storage.delete(key);
    return { storage, close: async () => storage.close?.() };
  });
}
