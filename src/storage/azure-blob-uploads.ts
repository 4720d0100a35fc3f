import { createHash } from 'node:crypto';
import type { Block } from '@azure/storage-blob';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { type BlockName, blockId, NO_DIGEST, newToken, parseBlockId, TOKEN } from './azure-blob-blocks.ts';
import type { AzureCall, AzureClient, AzureConnection } from './azure-blob-connection.ts';
import { azureFailure, corrupt, isMissing, taken } from './azure-blob-errors.ts';
import {
  abortedBy,
  asBuffer,
  blobExists,
  lostToAnother,
  md5Of,
  objectOptions,
  requestOptions,
  type WriteSettings,
} from './azure-blob-write.ts';
import { assertObjectKey, isObjectKeySegment } from './object-key.ts';
import type { PutCall, ResumableUploads, StorageCall, UploadPart } from './storage.ts';

/** “Scalability and performance targets for Blob storage”: a block has up to 4,000 MiB, a blob 50,000 of them. */
const LIMITS = { minPartBytes: 1, maxPartBytes: 4_000 * 1024 * 1024, maxParts: 50_000 } as const;

const HANDLE_VERSION = 1;

interface Handle {
  readonly key: string;
  readonly token: string;
  readonly tier: PutCall['tier'];
}

interface StoredPart extends UploadPart {
  readonly id: string;
  readonly time: number;
}

/**
 * Uploads as uncommitted blocks, whose ids tell what they are. `begin` leaves a block that says that the upload is
 * going on, `abort` one that says that it is over: Azure cannot remove single uncommitted blocks. It drops them a week
 * after the last block of the key, or when another object is written there; until then they take space.
 */
export function azureBlobUploads(connection: AzureConnection, settings: WriteSettings): ResumableUploads {
  const { description } = settings;
  let latest = 0;

  /** Later than all before it in this process. */
  function nextTime(): number {
    latest = Math.max(Date.now(), latest + 1);
    return latest;
  }

  async function stage(
    client: AzureClient,
    key: string,
    name: BlockName,
    bytes: Buffer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    await client.container.getBlockBlobClient(key).stageBlock(blockId(name), bytes, bytes.byteLength, {
      ...requestOptions(client, settings),
      ...abortedBy(signal),
      transactionalContentMD5: md5Of([bytes]),
    });
  }

  /** A block that says something and is no part. Azure takes no empty blocks. */
  function mark(
    client: AzureClient,
    { key, token }: Handle,
    kind: 'BEGUN' | 'ABORTED',
    signal?: AbortSignal,
  ) {
    const name = { kind, token, number: 0, time: 0, digest: NO_DIGEST };
    return stage(client, key, name, Buffer.from([0]), signal);
  }

  /** What is stored of an upload; undefined where it is not going on. */
  async function storedParts(
    client: AzureClient,
    { key, token }: Handle,
    signal: AbortSignal | undefined,
  ): Promise<readonly StoredPart[] | undefined> {
    const blocks = (await uncommitted(client, key, signal)).flatMap(({ name: id, size }) => {
      const name = parseBlockId(id);
      return name?.token === token ? [{ ...name, id, size }] : [];
    });
    const kinds = new Set(blocks.map(({ kind }) => kind));
    if (!kinds.has('BEGUN') || kinds.has('ABORTED')) return undefined;
    return blocks
      .filter(({ kind }) => kind === 'PART')
      .sort((a, b) => a.number - b.number || a.time - b.time);
  }

  function over(key: string): StorageError {
    return new StorageError(
      `The upload of ${key} to ${description} was aborted or completed, or has expired.`,
      'STORAGE_NOT_FOUND',
      { key },
    );
  }

  return {
    limits: LIMITS,

    async begin(key, { signal, tier } = {}) {
      assertObjectKey(key);
      const handle: Handle = { key, token: newToken(), tier };
      await connection.call({ operation: 'begin upload', key, signal }, async (client) => {
        if (await blobExists(client, key, signal)) throw taken(key, description);
        await mark(client, handle, 'BEGUN', signal);
      });
      return JSON.stringify({ version: HANDLE_VERSION, ...handle });
    },

    async putPart(text, part, body, { signal } = {}) {
      const { key, token } = parseHandle(text);
      signal?.throwIfAborted();
      assertPart(part);
      const { number, size, digest } = part;
      if (body.byteLength !== size || createHash('sha256').update(body).digest('hex') !== digest) {
        throw corrupt(key, `part ${number} is not what its size and digest say`, description);
      }
      const name = { kind: 'PART', token, number, time: nextTime(), digest } as const;
      await connection.call({ operation: 'put part', key, signal }, (client) =>
        stage(client, key, name, asBuffer(body), signal),
      );
    },

    async parts(text, { signal } = {}) {
      const handle = parseHandle(text);
      return connection.call(callOf('list parts', handle, signal), async (client) => {
        const stored = await storedParts(client, handle, signal);
        if (stored === undefined) throw over(handle.key);
        const latestByNumber = new Map(
          stored.map(({ number, size, digest }) => [number, { number, size, digest }]),
        );
        return [...latestByNumber.values()];
      });
    },

    async complete(text, parts, { signal } = {}) {
      const handle = parseHandle(text);
      const { key, tier } = handle;
      signal?.throwIfAborted();
      assertList(parts);
      await connection.call(callOf('complete upload', handle, signal), async (client) => {
        const stored = await storedParts(client, handle, signal);
        if (stored === undefined) {
          throw (await blobExists(client, key, signal)) ? taken(key, description) : over(key);
        }
        const ids = idsOf(parts, stored, key, description);
        signal?.throwIfAborted();
        try {
          // Not to be aborted: it may take effect all the same, so its answer is awaited.
          const options = objectOptions(client, settings, tier);
          await client.container.getBlockBlobClient(key).commitBlockList(ids, options);
        } catch (error) {
          if (await lostToAnother(client, key, error, signal)) throw taken(key, description);
          if (azureFailure(error).code === 'InvalidBlockList') throw over(key);
          throw error;
        }
      });
    },

    async abort(text, { signal } = {}) {
      const handle = parseHandle(text);
      await connection.call(callOf('abort upload', handle, signal), async (client) => {
        const stored = await storedParts(client, handle, signal);
        if (stored !== undefined) await mark(client, handle, 'ABORTED', signal);
      });
    },
  };
}

function callOf(operation: string, { key }: Handle, signal: StorageCall['signal']): AzureCall {
  return { operation, key, signal };
}

async function uncommitted(
  { container }: AzureClient,
  key: string,
  signal: AbortSignal | undefined,
): Promise<readonly Block[]> {
  try {
    const list = await container.getBlockBlobClient(key).getBlockList('uncommitted', abortedBy(signal));
    return list.uncommittedBlocks ?? [];
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** Throws `STORAGE_CORRUPT` where a part is not stored as it is told. */
function idsOf(
  parts: readonly UploadPart[],
  stored: readonly StoredPart[],
  key: string,
  description: string,
): string[] {
  const text = ({ number, size, digest }: UploadPart) => `${number} ${size} ${digest}`;
  const ids = new Map(stored.map((part) => [text(part), part.id]));
  return parts.map((part) => {
    const id = ids.get(text(part));
    if (id === undefined) throw corrupt(key, `part ${part.number} is not what is stored`, description);
    return id;
  });
}

function assertPart({ number, size, digest }: UploadPart): void {
  if (!Number.isSafeInteger(number) || number < 1 || number > LIMITS.maxParts) {
    throw invalid(`Parts have numbers from 1 to ${LIMITS.maxParts}.`);
  }
  if (!Number.isSafeInteger(size) || size < LIMITS.minPartBytes || size > LIMITS.maxPartBytes) {
    throw invalid(`A part has ${LIMITS.minPartBytes} to ${LIMITS.maxPartBytes} bytes.`);
  }
  if (!/^[0-9a-f]{64}$/.test(digest)) throw invalid('The digest of a part is a SHA-256 in lower-case hex.');
}

function assertList(parts: readonly UploadPart[]): void {
  if (parts.length === 0) throw invalid('An upload needs at least one part.');
  for (const [index, part] of parts.entries()) {
    assertPart(part);
    if (part.number !== index + 1) throw invalid('Numbers of parts start at 1 and have no gaps.');
  }
}

function parseHandle(text: string): Handle {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid('The handle of the upload is not one of AZURE_BLOB.');
  }
  const { version, key, token, tier } = fields(value);
  if (
    version !== HANDLE_VERSION ||
    typeof key !== 'string' ||
    typeof token !== 'string' ||
    !TOKEN.test(token)
  ) {
    throw invalid('The handle of the upload is not one of AZURE_BLOB, or of a newer version.');
  }
  if (!key.split('/').every(isObjectKeySegment)) throw invalid('The handle of the upload names no key.');
  if (tier !== undefined && tier !== 'HOT') throw invalid('The handle of the upload names an unknown tier.');
  return { key, token, tier };
}

function fields(value: unknown): {
  readonly [name: string]: unknown;
  readonly version?: unknown;
  readonly key?: unknown;
  readonly token?: unknown;
  readonly tier?: unknown;
} {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'VALIDATION_FAILED');
}
