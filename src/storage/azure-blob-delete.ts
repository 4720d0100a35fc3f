import type { BlobItem } from '@azure/storage-blob';
import { StorageError } from '../types/errors.ts';
import type { AzureClient } from './azure-blob-connection.ts';
import { azureFailure, isMissing } from './azure-blob-errors.ts';
import { abortedBy } from './azure-blob-write.ts';

/** `work` of a delete: the blob, its snapshots and its versions; nothing at all where one of them is protected. */
export async function deleteBlob(
  client: AzureClient,
  key: string,
  description: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const items = await versionsOf(client, key, signal);
  // With versioning, deleting the blob would succeed, hide it, and leave the protected version behind.
  const protectedItem = items.find(isProtected);
  if (protectedItem !== undefined) {
    const until = protectedItem.properties.immutabilityPolicyExpiresOn?.toISOString();
    throw new StorageError(
      `The object ${key} of ${description} is protected ${protectedItem.properties.legalHold ? 'by a legal hold' : `until ${until}`}.`,
      'STORAGE_DENIED',
      { key },
    );
  }
  const blob = client.container.getBlobClient(key);
  const current = items.some(
    ({ versionId, isCurrentVersion }) => versionId === undefined || isCurrentVersion,
  );
  if (current) {
    await blob.delete({ deleteSnapshots: 'include', ...abortedBy(signal) }).catch(unlessMissing);
  }
  for (const { versionId } of items) {
    if (versionId === undefined) continue;
    await blob.withVersion(versionId).delete(abortedBy(signal)).catch(unlessMissing);
  }
}

function isProtected({ properties }: BlobItem): boolean {
  const { legalHold, immutabilityPolicyExpiresOn } = properties;
  return (
    legalHold === true ||
    (immutabilityPolicyExpiresOn !== undefined && immutabilityPolicyExpiresOn.getTime() > Date.now())
  );
}

function unlessMissing(error: unknown): void {
  if (!isMissing(error) && azureFailure(error).code !== 'BlobVersionNotFound') throw error;
}

/** The blob and its versions. Names are listed in order, so those that only begin with the key come after it. */
async function versionsOf(
  { container }: AzureClient,
  key: string,
  signal: AbortSignal | undefined,
): Promise<readonly BlobItem[]> {
  const found: BlobItem[] = [];
  const listing = container.listBlobsFlat({
    prefix: key,
    includeVersions: true,
    includeImmutabilityPolicy: true,
    includeLegalHold: true,
    ...abortedBy(signal),
  });
  for await (const page of listing.byPage({ maxPageSize: 100 })) {
    for (const item of page.segment.blobItems) {
      if (item.name !== key) return found;
      found.push(item);
    }
  }
  return found;
}
