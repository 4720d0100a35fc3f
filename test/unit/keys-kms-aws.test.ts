import { randomBytes } from 'node:crypto';
import { KMSClient } from '@aws-sdk/client-kms';
import { expect, it, onTestFinished, vi } from 'vitest';
import { awsKms } from '../../src/keys/aws-kms.ts';
import { AWS_REGION, fakeAwsKms } from '../harness/fake-aws-kms.ts';

const CONTEXT = { organizationId: 'o', configurationId: 'c', snapshotId: 's' };

it('AWS: frees the clients that were replaced, after their last call', async () => {
  const destroy = vi.spyOn(KMSClient.prototype, 'destroy');
  onTestFinished(() => destroy.mockRestore());
  const fake = await fakeAwsKms();
  onTestFinished(() => fake.close());
  const dataKey = new Uint8Array(randomBytes(32));
  const { arn, endpoint, accessKeyId } = fake;
  const lives = [-1, 3_600_000];
  const credentials = () => ({
    accessKeyId,
    secretAccessKey: 'a-secret',
    expiresAt: new Date(Date.now() + (lives.shift() ?? 0)).toISOString(),
  });
  const keys = awsKms({ keyId: arn, region: AWS_REGION, endpoint, credentials });
  await keys.wrap(dataKey, CONTEXT);
  await keys.wrap(dataKey, CONTEXT);
  expect(destroy).toHaveBeenCalledTimes(1);
});
