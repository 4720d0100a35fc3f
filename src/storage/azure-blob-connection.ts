import { createHash } from 'node:crypto';
import type { ContainerClient, CpkInfo, StoragePipelineOptions } from '@azure/storage-blob';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';
import { describeAzureFailure, isAuthenticationFailure } from './azure-blob-errors.ts';
import { azureIdentity } from './azure-blob-identity.ts';
import { type AzureBlobStorageOptions, type AzurePlace, invalid } from './azure-blob-options.ts';

/** Options of a request that reads or writes the content of a blob. */
interface ContentKey {
  readonly customerProvidedKey?: CpkInfo;
}

export interface AzureClient {
  readonly container: ContainerClient;
  /** For every request that touches content: reads, properties, blocks. */
  readonly contentKey: ContentKey;
}

export interface AzureCall {
  readonly operation: string;
  /** The key, or the prefix of a listing. */
  readonly key: string;
  readonly signal: AbortSignal | undefined;
}

export interface AzureConnection {
  /**
   * Runs requests and turns what they throw into the library's errors. Where Azure does not accept the credential,
   * the provider is asked for it again and `work` runs once more: nothing of it had been done.
   */
  call<T>(call: AzureCall, work: (client: AzureClient) => Promise<T>): Promise<T>;
}

interface Opened {
  readonly client: Promise<AzureClient>;
  /** Milliseconds since 1970. */
  expiresAt: number;
}

/** Connects with the first call. */
export function azureConnection(options: AzureBlobStorageOptions, place: AzurePlace): AzureConnection {
  const { description, container } = place;
  let opened: Opened | undefined;

  function open(): Opened {
    const opening: Opened = { client: connect(), expiresAt: Number.POSITIVE_INFINITY };
    opened = opening;
    opening.client.catch(() => forget(opening));
    return opening;

    async function connect(): Promise<AzureClient> {
      const credential = await options.credentials?.();
      const expiresAt = Date.parse(credential?.expiresAt ?? '');
      if (!Number.isNaN(expiresAt)) opening.expiresAt = expiresAt;
      const [client, contentKey] = await Promise.all([
        containerClient(credential, place),
        readCustomerKey(options, description),
      ]);
      return { container: client, contentKey };
    }
  }

  function forget(stale: Opened): void {
    if (opened === stale) opened = undefined;
  }

  return {
    async call({ operation, key, signal }, work) {
      signal?.throwIfAborted();
      const current = opened === undefined || opened.expiresAt <= Date.now() ? open() : opened;
      try {
        try {
          return await work(await current.client);
        } catch (error) {
          if (options.credentials === undefined || signal?.aborted || !isAuthenticationFailure(error))
            throw error;
          forget(current);
          return await work(await (opened ?? open()).client);
        }
      } catch (error) {
        if (signal?.aborted) throw signal.reason;
        throw describeAzureFailure(error, { operation, key, description, container });
      }
    },
  };
}

/** The SDK tries once: retries are the business of a decorator. */
const PIPELINE: StoragePipelineOptions = { retryOptions: { maxTries: 1 } };

async function containerClient(
  credential: Credential | undefined,
  place: AzurePlace,
): Promise<ContainerClient> {
  const sdk = await import('@azure/storage-blob').catch((cause: unknown) => {
    throw new DataProtectionError(
      'AZURE_BLOB needs the package @azure/storage-blob: npm install @azure/storage-blob',
      'DEPENDENCY_MISSING',
      { cause },
    );
  });
  const { serviceUrl, accountName, container, description } = place;
  const { accountKey, sasToken, connectionString } = credential ?? {};
  if (connectionString) {
    const client = fromConnectionString(
      () => new sdk.ContainerClient(connectionString, container, PIPELINE),
      place,
    );
    assertSamePlace(client, place);
    return client;
  }
  if (serviceUrl === undefined) {
    throw invalid('Without a connection string, `accountName` or `endpoint` must be given.');
  }
  const url = `${serviceUrl}/${container}`;
  if (credential === undefined) return new sdk.ContainerClient(url, await azureIdentity(), PIPELINE);
  if (sasToken) return new sdk.ContainerClient(`${url}?${sasToken.replace(/^\?/, '')}`, undefined, PIPELINE);
  if (!accountKey) {
    throw new DataProtectionError(
      `The credential of ${description} lacks accountKey, sasToken and connectionString.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
  if (accountName === undefined) throw invalid('With an account key, `accountName` must be given.');
  return new sdk.ContainerClient(url, new sdk.StorageSharedKeyCredential(accountName, accountKey), PIPELINE);
}

/** What the SDK throws of a connection string may quote it. */
function fromConnectionString(make: () => ContainerClient, { description }: AzurePlace): ContainerClient {
  try {
    return make();
  } catch {
    throw new DataProtectionError(
      `The connection string of ${description} is malformed.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
}

/** A connection string must not lead backups to another account than the destination names. */
function assertSamePlace(client: ContainerClient, { serviceUrl, container, description }: AzurePlace): void {
  if (serviceUrl === undefined) return;
  const { origin, pathname } = new URL(client.url);
  if (`${origin}${pathname}` !== `${serviceUrl}/${container}`) {
    throw invalid(`The connection string is for another account or address than ${description}.`);
  }
}

async function readCustomerKey(options: AzureBlobStorageOptions, description: string): Promise<ContentKey> {
  if (options.serverSideEncryption?.type !== 'CUSTOMER_KEY') return {};
  const { key = '' } = (await options.customerKey?.()) ?? {};
  const bytes = Buffer.from(key, 'base64');
  if (bytes.byteLength !== 32) {
    throw new DataProtectionError(
      `The customer key of ${description} is not \`key\`, 32 bytes in base64.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
  return {
    customerProvidedKey: {
      encryptionKey: bytes.toString('base64'),
      encryptionKeySha256: createHash('sha256').update(bytes).digest('base64'),
      encryptionAlgorithm: 'AES256',
    },
  };
}
