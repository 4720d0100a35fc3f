import { DataProtectionError } from '../types/errors.ts';
import type { S3Caller } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';
import { deleteVersions } from './s3-versions.ts';
import type { S3ObjectHeaders } from './s3-write-options.ts';

/** Begins like no key, so that no operation shows it. It lies beside the object: policies may end at a prefix. */
const PROBE = '.create-only-probe';

/** The two ways to publish an object; stores may know create-only for one of them. */
export type PublishKind = 'PUT' | 'MULTIPART';

/**
 * Finds out, once for each way to publish, whether the store obeys `If-None-Match: *`. `CONFIGURATION_INVALID` where
 * it does not: then writers would replace each other's objects.
 */
export function createOnlyProbe(caller: S3Caller, headers: S3ObjectHeaders) {
  const proven = new Map<PublishKind, Promise<void>>();

  /** One probe serves all puts that wait for it, so it does not hear the signal of one of them. */
  return async function assertCreateOnly(kind: PublishKind, key: string): Promise<void> {
    const running = proven.get(kind);
    if (running !== undefined) return running;
    const probing = probe(caller, headers, kind, key.slice(0, key.lastIndexOf('/') + 1) + PROBE);
    proven.set(kind, probing);
    // A probe that could not be finished proves nothing; the next put tries again.
    probing.catch(() => proven.delete(kind));
    return probing;
  };
}

/**
 * Creates the probe's object twice; the second time must be refused. Only who created it removes it, so that probes
 * of several processes do not take it from each other between the two. What a lock or a policy keeps is one small
 * object, which the next probe finds.
 */
async function probe(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  kind: PublishKind,
  key: string,
): Promise<void> {
  const create = kind === 'PUT' ? createByPut : createByParts;
  if ((await create(caller, headers, key)) === 'REFUSED') return;
  const second = await create(caller, headers, key);
  await deleteVersions(caller, headers, key, undefined).catch(() => undefined);
  if (second === 'CREATED') throw ignored(caller);
}

type Created = 'CREATED' | 'REFUSED';

async function createByPut(caller: S3Caller, headers: S3ObjectHeaders, key: string): Promise<Created> {
  const options = await headers.probe();
  return caller.call({ operation: 'put', key }, undefined, async (client, http) => {
    try {
      const input = { Bucket: caller.bucket, Key: key, ...options, IfNoneMatch: '*' };
      await client.putObject({ ...input, Body: Buffer.from('probe') }, http);
      return 'CREATED';
    } catch (error) {
      return refusalOf(error, caller);
    }
  });
}

async function createByParts(caller: S3Caller, headers: S3ObjectHeaders, key: string): Promise<Created> {
  const [options, access] = await Promise.all([headers.probe(), headers.access()]);
  return caller.call({ operation: 'put', key }, undefined, async (client, http) => {
    const object = { Bucket: caller.bucket, Key: key };
    const { UploadId } = await client.createMultipartUpload({ ...object, ...options }, http);
    const upload = { ...object, UploadId, ...access };
    try {
      const { ETag } = await client.uploadPart(
        { ...upload, PartNumber: 1, Body: Buffer.from('probe') },
        http,
      );
      const MultipartUpload = { Parts: [{ PartNumber: 1, ETag }] };
      await client.completeMultipartUpload({ ...upload, MultipartUpload, IfNoneMatch: '*' }, http);
      return 'CREATED';
    } catch (error) {
      const refusal = refusalOf(error, caller);
      await client.abortMultipartUpload({ ...object, UploadId }, http);
      return refusal;
    }
  });
}

function refusalOf(error: unknown, caller: S3Caller): 'REFUSED' {
  const { name, status } = failureOf(error);
  // A conflict of two conditional writes is the word of a store that knows the condition.
  if (status === 412 || name === 'ConditionalRequestConflict') return 'REFUSED';
  if (name === 'NotImplemented' || status === 501) throw ignored(caller);
  throw error;
}

function ignored({ description }: S3Caller): DataProtectionError {
  return new DataProtectionError(
    `${description} ignores \`If-None-Match: *\`: objects could replace each other. Use a store that obeys it.`,
    'CONFIGURATION_INVALID',
  );
}
