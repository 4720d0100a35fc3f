import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { BlockBlobClient, BlockBlobCommitBlockListOptions } from '@azure/storage-blob';
import type { ObjectLock } from '../types/backup.ts';
import { blockId, NO_DIGEST, newToken } from './azure-blob-blocks.ts';
import type { AzureClient } from './azure-blob-connection.ts';
import { azureFailure, isMissing, saysTaken, taken } from './azure-blob-errors.ts';
import type { AccessTier } from './azure-blob-options.ts';
import type { PutCall } from './storage.ts';

/** What every object is written with. */
export interface WriteSettings {
  readonly description: string;
  readonly tier: AccessTier | undefined;
  readonly encryptionScope: string | undefined;
  readonly objectLock: ObjectLock | undefined;
}

const MIB = 1024 * 1024;
/** Above this size, blocks are sent in parallel. */
const MAX_SINGLE_BYTES = 16 * MIB;
const BLOCK_BYTES = 8 * MIB;
const BLOCKS_AT_ONCE = 4;
const SLICE_BYTES = 64 * 1024;

/** `work` of a put: stores an object that did not exist, whole or not at all. */
export async function writeBlob(
  client: AzureClient,
  key: string,
  body: readonly Uint8Array[],
  settings: WriteSettings,
  { signal, tier }: PutCall,
): Promise<void> {
  const size = body.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const blob = client.container.getBlockBlobClient(key);
  try {
    if (size <= MAX_SINGLE_BYTES) {
      const sent = await sendWhole(blob, body, size, objectOptions(client, settings, tier), signal);
      if (sent === 'STORED') return;
    }
    if (await blobExists(client, key, signal)) throw taken(key, settings.description);
    const { ids, md5 } = await sendBlocks(blob, cutBlocks(body), requestOptions(client, settings), signal);
    signal?.throwIfAborted();
    // Not to be aborted: it may take effect all the same, so its answer is awaited.
    const options = objectOptions(client, settings, tier);
    const blobHTTPHeaders = { ...options.blobHTTPHeaders, blobContentMD5: md5 };
    await blob.commitBlockList(ids, { ...options, blobHTTPHeaders });
  } catch (error) {
    if (await lostToAnother(client, key, error, signal)) throw taken(key, settings.description);
    throw error;
  }
}

/**
 * Whether a write failed because another writer has the key. The first `Put Block List` discards the uncommitted blocks
 * of all others, so losing may also look like an invalid list: then what is there decides.
 */
export async function lostToAnother(
  client: AzureClient,
  key: string,
  error: unknown,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (saysTaken(error)) return true;
  const { status, code } = azureFailure(error);
  return status === 400 && code === 'InvalidBlockList' && (await blobExists(client, key, signal));
}

export async function blobExists(
  { container, contentKey }: AzureClient,
  key: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  try {
    await container.getBlobClient(key).getProperties({ ...contentKey, ...abortedBy(signal) });
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** The options of the request that makes a blob visible. */
export function objectOptions(
  client: AzureClient,
  settings: WriteSettings,
  put: PutCall['tier'],
): BlockBlobCommitBlockListOptions {
  const { tier, objectLock } = settings;
  return {
    ...requestOptions(client, settings),
    conditions: { ifNoneMatch: '*' },
    blobHTTPHeaders: { blobContentType: 'application/octet-stream' },
    // The default tier of an account can be read at once: Hot, Cool or Cold.
    ...(tier !== undefined && put !== 'HOT' && { tier }),
    ...(objectLock && {
      immutabilityPolicy: {
        expiriesOn: wholeSecond(new Date(Date.now() + objectLock.retainDays * 86_400_000)),
        policyMode: policyMode(objectLock.mode),
      },
    }),
  };
}

/** The options of every request that writes content. */
export function requestOptions({ contentKey }: AzureClient, { encryptionScope }: WriteSettings) {
  return { ...contentKey, ...(encryptionScope !== undefined && { encryptionScope }) };
}

export function policyMode(mode: ObjectLock['mode']): 'Locked' | 'Unlocked' {
  return mode === 'COMPLIANCE' ? 'Locked' : 'Unlocked';
}

/** Dates of HTTP have no milliseconds; a lock is never shorter than asked for. */
export function wholeSecond(date: Date): Date {
  return new Date(Math.ceil(date.getTime() / 1000) * 1000);
}

export function abortedBy(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}

export function md5Of(pieces: readonly Uint8Array[]): Uint8Array {
  const hash = createHash('md5');
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
}

/**
 * One `Put Blob`. It can be aborted until its last slice is on its way; from then on it may take effect, so the answer
 * is awaited and says what became of it.
 *
 * REFUSED: the key is taken, or holds uncommitted blocks of others, which some servers take for an object here (Azurite
 * 3.37 does) though not in `Put Block List`.
 */
async function sendWhole(
  blob: BlockBlobClient,
  body: readonly Uint8Array[],
  size: number,
  options: BlockBlobCommitBlockListOptions,
  signal: AbortSignal | undefined,
): Promise<'STORED' | 'REFUSED'> {
  const request = new AbortController();
  let state: 'ABORTABLE' | 'SENT' = 'ABORTABLE';
  const onAbort = () => {
    if (state === 'ABORTABLE') request.abort();
  };
  function* slices(): Generator<Uint8Array> {
    let left = size;
    for (const piece of body) {
      for (let offset = 0; offset < piece.byteLength; offset += SLICE_BYTES) {
        const slice = piece.subarray(offset, offset + SLICE_BYTES);
        left -= slice.byteLength;
        if (left === 0) state = 'SENT';
        yield slice;
      }
    }
  }
  const md5 = md5Of(body);
  if (size === 0) state = 'SENT';
  signal?.throwIfAborted();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await blob.upload(size === 0 ? '' : () => Readable.from(slices(), { objectMode: false }), size, {
      ...options,
      abortSignal: request.signal,
      transactionalContentMD5: md5,
      blobHTTPHeaders: { ...options.blobHTTPHeaders, blobContentMD5: md5 },
    });
    return 'STORED';
  } catch (error) {
    if (saysTaken(error)) return 'REFUSED';
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

async function sendBlocks(
  blob: BlockBlobClient,
  blocks: readonly (readonly Uint8Array[])[],
  options: ReturnType<typeof requestOptions>,
  signal: AbortSignal | undefined,
): Promise<{ ids: string[]; md5: Uint8Array }> {
  const token = newToken();
  const names = blocks.map((pieces, index) => ({
    pieces,
    id: blockId({ kind: 'PUT', token, number: index + 1, time: 0, digest: NO_DIGEST }),
  }));
  const failed = new AbortController();
  const abortSignal = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  const whole = createHash('md5');
  // One iterator for all: each block is taken once, in order, which the digest of the whole needs.
  const remaining = names.values();
  async function sendRemaining(): Promise<void> {
    for (const { pieces, id } of remaining) {
      abortSignal.throwIfAborted();
      const [only, ...others] = pieces;
      const bytes = only !== undefined && others.length === 0 ? asBuffer(only) : Buffer.concat(pieces);
      whole.update(bytes);
      await blob.stageBlock(id, bytes, bytes.byteLength, {
        ...options,
        abortSignal,
        transactionalContentMD5: md5Of([bytes]),
      });
    }
  }
  let failure: { readonly error: unknown } | undefined;
  await Promise.all(
    Array.from({ length: BLOCKS_AT_ONCE }, () =>
      sendRemaining().catch((error: unknown) => {
        failure ??= { error };
        failed.abort();
      }),
    ),
  );
  if (failure !== undefined) throw failure.error;
  return { ids: names.map(({ id }) => id), md5: whole.digest() };
}

/** A view of the same bytes: the SDK sends nothing but `Buffer`s whole. */
export function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** The pieces of each block. */
function cutBlocks(body: readonly Uint8Array[]): Uint8Array[][] {
  const blocks: Uint8Array[][] = [];
  let room = 0;
  for (const piece of body) {
    for (let offset = 0; offset < piece.byteLength; ) {
      if (room === 0) {
        blocks.push([]);
        room = BLOCK_BYTES;
      }
      const part = piece.subarray(offset, offset + room);
      blocks.at(-1)?.push(part);
      room -= part.byteLength;
      offset += part.byteLength;
    }
  }
  return blocks;
}
