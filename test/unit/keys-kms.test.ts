import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { AuthenticationError, AuthenticationRequiredError } from '@azure/identity';
import { RestError } from '@azure/storage-blob';
import { afterEach, describe, expect, it } from 'vitest';
import { awsKms } from '../../src/keys/aws-kms.ts';
import { azureKeyVault } from '../../src/keys/azure-key-vault.ts';
import { googleKms, judge } from '../../src/keys/google-kms.ts';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { kmsSession } from '../../src/keys/kms-session.ts';
import { crc32c } from '../../src/utils/crc32c.ts';
import { AWS_REGION, fakeAwsKms } from '../harness/fake-aws-kms.ts';
import { fakeGoogleKms, GOOGLE_KEY } from '../harness/fake-google-kms.ts';
import { fakeKeyVault } from '../harness/fake-key-vault.ts';

const CONTEXT = { organizationId: 'o', configurationId: 'c', snapshotId: 's' };
const MAC = { organizationId: 'o', configurationId: 'c', purpose: 'sidecar' };
const PASSING = { code: 'KEY_UNAVAILABLE', retryable: true };
const REFUSED = { code: 'KEY_UNAVAILABLE', retryable: false };
const SECRET = 'a-secret-that-nobody-may-see';
const dataKey = new Uint8Array(randomBytes(32));

interface Service {
  readonly keys: KeyProvider;
  readonly token: string;
  disable(keyId: string): void;
  fail(status: number): void;
  close(): Promise<void>;
}

const services: Record<string, () => Promise<Service>> = {
  async aws() {
    const fake = await fakeAwsKms();
    const { arn, endpoint, accessKeyId } = fake;
    const credentials = () => ({ accessKeyId, secretAccessKey: SECRET });
    const keys = awsKms({ keyId: arn, region: AWS_REGION, endpoint, credentials });
    return { ...fake, keys, token: SECRET };
  },
  async google() {
    const fake = await fakeGoogleKms();
    const credentials = () => ({ accessToken: fake.accessToken });
    const keys = googleKms({ keyName: GOOGLE_KEY, endpoint: fake.endpoint, credentials });
    return { ...fake, keys, token: fake.accessToken };
  },
  async azure() {
    const fake = await fakeKeyVault();
    const { vaultUrl, keyName, token } = fake;
    const getToken = async () => ({ token, expiresOnTimestamp: Date.now() + 3_600_000 });
    const clientOptions = { allowInsecureConnection: true, disableChallengeResourceVerification: true };
    const keys = azureKeyVault({ vaultUrl, keyName, tokenCredential: { getToken }, clientOptions });
    return { ...fake, keys };
  },
};

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

describe.each(Object.entries(services))('failures of %s', (_, start) => {
  async function started() {
    const service = await start();
    closing.push(() => service.close());
    return { ...service, wrapped: await service.keys.wrap(dataKey, CONTEXT) };
  }

  it('refuses a disabled key', async () => {
    const { keys, wrapped, disable } = await started();
    disable(wrapped.keyId);
    await expect(keys.unwrap(wrapped, CONTEXT)).rejects.toMatchObject(REFUSED);
  });

  it.each([429, 500, 503])('may be repeated after %i', async (status) => {
    const { keys, wrapped, fail } = await started();
    fail(status);
    await expect(keys.unwrap(wrapped, CONTEXT)).rejects.toMatchObject(PASSING);
    await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject(PASSING);
  });

  it('does not go on after 403, and shows no token', async () => {
    const { keys, wrapped, token, fail } = await started();
    fail(403);
    const error = await keys.unwrap(wrapped, CONTEXT).catch((e: unknown) => e);
    expect(error).toMatchObject(REFUSED);
    expect(inspect([error, keys], { depth: 20, showHidden: true, getters: true })).not.toContain(token);
  });

  it('may be repeated when the connection is refused', async () => {
    const service = await start();
    const wrapped = await service.keys.wrap(dataKey, CONTEXT);
    await service.close();
    await expect(service.keys.unwrap(wrapped, CONTEXT)).rejects.toMatchObject(PASSING);
  });
});

it('names the option without which there is no MAC key', async () => {
  const aws = awsKms({ keyId: 'alias/backup', region: AWS_REGION });
  const google = googleKms({ keyName: GOOGLE_KEY });
  const code = 'CONFIGURATION_INVALID';
  await expect(aws.macKey(MAC)).rejects.toMatchObject({ code, message: expect.stringContaining('macKeyId') });
  await expect(google.macKey(MAC)).rejects.toMatchObject({
    code,
    message: expect.stringContaining('macKeyVersion'),
  });
});

it('AWS: opens nothing with a key of another account, and asks nobody', async () => {
  const fake = await fakeAwsKms();
  closing.push(() => fake.close());
  const { arn, endpoint, accessKeyId } = fake;
  const credentials = () => ({ accessKeyId, secretAccessKey: SECRET });
  const keys = awsKms({ keyId: arn, region: AWS_REGION, endpoint, credentials });
  const wrapped = await keys.wrap(dataKey, CONTEXT);
  const before = fake.seen.length;
  const keyId = wrapped.keyId.replace('111122223333', '999999999999');
  await expect(keys.unwrap({ ...wrapped, keyId }, CONTEXT)).rejects.toMatchObject(REFUSED);
  expect(fake.seen.length).toBe(before);
});

it('AWS: asks the host again when the credential is refused, once', async () => {
  const fake = await fakeAwsKms();
  closing.push(() => fake.close());
  const { arn, endpoint } = fake;
  const ids = ['AKIAOLD', fake.accessKeyId];
  const credentials = () => ({ accessKeyId: ids.shift() ?? 'AKIANONE', secretAccessKey: SECRET });
  const keys = awsKms({ keyId: arn, region: AWS_REGION, endpoint, credentials });
  const wrapped = await keys.wrap(dataKey, CONTEXT);
  expect(fake.seen).toEqual(['AKIAOLD', fake.accessKeyId]);
  expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
  const lost = awsKms({ keyId: arn, region: AWS_REGION, endpoint, credentials });
  await expect(lost.wrap(dataKey, CONTEXT)).rejects.toMatchObject(REFUSED);
  expect(fake.seen.slice(-2)).toEqual(['AKIANONE', 'AKIANONE']);
});

it('names the field that a credential lacks', async () => {
  const keys = awsKms({ keyId: 'k', region: AWS_REGION, credentials: () => ({ accessKeyId: 'a' }) });
  await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject({
    code: 'CREDENTIALS_UNAVAILABLE',
    message: expect.stringContaining('secretAccessKey'),
  });
});

it('Google: refuses bytes that changed on the way', async () => {
  const fake = await fakeGoogleKms();
  closing.push(() => fake.close());
  const credentials = () => ({ accessToken: fake.accessToken });
  const keys = googleKms({ keyName: GOOGLE_KEY, endpoint: fake.endpoint, credentials });
  const wrapped = await keys.wrap(dataKey, CONTEXT);
  fake.corrupt();
  await expect(keys.unwrap(wrapped, CONTEXT)).rejects.toMatchObject(PASSING);
  await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject(PASSING);
});

it('Google: a version that is never generated ends the rotation, and is asked for no more', async () => {
  const fake = await fakeGoogleKms();
  closing.push(() => fake.close());
  fake.stall();
  const credentials = () => ({ accessToken: fake.accessToken });
  const keys = googleKms({ keyName: GOOGLE_KEY, endpoint: fake.endpoint, credentials });
  await expect(keys.rotate()).rejects.toMatchObject(PASSING);
  // One poll may have been on its way.
  await sleep(300);
  const polls = fake.polls();
  expect(polls).toBeGreaterThan(0);
  await sleep(1_000);
  expect(fake.polls()).toBe(polls);
  await expect(keys.currentKeyId()).resolves.toBe(`${GOOGLE_KEY}/cryptoKeyVersions/1`);
}, 30_000);

it('Google: a refused grant is a refused credential', () => {
  const refused = new Error('invalid_grant: Invalid JWT Signature.');
  const wrapped = Object.assign(new Error('3 INVALID_ARGUMENT', { cause: refused }), { code: 3 });
  for (const error of [refused, wrapped]) expect(judge(error).kind).toBe('CREDENTIAL');
  expect(judge(Object.assign(new Error('invalid'), { code: 3 })).kind).toBe('REFUSED');
});

it.each([
  ['a refused secret', new AuthenticationRequiredError({ scopes: [], message: 'invalid_client' }), 'ANEW'],
  ['a refused request', new AuthenticationError(401, { error: 'invalid_client' }), 'ANEW'],
  ['a busy token service', new AuthenticationError(503, { error: 'unavailable' }), 'LATER'],
  [
    'a token service that is away',
    new AuthenticationRequiredError({ scopes: [], message: 'x', cause: new RestError('ENOTFOUND') }),
    'LATER',
  ],
] as const)('Azure: asks again for a token after %s', async (_, failure, when) => {
  const fake = await fakeKeyVault();
  closing.push(() => fake.close());
  const { vaultUrl, keyName, token } = fake;
  let broken = false;
  const getToken = async () => {
    if (broken) {
      broken = false;
      throw failure;
    }
    // Too short for a second call.
    return { token, expiresOnTimestamp: Date.now() };
  };
  const clientOptions = { allowInsecureConnection: true, disableChallengeResourceVerification: true };
  const keys = azureKeyVault({ vaultUrl, keyName, tokenCredential: { getToken }, clientOptions });
  const keyId = await keys.currentKeyId();
  broken = true;
  if (when === 'LATER') await expect(keys.currentKeyId()).rejects.toMatchObject(PASSING);
  await expect(keys.currentKeyId()).resolves.toBe(keyId);
  expect(broken).toBe(false);
});

it('closes a client only when nobody calls it any more', async () => {
  const closed: string[] = [];
  const names = ['first', 'second'];
  const session = kmsSession({
    description: 'a service',
    open: async () => ({ client: names.shift() ?? 'none' }),
    judge: () => ({ kind: 'CREDENTIAL', code: 'x' }),
    close: (client) => void closed.push(client),
  });
  const slow = Promise.withResolvers<void>();
  const slowCall = session.run('Waiting', async (client) => {
    await slow.promise;
    return client;
  });
  const refused = session.run('Calling', async (client) => {
    if (client === 'first') throw new Error('refused');
    return client;
  });
  await expect(refused).resolves.toBe('second');
  expect(closed).toEqual([]);
  slow.resolve();
  await expect(slowCall).resolves.toBe('first');
  expect(closed).toEqual(['first']);
});

it('has the checksum of RFC 3720', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
});

it('ends a call that hangs', async () => {
  const session = kmsSession({
    description: 'a service',
    open: async () => ({ client: 'client' }),
    judge: () => ({ kind: 'REFUSED', code: 'x' }),
    timeoutMs: 20,
  });
  let aborted: AbortSignal | undefined;
  const call = session.run('Waiting', (_, signal) => {
    aborted = signal;
    return new Promise(() => {});
  });
  await expect(call).rejects.toMatchObject(PASSING);
  expect(aborted?.aborted).toBe(true);
});
