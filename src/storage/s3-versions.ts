import type { ListObjectVersionsCommandOutput } from '@aws-sdk/client-s3';
import { StorageError } from '../types/errors.ts';
import type { S3Caller } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';
import type { S3ObjectHeaders } from './s3-write-options.ts';

/**
 * Removes every version of an object and its delete markers, by version id, so that no marker is made. The oldest
 * goes first: where a lock refuses one, the object is still what it was, and no older version comes to light.
 */
export async function deleteVersions(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  key: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const versions =
    (await listedVersions(caller, key, signal)) ?? (await presentVersion(caller, headers, key, signal));
  for (const VersionId of versions.reverse()) {
    await deleteVersion(caller, key, VersionId, signal);
  }
}

async function deleteVersion(
  caller: S3Caller,
  key: string,
  VersionId: string | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  await caller.call({ operation: 'delete', key }, signal, async (client, http) => {
    try {
      const input = { Bucket: caller.bucket, Key: key, ...(VersionId === undefined ? {} : { VersionId }) };
      const answer = await client.deleteObject(input, http);
      if (VersionId === undefined && answer.DeleteMarker === true) {
        throw new StorageError(
          `${caller.description} keeps versions that may not be listed: ${key} is hidden, not deleted.`,
          'STORAGE_DENIED',
          { key },
        );
      }
    } catch (error) {
      const { name } = failureOf(error);
      if (name !== 'NoSuchKey' && name !== 'NoSuchVersion') throw error;
    }
  });
}

/** Newest first; undefined where versions may not be listed or the store has none. */
async function listedVersions(
  caller: S3Caller,
  key: string,
  signal: AbortSignal | undefined,
): Promise<(string | undefined)[] | undefined> {
  const found: { readonly id: string; readonly at: number; readonly isLatest: boolean }[] = [];
  let from: { KeyMarker?: string; VersionIdMarker?: string } = {};
  for (;;) {
    const page = await caller.call({ operation: 'delete', key }, signal, async (client, http) => {
      try {
        return await client.listObjectVersions({ Bucket: caller.bucket, Prefix: key, ...from }, http);
      } catch (error) {
        if (isNotAllowed(error)) return undefined;
        throw error;
      }
    });
    if (page === undefined) return undefined;
    const entries = entriesOf(page);
    found.push(
      ...entries
        .filter(({ Key }) => Key === key)
        .map(({ VersionId = 'null', LastModified, IsLatest = false }) => ({
          id: VersionId,
          at: LastModified?.getTime() ?? 0,
          isLatest: IsLatest,
        })),
    );
    // Keys come in order, and the key itself is the first of those that it begins.
    const isPast = entries.some(({ Key }) => Key !== key);
    if (page.IsTruncated !== true || isPast) break;
    if (page.NextKeyMarker === undefined) throw unfinished(key, caller.description);
    from = {
      KeyMarker: page.NextKeyMarker,
      ...(page.NextVersionIdMarker === undefined ? {} : { VersionIdMarker: page.NextVersionIdMarker }),
    };
  }
  return found.sort((a, b) => Number(b.isLatest) - Number(a.isLatest) || b.at - a.at).map(({ id }) => id);
}

/** The version that a HEAD shows: one entry of undefined where the bucket keeps none, no entry without an object. */
async function presentVersion(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  key: string,
  signal: AbortSignal | undefined,
): Promise<(string | undefined)[]> {
  const access = await headers.access();
  return caller.call({ operation: 'delete', key }, signal, async (client, http) => {
    try {
      return [(await client.headObject({ Bucket: caller.bucket, Key: key, ...access }, http)).VersionId];
    } catch (error) {
      if (failureOf(error).status === 404) return [];
      throw error;
    }
  });
}

function entriesOf({ Versions = [], DeleteMarkers = [] }: ListObjectVersionsCommandOutput) {
  return [...Versions, ...DeleteMarkers];
}

function isNotAllowed(error: unknown): boolean {
  const { name, status } = failureOf(error);
  return name === 'AccessDenied' || name === 'NotImplemented' || status === 405 || status === 501;
}

function unfinished(key: string, description: string): StorageError {
  return new StorageError(
    `${description} broke off the list of versions of ${key} without saying where it goes on.`,
    'STORAGE_UNAVAILABLE',
    { key },
  );
}
