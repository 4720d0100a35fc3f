import type { BlobItem } from '@azure/storage-blob';
import { azureConnection } from './azure-blob-connection.ts';
import { deleteBlob } from './azure-blob-delete.ts';
import { corrupt, isMissing, notFound } from './azure-blob-errors.ts';
import { type AzureBlobStorageOptions, accessTier, azurePlace, invalid } from './azure-blob-options.ts';
import { azureBlobRetention, azureBlobTiers } from './azure-blob-protection.ts';
import { readBlob } from './azure-blob-read.ts';
import { azureBlobUploads } from './azure-blob-uploads.ts';
import { abortedBy, type WriteSettings, writeBlob } from './azure-blob-write.ts';
import { assertRange } from './byte-range.ts';
import { assertObjectKey, assertObjectKeyPrefix, isObjectKeySegment } from './object-key.ts';
import type { ObjectInfo, ObjectStorage } from './storage.ts';

export type { AzureBlobStorageOptions } from './azure-blob-options.ts';

const PAGE = 1000;

/**
 * AZURE_BLOB: objects are block blobs of one container, named by their keys. Connects with the first call, through
 * the optional packages @azure/storage-blob and, without `credentials`, @azure/identity.
 *
 * Up to 16 MiB an object is one `Put Blob`; above, blocks in parallel and one `Put Block List`. Both are create-only
 * (`If-None-Match: *`), and the server checks the MD5 of everything that it is sent. An abort is heeded until the
 * request that publishes the object is on its way; from then on its answer counts. Blocks of what failed are not
 * visible; Azure drops them after a week.
 *
 * `delete` also removes snapshots and versions, and refuses with `STORAGE_DENIED` where one of them is locked. It
 * needs the permission to list. Accounts with a hierarchical namespace have no versions and are not supported.
 *
 * Errors: as on `ObjectStorage`; a missing container is `CONFIGURATION_INVALID`; what the credential may not do, or
 * a lock does not let happen, is `STORAGE_DENIED`, after the provider of the credential was asked once more.
 *
 * Throws `CONFIGURATION_INVALID` where the options do not fit together.
 */
export function azureBlobStorage(options: AzureBlobStorageOptions): ObjectStorage {
  const place = azurePlace(options);
  const { description } = place;
  const { serverSideEncryption: encryption, objectLock } = options;
  if (encryption?.type === 'KMS' && !encryption.keyId) {
    throw invalid('`serverSideEncryption` KMS needs `keyId`, the name of an encryption scope.');
  }
  if (encryption?.type === 'CUSTOMER_KEY') {
    if (options.customerKey === undefined)
      throw invalid('`serverSideEncryption` CUSTOMER_KEY needs the customer key.');
    if (place.serviceUrl?.startsWith('http:')) throw invalid('A customer key needs an https `endpoint`.');
  }
  if (options.credentials === undefined && place.serviceUrl?.startsWith('http:')) {
    throw invalid('Without `credentials` an https `endpoint` is needed: tokens are not sent in the clear.');
  }
  const connection = azureConnection(options, place);
  const settings: WriteSettings = {
    description,
    tier: accessTier(options.storageClass),
    encryptionScope: encryption?.type === 'KMS' ? encryption.keyId : undefined,
    objectLock,
  };

  return {
    description,

    async put(key, body, call = {}) {
      assertObjectKey(key);
      await connection.call({ operation: 'put', key, signal: call.signal }, (client) =>
        writeBlob(client, key, body, settings, call),
      );
    },

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      return connection.call({ operation: 'get', key, signal }, async (client) => {
        try {
          return await readBlob(client, key, range, description, { signal });
        } catch (error) {
          throw isMissing(error) ? notFound(key, description) : error;
        }
      });
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      return connection.call({ operation: 'stat', key, signal }, async ({ container, contentKey }) => {
        try {
          const blob = container.getBlobClient(key);
          const properties = await blob.getProperties({ ...contentKey, ...abortedBy(signal) });
          return objectInfo(key, properties, description);
        } catch (error) {
          if (isMissing(error)) return undefined;
          throw error;
        }
      });
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      let marker: string | undefined;
      do {
        const page = await connection.call(
          { operation: 'list', key: prefix, signal },
          async ({ container }) => {
            const listing = container.listBlobsFlat({ prefix, ...abortedBy(signal) });
            const from = marker === undefined ? {} : { continuationToken: marker };
            const { value } = await listing.byPage({ maxPageSize: PAGE, ...from }).next();
            return { items: itemsOf(value), marker: value?.continuationToken };
          },
        );
        for (const { name, properties } of page.items) {
          signal?.throwIfAborted();
          if (name.split('/').every(isObjectKeySegment)) yield objectInfo(name, properties, description);
        }
        signal?.throwIfAborted();
        marker = page.marker || undefined;
      } while (marker !== undefined);
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      await connection.call({ operation: 'delete', key, signal }, (client) =>
        deleteBlob(client, key, description, signal),
      );
    },

    uploads: azureBlobUploads(connection, settings),
    tiers: azureBlobTiers(connection),
    retention: azureBlobRetention(connection, objectLock?.mode),
  };
}

function itemsOf(page: { segment: { blobItems: BlobItem[] } } | undefined): readonly BlobItem[] {
  return page?.segment.blobItems ?? [];
}

function objectInfo(
  key: string,
  { contentLength, lastModified }: { contentLength?: number; lastModified?: Date },
  description: string,
): ObjectInfo {
  if (contentLength === undefined || lastModified === undefined) {
    throw corrupt(key, 'the answer lacks the size or the time of the object', description);
  }
  return { key, size: contentLength, modifiedAt: lastModified };
}
