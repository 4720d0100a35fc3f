import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { CRC32C } from '@google-cloud/storage';
import { afterEach, describe, expect, it } from 'vitest';
import { type GoogleCloudOptions, googleCloudStorage } from '../../src/storage/google-cloud.ts';
import { crc32cText } from '../../src/storage/google-cloud-crc32c.ts';
import type { ObjectInfo, ObjectStorage } from '../../src/storage/storage.ts';
import { DataProtectionError } from '../../src/types/errors.ts';
import { combineCrc32c, crc32c } from '../../src/utils/crc32c.ts';
import { partOf } from '../contract/uploads.ts';
import { type FakeGcs, type FakeGcsOptions, startFakeGcs } from '../harness/fake-gcs.ts';
import type { FakeGcsRequest } from '../harness/fake-gcs-bucket.ts';

const MIB = 1024 * 1024;
const KEY = Buffer.alloc(32, 7).toString('base64');
let fake: FakeGcs;

afterEach(() => fake?.close());

async function open(
  options: Partial<GoogleCloudOptions> = {},
  server: FakeGcsOptions = {},
): Promise<ObjectStorage> {
  fake = await startFakeGcs(server);
  return googleCloudStorage({ bucket: 'test-bucket', endpoint: fake.url, ...options });
}

async function keysOf(storage: ObjectStorage): Promise<string[]> {
  const all: ObjectInfo[] = [];
  for await (const info of storage.list('')) all.push(info);
  return all.map(({ key }) => key);
}

function uploadsOf(storage: ObjectStorage) {
  if (storage.uploads === undefined || storage.retention === undefined) throw new Error('facets');
  return { uploads: storage.uploads, retention: storage.retention };
}

describe('CRC-32C', () => {
  it('is the one of the SDK, in pieces and combined', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    for (const size of [0, 1, 7, 8, 9, 15, 16, 1_000, 65_537]) {
      const bytes = randomBytes(size);
      const reference = new CRC32C();
      reference.update(bytes);
      expect(crc32cText(crc32c(bytes))).toBe(reference.toString());
      for (const at of [0, size >> 1, size]) {
        const [first, second] = [bytes.subarray(0, at), bytes.subarray(at)];
        expect(crc32c(second, crc32c(first))).toBe(crc32c(bytes));
        expect(combineCrc32c(crc32c(first), crc32c(second), second.byteLength)).toBe(crc32c(bytes));
      }
    }
  });
});

describe('what is sent', () => {
  it('names class, lock and key of the provider on every kind of write, and no class for HOT', async () => {
    const storage = await open(
      {
        storageClass: 'COLDLINE',
        serverSideEncryption: { type: 'KMS', keyId: 'projects/p/locations/l/keyRings/r/cryptoKeys/k' },
        objectLock: { mode: 'COMPLIANCE', retainDays: 30 },
      },
      { objectRetention: 'ON' },
    );
    await storage.put('small', [Buffer.from('x')]);
    await storage.put('large', [Buffer.alloc(17 * MIB)]);
    await storage.put('hot', [Buffer.from('x')], { tier: 'HOT' });
    const { uploads } = uploadsOf(storage);
    const handle = await uploads.begin('composed');
    const piece = randomBytes(10);
    await uploads.putPart(handle, partOf(1, piece), piece);
    await uploads.complete(handle, [partOf(1, piece)]);
    for (const [key, storageClass] of [
      ['small', 'COLDLINE'],
      ['large', 'COLDLINE'],
      ['composed', 'COLDLINE'],
      ['hot', 'STANDARD'],
    ] as const) {
      const object = fake.bucket.live.get(key);
      expect(object, key).toMatchObject({
        storageClass,
        kmsKeyName: 'projects/p/locations/l/keyRings/r/cryptoKeys/k',
        retention: { mode: 'Locked' },
      });
      const days = (Date.parse(object?.retention?.retainUntilTime ?? '') - Date.now()) / 86_400_000;
      expect(Math.round(days)).toBe(30);
    }
    const writes = fake.requests.filter(({ method }) => method === 'POST');
    expect(writes.length).toBeGreaterThanOrEqual(6);
    for (const { query } of writes) expect(query.get('ifGenerationMatch')).toBe('0');
    expect([...fake.bucket.live.keys()].sort()).toEqual(['composed', 'hot', 'large', 'small']);
  });

  it('sends the customer key with every call, and says so when it is another', async () => {
    const customer = (key: string): Partial<GoogleCloudOptions> => ({
      serverSideEncryption: { type: 'CUSTOMER_KEY' },
      customerKey: async () => ({ key }),
    });
    const storage = await open(customer(KEY));
    await storage.put('a', [Buffer.from('x')]);
    await storage.put('b', [Buffer.alloc(17 * MIB, 1)]);
    await storage.get('a');
    await storage.stat('a');
    expect(await keysOf(storage)).toEqual(['a', 'b']);
    for (const { headers } of fake.requests) expect(headers['x-goog-encryption-key']).toBe(KEY);
    const other = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      ...customer(Buffer.alloc(32, 8).toString('base64')),
    });
    await expect(other.get('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    const short = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      ...customer('c2hvcnQ='),
    });
    await expect(short.get('a')).rejects.toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
  });
});

describe('credentials', () => {
  it('signs a token with the key of a service account', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const email = 'backup@project.iam.gserviceaccount.com';
    const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
    const storage = await open(
      { credentials: async () => ({ clientEmail: email, privateKey: pem }) },
      { serviceAccount: { email, publicKey } },
    );
    await storage.put('a', [Buffer.from('x')]);
    expect(await keysOf(storage)).toEqual(['a']);
    const foreign = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
    const intruder = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      credentials: async () => ({
        clientEmail: email,
        privateKey: foreign.export({ type: 'pkcs8', format: 'pem' }).toString(),
      }),
    });
    await expect(intruder.get('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
  });

  it('asks for new credentials once when the token is refused', async () => {
    const given = ['EXPIRED', 'FRESH'];
    let asked = 0;
    const storage = await open(
      {
        credentials: async () => {
          asked += 1;
          return { accessToken: given.shift() ?? 'NONE' };
        },
      },
      { tokens: new Set(['FRESH']) },
    );
    await storage.put('a', [Buffer.alloc(17 * MIB)]);
    await storage.stat('a');
    expect(asked).toBe(2);
    const before = fake.requests.length;
    const stranger = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      credentials: async () => ({ accessToken: 'NEVER' }),
    });
    await expect(stranger.stat('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    expect(fake.requests.length - before).toBe(2);
  });

  it('shows no secret in any error', async () => {
    const secrets = ['SECRET-TOKEN', 'SECRET-KEY', KEY, 'SECRET-MESSAGE', 'upload_id'];
    const storage = await open(
      {
        credentials: async () => ({ accessToken: 'SECRET-TOKEN' }),
        serverSideEncryption: { type: 'CUSTOMER_KEY' },
        customerKey: async () => ({ key: KEY }),
      },
      { tokens: new Set(['SECRET-TOKEN']) },
    );
    const errors: unknown[] = [];
    const caught = (error: unknown) => void errors.push(error);
    const acts = ['RESET', { status: 403 }, { status: 500 }, { status: 400, reason: 'invalid' }] as const;
    for (const act of acts) {
      fake.faults.push({ when: () => true, act, times: 1 });
      await storage.put('a', [Buffer.from('x')]).catch(caught);
      fake.faults.push({ when: ({ method }) => method === 'PUT', act, times: 1 });
      await storage.put('b', [Buffer.alloc(17 * MIB)]).catch(caught);
    }
    const broken = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      credentials: async () => ({
        clientEmail: 'a@b.c',
        privateKey: '-----BEGIN PRIVATE KEY-----\nSECRET-KEY\n-----END PRIVATE KEY-----\n',
      }),
    });
    await broken.stat('a').catch(caught);
    expect(errors).toHaveLength(2 * acts.length + 1);
    expect(errors.at(-1)).toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
    const shown = errors.map((error) => inspect(error, { depth: 20, showHidden: true })).join('\n');
    for (const secret of secrets) expect(shown).not.toContain(secret);
  });

  it('that the host cannot give are CREDENTIALS_UNAVAILABLE, without what the host said', async () => {
    const failing = { rejected: async () => Promise.reject(new Error('SECRET-PATH')) };
    const own = new DataProtectionError('The vault is sealed.', 'CREDENTIALS_UNAVAILABLE');
    const serverSideEncryption = { type: 'CUSTOMER_KEY' } as const;
    const options: Partial<GoogleCloudOptions>[] = [
      { credentials: failing.rejected },
      { customerKey: failing.rejected, serverSideEncryption },
    ];
    for (const one of options) {
      const storage = await open(one);
      const error = await storage.stat('a').catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
      expect(inspect(error, { depth: 20, showHidden: true })).not.toContain('SECRET-PATH');
      await fake.close();
    }
    const storage = await open({ credentials: () => Promise.reject(own) });
    await expect(storage.stat('a')).rejects.toBe(own);
  });
});

describe('answers', () => {
  it.each([
    [{ status: 401 }, { code: 'STORAGE_DENIED' }],
    [{ status: 403, reason: 'forbidden' }, { code: 'STORAGE_DENIED' }],
    [{ status: 403, reason: 'rateLimitExceeded' }, { code: 'STORAGE_THROTTLED' }],
    [
      { status: 429, headers: { 'retry-after': '7' } },
      { code: 'STORAGE_THROTTLED', retryAfterMs: 7_000 },
    ],
    [{ status: 503 }, { code: 'STORAGE_THROTTLED', retryAfterMs: undefined }],
    [{ status: 500 }, { code: 'STORAGE_UNAVAILABLE' }],
    [{ status: 302, headers: { location: 'http://elsewhere.test/' } }, { code: 'STORAGE_UNAVAILABLE' }],
    ['RESET', { code: 'STORAGE_UNAVAILABLE' }],
  ] as const)('takes %j for what it is, with one request', async (act, expected) => {
    const storage = await open();
    await storage.put('a', [Buffer.from('x')]);
    for (const call of [
      () => storage.put('b', [Buffer.from('x')]),
      () => storage.get('a'),
      () => storage.stat('a'),
      () => keysOf(storage),
      () => storage.delete('a'),
    ]) {
      const before = fake.requests.length;
      fake.faults.push({ when: () => true, act, times: 1 });
      await expect(call()).rejects.toMatchObject(expected);
      expect(fake.requests.length - before).toBe(1);
    }
  });

  it('names a bucket that is missing', async () => {
    await open();
    const storage = googleCloudStorage({ bucket: 'no-such-bucket', endpoint: fake.url });
    const missing = { code: 'CONFIGURATION_INVALID', message: expect.stringContaining('no-such-bucket') };
    await expect(storage.put('a', [])).rejects.toMatchObject(missing);
    await expect(storage.get('a')).rejects.toMatchObject(missing);
    await expect(storage.stat('a')).rejects.toMatchObject(missing);
    await expect(storage.delete('a')).rejects.toMatchObject(missing);
    await expect(keysOf(storage)).rejects.toMatchObject(missing);
  });

  it.each(['CUT_BODY', 'CHANGE_BODY', 'WRONG_HASH'] as const)('refuses a body with %s', async (act) => {
    const storage = await open();
    await storage.put('a', [randomBytes(100_000)]);
    const code = act === 'CUT_BODY' ? 'STORAGE_UNAVAILABLE' : 'STORAGE_CORRUPT';
    fake.faults.push({ when: ({ query }) => query.get('alt') === 'media', act, times: 2 });
    await expect(storage.get('a')).rejects.toMatchObject({ code });
    const range = { offset: 0, length: 200_000 };
    await expect(storage.get('a', { range })).rejects.toMatchObject({ code });
    expect((await storage.get('a')).byteLength).toBe(100_000);
  });

  it('does not quote an answer that cannot be read', async () => {
    const storage = await open();
    await storage.put('a', [Buffer.from('x')]);
    fake.faults.push({ when: () => true, act: 'CHANGE_BODY', times: 1 });
    const error = await storage.stat('a').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(error).not.toHaveProperty('cause');
    expect(inspect(error, { depth: 20, showHidden: true })).not.toContain('kind');
  });

  it('removes an object whose checksum comes back wrong', async () => {
    const storage = await open();
    fake.faults.push({ when: ({ method }) => method === 'POST', act: 'WRONG_HASH', times: 1 });
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({ code: 'STORAGE_CORRUPT' });
    expect(fake.bucket.live.size).toBe(0);
    const { uploads } = uploadsOf(storage);
    const piece = randomBytes(10);
    const handle = await uploads.begin('b');
    await uploads.putPart(handle, partOf(1, piece), piece);
    fake.faults.push({ when: ({ path }) => path.endsWith('/compose'), act: 'WRONG_HASH', times: 1 });
    await expect(uploads.complete(handle, [partOf(1, piece)])).rejects.toMatchObject({
      code: 'STORAGE_CORRUPT',
    });
    expect(await keysOf(storage)).toEqual([]);
    await uploads.complete(handle, [partOf(1, piece)]);
    expect(await keysOf(storage)).toEqual(['b']);
  });
});

describe('sessions', { timeout: 30_000 }, () => {
  const body = [randomBytes(20 * MIB), randomBytes(20 * MIB + 5)];
  const chunk = (n: number) => () => fake.requests.filter(({ method }) => method === 'PUT').length === n;

  it('goes on where the server kept less than it was sent', async () => {
    const storage = await open();
    fake.faults.push({ when: chunk(1), act: 'KEEP_HALF', times: 1 });
    await storage.put('a', body);
    expect(Buffer.compare(await storage.get('a'), Buffer.concat(body))).toBe(0);
  });

  it.each(['RESET', { status: 500 }, { status: 404 }, { status: 410 }] as const)(
    'fails and leaves nothing when it breaks between chunks: %j',
    async (act) => {
      const storage = await open();
      fake.faults.push({ when: chunk(2), act, times: 1 });
      await expect(storage.put('a', body)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(fake.bucket.live.size).toBe(0);
      expect(fake.bucket.sessions.size).toBe(0);
    },
  );

  it('is cancelled when the put is aborted in the middle', async () => {
    const storage = await open();
    const controller = new AbortController();
    const reason = new Error('enough');
    fake.faults.push({
      when: () => {
        if (chunk(2)()) controller.abort(reason);
        return false;
      },
      act: 'RESET',
      times: 1,
    });
    const [outcome] = await Promise.allSettled([storage.put('a', body, { signal: controller.signal })]);
    expect(outcome).toMatchObject({ status: 'rejected', reason });
    expect(await keysOf(storage)).toEqual([]);
    expect(fake.bucket.sessions.size).toBe(0);
  });

  it('waits for the answer that an aborted put still gets, but not for ever', async () => {
    const storage = await open();
    const controller = new AbortController();
    fake.faults.push({
      when: () => {
        controller.abort(new Error('enough'));
        return true;
      },
      act: 'HANG',
      times: 1,
    });
    await expect(storage.put('a', [Buffer.from('x')], { signal: controller.signal })).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    const late = new AbortController();
    fake.faults.push({
      when: () => {
        late.abort(new Error('enough'));
        return false;
      },
      act: 'HANG',
      times: 1,
    });
    await storage.put('b', [Buffer.from('x')], { signal: late.signal });
    expect(await keysOf(storage)).toEqual(['b']);
  });

  it('has the object whole when only the answer was lost', async () => {
    const storage = await open();
    fake.faults.push({ when: chunk(3), act: 'RESET_AFTER', times: 1 });
    await expect(storage.put('a', body)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect((await storage.stat('a'))?.size).toBe(40 * MIB + 5);
  });
});

describe('versions, retention and parts', () => {
  it('removes every version', async () => {
    const storage = await open({}, { versioning: 'ON' });
    await storage.put('a', [Buffer.from('1')]);
    await fetch(`${fake.url}/storage/v1/b/test-bucket/o/a`, { method: 'DELETE' });
    await storage.put('a', [Buffer.from('2')]);
    await storage.put('ab', [Buffer.from('3')]);
    expect(fake.bucket.noncurrent).toHaveLength(1);
    await storage.delete('a');
    expect(fake.bucket.noncurrent).toHaveLength(0);
    expect([...fake.bucket.live.keys()]).toEqual(['ab']);
  });

  it('lengthens locks, never shortens them, and tells of holds', async () => {
    const storage = await open(
      { objectLock: { mode: 'GOVERNANCE', retainDays: 10 } },
      { objectRetention: 'ON' },
    );
    const { retention } = uploadsOf(storage);
    await storage.put('a', [Buffer.from('1')]);
    const before = await retention.state('a');
    expect(before.legalHold).toBe(false);
    expect(before.versionId).toBe(String(fake.bucket.live.get('a')?.generation));
    await retention.retain('a', new Date(Date.now() + 86_400_000));
    expect(await retention.state('a')).toEqual(before);
    const later = new Date(Date.now() + 20 * 86_400_000);
    await retention.retain('a', later);
    expect((await retention.state('a')).retainUntil).toEqual(later);
    await expect(storage.delete('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    await retention.hold('a', 'ON');
    expect((await retention.state('a')).legalHold).toBe(true);
    await retention.hold('a', 'OFF');
    expect((await retention.state('a')).legalHold).toBe(false);
    expect(await keysOf(storage)).toEqual(['a']);
    await expect(retention.state('none')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
  });

  it('keeps nothing that the bucket did not lock', async () => {
    const storage = await open(
      { objectLock: { mode: 'GOVERNANCE', retainDays: 10 } },
      { objectRetention: 'ON' },
    );
    const unlocked = { code: 'CONFIGURATION_INVALID', message: expect.stringContaining('retention') };
    fake.faults.push({ when: ({ method }) => method === 'POST', act: 'NO_LOCK', times: 1 });
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject(unlocked);
    const { uploads } = uploadsOf(storage);
    const piece = randomBytes(10);
    const handle = await uploads.begin('b');
    await uploads.putPart(handle, partOf(1, piece), piece);
    fake.faults.push({ when: ({ path }) => path.endsWith('/compose'), act: 'NO_LOCK', times: 1 });
    await expect(uploads.complete(handle, [partOf(1, piece)])).rejects.toMatchObject(unlocked);
    expect(await keysOf(storage)).toEqual([]);
  });

  it('composes more parts than one call takes, and leaves no part', async () => {
    const storage = await open();
    const { uploads } = uploadsOf(storage);
    const pieces = Array.from({ length: 70 }, (_, n) => randomBytes(n + 1));
    const handle = await uploads.begin('tree');
    const parts = pieces.map((piece, index) => partOf(index + 1, piece));
    await Promise.all(pieces.map((piece, n) => uploads.putPart(handle, partOf(n + 1, piece), piece)));
    await uploads.complete(handle, parts);
    expect(Buffer.compare(await storage.get('tree'), Buffer.concat(pieces))).toBe(0);
    expect(fake.bucket.live.get('tree')?.componentCount).toBe(70);
    expect([...fake.bucket.live.keys()]).toEqual(['tree']);
  });

  it('composes parts of the class of the object, by a storage that was opened with another one too', async () => {
    const storage = await open(
      { storageClass: 'ARCHIVE', objectLock: { mode: 'GOVERNANCE', retainDays: 1 } },
      { objectRetention: 'ON' },
    );
    const later = googleCloudStorage({
      bucket: 'test-bucket',
      endpoint: fake.url,
      storageClass: 'NEARLINE',
      objectLock: { mode: 'GOVERNANCE', retainDays: 1 },
    });
    for (const [key, tier, storageClass] of [
      ['archived', undefined, 'ARCHIVE'],
      ['hot', 'HOT', 'STANDARD'],
    ] as const) {
      const { handle, parts } = await stored33(storage, key, tier);
      for (const object of fake.bucket.live.values()) expect(object.retention?.mode).toBe(undefined);
      await uploadsOf(later).uploads.complete(handle, parts);
      expect(fake.bucket.live.get(key)).toMatchObject({ storageClass, retention: { mode: 'Unlocked' } });
      fake.bucket.live.delete(key);
      expect([...fake.bucket.live.keys()]).toEqual([]);
    }
  });

  it('joins groups at the same time, and an abort does not wait for them', async () => {
    const storage = await open();
    const { handle, parts } = await stored33(storage, 'tree');
    fake.faults.push({ when: ({ path }) => path.includes('joined-'), act: 'HANG', times: 1 });
    const controller = new AbortController();
    const completion = uploadsOf(storage).uploads.complete(handle, parts, { signal: controller.signal });
    completion.catch(() => undefined);
    await expect.poll(joined, { timeout: 10_000 }).toHaveLength(1);
    const reason = new Error('enough');
    controller.abort(reason);
    await expect(completion).rejects.toBe(reason);
  });

  it('takes at the second attempt what the first has joined, unless it is damaged', async () => {
    const storage = await open();
    const { uploads } = uploadsOf(storage);
    const { handle, parts } = await stored33(storage, 'tree');
    fake.faults.push({ when: ({ path }) => path.endsWith('tree/compose'), act: { status: 503 }, times: 2 });
    await expect(uploads.complete(handle, parts)).rejects.toMatchObject({ code: 'STORAGE_THROTTLED' });
    const made = joined();
    expect(made).toHaveLength(2);
    await expect(uploads.complete(handle, parts)).rejects.toMatchObject({ code: 'STORAGE_THROTTLED' });
    expect(joined()).toEqual(made);
    fake.faults.push({
      when: ({ method, path }) => method === 'GET' && path.includes('joined-'),
      act: 'WRONG_HASH',
      times: 1,
    });
    await expect(uploads.complete(handle, parts)).rejects.toMatchObject({ code: 'STORAGE_CORRUPT' });
    expect(joined()).toHaveLength(1);
    await uploads.complete(handle, parts);
    expect([...fake.bucket.live.keys()]).toEqual(['tree']);
  });

  it('stores a part again where the bucket forbids to remove the earlier one', async () => {
    const storage = await open();
    const { uploads } = uploadsOf(storage);
    const [first, second] = [randomBytes(10), randomBytes(10)];
    const handle = await uploads.begin('b');
    await uploads.putPart(handle, partOf(1, first), first);
    fake.faults.push({ when: isDelete, act: { status: 403, reason: 'retentionPolicyNotMet' }, times: 9 });
    await uploads.putPart(handle, partOf(1, second), second);
    await uploads.complete(handle, [partOf(1, second)]);
    expect(Buffer.from(await storage.get('b')).equals(second)).toBe(true);
  });

  it('tells of the fault, and of the object that may have stayed, where it cannot be removed', async () => {
    const storage = await open();
    const { uploads } = uploadsOf(storage);
    const mayStay = { code: 'STORAGE_CORRUPT', message: expect.stringContaining('may have stayed') };
    fake.faults.push({ when: isDelete, act: { status: 403 }, times: 1 });
    fake.faults.push({ when: isDelete, act: 'HANG', times: 1 });
    const damage = () => fake.faults.push({ when: isPost, act: 'WRONG_HASH', times: 1 });
    damage();
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject(mayStay);
    const piece = randomBytes(10);
    const handle = await uploads.begin('b');
    await uploads.putPart(handle, partOf(1, piece), piece);
    damage();
    await expect(uploads.complete(handle, [partOf(1, piece)])).rejects.toMatchObject(mayStay);
  }, 30_000);

  it('tells of the lock that is missing, and of the object that may have stayed', async () => {
    const storage = await open(
      { objectLock: { mode: 'GOVERNANCE', retainDays: 10 } },
      { objectRetention: 'ON' },
    );
    fake.faults.push({ when: isPost, act: 'NO_LOCK', times: 1 });
    fake.faults.push({ when: isDelete, act: { status: 403 }, times: 1 });
    await expect(storage.put('a', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'CONFIGURATION_INVALID',
      message: expect.stringContaining('may have stayed'),
    });
  });
});

const isDelete = ({ method }: FakeGcsRequest): boolean => method === 'DELETE';
const isPost = ({ method }: FakeGcsRequest): boolean => method === 'POST';

/** An upload whose parts need two levels of composing. */
async function stored33(storage: ObjectStorage, key: string, tier?: 'HOT') {
  const { uploads } = uploadsOf(storage);
  const handle = await uploads.begin(key, tier === undefined ? {} : { tier });
  const pieces = Array.from({ length: 33 }, (_, n) => randomBytes(n + 1));
  await Promise.all(pieces.map((piece, n) => uploads.putPart(handle, partOf(n + 1, piece), piece)));
  return { handle, parts: pieces.map((piece, n) => partOf(n + 1, piece)) };
}

function joined(): string[] {
  return [...fake.bucket.live.values()]
    .filter(({ name }) => name.includes('/joined-'))
    .map(({ name, generation }) => `${name} ${generation}`);
}

describe('options', () => {
  it.each([
    { bucket: '' },
    { bucket: 'gs://bucket' },
    { bucket: 'bucket', endpoint: 'file:///tmp' },
    { bucket: 'bucket', serverSideEncryption: { type: 'KMS' } },
    { bucket: 'bucket', serverSideEncryption: { type: 'CUSTOMER_KEY' } },
  ] as const)('refuses %j', (options) => {
    expect(() => googleCloudStorage(options)).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
    );
  });
});
