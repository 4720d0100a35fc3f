import { randomBytes } from 'node:crypto';
import { ContainerSASPermissions } from '@azure/storage-blob';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { azureBlobStorage } from '../../src/storage/azure-blob.ts';
import { type Azurite, startAzurite } from '../harness/azurite.ts';
import { storageContract } from './storage.ts';
import { uploadsContract } from './uploads.ts';

let azurite: Azurite;

beforeAll(async () => {
  azurite = await startAzurite();
}, 60_000);

afterAll(async () => {
  await azurite.stop();
});

async function fresh() {
  const { accountName, accountKey, endpoint } = azurite;
  const { containerName: container } = await azurite.container();
  const open = () =>
    azureBlobStorage({ container, accountName, endpoint, credentials: async () => ({ accountKey }) });
  return { storage: open(), reopen: async () => open(), secrets: [accountKey] };
}

storageContract('AZURE_BLOB (Azurite)', fresh, {
  listedObjects: process.env.CARE_SOAK === '1' ? 2_500 : 600,
});
uploadsContract('AZURE_BLOB (Azurite)', fresh, { putPartAfterEnd: 'UNSEEN', listedParts: 300 });

describe('AZURE_BLOB (Azurite)', { timeout: 60_000 }, () => {
  const MIB = 1024 * 1024;

  it('lets exactly one of racing writers of many blocks win, with all its bytes', async () => {
    const { storage } = await fresh();
    const bodies = [17, 18, 16, 17].map((size) => randomBytes(size * MIB));
    const outcomes = await Promise.allSettled(bodies.map((body) => storage.put('race', [body])));
    const winners = bodies.filter((_, writer) => outcomes[writer]?.status === 'fulfilled');
    expect(winners).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected')
        expect(outcome.reason).toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
    }
    expect(Buffer.compare(await storage.get('race'), winners[0] ?? Buffer.alloc(0))).toBe(0);
  });

  it('leaves nothing visible of a single request that is aborted', async () => {
    const { storage } = await fresh();
    const reason = new Error('enough');
    for (const wait of [1, 5, 10, 20]) {
      const key = `aborted/${wait}`;
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), wait);
      const put = storage.put(key, [randomBytes(15 * MIB)], { signal: controller.signal });
      const [outcome] = await Promise.allSettled([put]);
      if (outcome.status === 'rejected') expect(outcome.reason).toBe(reason);
      expect((await storage.stat(key))?.size).toBe(outcome.status === 'rejected' ? undefined : 15 * MIB);
    }
  });

  it('stores small, empty and large objects where unfinished uploads have left blocks', async () => {
    const { storage } = await fresh();
    for (const size of [0, 10, 17 * MIB]) {
      const key = `left/${size}`;
      await storage.uploads?.begin(key);
      expect(await storage.stat(key)).toBeUndefined();
      await storage.put(key, [Buffer.alloc(size, 7)]);
      expect((await storage.get(key)).byteLength).toBe(size);
      await expect(storage.put(key, [])).rejects.toMatchObject({ code: 'STORAGE_ALREADY_EXISTS' });
    }
  });

  it('takes every kind of credential', async () => {
    const { accountName, accountKey, endpoint } = azurite;
    const client = await azurite.container();
    const { containerName: container } = client;
    const sas = await client.generateSasUrl({
      permissions: ContainerSASPermissions.parse('racwdl'),
      expiresOn: new Date(Date.now() + 3_600_000),
    });
    const blobEndpoint = `${endpoint}/${accountName}`;
    const connectionString = `DefaultEndpointsProtocol=http;AccountName=${accountName};AccountKey=${accountKey};BlobEndpoint=${blobEndpoint};`;
    for (const [index, credential] of [
      { accountKey },
      { sasToken: new URL(sas).search },
      { connectionString },
    ].entries()) {
      const storage = azureBlobStorage({
        container,
        endpoint: blobEndpoint,
        credentials: async () => credential,
      });
      await storage.put(`key/${index}`, [Buffer.from('x')]);
      expect((await storage.stat(`key/${index}`))?.size).toBe(1);
      await storage.delete(`key/${index}`);
    }
  });

  it('says which container is missing, and that a key is wrong', async () => {
    const { accountName, accountKey, endpoint } = azurite;
    const own = { accountName, endpoint };
    const missing = azureBlobStorage({
      ...own,
      container: 'no-such-container',
      credentials: async () => ({ accountKey }),
    });
    for (const call of [
      () => missing.put('x', [Buffer.from('x')]),
      () => missing.put('x', [Buffer.alloc(17 * MIB)]),
      () => missing.get('x'),
      () => missing.stat('x'),
      () => missing.delete('x'),
      async () => missing.uploads?.begin('x'),
    ]) {
      await expect(call()).rejects.toMatchObject({
        code: 'CONFIGURATION_INVALID',
        message: expect.stringContaining('no-such-container'),
      });
    }
    const { containerName: container } = await azurite.container();
    const wrong = randomBytes(64).toString('base64');
    const denied = azureBlobStorage({
      ...own,
      container,
      credentials: async () => ({ accountKey: wrong }),
    });
    await expect(denied.put('x', [Buffer.from('x')])).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
    await expect(denied.stat('x')).rejects.toMatchObject({ code: 'STORAGE_DENIED' });
  });

  it('refuses handles of a newer version, or with a key that is none', async () => {
    const { storage, reopen } = await fresh();
    const handle = (await storage.uploads?.begin('soon', { tier: 'HOT' })) ?? '';
    expect(JSON.parse(handle)).toEqual({
      version: 1,
      key: 'soon',
      token: expect.stringMatching(/^[0-9a-f]{32}$/),
      tier: 'HOT',
    });
    const newer = handle.replace('"version":1', '"version":2');
    await expect((await reopen()).uploads?.parts(newer)).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
    const elsewhere = handle.replace('soon', '../soon');
    await expect(storage.uploads?.parts(elsewhere)).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  });
});
