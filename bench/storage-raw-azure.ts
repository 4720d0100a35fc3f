import { ContainerClient, StorageSharedKeyCredential } from '@azure/storage-blob';
import { azureBlobStorage } from '../src/storage/azure-blob.ts';
import { startAzurite } from '../test/harness/azurite.ts';
import type { Contest } from './storage-contest.ts';

export async function azureContest(): Promise<Contest> {
  const azurite = await startAzurite();
  const { accountName, accountKey, endpoint } = azurite;
  const { containerName } = await azurite.container();
  const credential = new StorageSharedKeyCredential(accountName, accountKey);
  const client = new ContainerClient(`${endpoint}/${accountName}/${containerName}`, credential);
  const settings = { container: containerName, accountName, endpoint };
  return {
    ours: azureBlobStorage({ ...settings, credentials: async () => ({ accountKey }) }),
    raw: {
      put: (key, body) => client.getBlockBlobClient(key).upload(body, body.byteLength),
      get: (key) => client.getBlobClient(key).downloadToBuffer(),
      close: () => undefined,
    },
    [Symbol.asyncDispose]: () => azurite.stop(),
  };
}
