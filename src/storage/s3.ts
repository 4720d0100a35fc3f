import { createHash } from 'node:crypto';
import type { GetObjectCommandOutput, HeadObjectCommandOutput } from '@aws-sdk/client-s3';
import type { ObjectLock, ServerSideEncryption } from '../types/backup.ts';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertRange, clampRange } from './byte-range.ts';
import { assertObjectKey, assertObjectKeyPrefix } from './object-key.ts';
import { readResponse } from './s3-body.ts';
import { s3Caller } from './s3-client.ts';
import { createOnlyProbe } from './s3-create-only.ts';
import { failureOf } from './s3-errors.ts';
import { s3Listing } from './s3-list.ts';
import { s3Put } from './s3-put.ts';
import { s3Retention } from './s3-retention.ts';
import { s3Tiers } from './s3-tiers.ts';
import { s3Multipart, s3Uploads } from './s3-uploads.ts';
import { deleteVersions } from './s3-versions.ts';
import { s3ObjectHeaders } from './s3-write-options.ts';
import type { ByteRange, ObjectStorage, StorageCall } from './storage.ts';

export interface S3StorageOptions {
  readonly bucket: string;
  /** Left out: the SDK's own (environment, profile); `us-east-1` where an endpoint is given. */
  readonly region?: string;
  /** `https://...` of a compatible store or a private endpoint. Left out: AWS. */
  readonly endpoint?: string;
  /** The bucket in the path, not in the name of the host. Left out: where an endpoint is given. */
  readonly forcePathStyle?: boolean;
  /** Class of the objects, but for those that are put with `tier: 'HOT'`. */
  readonly storageClass?: string;
  readonly serverSideEncryption?: ServerSideEncryption;
  /** A lock on every object as it is written. The bucket must have Object Lock. */
  readonly objectLock?: ObjectLock;
  /** `accessKeyId`, `secretAccessKey`, optionally `sessionToken` and `expiresAt`. Left out: the SDK's default chain. */
  readonly credentials?: () => Promise<Credential>;
  /** For CUSTOMER_KEY: `key`, 32 bytes in base64. */
  readonly customerKey?: () => Promise<Credential>;
  /** Certificates (PEM) that the server's must be signed by, instead of the system's. */
  readonly tls?: { readonly ca?: string };
}

/**
 * AWS_S3: objects in a bucket of AWS or of a compatible store. Nothing is opened or loaded before the first call.
 *
 * Create-only stands on `If-None-Match: *`. A store that ignores it is found out before the first put by an object
 * named `.create-only-probe` beside it, and refused with `CONFIGURATION_INVALID`.
 *
 * Objects up to 16 MiB are one request; larger ones are sent in parallel parts and published at once. A put that is
 * aborted when the store has all its bytes waits for the answer, and resolves where it was stored.
 *
 * Where the bucket keeps versions, `delete` removes them all by their ids; with a lock that is `STORAGE_DENIED`. Needs
 * `s3:ListBucketVersions`; without it the present version goes.
 *
 * Errors: the codes of `STORAGE_*` by the answer's code and status; a wrong bucket, region, class or KMS key is
 * `CONFIGURATION_INVALID`; `CREDENTIALS_UNAVAILABLE`; `DEPENDENCY_MISSING` without `@aws-sdk/client-s3`. A `cause`
 * holds the answer's code, never the request: its headers are credentials.
 */
export function s3Storage(options: S3StorageOptions): ObjectStorage {
  const description = describe(options);
  assertOptions(options, description);
  const { bucket, objectLock } = options;
  const caller = s3Caller({ ...options, description });
  const headers = s3ObjectHeaders(options, description);
  const assertCreateOnly = createOnlyProbe(caller, headers);
  const multipart = s3Multipart(caller, headers, assertCreateOnly);
  let bucketSeen = false;

  /** A HEAD does not tell a missing bucket from a missing object. */
  async function assertBucket(key: string, signal: AbortSignal | undefined): Promise<void> {
    if (bucketSeen) return;
    await caller.call({ operation: 'stat', key }, signal, async (client, http) => {
      try {
        await client.headBucket({ Bucket: bucket }, http);
      } catch (error) {
        const { status } = failureOf(error);
        if (status === 404) throw noBucket(bucket, description);
        if (status !== 403) throw error;
      }
    });
    bucketSeen = true;
  }

  async function headOrNone(key: string, { signal }: StorageCall) {
    const access = await headers.access();
    const head = await caller.call({ operation: 'stat', key }, signal, async (client, http) => {
      try {
        return await client.headObject({ Bucket: bucket, Key: key, ...access }, http);
      } catch (error) {
        if (failureOf(error).status === 404) return undefined;
        throw error;
      }
    });
    if (head === undefined) await assertBucket(key, signal);
    else bucketSeen = true;
    return head;
  }

  async function head(key: string, call: StorageCall): Promise<HeadObjectCommandOutput> {
    const found = await headOrNone(key, call);
    if (found === undefined) throw notFound(key, description);
    return found;
  }

  return {
    description,

    put: s3Put(caller, headers, multipart, assertCreateOnly),

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      signal?.throwIfAborted();
      if (range?.length === 0) {
        await head(key, { signal });
        return new Uint8Array();
      }
      const access = await headers.access();
      const input = {
        Bucket: bucket,
        Key: key,
        ...access,
        ...(range === undefined ? {} : rangeHeader(range)),
      };
      const answer = await caller.call({ operation: 'get', key }, signal, async (client, http) => {
        try {
          return await client.getObject(input, http);
        } catch (error) {
          if (range !== undefined && failureOf(error).status === 416) return undefined;
          throw error;
        }
      });
      if (answer === undefined) return new Uint8Array();
      const bytes = await readResponse(answer.Body, { key, size: answer.ContentLength }, signal);
      return range === undefined ? checked(bytes, answer, key) : within(range, bytes, answer, key);
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      const found = await headOrNone(key, { signal });
      if (found === undefined) return undefined;
      const { ContentLength: size, LastModified: modifiedAt } = found;
      if (size === undefined || modifiedAt === undefined) {
        throw new StorageError(
          `${description} does not tell size and time of ${key}.`,
          'STORAGE_UNAVAILABLE',
          {
            key,
          },
        );
      }
      return { key, size, modifiedAt };
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      signal?.throwIfAborted();
      yield* s3Listing(caller, prefix, signal);
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      await deleteVersions(caller, headers, key, signal);
    },

    uploads: s3Uploads(multipart, async (key, call) => (await headOrNone(key, call)) !== undefined),
    tiers: s3Tiers(caller, head),
    ...(objectLock === undefined ? {} : { retention: s3Retention(caller, head, objectLock) }),
    close: () => caller.close(),
  };
}

function rangeHeader({ offset, length }: ByteRange): { Range: string } {
  return { Range: `bytes=${offset}-${BigInt(offset) + BigInt(length) - 1n}` };
}

/** A whole object, held to the checksum that it was stored with, where the store has kept one of the whole. */
function checked(bytes: Uint8Array, { ChecksumSHA256 }: GetObjectCommandOutput, key: string): Uint8Array {
  // An object that was sent in parts has the checksum of its parts' checksums: `...-<parts>`.
  if (ChecksumSHA256 === undefined || ChecksumSHA256.includes('-')) return bytes;
  if (createHash('sha256').update(bytes).digest('base64') === ChecksumSHA256) return bytes;
  throw new StorageError(`The bytes of ${key} do not have their checksum.`, 'STORAGE_CORRUPT', { key });
}

/** The bytes that were asked for. Some servers answer with the whole object. */
function within(
  range: ByteRange,
  bytes: Uint8Array,
  { ContentRange }: GetObjectCommandOutput,
  key: string,
): Uint8Array {
  if (ContentRange === undefined) {
    const { offset, length } = clampRange(range, bytes.byteLength);
    return bytes.slice(offset, offset + length);
  }
  const [, first, last, size] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(ContentRange) ?? [];
  const expected = clampRange(range, Number(size));
  const given = Number(last) - Number(first) + 1;
  if (Number(first) === expected.offset && given === expected.length && bytes.byteLength === given)
    return bytes;
  throw new StorageError(`The answer with ${key} is not the range that was asked for.`, 'STORAGE_CORRUPT', {
    key,
  });
}

function describe({ bucket, endpoint }: S3StorageOptions): string {
  if (endpoint === undefined) return `AWS_S3 ${bucket}`;
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
    throw invalid('s3Storage needs `endpoint` as a URL of http or https without a credential.');
  }
  return `AWS_S3 ${url.host}/${bucket}`;
}

function assertOptions(options: S3StorageOptions, description: string): void {
  const { bucket, serverSideEncryption, customerKey, objectLock } = options;
  if (typeof bucket !== 'string' || bucket === '') throw invalid('s3Storage needs `bucket`.');
  if ((serverSideEncryption?.type === 'CUSTOMER_KEY') !== (customerKey !== undefined)) {
    throw invalid(`${description}: \`customerKey\` and encryption by CUSTOMER_KEY need each other.`);
  }
  if (
    objectLock !== undefined &&
    !(Number.isSafeInteger(objectLock.retainDays) && objectLock.retainDays >= 1)
  ) {
    throw invalid(`${description}: \`objectLock.retainDays\` is a whole number from 1.`);
  }
}

function notFound(key: string, description: string): StorageError {
  return new StorageError(`There is no object ${key} in ${description}.`, 'STORAGE_NOT_FOUND', { key });
}

function noBucket(bucket: string, description: string): DataProtectionError {
  return invalid(`There is no bucket ${bucket} (${description}).`);
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'CONFIGURATION_INVALID');
}
