import { DataProtectionError } from '../types/errors.ts';
import { assertObjectKey } from './object-key.ts';
import { bodyStream, cutPieces, requestBody } from './s3-body.ts';
import type { S3Caller } from './s3-client.ts';
import type { AssertCreateOnly } from './s3-create-only.ts';
import { completedPart, S3_UPLOAD_LIMITS, type S3Multipart, type S3Upload } from './s3-uploads.ts';
import type { S3ObjectHeaders } from './s3-write-options.ts';
import type { ObjectStorage, PutCall } from './storage.ts';

const MIB = 1024 * 1024;

/** Objects up to here are one request. */
const ONE_REQUEST_BYTES = 16 * MIB;
const PART_BYTES = 8 * MIB;
const PARALLEL_PARTS = 4;

/** `put`: one request, or parts in parallel that are published at once. Create-only either way. */
export function s3Put(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  multipart: S3Multipart,
  assertCreateOnly: AssertCreateOnly,
): ObjectStorage['put'] {
  async function putWhole(key: string, pieces: readonly Uint8Array[], options: PutCall): Promise<void> {
    const { signal, tier } = options;
    const body = requestBody(pieces);
    const input = {
      Bucket: caller.bucket,
      Key: key,
      IfNoneMatch: '*',
      ContentLength: body.size,
      ChecksumSHA256: body.checksum,
      ...(await headers.create({ tier })),
    };
    // Once the last bytes are on their way, only the answer tells whether the object is stored.
    const stopping = new AbortController();
    let stop = () => stopping.abort(signal?.reason);
    const onAbort = () => stop();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await caller.call({ operation: 'put', key }, stopping.signal, (client, http) => {
        signal?.throwIfAborted();
        const Body = bodyStream(body, () => {
          stop = () => undefined;
        });
        return client.putObject({ ...input, Body }, http);
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async function sendParts(
    upload: S3Upload,
    pieces: readonly Uint8Array[],
    size: number,
    signal: AbortSignal | undefined,
  ) {
    const partBytes = Math.max(PART_BYTES, Math.ceil(size / S3_UPLOAD_LIMITS.maxParts));
    const count = Math.ceil(size / partBytes);
    const failing = new AbortController();
    const either = signal === undefined ? failing.signal : AbortSignal.any([signal, failing.signal]);
    const completed = new Array<ReturnType<typeof completedPart>>(count);
    let next = 0;
    async function sendSome(): Promise<void> {
      while (next < count) {
        const index = next++;
        const offset = index * partBytes;
        const body = requestBody(cutPieces(pieces, offset, Math.min(partBytes, size - offset)));
        const digest = Buffer.from(body.checksum, 'base64').toString('hex');
        const part = { number: index + 1, size: body.size, digest };
        const tag = await multipart.send(upload, part, () => bodyStream(body, () => undefined), either);
        completed[index] = completedPart(part, tag);
      }
    }
    let failure: { readonly error: unknown } | undefined;
    await Promise.all(
      Array.from({ length: Math.min(PARALLEL_PARTS, count) }, () =>
        sendSome().catch((error) => {
          failure ??= { error };
          failing.abort(error);
        }),
      ),
    );
    if (failure !== undefined) throw failure.error;
    return completed;
  }

  async function putInParts(key: string, pieces: readonly Uint8Array[], size: number, options: PutCall) {
    const upload = await multipart.begin(key, options);
    try {
      const parts = await sendParts(upload, pieces, size, options.signal);
      options.signal?.throwIfAborted();
      await multipart.publish(upload, parts, { size, signal: options.signal });
    } catch (error) {
      // Nothing of it is visible; what an abort could not remove is left to the bucket's lifecycle rule.
      await multipart.abort(upload, undefined).catch(() => undefined);
      throw error;
    }
  }

  return async (key, body, options = {}) => {
    assertObjectKey(key);
    options.signal?.throwIfAborted();
    const size = body.reduce((sum, piece) => sum + piece.byteLength, 0);
    if (size > S3_UPLOAD_LIMITS.maxPartBytes * S3_UPLOAD_LIMITS.maxParts) {
      throw new DataProtectionError(`${key} is larger than S3 takes.`, 'NOT_SUPPORTED');
    }
    if (size > ONE_REQUEST_BYTES) {
      await assertCreateOnly('MULTIPART', key, options.signal);
      await putInParts(key, body, size, options);
    } else {
      await assertCreateOnly('PUT', key, options.signal);
      options.signal?.throwIfAborted();
      await putWhole(key, body, options);
    }
  };
}
