import { createHash, randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it, vi } from 'vitest';
import { type AzureBlobStorageOptions, azureBlobStorage } from '../../src/storage/azure-blob.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import {
  type AzureWire,
  azureError,
  startAzureWire,
  type WireAnswer,
  type WireRequest,
} from '../harness/azure-wire.ts';

const MIB = 1024 * 1024;
const accountKey = Buffer.from('an account key that nobody may see').toString('base64');
const XML = { 'content-type': 'application/xml' };
const CREATED: WireAnswer = { status: 201 };
const MISSING = azureError(404, 'BlobNotFound');

function open({ endpoint }: AzureWire, options: Partial<AzureBlobStorageOptions> = {}): ObjectStorage {
  return azureBlobStorage({
    container: 'backups',
    accountName: 'careaccount',
    endpoint,
    credentials: async () => ({ accountKey }),
    ...options,
  });
}

/** What a request does, in the words of Azure's documentation. */
function operationOf({ method, query, path }: WireRequest): string {
  const what = query.get('comp') ?? (path.split('/').length > 3 ? 'blob' : 'container');
  return `${method} ${what}`;
}

const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('base64');

describe('what every object is written with', () => {
  const options: Partial<AzureBlobStorageOptions> = {
    storageClass: 'ARCHIVE',
    serverSideEncryption: { type: 'KMS', keyId: 'care-scope' },
    objectLock: { mode: 'COMPLIANCE', retainDays: 30 },
  };

  it('sends a small object as one create-only Put Blob with its MD5, tier, scope and lock', async () => {
    await using wire = await startAzureWire(() => CREATED);
    const bytes = randomBytes(200_000);
    await open(wire, options).put('a/b', [bytes.subarray(0, 7), bytes.subarray(7)]);
    expect(wire.requests).toHaveLength(1);
    const [request] = wire.requests;
    expect(request).toMatchObject({ method: 'PUT', path: '/careaccount/backups/a/b' });
    expect(request?.body.equals(bytes)).toBe(true);
    expect(request?.headers).toMatchObject({
      'if-none-match': '*',
      'content-md5': md5(bytes),
      'x-ms-blob-content-md5': md5(bytes),
      'x-ms-access-tier': 'Archive',
      'x-ms-encryption-scope': 'care-scope',
      'x-ms-immutability-policy-mode': 'Locked',
    });
    const until = Date.parse(request?.headers['x-ms-immutability-policy-until-date'] ?? '');
    expect(until).toBeGreaterThanOrEqual(Date.now() + 30 * 86_400_000 - 60_000);
    expect(until).toBeLessThanOrEqual(Date.now() + 30 * 86_400_000 + 1_000);
  });

  it('sends no tier with what must be readable at once', async () => {
    await using wire = await startAzureWire(() => CREATED);
    await open(wire, options).put('manifest', [Buffer.from('x')], { tier: 'HOT' });
    expect(wire.requests[0]?.headers).not.toHaveProperty('x-ms-access-tier');
    expect(wire.requests[0]?.headers).toHaveProperty('x-ms-immutability-policy-mode', 'Locked');
  });

  it('sends a large object as blocks of one writer, and publishes it create-only', async () => {
    await using wire = await startAzureWire(({ method }) => (method === 'HEAD' ? MISSING : CREATED));
    const bytes = randomBytes(17 * MIB);
    await open(wire, { ...options, objectLock: { mode: 'GOVERNANCE', retainDays: 1 } }).put('large', [bytes]);
    const blocks = wire.requests.filter((request) => operationOf(request) === 'PUT block');
    const ids = blocks.map(({ query }) => query.get('blockid') ?? '');
    expect(new Set(ids).size).toBe(3);
    expect(ids.map((id) => id.length)).toEqual([80, 80, 80]);
    for (const { headers, body } of blocks) {
      expect(headers).toMatchObject({ 'content-md5': md5(body), 'x-ms-encryption-scope': 'care-scope' });
    }
    const list = wire.requests.at(-1);
    expect(list?.headers).toMatchObject({
      'if-none-match': '*',
      'x-ms-blob-content-md5': md5(bytes),
      'x-ms-access-tier': 'Archive',
      'x-ms-encryption-scope': 'care-scope',
      'x-ms-immutability-policy-mode': 'Unlocked',
    });
    const listed = [...(list?.body.toString() ?? '').matchAll(/<Latest>([^<]+)</g)].map(([, id]) => id ?? '');
    const byId = new Map(blocks.map(({ query, body }) => [query.get('blockid') ?? '', body]));
    expect(Buffer.concat(listed.map((id) => byId.get(id) ?? Buffer.alloc(0))).equals(bytes)).toBe(true);
  });

  it('sends the customer key and its SHA-256 with every call that touches content', async () => {
    const key = randomBytes(32);
    const body = Buffer.from('data');
    await using wire = await startAzureWire((request) => {
      const { method, query } = request;
      if (method === 'HEAD')
        return request.path.endsWith('new') || request.path.endsWith('large') ? MISSING : { status: 200 };
      if (query.get('comp') === 'blocklist' && method === 'GET') return { status: 200, body: '<BlockList/>' };
      return method === 'GET' ? { status: 200, body } : CREATED;
    }, 'https');
    const storage = open(wire, {
      serverSideEncryption: { type: 'CUSTOMER_KEY', customerKeyRef: 'care-key' },
      customerKey: async () => ({ key: key.toString('base64') }),
    });
    await storage.put('small', [body]);
    await storage.put('large', [randomBytes(17 * MIB)]);
    await storage.get('small');
    await storage.stat('small');
    const handle = (await storage.uploads?.begin('new')) ?? '';
    const digest = createHash('sha256').update(body).digest('hex');
    await storage.uploads?.putPart(handle, { number: 1, size: body.byteLength, digest }, body);
    expect(new Set(wire.requests.map(operationOf))).toEqual(
      new Set(['PUT blob', 'HEAD blob', 'PUT block', 'PUT blocklist', 'GET blob']),
    );
    for (const { headers } of wire.requests) {
      expect(headers).toMatchObject({
        'x-ms-encryption-key': key.toString('base64'),
        'x-ms-encryption-key-sha256': createHash('sha256').update(key).digest('base64'),
        'x-ms-encryption-algorithm': 'AES256',
      });
    }
  });
});

describe('create-only', () => {
  it.each([
    [409, 'BlobAlreadyExists'],
    [409, 'BlobArchived'],
    [409, 'BlobBeingRehydrated'],
    [409, 'BlobImmutableDueToPolicy'],
    [412, 'ConditionNotMet'],
    [412, 'LeaseIdMissing'],
    [403, 'UnauthorizedBlobOverwrite'],
  ])('takes %i %s for a taken key', async (status, code) => {
    await using wire = await startAzureWire(({ method }) =>
      method === 'HEAD' ? { status: 200 } : azureError(status, code),
    );
    await expect(open(wire).put('taken', [Buffer.from('x')])).rejects.toMatchObject({
      code: 'STORAGE_ALREADY_EXISTS',
    });
  });

  it('takes discarded blocks for a lost race where there is an object then, and for a failure where there is none', async () => {
    for (const [found, code] of [
      [{ status: 200 }, 'STORAGE_ALREADY_EXISTS'],
      [MISSING, 'STORAGE_UNAVAILABLE'],
    ] as const) {
      let heads = 0;
      await using wire = await startAzureWire((request) => {
        if (request.method === 'HEAD') {
          heads += 1;
          return heads === 1 ? MISSING : found;
        }
        return operationOf(request) === 'PUT blocklist' ? azureError(400, 'InvalidBlockList') : CREATED;
      });
      await expect(open(wire).put('raced', [randomBytes(17 * MIB)])).rejects.toMatchObject({ code });
    }
  });

  it('sends no further blocks after one has failed, and never a list', async () => {
    await using wire = await startAzureWire(({ method }) =>
      method === 'HEAD' ? MISSING : azureError(500, 'InternalError'),
    );
    await expect(open(wire).put('large', [Buffer.alloc(80 * MIB)])).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    expect(wire.requests.filter(({ method }) => method === 'PUT').length).toBeLessThanOrEqual(4);
    expect(wire.requests.map(operationOf)).not.toContain('PUT blocklist');
  });
});

describe('reading', () => {
  const body = randomBytes(1000);

  it.each([0, 1, 999])('never gives an object whose body was cut after %i bytes', async (cutAfter) => {
    await using wire = await startAzureWire(() => ({ status: 200, body, cutAfter }));
    await expect(open(wire).get('cut')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(wire.requests).toHaveLength(1);
  });

  it('refuses bytes that are not those of the stored MD5', async () => {
    await using wire = await startAzureWire(() => ({
      status: 200,
      body,
      headers: { 'content-md5': md5(randomBytes(3)) },
    }));
    await expect(open(wire).get('changed')).rejects.toMatchObject({ code: 'STORAGE_CORRUPT' });
  });

  it.each([
    ['the whole object', { status: 200, body }],
    [
      'another start',
      { status: 206, body: body.subarray(0, 10), headers: { 'content-range': 'bytes 0-9/1000' } },
    ],
    [
      'fewer bytes',
      { status: 206, body: body.subarray(5, 10), headers: { 'content-range': 'bytes 5-9/1000' } },
    ],
    [
      'a wrong length',
      { status: 206, body: body.subarray(5, 10), headers: { 'content-range': 'bytes 5-14/1000' } },
    ],
  ])('refuses %s as the answer to a range', async (_, answer) => {
    await using wire = await startAzureWire(() => answer);
    await expect(open(wire).get('range', { range: { offset: 5, length: 10 } })).rejects.toMatchObject({
      code: 'STORAGE_CORRUPT',
    });
  });

  it('does not take a 404 of something that is not Azure for a missing object', async () => {
    await using wire = await startAzureWire(() => ({ status: 404, body: '<html>proxy</html>' }));
    await expect(open(wire).stat('x')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(open(wire).get('x')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });

  it('says that an archived object is archived', async () => {
    await using wire = await startAzureWire(() => azureError(409, 'BlobArchived'));
    await expect(open(wire).get('x')).rejects.toMatchObject({ code: 'OBJECT_ARCHIVED' });
  });

  it('rejects a listing whose body was cut, whatever it had given', async () => {
    const list = '<?xml version="1.0"?><EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>';
    await using wire = await startAzureWire(() => ({ status: 200, body: list, headers: XML, cutAfter: 70 }));
    await expect(first(open(wire))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });
});

describe('tiers', () => {
  it.each([
    [{ 'x-ms-access-tier': 'Hot' }, 'READABLE'],
    [{ 'x-ms-access-tier': 'Archive' }, 'ARCHIVED'],
    [{ 'x-ms-access-tier': 'Archive', 'x-ms-archive-status': 'rehydrate-pending-to-hot' }, 'THAWING'],
  ])('reads %j as %s', async (headers, state) => {
    await using wire = await startAzureWire(() => ({ status: 200, headers }));
    expect(await open(wire).tiers?.state('x')).toBe(state);
  });

  it('thaws what is archived, once', async () => {
    let headers: Record<string, string> = { 'x-ms-access-tier': 'Archive' };
    await using wire = await startAzureWire(({ method }) => {
      if (method === 'HEAD') return { status: 200, headers };
      headers = { ...headers, 'x-ms-archive-status': 'rehydrate-pending-to-hot' };
      return { status: 202 };
    });
    const storage = open(wire);
    for (let time = 0; time < 2; time += 1) await storage.tiers?.thaw('x', { days: 3 });
    const puts = wire.requests.filter((request) => request.method === 'PUT');
    expect(puts.map(operationOf)).toEqual(['PUT tier']);
    expect(puts[0]?.headers).toMatchObject({ 'x-ms-access-tier': 'Hot', 'x-ms-rehydrate-priority': 'High' });
  });

  it('takes a request that another has made for made', async () => {
    await using wire = await startAzureWire(({ method }) =>
      method === 'HEAD'
        ? { status: 200, headers: { 'x-ms-access-tier': 'Archive' } }
        : azureError(409, 'BlobBeingRehydrated'),
    );
    await open(wire).tiers?.thaw('x', { days: 1 });
    expect(wire.requests).toHaveLength(2);
  });

  it('does not find what is not there', async () => {
    await using wire = await startAzureWire(() => MISSING);
    await expect(open(wire).tiers?.state('x')).rejects.toMatchObject({ code: 'STORAGE_NOT_FOUND' });
  });
});

describe('retention', () => {
  const until = new Date('2030-01-01T00:00:00.500Z');
  const policy = (date: string, mode: string) => ({
    'x-ms-immutability-policy-until-date': new Date(date).toUTCString(),
    'x-ms-immutability-policy-mode': mode,
  });

  it.each([
    ['nothing', {}, 'Unlocked'],
    ['an earlier lock', policy('2029-01-01', 'unlocked'), 'Unlocked'],
    ['an earlier lock that is locked', policy('2029-01-01', 'locked'), 'Locked'],
  ])('sets a lock after %s', async (_, headers, mode) => {
    await using wire = await startAzureWire(() => ({ status: 200, headers }));
    await open(wire).retention?.retain('x', until);
    const [, request] = wire.requests;
    expect(request?.query.get('comp')).toBe('immutabilityPolicies');
    expect(request?.headers).toMatchObject({
      'x-ms-immutability-policy-until-date': 'Tue, 01 Jan 2030 00:00:01 GMT',
      'x-ms-immutability-policy-mode': mode,
    });
  });

  it('never shortens a lock', async () => {
    await using wire = await startAzureWire(() => ({
      status: 200,
      headers: policy('2031-01-01', 'unlocked'),
    }));
    await open(wire).retention?.retain('x', until);
    expect(wire.requests.map(operationOf)).toEqual(['HEAD blob']);
  });

  it('locks what was long enough but unlocked, where locks are for compliance', async () => {
    await using wire = await startAzureWire(() => ({
      status: 200,
      headers: policy('2031-01-01', 'unlocked'),
    }));
    const objectLock = { mode: 'COMPLIANCE', retainDays: 1 } as const;
    await open(wire, { objectLock }).retention?.retain('x', until);
    expect(wire.requests[1]?.headers).toMatchObject({
      'x-ms-immutability-policy-until-date': 'Wed, 01 Jan 2031 00:00:00 GMT',
      'x-ms-immutability-policy-mode': 'Locked',
    });
  });

  it('sets and lifts a legal hold, and tells what protects', async () => {
    await using wire = await startAzureWire(() => ({
      status: 200,
      headers: { ...policy('2031-01-01', 'locked'), 'x-ms-legal-hold': 'true', 'x-ms-version-id': 'v1' },
    }));
    const { retention } = open(wire);
    await retention?.hold('x', 'ON');
    await retention?.hold('x', 'OFF');
    expect(
      wire.requests.map(({ query, headers }) => [query.get('comp'), headers['x-ms-legal-hold']]),
    ).toEqual([
      ['legalhold', 'true'],
      ['legalhold', 'false'],
    ]);
    expect(await retention?.state('x')).toEqual({
      retainUntil: new Date('2031-01-01'),
      legalHold: true,
      versionId: 'v1',
    });
  });
});

describe('delete', () => {
  const listing = (items: readonly string[]) =>
    `<?xml version="1.0"?><EnumerationResults><Blobs>${items.join('')}</Blobs><NextMarker/></EnumerationResults>`;
  const item = (name: string, version: string, rest: string, properties = '') =>
    `<Blob><Name>${name}</Name><VersionId>${version}</VersionId>${rest}<Properties><Last-Modified>${new Date(0).toUTCString()}</Last-Modified><Content-Length>1</Content-Length>${properties}</Properties></Blob>`;
  const CURRENT = '<IsCurrentVersion>true</IsCurrentVersion>';

  async function deleting(items: readonly string[]) {
    const wire = await startAzureWire(({ method }) =>
      method === 'GET' ? { status: 200, body: listing(items), headers: XML } : { status: 202 },
    );
    return { wire, storage: open(wire) };
  }

  it('removes the blob with its snapshots and every version, and nothing that only begins so', async () => {
    const { wire, storage } = await deleting([
      item('k', 'v1', ''),
      item('k', 'v2', CURRENT),
      item('k2', 'v3', CURRENT),
    ]);
    await using _ = wire;
    await storage.delete('k');
    const deletes = wire.requests.filter(({ method }) => method === 'DELETE');
    expect(deletes.map(({ path, query }) => [path.split('/').at(-1), query.get('versionid')])).toEqual([
      ['k', null],
      ['k', 'v1'],
      ['k', 'v2'],
    ]);
    expect(deletes[0]?.headers['x-ms-delete-snapshots']).toBe('include');
  });

  it.each([
    ['a lock', '<ImmutabilityPolicyUntilDate>Tue, 01 Jan 2999 00:00:00 GMT</ImmutabilityPolicyUntilDate>'],
    ['a legal hold', '<LegalHold>true</LegalHold>'],
  ])('removes nothing where %s protects a version', async (_, properties) => {
    const { wire, storage } = await deleting([item('k', 'v1', '', properties), item('k', 'v2', CURRENT)]);
    await using __ = wire;
    await expect(storage.delete('k')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    expect(wire.requests.map(({ method }) => method)).toEqual(['GET']);
  });
});

describe('errors', () => {
  it.each([
    [404, 'ContainerNotFound', 'CONFIGURATION_INVALID'],
    [403, 'AuthorizationPermissionMismatch', 'STORAGE_DENIED'],
    [409, 'BlobUsesCustomerSpecifiedEncryption', 'STORAGE_DENIED'],
    [400, 'Md5Mismatch', 'STORAGE_CORRUPT'],
    [500, 'InternalError', 'STORAGE_UNAVAILABLE'],
    [503, 'SomethingElse', 'STORAGE_UNAVAILABLE'],
    [408, 'OperationTimedOut', 'STORAGE_UNAVAILABLE'],
    [409, 'LeaseAlreadyPresent', 'STORAGE_UNAVAILABLE'],
    [429, 'TooManyRequests', 'STORAGE_THROTTLED'],
    [400, 'InvalidHeaderValue', 'CONFIGURATION_INVALID'],
    [400, 'InvalidAuthenticationInfo', 'STORAGE_DENIED'],
    [405, 'UnsupportedHttpVerb', 'CONFIGURATION_INVALID'],
    [409, 'FeatureVersionMismatch', 'CONFIGURATION_INVALID'],
    [501, 'NotImplemented', 'CONFIGURATION_INVALID'],
  ])('makes of %i %s the code %s', async (status, code, expected) => {
    await using wire = await startAzureWire(() => azureError(status, code));
    const storage = open(wire);
    await expect(storage.put('x', [Buffer.from('x')])).rejects.toMatchObject({ code: expected });
    await expect(storage.get('x')).rejects.toMatchObject({ code: expected });
    await expect(first(storage)).rejects.toMatchObject({ code: expected });
    await expect(storage.delete('x')).rejects.toMatchObject({ code: expected });
    expect(wire.requests).toHaveLength(4);
  });

  it.each([
    [503, 'ServerBusy', '7', 7_000],
    [429, 'TooManyRequests', '1', 1_000],
  ])('says how long to wait after %i %s', async (status, code, seconds, retryAfterMs) => {
    await using wire = await startAzureWire(() => azureError(status, code, { 'retry-after': seconds }));
    await expect(open(wire).stat('x')).rejects.toMatchObject({ code: 'STORAGE_THROTTLED', retryAfterMs });
  });

  it('asks for the credential once again where it is not accepted, and never a third time', async () => {
    for (const accepted of ['second', 'none']) {
      let asked = 0;
      await using wire = await startAzureWire(({ query }) =>
        query.get('sig') === accepted ? CREATED : azureError(403, 'AuthenticationFailed'),
      );
      const storage = open(wire, {
        credentials: async () => {
          asked += 1;
          return { sasToken: `?sv=1&sig=${asked === 1 ? 'first' : 'second'}` };
        },
      });
      const put = storage.put('x', [Buffer.from('x')]);
      if (accepted === 'second') await put;
      else await expect(put).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
      expect(asked).toBe(2);
      expect(wire.requests).toHaveLength(2);
    }
  });

  it('uses the identity of the machine where no credential is given, and says when it has none', async () => {
    let found = false;
    await using identity = await startAzureWire(() =>
      found
        ? {
            status: 200,
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({
              access_token: 'machine-token',
              expires_on: Math.floor(Date.now() / 1000) + 3_600,
              resource: 'https://storage.azure.com',
              token_type: 'Bearer',
            }),
          }
        : { status: 400, headers: { 'content-type': 'application/json' }, body: '{}' },
    );
    await using wire = await startAzureWire(() => CREATED, 'https');
    vi.stubEnv('AZURE_TOKEN_CREDENTIALS', 'ManagedIdentityCredential');
    vi.stubEnv('IDENTITY_ENDPOINT', `${identity.endpoint}/token`);
    vi.stubEnv('IDENTITY_HEADER', 'of-the-host');
    try {
      const machine = () =>
        azureBlobStorage({ container: 'backups', accountName: 'careaccount', endpoint: wire.endpoint });
      // In this order: the SDK keeps tokens for the whole process.
      await expect(machine().stat('x')).rejects.toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
      found = true;
      await machine().put('x', [Buffer.from('x')]);
      expect(wire.requests.map(({ headers }) => headers.authorization)).toEqual(['Bearer machine-token']);
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('asks again for a credential that has expired', async () => {
    let asked = 0;
    await using wire = await startAzureWire(() => CREATED);
    const storage = open(wire, {
      credentials: async () => {
        asked += 1;
        return { accountKey, expiresAt: new Date(Date.now() - 1).toISOString() };
      },
    });
    await storage.put('a', []);
    await storage.put('b', []);
    expect(asked).toBe(2);
  });

  it('shows no credential in errors, whatever failed and however deep one looks', async () => {
    const secret = 'c2VjcmV0LXNpZ25hdHVyZQ';
    const errors: unknown[] = [];
    const collect = (error: unknown) => void errors.push(error);
    const answers: WireAnswer[] = [
      azureError(403, 'AuthenticationFailed'),
      azureError(500, 'InternalError'),
      { status: 200, body: 'abcdef', cutAfter: 2 },
      { status: 500, body: `<html>sig=${secret}` },
    ];
    const closed = await startAzureWire(() => CREATED);
    await closed[Symbol.asyncDispose]();
    for (const credentials of [
      { sasToken: `sv=1&sig=${secret}` },
      { accountKey: secret },
      { connectionString: `x;AccountKey=${secret}` },
    ]) {
      for (const answer of answers) {
        await using wire = await startAzureWire(() => answer);
        const storage = open(wire, { credentials: async () => credentials });
        errors.push(storage.description);
        await storage.put('x', [Buffer.from('x')]).catch(collect);
        await storage.get('x').catch(collect);
        await first(storage).catch(collect);
      }
      await open(closed, { credentials: async () => credentials })
        .get('x')
        .catch(collect);
    }
    expect(errors.length).toBeGreaterThan(40);
    for (const error of errors) {
      const seen = inspect(error, { depth: 12, showHidden: true, getters: true });
      expect(seen).not.toContain(secret);
      expect(seen).not.toMatch(/SharedKey|sig=/);
    }
  });
});

describe('options', () => {
  const CONTRADICTIONS: readonly [string, Partial<AzureBlobStorageOptions>][] = [
    ['a container that is none', { container: 'Not A Container' }],
    ['an account that is none', { accountName: 'x/y' }],
    ['an endpoint with a signature', { endpoint: 'https://a.blob.core.windows.net/?sig=secret' }],
    ['an endpoint with a password', { endpoint: 'https://u:p@a.blob.core.windows.net' }],
    ['an endpoint that is no URL', { endpoint: 'somewhere' }],
    ['an unknown tier', { storageClass: 'GLACIER' }],
    ['a token over http', { endpoint: 'http://127.0.0.1:1' }],
    ['a scope without a name', { serverSideEncryption: { type: 'KMS' } }],
    ['a customer key that nobody gives', { serverSideEncryption: { type: 'CUSTOMER_KEY' } }],
    [
      'a customer key over http',
      {
        endpoint: 'http://127.0.0.1:1',
        serverSideEncryption: { type: 'CUSTOMER_KEY' },
        customerKey: async () => ({ key: '' }),
      },
    ],
  ];

  it.each(CONTRADICTIONS)('refuses %s', (_, options) => {
    expect(() => azureBlobStorage({ container: 'backups', accountName: 'careaccount', ...options })).toThrow(
      expect.objectContaining({
        code: 'CONFIGURATION_INVALID',
        message: expect.not.stringContaining('secret'),
      }),
    );
  });

  it.each([
    [{ accountName: 'careaccount' }, 'https://careaccount.blob.core.windows.net/backups'],
    [{ endpoint: 'http://127.0.0.1:10000/devaccount/' }, 'http://127.0.0.1:10000/devaccount/backups'],
    [
      { endpoint: 'http://localhost:10000', accountName: 'devaccount' },
      'http://localhost:10000/devaccount/backups',
    ],
    [
      { endpoint: 'https://care.example.org', accountName: 'careaccount' },
      'https://care.example.org/backups',
    ],
  ])('finds its place from %j', (options, url) => {
    expect(
      azureBlobStorage({ container: 'backups', credentials: async () => ({}), ...options }).description,
    ).toBe(`AZURE_BLOB ${url}`);
  });

  it('refuses a connection string that leads elsewhere', async () => {
    await using wire = await startAzureWire(() => CREATED);
    const connectionString = `DefaultEndpointsProtocol=https;AccountName=other;AccountKey=${accountKey};EndpointSuffix=core.windows.net`;
    const storage = open(wire, { credentials: async () => ({ connectionString }) });
    await expect(storage.put('x', [])).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    expect(wire.requests).toHaveLength(0);
  });

  it.each([
    [{}, 'CREDENTIALS_UNAVAILABLE'],
    [{ accountKey: '' }, 'CREDENTIALS_UNAVAILABLE'],
    [{ connectionString: 'nonsense' }, 'CREDENTIALS_UNAVAILABLE'],
  ])('refuses the credential %j', async (credential, code) => {
    await using wire = await startAzureWire(() => CREATED);
    await expect(open(wire, { credentials: async () => credential }).stat('x')).rejects.toMatchObject({
      code,
    });
  });
});

async function first(storage: ObjectStorage): Promise<void> {
  for await (const _ of storage.list('')) return;
}
