import { DataProtectionError } from '../types/errors.ts';
import { requestBody } from './s3-body.ts';
import type { S3Caller } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';
import { deleteVersions } from './s3-versions.ts';
import type { S3ObjectHeaders } from './s3-write-options.ts';

/** Begins like no key, so that no operation shows it. It lies beside the object: policies may end at a prefix. */
const PROBE = '.create-only-probe';

/** With a checksum: where the bucket locks what it takes, the store asks for one. */
const BODY = Buffer.from('probe');
const { checksum: ChecksumSHA256 } = requestBody([BODY]);

/** The two ways to publish an object; stores may know create-only for one of them. */
export type PublishKind = 'PUT' | 'MULTIPART';

/** Resolves where the store is proven; rejects with the signal’s reason, and with what `createOnlyProbe` says. */
export type AssertCreateOnly = (
  kind: PublishKind,
  key: string,
  signal: AbortSignal | undefined,
) => Promise<void>;

/** A probe that runs or has succeeded. */
interface Probing {
  readonly done: Promise<void>;
  readonly stop: AbortController;
  waiting: number;
}

/**
 * Finds out, once for each way to publish, whether the store obeys `If-None-Match: *`. `CONFIGURATION_INVALID` where
 * it does not: then writers would replace each other's objects.
 */
export function createOnlyProbe(caller: S3Caller, headers: S3ObjectHeaders): AssertCreateOnly {
  const probes = new Map<PublishKind, Probing>();

  function begin(kind: PublishKind, key: string): Probing {
    const stop = new AbortController();
    const at = key.slice(0, key.lastIndexOf('/') + 1) + PROBE;
    const probing = { done: probe(caller, headers, kind, at, stop.signal), stop, waiting: 0 };
    probes.set(kind, probing);
    // A probe that could not be finished proves nothing; the next put tries again.
    probing.done.catch(() => forget(kind, probing));
    return probing;
  }

  function forget(kind: PublishKind, probing: Probing): void {
    if (probes.get(kind) === probing) probes.delete(kind);
  }

  /** One probe serves all puts that wait for it; the abort of one ends its own wait, that of the last the probe. */
  return async (kind, key, signal) => {
    signal?.throwIfAborted();
    const probing = probes.get(kind) ?? begin(kind, key);
    probing.waiting += 1;
    const left = Promise.withResolvers<never>();
    const leave = (): void => {
      if (probing.waiting === 1) {
        forget(kind, probing);
        probing.stop.abort(signal?.reason);
      }
      left.reject(signal?.reason);
    };
    signal?.addEventListener('abort', leave, { once: true });
    try {
      await Promise.race([probing.done, left.promise]);
    } finally {
      probing.waiting -= 1;
      signal?.removeEventListener('abort', leave);
    }
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
  signal: AbortSignal,
): Promise<void> {
  const create = kind === 'PUT' ? createByPut : createByParts;
  if ((await create(caller, headers, key, signal)) === 'REFUSED') return;
  const second = await create(caller, headers, key, signal);
  await deleteVersions(caller, headers, key, signal).catch(() => undefined);
  if (second === 'CREATED') throw ignored(caller);
}

type Created = 'CREATED' | 'REFUSED';

async function createByPut(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  key: string,
  signal: AbortSignal,
): Promise<Created> {
  const options = await headers.probe();
  return caller.call({ operation: 'put', key }, signal, async (client, http) => {
    try {
      const input = { Bucket: caller.bucket, Key: key, ...options, IfNoneMatch: '*' };
      await client.putObject({ ...input, ChecksumSHA256, Body: BODY }, http);
      return 'CREATED';
    } catch (error) {
      return refusalOf(error, caller);
    }
  });
}

async function createByParts(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  key: string,
  signal: AbortSignal,
): Promise<Created> {
  const [options, access] = await Promise.all([headers.probe(), headers.access()]);
  return caller.call({ operation: 'put', key }, signal, async (client, http) => {
    const object = { Bucket: caller.bucket, Key: key };
    const { UploadId } = await client.createMultipartUpload(
      { ...object, ...options, ChecksumAlgorithm: 'SHA256' },
      http,
    );
    const upload = { ...object, UploadId, ...access };
    try {
      const { ETag } = await client.uploadPart(
        { ...upload, PartNumber: 1, ChecksumSHA256, Body: BODY },
        http,
      );
      const MultipartUpload = { Parts: [{ PartNumber: 1, ETag, ChecksumSHA256 }] };
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
  // By name too: after a 200 the status says nothing.
  if (status === 412 || name === 'PreconditionFailed') return 'REFUSED';
  // A conflict of two conditional writes is the word of a store that knows the condition.
  if (name === 'ConditionalRequestConflict') return 'REFUSED';
  if (name === 'NotImplemented' || status === 501) throw ignored(caller);
  throw error;
}

function ignored({ description }: S3Caller): DataProtectionError {
  return new DataProtectionError(
    `${description} ignores \`If-None-Match: *\`: objects could replace each other. Use a store that obeys it.`,
    'CONFIGURATION_INVALID',
  );
}
