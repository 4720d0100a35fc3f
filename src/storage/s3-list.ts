import { StorageError } from '../types/errors.ts';
import { isObjectKeySegment, MAX_OBJECT_KEY_BYTES } from './object-key.ts';
import type { S3Caller } from './s3-client.ts';
import type { ObjectInfo } from './storage.ts';

/** The objects with a prefix, page by page. What has no valid key is not ours and left out. */
export async function* s3Listing(
  caller: S3Caller,
  prefix: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<ObjectInfo> {
  for (let token: string | undefined; ; ) {
    const input = { Bucket: caller.bucket, Prefix: prefix, EncodingType: 'url' } as const;
    const page = await caller.call({ operation: 'list', key: prefix }, signal, (client, http) =>
      client.listObjectsV2(token === undefined ? input : { ...input, ContinuationToken: token }, http),
    );
    for (const { Key, Size, LastModified } of page.Contents ?? []) {
      signal?.throwIfAborted();
      const key = decoded(Key);
      if (key === undefined || !key.startsWith(prefix)) continue;
      if (Size === undefined || LastModified === undefined) throw brokenOff(prefix, caller);
      yield { key, size: Size, modifiedAt: LastModified };
      signal?.throwIfAborted();
    }
    if (page.IsTruncated !== true) return;
    // A list that is cut short here would be taken for a whole one.
    const next = page.NextContinuationToken;
    if (next === undefined || next === token) throw brokenOff(prefix, caller);
    token = next;
  }
}

/** Names are asked for in URL encoding: XML cannot hold every name that strangers may have given. */
function decoded(encoded: string | undefined): string | undefined {
  if (encoded === undefined || encoded.includes('+')) return undefined;
  const key = encoded.replaceAll(/%2f/gi, '/');
  const isKey = key.length <= MAX_OBJECT_KEY_BYTES && key.split('/').every(isObjectKeySegment);
  return isKey ? key : undefined;
}

function brokenOff(prefix: string, { description }: S3Caller): StorageError {
  return new StorageError(
    `${description} broke off the list of ${prefix || '(all)'}.`,
    'STORAGE_UNAVAILABLE',
    {
      key: prefix,
    },
  );
}
