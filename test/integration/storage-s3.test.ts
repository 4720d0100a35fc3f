import { randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { type S3StorageOptions, s3Storage } from '../../src/storage/s3.ts';
import { s3Error } from '../../src/storage/s3-errors.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { Credential } from '../../src/types/credentials.ts';
import { type FakeS3, startFakeS3 } from '../harness/fake-s3.ts';
import type { FakeS3Options } from '../harness/fake-s3-wire.ts';

const MIB = 1024 * 1024;
const closing: (() => Promise<void> | undefined)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function start(fakeOptions: FakeS3Options = {}, options: Partial<S3StorageOptions> = {}) {
  const fake = await startFakeS3(fakeOptions);
  closing.push(() => fake.close());
  return { fake, storage: open(fake, options) };
}

function open(fake: FakeS3, options: Partial<S3StorageOptions> = {}): ObjectStorage {
  const storage = s3Storage({
    bucket: fake.bucketName,
    endpoint: fake.endpoint,
    region: fake.region,
    credentials: async () => ({ ...fake.keys }),
    ...options,
  });
  closing.push(() => storage.close?.());
  return storage;
}

function operations(fake: FakeS3): string[] {
  return fake.requests.map(({ operation }) => operation);
}

async function keysOf(storage: ObjectStorage): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('')) keys.push(key);
  return keys.sort();
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.fail('It resolved.'),
    (error: unknown) => error,
  );
}

describe('create-only', () => {
  it.each([1, 17 * MIB])('refuses a store that ignores the condition (%i bytes)', async (size) => {
    const { fake, storage } = await start({ ignoreIfNoneMatch: 'BOTH', versioned: true });
    await expect(storage.put('a/b', [Buffer.alloc(size)])).rejects.toMatchObject({
      code: 'CONFIGURATION_INVALID',
    });
    expect(fake.bucket.objects.size).toBe(0);
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('refuses large objects where only whole puts know the condition', async () => {
    const { fake, storage } = await start({ ignoreIfNoneMatch: 'MULTIPART' });
    await storage.put('small', [Buffer.from('x')]);
    const refusal = { code: 'CONFIGURATION_INVALID' };
    await expect(storage.put('large', [Buffer.alloc(17 * MIB)])).rejects.toMatchObject(refusal);
    expect([...fake.bucket.objects.keys()]).toEqual(['small']);
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('asks once, beside the first object, and leaves nothing', async () => {
    const { fake, storage } = await start({ versioned: true });
    await Promise.all(['p/a', 'p/b', 'q/c'].map((key) => storage.put(key, [])));
    const probes = fake.requests.filter(({ key }) => key.includes('.create-only-probe'));
    expect(new Set(probes.map(({ key }) => key))).toEqual(new Set(['p/.create-only-probe']));
    expect(probes.map(({ operation }) => operation)).toEqual(['PutObject', 'PutObject', 'DeleteObject']);
    expect([...fake.bucket.objects.keys()].sort()).toEqual(['p/a', 'p/b', 'q/c']);
  });

  it.each([1, 17 * MIB])('stores where the bucket locks every object (%i bytes)', async (size) => {
    const { fake, storage } = await start({
      lockEnabled: true,
      defaultRetention: { mode: 'GOVERNANCE', days: 1 },
    });
    await storage.put('p/a', [Buffer.alloc(size)]);
    expect(fake.bucket.current('p/a')?.lockMode).toBe('GOVERNANCE');
    // The lock keeps the probe's object; another process finds it, and nobody sees it.
    await open(fake).put('p/b', [Buffer.alloc(size)]);
    expect(await keysOf(storage)).toEqual(['p/a', 'p/b']);
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('agrees with probes of other processes at the same time', async () => {
    const { fake } = await start({ versioned: true });
    const stores = Array.from({ length: 10 }, () => open(fake));
    await Promise.all(stores.map((store, n) => store.put(`same/${n}`, [Buffer.alloc(n % 2 ? 1 : 17 * MIB)])));
    expect(fake.bucket.objects.size).toBe(10);
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('asks again where the probe failed, and finds what a crash left', async () => {
    const { fake, storage } = await start();
    fake.fault = () => ({ status: 500 });
    await expect(storage.put('a', [])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    fake.fault = ({ operation }) =>
      operation === 'DeleteObject' ? { status: 403, code: 'AccessDenied' } : undefined;
    await storage.put('a', []);
    expect([...fake.bucket.objects.keys()].sort()).toEqual(['.create-only-probe', 'a']);
    expect(await keysOf(storage)).toEqual(['a']);
    await open(fake).put('b', []);
    expect(await keysOf(storage)).toEqual(['a', 'b']);
  });

  it.each([
    ['PreconditionFailed', 'STORAGE_ALREADY_EXISTS', false],
    ['ConditionalRequestConflict', 'STORAGE_UNAVAILABLE', true],
  ])('knows %s also where it comes after a 200', async (name, code, retryable) => {
    const { fake, storage } = await start();
    const refused = { status: 200, code: name };
    fake.fault = ({ operation }) => (operation === 'CompleteMultipartUpload' ? refused : undefined);
    await expect(storage.put('large', [Buffer.alloc(17 * MIB)])).rejects.toMatchObject({
      code,
      retryable,
    });
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('lets one of racing large writers win, and leaves no uploads', async () => {
    const { fake, storage } = await start();
    const bodies = [1, 2, 3].map((fill) => Buffer.alloc(17 * MIB, fill));
    const outcomes = await Promise.allSettled(bodies.map((body) => storage.put('race', [body])));
    const winner = bodies.filter((_, n) => outcomes[n]?.status === 'fulfilled');
    expect(winner).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') {
        expect(outcome.reason).toMatchObject({ code: 'STORAGE_ALREADY_EXISTS', retryable: false });
      }
    }
    expect(Buffer.compare(await storage.get('race'), winner[0] ?? Buffer.alloc(0))).toBe(0);
    expect(fake.bucket.uploads.size).toBe(0);
  });

  it('calls a conflict of conditional writes retryable', async () => {
    const { fake, storage } = await start();
    await storage.put('first', []);
    fake.fault = () => ({ status: 409, code: 'ConditionalRequestConflict' });
    await expect(storage.put('x', [])).rejects.toMatchObject({ retryable: true });
  });
});

describe('large objects', () => {
  it('leaves nothing when it is aborted in the middle of its parts', async () => {
    const { fake, storage } = await start();
    const controller = new AbortController();
    const reason = new Error('enough');
    fake.fault = ({ operation, query }) => {
      if (operation === 'UploadPart' && query.get('partNumber') === '3') controller.abort(reason);
      return undefined;
    };
    const body = [Buffer.alloc(40 * MIB)];
    await expect(storage.put('aborted', body, { signal: controller.signal })).rejects.toBe(reason);
    expect(operations(fake)).toContain('AbortMultipartUpload');
    expect(operations(fake).filter((name) => name === 'CompleteMultipartUpload')).toHaveLength(2);
    expect(fake.bucket.uploads.size).toBe(0);
    expect(fake.bucket.objects.size).toBe(0);
  });

  it('leaves nothing when a part fails', async () => {
    const { fake, storage } = await start();
    fake.fault = ({ operation, query }) =>
      operation === 'UploadPart' && query.get('partNumber') === '2' ? { status: 507 } : undefined;
    await expect(storage.put('full', [Buffer.alloc(30 * MIB)])).rejects.toMatchObject({
      code: 'STORAGE_FULL',
    });
    expect(fake.bucket.uploads.size).toBe(0);
    expect(fake.bucket.objects.size).toBe(0);
  });

  it('stores pieces that do not fit the parts', async () => {
    const { storage } = await start();
    const pieces = [5 * MIB, 1, 9 * MIB, 0, 7 * MIB + 3].map((size) => randomBytes(size));
    await storage.put('pieces', pieces);
    expect(Buffer.compare(await storage.get('pieces'), Buffer.concat(pieces))).toBe(0);
  });

  it('resolves when it is aborted after the store has all bytes', async () => {
    const { fake, storage } = await start();
    await storage.put('first', []);
    const controller = new AbortController();
    fake.fault = () => {
      controller.abort(new Error('too late'));
      return undefined;
    };
    await storage.put('late', [Buffer.alloc(MIB)], { signal: controller.signal });
    expect(fake.bucket.objects.has('late')).toBe(true);
  });
});

describe('what is on the wire', () => {
  const KEY = randomBytes(32).toString('base64');

  it('sends class, encryption and lock with objects, and no class with hot ones', async () => {
    const { fake, storage } = await start(
      { lockEnabled: true },
      {
        storageClass: 'STANDARD_IA',
        serverSideEncryption: { type: 'KMS', keyId: 'key-1' },
        objectLock: { mode: 'COMPLIANCE', retainDays: 7 },
      },
    );
    await storage.put('small', [Buffer.from('x')]);
    await storage.put('large', [Buffer.alloc(17 * MIB)]);
    await storage.put('hot', [Buffer.from('x')], { tier: 'HOT' });
    await storage.uploads?.begin('resumable');
    const begun = fake.requests.filter(({ operation }) =>
      /^(PutObject|CreateMultipartUpload)$/.test(operation),
    );
    for (const { key, headers } of begun) {
      expect(headers).toMatchObject({
        'x-amz-server-side-encryption': 'aws:kms',
        'x-amz-server-side-encryption-aws-kms-key-id': 'key-1',
      });
      const isProbe = key.includes('.create-only-probe');
      expect(headers['x-amz-object-lock-mode']).toBe(isProbe ? undefined : 'COMPLIANCE');
      expect(headers['x-amz-storage-class']).toBe(isProbe || key === 'hot' ? undefined : 'STANDARD_IA');
    }
    expect(begun.map(({ key }) => key)).toEqual(
      expect.arrayContaining(['small', 'large', 'hot', 'resumable']),
    );
    for (const key of ['small', 'large']) {
      const days = ((fake.bucket.current(key)?.lockUntil?.getTime() ?? 0) - Date.now()) / 86_400_000;
      expect(days).toBeGreaterThan(6.9);
      expect(days).toBeLessThan(7.1);
      await expect(storage.delete(key)).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
      expect(await storage.stat(key)).toBeDefined();
    }
  });

  it('sends AES256 for the provider’s own key', async () => {
    const { fake, storage } = await start({}, { serverSideEncryption: { type: 'PROVIDER_KEY' } });
    await storage.put('a', []);
    expect(fake.bucket.current('a')?.encryption).toBe('AES256');
  });

  it('signs and checks the bytes of every body', async () => {
    const { fake, storage } = await start();
    await storage.put('small', [Buffer.from('x')]);
    await storage.put('large', [Buffer.alloc(17 * MIB)]);
    const bodies = fake.requests.filter(
      ({ operation, key }) => /^(PutObject|UploadPart)$/.test(operation) && !key.startsWith('.'),
    );
    expect(bodies).toHaveLength(4);
    for (const { headers } of bodies) {
      expect(headers['x-amz-content-sha256']).toMatch(/^[0-9a-f]{64}$/);
      expect(headers['x-amz-checksum-sha256']).toMatch(/^[\w+/]{43}=$/);
    }
  });

  it('cannot read with another customer key', async () => {
    const encryption = { type: 'CUSTOMER_KEY' } as const;
    const { fake, storage } = await start(
      {},
      { serverSideEncryption: encryption, customerKey: async () => ({ key: KEY }) },
    );
    await storage.put('a', [Buffer.from('x')]);
    const other = randomBytes(32).toString('base64');
    const stranger = open(fake, {
      serverSideEncryption: encryption,
      customerKey: async () => ({ key: other }),
    });
    await expect(stranger.get('a')).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    const bad = open(fake, {
      serverSideEncryption: encryption,
      customerKey: async () => ({ key: 'c2hvcnQ=' }),
    });
    await expect(bad.get('a')).rejects.toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
  });
});

describe('damaged answers', () => {
  it.each([
    ['CUT_ANSWER', 'STORAGE_UNAVAILABLE'],
    ['SHORT_ANSWER', 'STORAGE_CORRUPT'],
    ['ALTERED_ANSWER', 'STORAGE_CORRUPT'],
    ['CUT_BEFORE', 'STORAGE_UNAVAILABLE'],
  ] as const)('never gives the bytes of %s', async (fault, code) => {
    const { fake, storage } = await start();
    await storage.put('a', [randomBytes(3 * MIB)]);
    fake.fault = ({ operation }) => (operation === 'GetObject' ? fault : undefined);
    await expect(storage.get('a')).rejects.toMatchObject({ code, key: 'a' });
  });

  it.each(['CUT_ANSWER', 'SHORT_ANSWER'] as const)('never gives a short range of %s', async (fault) => {
    const { fake, storage } = await start();
    await storage.put('a', [randomBytes(3 * MIB)]);
    fake.fault = ({ operation }) => (operation === 'GetObject' ? fault : undefined);
    const range = { offset: 5, length: MIB };
    await expect(storage.get('a', { range })).rejects.toMatchObject({ name: 'StorageError' });
  });

  it('says that it does not know when the answer to a put is lost', async () => {
    const { fake, storage } = await start();
    await storage.put('first', []);
    fake.fault = ({ operation }) => (operation === 'PutObject' ? 'LOSE_ANSWER' : undefined);
    await expect(storage.put('lost', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    expect(fake.bucket.objects.has('lost')).toBe(true);
  });
});

describe('errors', () => {
  it.each([
    [403, 'AccessDenied', 'STORAGE_DENIED'],
    [403, 'SignatureDoesNotMatch', 'STORAGE_DENIED'],
    [404, 'NoSuchBucket', 'CONFIGURATION_INVALID'],
    [404, 'NoSuchKey', 'STORAGE_NOT_FOUND'],
    [400, 'InvalidStorageClass', 'CONFIGURATION_INVALID'],
    [400, 'KMS.DisabledException', 'CONFIGURATION_INVALID'],
    [403, 'InvalidObjectState', 'OBJECT_ARCHIVED'],
    [403, 'QuotaExceeded', 'STORAGE_FULL'],
    [507, 'InsufficientStorage', 'STORAGE_FULL'],
    [400, 'BadDigest', 'STORAGE_CORRUPT'],
    [503, 'SlowDown', 'STORAGE_THROTTLED'],
    [429, 'TooManyRequests', 'STORAGE_THROTTLED'],
    [503, 'ServiceUnavailable', 'STORAGE_UNAVAILABLE'],
    [503, 'UnheardOf', 'STORAGE_THROTTLED'],
    [400, 'RequestTimeout', 'STORAGE_UNAVAILABLE'],
    [408, 'UnheardOf', 'STORAGE_UNAVAILABLE'],
    [409, 'OperationAborted', 'STORAGE_UNAVAILABLE'],
    [409, 'ConditionalRequestConflict', 'STORAGE_UNAVAILABLE'],
    [400, 'InvalidRequest', 'CONFIGURATION_INVALID'],
    [400, 'UnheardOf', 'CONFIGURATION_INVALID'],
    [405, 'MethodNotAllowed', 'CONFIGURATION_INVALID'],
    [409, 'InvalidBucketState', 'CONFIGURATION_INVALID'],
    [501, 'NotImplemented', 'CONFIGURATION_INVALID'],
    [500, 'InternalError', 'STORAGE_UNAVAILABLE'],
  ])('calls %i %s %s', async (status, name, code) => {
    const { fake, storage } = await start();
    fake.fault = () => ({ status, code: name, headers: { 'retry-after': '7' } });
    const error = await rejection(storage.get('a'));
    expect(error).toMatchObject({ code });
    if (code === 'STORAGE_THROTTLED') expect(error).toMatchObject({ retryAfterMs: 7_000 });
    expect(fake.requests).toHaveLength(1);
  });

  it('quotes nothing that a connection calls its code', () => {
    const error = Object.assign(new Error('cut'), { code: 'https://key:s3cr3t@proxy' });
    const call = { operation: 'put', key: 'a' };
    const told = s3Error(error, call, { description: 'AWS_S3 b', bucket: 'b' });
    expect(inspect(told, { depth: 20, showHidden: true })).not.toContain('s3cr3t');
    expect(told).toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(s3Error({ code: 'ECONNRESET' }, call, { description: 'AWS_S3 b', bucket: 'b' }).message).toContain(
      'ECONNRESET',
    );
  });

  it('tells a missing bucket from a missing object', async () => {
    const { fake, storage } = await start();
    const elsewhere = open(fake, { bucket: 'not-there' });
    const refusal = { code: 'CONFIGURATION_INVALID', message: expect.stringContaining('not-there') };
    await expect(elsewhere.stat('a')).rejects.toMatchObject(refusal);
    await expect(elsewhere.get('a')).rejects.toMatchObject(refusal);
    await expect(keysOf(elsewhere)).rejects.toMatchObject(refusal);
    expect(await storage.stat('a')).toBeUndefined();
  });

  it('is unavailable where nothing listens', async () => {
    const { fake, storage } = await start();
    await fake.close();
    closing.shift();
    await expect(storage.get('a')).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });

  it('never takes a list that breaks off for a whole one', async () => {
    const { fake, storage } = await start();
    fake.fault = () => ({ status: 500 });
    await expect(keysOf(storage)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });

  it('refuses options that do not fit', () => {
    const bad: S3StorageOptions[] = [
      { bucket: '' },
      { bucket: 'b', endpoint: 'http://user:password@host' },
      { bucket: 'b', endpoint: 'ftp://host' },
      { bucket: 'b', serverSideEncryption: { type: 'CUSTOMER_KEY' } },
      { bucket: 'b', objectLock: { mode: 'COMPLIANCE', retainDays: 0 } },
    ];
    for (const options of bad) {
      expect(() => s3Storage(options)).toThrow(expect.objectContaining({ code: 'CONFIGURATION_INVALID' }));
    }
  });
});

describe('credentials', () => {
  it('asks once for many calls, and once again when the token has ended', async () => {
    const { fake } = await start({ sessionToken: 'token-1' });
    let asked = 0;
    const credentials = async (): Promise<Credential> => {
      asked += 1;
      return { ...fake.keys };
    };
    const storage = open(fake, { credentials });
    await Promise.all(
      Array.from({ length: 10 }, (_, n) => storage.put(`k/${n}`, [Buffer.alloc(100_000, n)])),
    );
    expect(asked).toBe(1);
    fake.expired.add(fake.keys.accessKeyId);
    fake.keys = { accessKeyId: 'AKIDSECOND', secretAccessKey: 'second-secret', sessionToken: 'token-2' };
    await Promise.all(Array.from({ length: 10 }, (_, n) => storage.get(`k/${n}`)));
    expect(asked).toBe(2);
    fake.expired.add(fake.keys.accessKeyId);
    fake.keys = { accessKeyId: 'AKIDTHIRD', secretAccessKey: 'third-secret', sessionToken: 'token-3' };
    // A HEAD has no body to name the reason; a body must be sent a second time whole.
    expect((await storage.stat('k/1'))?.size).toBe(100_000);
    fake.expired.add(fake.keys.accessKeyId);
    fake.keys = { accessKeyId: 'AKIDFOURTH', secretAccessKey: 'fourth-secret', sessionToken: 'token-4' };
    const body = randomBytes(MIB);
    await storage.put('again', [body]);
    expect(Buffer.compare(await storage.get('again'), body)).toBe(0);
    expect(asked).toBe(4);
  });

  it('gives up after the second refusal', async () => {
    const { fake } = await start();
    let asked = 0;
    const storage = open(fake, {
      credentials: async () => {
        asked += 1;
        return { accessKeyId: 'AKIDWRONG', secretAccessKey: 'wrong' };
      },
    });
    await expect(storage.get('a')).rejects.toMatchObject({ code: 'STORAGE_DENIED', retryable: false });
    expect(asked).toBe(2);
  });

  it('asks again when they are about to end', async () => {
    const { fake } = await start();
    let asked = 0;
    const storage = open(fake, {
      credentials: async () => {
        asked += 1;
        return {
          ...fake.keys,
          expiresAt: new Date(Date.now() + (asked === 1 ? 1_000 : 3_600_000)).toISOString(),
        };
      },
    });
    await keysOf(storage);
    await keysOf(storage);
    await keysOf(storage);
    expect(asked).toBeGreaterThan(1);
    expect(asked).toBeLessThan(4);
  });

  it('says when the host gives none', async () => {
    const { fake } = await start();
    const failing = open(fake, { credentials: () => Promise.reject(new Error('vault says s3cr3t')) });
    const error = await rejection(failing.get('a'));
    expect(error).toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
    expect(inspect(error, { depth: 20, showHidden: true })).not.toContain('s3cr3t');
    const empty = open(fake, { credentials: async () => ({ password: 'x' }) });
    await expect(empty.get('a')).rejects.toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
  });

  it('are in no error, however deep one looks', async () => {
    const customerKey = randomBytes(32).toString('base64');
    const { fake, storage } = await start(
      { sessionToken: 'the-session-token' },
      { serverSideEncryption: { type: 'CUSTOMER_KEY' }, customerKey: async () => ({ key: customerKey }) },
    );
    await storage.put('a', [Buffer.alloc(100_000)]);
    const handle = (await storage.uploads?.begin('b')) ?? '';
    const faults = [
      { status: 403, code: 'AccessDenied' },
      { status: 500 },
      { status: 409, code: 'ConditionalRequestConflict' },
      'CUT_BEFORE',
      'CUT_ANSWER',
      'SHORT_ANSWER',
    ] as const;
    const errors: unknown[] = [];
    for (const fault of faults) {
      fake.fault = ({ operation }) => (operation === 'HeadBucket' ? undefined : fault);
      const calls = [
        storage.put('c', [Buffer.alloc(100_000)]),
        storage.get('a'),
        storage.uploads?.parts(handle),
      ];
      for (const outcome of await Promise.allSettled(calls)) {
        if (outcome.status === 'rejected') errors.push(outcome.reason);
      }
    }
    fake.fault = () => undefined;
    const { secretAccessKey } = fake.keys;
    fake.keys = { ...fake.keys, secretAccessKey: 'rotated' };
    errors.push(
      await rejection(open(fake, { credentials: async () => ({ ...fake.keys, secretAccessKey }) }).get('a')),
    );
    expect(errors.length).toBeGreaterThan(12);
    for (const error of errors) {
      const seen = inspect(error, { depth: 30, showHidden: true, maxStringLength: null });
      for (const secret of [
        secretAccessKey,
        'the-session-token',
        customerKey,
        fake.keys.accessKeyId,
        'Signature=',
      ]) {
        expect(seen).not.toContain(secret);
      }
    }
  });
});

describe('versions', () => {
  it('deletes every version and marker, and touches no other key', async () => {
    const { fake, storage } = await start({ versioned: true });
    await storage.put('k', [Buffer.from('1')]);
    fake.bucket.remove('k', null);
    await storage.put('k', [Buffer.from('2')]);
    await storage.put('k2', [Buffer.from('other')]);
    await storage.delete('k');
    expect([...fake.bucket.objects.keys()]).toEqual(['k2']);
  });

  it('finds every version behind a page of them', async () => {
    const { fake, storage } = await start({ versioned: true, versionsPage: 10 });
    await storage.put('k', [Buffer.from('1')]);
    for (let n = 0; n < 35; n += 1) fake.bucket.remove('k', null);
    await storage.delete('k');
    expect(fake.bucket.objects.size).toBe(0);
  });

  it.each([
    { status: 403, code: 'AccessDenied' },
    { status: 501, code: 'NotImplemented' },
  ])('deletes the present version where versions may not be listed ($code)', async (fault) => {
    for (const versioned of [true, false]) {
      const { fake, storage } = await start({ versioned });
      fake.fault = ({ operation }) => (operation === 'ListObjectVersions' ? fault : undefined);
      await storage.put('k', [Buffer.from('1')]);
      await storage.delete('k');
      await storage.delete('k');
      expect(fake.bucket.objects.has('k')).toBe(false);
    }
  });
});

describe('retention', () => {
  const objectLock = { mode: 'GOVERNANCE', retainDays: 1 } as const;
  const inDays = (days: number) => new Date(Math.ceil(Date.now() / 1000) * 1000 + days * 86_400_000);

  it('is there only with a lock', async () => {
    const { fake, storage } = await start({ lockEnabled: true });
    expect(storage.retention).toBeUndefined();
    expect(open(fake, { objectLock }).retention).toBeDefined();
  });

  it('lengthens a lock and never shortens one', async () => {
    const { fake, storage } = await start({ lockEnabled: true }, { objectLock });
    await storage.put('k', [Buffer.from('1')]);
    const [long, short] = [inDays(30), inDays(10)];
    await storage.retention?.retain('k', long);
    await storage.retention?.retain('k', short);
    const version = fake.bucket.current('k');
    const held = { retainUntil: long, legalHold: false, versionId: version?.id };
    expect(await storage.retention?.state('k')).toEqual(held);
    // Two at a time: the later, shorter one is refused by the store and finds the longer lock.
    await Promise.all([40, 50, 45].map((days) => storage.retention?.retain('k', inDays(days))));
    expect(fake.bucket.current('k')?.lockUntil?.getTime()).toBeGreaterThanOrEqual(inDays(49.9).getTime());
  });

  it('keeps a lock for compliance what it is', async () => {
    const { fake, storage } = await start(
      { lockEnabled: true },
      { objectLock: { mode: 'COMPLIANCE', retainDays: 1 } },
    );
    await storage.put('k', []);
    await open(fake, { objectLock }).retention?.retain('k', inDays(5));
    expect(fake.bucket.current('k')?.lockMode).toBe('COMPLIANCE');
  });

  it('makes a lock for compliance of another, also of a longer one, which it does not shorten', async () => {
    const { fake, storage } = await start({ lockEnabled: true }, { objectLock });
    await storage.put('k', []);
    const long = inDays(30);
    await storage.retention?.retain('k', long);
    const strict = open(fake, { objectLock: { mode: 'COMPLIANCE', retainDays: 1 } });
    await strict.retention?.retain('k', inDays(5));
    expect(fake.bucket.current('k')).toMatchObject({ lockMode: 'COMPLIANCE', lockUntil: long });
  });

  it('holds and lets go', async () => {
    const { fake, storage } = await start({ lockEnabled: true }, { objectLock });
    await storage.put('k', []);
    const version = fake.bucket.current('k');
    if (version === undefined) throw new Error('stored');
    version.lockUntil = undefined;
    await storage.retention?.hold('k', 'ON');
    expect(await storage.retention?.state('k')).toMatchObject({ legalHold: true, retainUntil: null });
    await expect(storage.delete('k')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    await storage.retention?.hold('k', 'OFF');
    await storage.delete('k');
    await expect(storage.retention?.state('k')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
  });
});

describe('tiers', () => {
  it.each(['GLACIER', 'DEEP_ARCHIVE'])('thaws from %s', async (storageClass) => {
    const { fake, storage } = await start({}, { storageClass });
    await storage.put('k', [Buffer.from('cold')]);
    await storage.put('hot', [Buffer.from('hot')], { tier: 'HOT' });
    expect(await storage.tiers?.state('hot')).toBe('READABLE');
    expect(await storage.tiers?.state('k')).toBe('ARCHIVED');
    await expect(storage.get('k')).rejects.toMatchObject({ code: 'OBJECT_ARCHIVED' });
    for (let time = 0; time < 2; time += 1) await storage.tiers?.thaw('k', { days: 3 });
    expect(await storage.tiers?.state('k')).toBe('THAWING');
    await expect(storage.get('k')).rejects.toMatchObject({ code: 'OBJECT_ARCHIVED' });
    const version = fake.bucket.current('k');
    if (version !== undefined)
      version.restore = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2040 00:00:00 GMT"';
    expect(await storage.tiers?.state('k')).toBe('READABLE');
    expect(Buffer.from(await storage.get('k')).toString()).toBe('cold');
    await storage.tiers?.thaw('k', { days: 3 });
    await storage.tiers?.thaw('hot', { days: 3 });
  });

  it('thaws the archive tiers of INTELLIGENT_TIERING, and leaves what can be read alone', async () => {
    const { fake, storage } = await start({}, { storageClass: 'INTELLIGENT_TIERING' });
    await storage.put('k', [Buffer.from('x')]);
    await storage.tiers?.thaw('k', { days: 1 });
    expect(operations(fake)).not.toContain('RestoreObject');
    const version = fake.bucket.current('k');
    if (version !== undefined) version.archiveStatus = 'DEEP_ARCHIVE_ACCESS';
    expect(await storage.tiers?.state('k')).toBe('ARCHIVED');
    await storage.tiers?.thaw('k', { days: 1 });
    expect(await storage.tiers?.state('k')).toBe('THAWING');
  });

  it('says what it cannot thaw', async () => {
    const { storage } = await start();
    await expect(storage.tiers?.state('none')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
    await expect(storage.tiers?.thaw('none', { days: 1 })).rejects.toMatchObject({
      code: 'STORAGE_NOT_FOUND',
    });
    await expect(storage.tiers?.thaw('none', { days: 0 })).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
  });
});

describe('listing', () => {
  it('leaves out names of strangers', async () => {
    const { fake, storage } = await start();
    await storage.put('mine', []);
    const version = fake.bucket.current('mine');
    if (version === undefined) throw new Error('stored');
    for (const name of ['with space', 'a&b', '.hidden', 'folder/', 'ünicode', 'a\u0001b', 'plus+sign']) {
      fake.bucket.objects.set(name, [version]);
    }
    expect(await keysOf(storage)).toEqual(['mine']);
  });
});

it('makes nothing before the first call and can be closed at any time', async () => {
  const storage = s3Storage({ bucket: 'b', endpoint: 'http://127.0.0.1:1' });
  await storage.close?.();
  await storage.close?.();
  expect(storage.description).toBe('AWS_S3 127.0.0.1:1/b');
});
