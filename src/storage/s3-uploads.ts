import type { Readable } from 'node:stream';
import type { CompletedPart, Part } from '@aws-sdk/client-s3';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertObjectKey } from './object-key.ts';
import type { S3Caller } from './s3-client.ts';
import type { AssertCreateOnly } from './s3-create-only.ts';
import { failureOf } from './s3-errors.ts';
import type { S3ObjectHeaders } from './s3-write-options.ts';
import type { PutCall, ResumableUploads, StorageCall, UploadPart } from './storage.ts';

const MIB = 1024 * 1024;

/** The figures of https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html. */
export const S3_UPLOAD_LIMITS = { minPartBytes: 5 * MIB, maxPartBytes: 5 * 1024 * MIB, maxParts: 10_000 };

/** An upload that is open at the provider. */
export interface S3Upload {
  readonly key: string;
  readonly uploadId: string;
}

export interface S3Multipart {
  begin(key: string, options: PutCall): Promise<S3Upload>;
  /** Gives the part's ETag. `body` makes the body of one attempt. */
  send(
    upload: S3Upload,
    part: UploadPart,
    body: () => Uint8Array | Readable,
    signal: AbortSignal | undefined,
  ): Promise<string>;
  list(upload: S3Upload, signal: AbortSignal | undefined): Promise<readonly Part[]>;
  /** Publishes the object, create-only. Once that is asked for it hears no signal: only the answer tells what became of it. */
  publish(
    upload: S3Upload,
    parts: readonly CompletedPart[],
    call: StorageCall & { readonly size: number },
  ): Promise<void>;
  abort(upload: S3Upload, signal: AbortSignal | undefined): Promise<void>;
}

/** The provider's calls for uploads in parts, each with the headers that it needs. */
export function s3Multipart(
  caller: S3Caller,
  headers: S3ObjectHeaders,
  assertCreateOnly: AssertCreateOnly,
): S3Multipart {
  const { bucket: Bucket } = caller;

  return {
    async begin(key, { signal, tier }) {
      const options = await headers.create({ tier });
      const { UploadId } = await caller.call({ operation: 'put', key }, signal, (client, http) =>
        client.createMultipartUpload({ Bucket, Key: key, ...options, ChecksumAlgorithm: 'SHA256' }, http),
      );
      if (UploadId === undefined) throw incomplete(key, 'the id of the upload');
      return { key, uploadId: UploadId };
    },

    async send({ key, uploadId: UploadId }, part, body, signal) {
      const access = await headers.access();
      const input = {
        Bucket,
        Key: key,
        UploadId,
        PartNumber: part.number,
        ContentLength: part.size,
        ChecksumSHA256: Buffer.from(part.digest, 'hex').toString('base64'),
        ...access,
      };
      const { ETag } = await caller.call({ operation: 'put', key }, signal, (client, http) =>
        client.uploadPart({ ...input, Body: body() }, http),
      );
      if (ETag === undefined) throw incomplete(key, 'the tag of a part');
      return ETag;
    },

    async list({ key, uploadId: UploadId }, signal) {
      const access = await headers.access();
      const parts: Part[] = [];
      for (let marker: string | undefined; ; ) {
        const input = { Bucket, Key: key, UploadId, ...access };
        const page = await caller.call({ operation: 'list the parts', key }, signal, (client, http) =>
          client.listParts(marker === undefined ? input : { ...input, PartNumberMarker: marker }, http),
        );
        parts.push(...(page.Parts ?? []));
        if (page.IsTruncated !== true) return parts;
        const next = page.NextPartNumberMarker;
        if (next === undefined || next === marker) throw incomplete(key, 'where the list of parts goes on');
        marker = next;
      }
    },

    async publish({ key, uploadId: UploadId }, parts, { size, signal }) {
      await assertCreateOnly('MULTIPART', key, signal);
      const access = await headers.access();
      signal?.throwIfAborted();
      const input = { Bucket, Key: key, UploadId, ...access, IfNoneMatch: '*', MpuObjectSize: size };
      await caller.call({ operation: 'put', key }, undefined, async (client, http) => {
        try {
          await client.completeMultipartUpload({ ...input, MultipartUpload: { Parts: [...parts] } }, http);
        } catch (error) {
          if (failureOf(error).name !== 'EntityTooSmall') throw error;
          throw invalid(`Every part but the last has at least ${S3_UPLOAD_LIMITS.minPartBytes} bytes.`);
        }
      });
    },

    async abort({ key, uploadId: UploadId }, signal) {
      await caller.call({ operation: 'abort the upload', key }, signal, async (client, http) => {
        try {
          await client.abortMultipartUpload({ Bucket, Key: key, UploadId }, http);
        } catch (error) {
          if (failureOf(error).name !== 'NoSuchUpload') throw error;
        }
      });
    },
  };
}

/** `ObjectStorage.uploads` on S3: a handle is the key and the provider's id of the upload. */
export function s3Uploads(
  multipart: S3Multipart,
  isTaken: (key: string, call: StorageCall) => Promise<boolean>,
): ResumableUploads {
  return {
    limits: S3_UPLOAD_LIMITS,

    async begin(key, options = {}) {
      assertObjectKey(key);
      options.signal?.throwIfAborted();
      if (await isTaken(key, options)) throw taken(key);
      const { uploadId } = await multipart.begin(key, options);
      return JSON.stringify({ v: 1, key, uploadId });
    },

    async putPart(handle, part, body, { signal } = {}) {
      signal?.throwIfAborted();
      const upload = uploadOf(handle);
      assertPart(part);
      if (body.byteLength !== part.size) {
        throw notWhatIsStored(upload.key, part.number, 'does not have its size');
      }
      await multipart.send(upload, part, () => body, signal);
    },

    async parts(handle, { signal } = {}) {
      signal?.throwIfAborted();
      const stored = await multipart.list(uploadOf(handle), signal);
      // A store that keeps no checksums cannot tell what a part holds: it has to be sent again.
      return stored.map(describePart).filter((part) => part !== undefined);
    },

    async complete(handle, parts, { signal } = {}) {
      signal?.throwIfAborted();
      const upload = uploadOf(handle);
      assertPartList(parts);
      const stored = new Map((await multipart.list(upload, signal)).map((part) => [part.PartNumber, part]));
      const completed = parts.map((part) => matching(part, stored.get(part.number), upload.key));
      signal?.throwIfAborted();
      await multipart.publish(upload, completed, { size: totalSize(parts), signal });
    },

    async abort(handle, { signal } = {}) {
      signal?.throwIfAborted();
      await multipart.abort(uploadOf(handle), signal);
    },
  };
}

export function completedPart(part: UploadPart, ETag: string): CompletedPart {
  return {
    PartNumber: part.number,
    ETag,
    ChecksumSHA256: Buffer.from(part.digest, 'hex').toString('base64'),
  };
}

function matching(part: UploadPart, stored: Part | undefined, key: string): CompletedPart {
  if (stored?.ETag === undefined) throw notWhatIsStored(key, part.number, 'is not stored');
  const described = describePart(stored);
  if (described === undefined) {
    throw new DataProtectionError(
      'The store keeps no checksums of parts, without which uploads cannot be resumed.',
      'CONFIGURATION_INVALID',
    );
  }
  if (described.size !== part.size || described.digest !== part.digest) {
    throw notWhatIsStored(key, part.number, 'is not what is stored');
  }
  return completedPart(part, stored.ETag);
}

function describePart({ PartNumber, Size, ChecksumSHA256 }: Part): UploadPart | undefined {
  if (PartNumber === undefined || Size === undefined || ChecksumSHA256 === undefined) return undefined;
  return { number: PartNumber, size: Size, digest: Buffer.from(ChecksumSHA256, 'base64').toString('hex') };
}

function totalSize(parts: readonly UploadPart[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}

function uploadOf(handle: string): S3Upload {
  try {
    const decoded: unknown = JSON.parse(handle);
    if (isHandle(decoded)) {
      assertObjectKey(decoded.key);
      return { key: decoded.key, uploadId: decoded.uploadId };
    }
  } catch {
    // Not JSON, or no key: refused below.
  }
  throw invalid('The handle is none of an upload to S3.');
}

function isHandle(value: unknown): value is { v: 1; key: string; uploadId: string } {
  if (typeof value !== 'object' || value === null) return false;
  if (!('v' in value && 'key' in value && 'uploadId' in value)) return false;
  return value.v === 1 && typeof value.key === 'string' && typeof value.uploadId === 'string';
}

function assertPartList(parts: readonly UploadPart[]): void {
  if (parts.length === 0) throw invalid('An upload needs at least one part.');
  for (const [index, part] of parts.entries()) {
    assertPart(part);
    if (part.number !== index + 1) throw invalid('Numbers of parts start at 1 and have no gaps.');
    if (index < parts.length - 1 && part.size < S3_UPLOAD_LIMITS.minPartBytes) {
      throw invalid(`Every part but the last has at least ${S3_UPLOAD_LIMITS.minPartBytes} bytes.`);
    }
  }
}

function assertPart({ number, size, digest }: UploadPart): void {
  const { maxParts, maxPartBytes } = S3_UPLOAD_LIMITS;
  if (!Number.isSafeInteger(number) || number < 1 || number > maxParts) {
    throw invalid(`Parts have numbers from 1 to ${maxParts}.`);
  }
  if (!Number.isSafeInteger(size) || size < 0 || size > maxPartBytes) {
    throw invalid(`A part has at most ${maxPartBytes} bytes.`);
  }
  if (!/^[0-9a-f]{64}$/.test(digest)) throw invalid('The digest of a part is SHA-256 in hex.');
}

function notWhatIsStored(key: string, number: number, problem: string): StorageError {
  return new StorageError(`Part ${number} of ${key} ${problem}.`, 'STORAGE_CORRUPT', { key });
}

function taken(key: string): StorageError {
  return new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
}

function incomplete(key: string, what: string): StorageError {
  return new StorageError(`The answer of the store lacks ${what} (${key}).`, 'STORAGE_UNAVAILABLE', { key });
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'VALIDATION_FAILED');
}
