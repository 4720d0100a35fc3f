import { type GoogleCloudOptions, googleCloudStorage } from '../../src/storage/google-cloud.ts';
import { type FakeGcsOptions, startFakeGcs } from '../harness/fake-gcs.ts';
import { storageContract } from './storage.ts';
import { uploadsContract } from './uploads.ts';

const KEY = Buffer.alloc(32, 7).toString('base64');
const CUSTOMER_KEY: Partial<GoogleCloudOptions> = {
  serverSideEncryption: { type: 'CUSTOMER_KEY', customerKeyRef: 'bucket-key' },
  customerKey: async () => ({ key: KEY }),
};

async function underTest(server: FakeGcsOptions = {}, options: Partial<GoogleCloudOptions> = {}) {
  const fake = await startFakeGcs({ tokens: new Set(['SECRET-TOKEN']), ...server });
  const open = () =>
    googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      credentials: async () => ({ accessToken: 'SECRET-TOKEN' }),
      ...options,
    });
  return {
    storage: open(),
    reopen: async () => open(),
    secrets: ['SECRET-TOKEN', KEY],
    close: () => fake.close(),
  };
}

const SMALL = { extent: 'SMALL' } as const;

storageContract('Google Cloud Storage', () => underTest());

storageContract('Google Cloud Storage with versions', () => underTest({ versioning: 'ON' }), SMALL);

storageContract('Google Cloud Storage with a customer key', () => underTest({}, CUSTOMER_KEY), SMALL);

uploadsContract('Google Cloud Storage', () => underTest());

uploadsContract('Google Cloud Storage with versions', () => underTest({ versioning: 'ON' }), SMALL);

uploadsContract('Google Cloud Storage with a customer key', () => underTest({}, CUSTOMER_KEY), SMALL);
