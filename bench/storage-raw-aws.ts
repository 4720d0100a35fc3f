import { S3 } from '@aws-sdk/client-s3';
import { s3Storage } from '../src/storage/s3.ts';
import { startFakeS3 } from '../test/harness/fake-s3.ts';
import type { Contest } from './storage-contest.ts';

export async function s3Contest(): Promise<Contest> {
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
