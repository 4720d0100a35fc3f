import { Storage } from '@google-cloud/storage';
import { googleCloudStorage } from '../src/storage/google-cloud.ts';
import { startFakeGcs } from '../test/harness/fake-gcs.ts';
import type { Contest } from './storage-contest.ts';

export async function googleContest(): Promise<Contest> {
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
