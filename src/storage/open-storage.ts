import type { StorageDestination } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import type { Credential, CredentialProvider } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { azureBlobStorage } from './azure-blob.ts';
import { googleCloudStorage } from './google-cloud.ts';
import { localStorage } from './local.ts';
import { multiStorage } from './multi.ts';
import { networkShareStorage } from './network-share.ts';
import { prefixed } from './prefixed.ts';
import { type ResilientOptions, resilientStorage, type StorageHealth } from './resilient.ts';
import { s3Storage } from './s3.ts';
import { sftpStorage } from './sftp.ts';
import type { ObjectStorage } from './storage.ts';

/** How storages are used: what each call may take, how many run at once, and how fast. Per storage. */
export type StorageLimits = Pick<
  ResilientOptions,
  | 'requestTimeoutMs'
  | 'putTimeoutMs'
  | 'getTimeoutMs'
  | 'attempts'
  | 'baseDelayMs'
  | 'maxDelayMs'
  | 'breakerFailures'
  | 'breakerOpenMs'
  | 'concurrency'
  | 'queue'
  | 'requestsPerSecond'
  | 'bytesPerSecond'
>;

export interface StoragesOptions {
  /** Opens a destination in the host's own way; undefined leaves it to the library. */
  readonly own: ((destination: StorageDestination) => ObjectStorage | undefined) | undefined;
  readonly credentials: CredentialProvider | undefined;
  readonly limits: StorageLimits | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The storages of a process: one for each place, whatever its prefix, so that breakers and connections are shared. */
export interface Storages {
  /** Costs nothing: connections are made by the first call. Throws `CONFIGURATION_INVALID`, `CREDENTIALS_UNAVAILABLE`. */
  open(destination: StorageDestination): { readonly storage: ObjectStorage; readonly prefix: string };
  health(): readonly StorageHealth[];
  close(): Promise<void>;
}

export function createStorages(options: StoragesOptions): Storages {
  /** The library's own, which it closes. What the host opened, the host closes. */
  const opened = new Map<string, ObjectStorage>();
  const multis = new Map<string, ObjectStorage>();
  const healths: (() => StorageHealth)[] = [];

  function single(destination: StorageDestination): ObjectStorage {
    const custom = options.own?.(destination);
    if (custom !== undefined) return custom;
    const key = placeKey(destination);
    const known = opened.get(key);
    if (known !== undefined) return known;
    const storage = protect(provider(destination, options));
    opened.set(key, storage);
    return storage;
  }

  /** A local folder answers or fails at once: nothing is gained by waiting for it. */
  function protect({ storage, remote }: Provided): ObjectStorage {
    if (remote === 'NO') return storage;
    const resilient = resilientStorage(storage, {
      ...options.limits,
      clock: options.clock,
      onHealthChange: ({ description, state, consecutiveFailures, lastFailure }) => {
        if (state === 'CLOSED' && consecutiveFailures === 0) return;
        options.logger.warn(
          { description, state, consecutiveFailures, error: lastFailure?.code },
          'A storage fails',
        );
      },
    });
    healths.push(resilient.health);
    return resilient;
  }

  return {
    open(destination) {
      if (destination.type !== 'MULTI')
        return { storage: single(destination), prefix: prefixOf(destination) };
      const custom = options.own?.(destination);
      if (custom !== undefined) return { storage: custom, prefix: '' };
      const copies = (destination.destinations ?? []).map((copy) => prefixed(single(copy), prefixOf(copy)));
      const { minimumConfirmations = 1 } = destination;
      const key = JSON.stringify([minimumConfirmations, destination.destinations?.map(placeAndPrefix)]);
      const storage = multis.get(key) ?? multiStorage({ copies, minimumConfirmations });
      multis.set(key, storage);
      return { storage, prefix: '' };
    },
    health: () => healths.map((health) => health()),
    async close() {
      await Promise.allSettled([...opened.values()].map((storage) => storage.close?.()));
    },
  };
}

interface Provided {
  readonly storage: ObjectStorage;
  readonly remote: 'YES' | 'NO';
}

/** Builds the storage of a destination. Credentials are asked for by the provider, when it connects. */
function provider(destination: StorageDestination, { credentials }: StoragesOptions): Provided {
  const { cloudStorage: cloud, localStorage: local, networkShare: share, sftp } = destination;
  if (destination.type === 'LOCAL_FILESYSTEM' && local !== undefined) {
    return { storage: localStorage({ path: local.path }), remote: 'NO' };
  }
  if (destination.type === 'NETWORK_SHARE' && share !== undefined) {
    return { storage: networkShareStorage(share), remote: 'YES' };
  }
  if (destination.type === 'SFTP' && sftp !== undefined) {
    const { host, port, path, hostKey, credentialsRef } = sftp;
    const credential = asking(credentialsRef, credentials);
    if (hostKey === undefined || credential === undefined) {
      throw new DataProtectionError(
        `SFTP to ${host} needs \`hostKey\` (what \`ssh-keyscan ${host}\` prints, seen to be true) and \`credentialsRef\``,
        'CONFIGURATION_INVALID',
      );
    }
    return { storage: sftpStorage({ host, port, path, hostKey, credentials: credential }), remote: 'YES' };
  }
  if (cloud === undefined) {
    throw new DataProtectionError(
      `A destination of type ${destination.type} lacks its settings`,
      'CONFIGURATION_INVALID',
    );
  }
  const { region, endpoint, accountName, storageClass, serverSideEncryption, objectLock } = cloud;
  const credential = asking(cloud.credentialsRef, credentials);
  const customerKey = asking(serverSideEncryption?.customerKeyRef, credentials);
  const common = {
    ...(endpoint && { endpoint }),
    ...(storageClass && { storageClass }),
    ...(serverSideEncryption && { serverSideEncryption }),
    ...(objectLock && { objectLock }),
    ...(credential && { credentials: credential }),
    ...(customerKey && { customerKey }),
  };
  switch (destination.type) {
    case 'AWS_S3':
      return {
        storage: s3Storage({ bucket: cloud.bucketName, ...(region && { region }), ...common }),
        remote: 'YES',
      };
    case 'AZURE_BLOB':
      return {
        storage: azureBlobStorage({
          container: cloud.bucketName,
          ...(accountName && { accountName }),
          ...common,
        }),
        remote: 'YES',
      };
    case 'GOOGLE_CLOUD_STORAGE':
      return { storage: googleCloudStorage({ bucket: cloud.bucketName, ...common }), remote: 'YES' };
    default:
      throw new DataProtectionError(
        `Storage of type ${destination.type} comes with a later version`,
        'NOT_SUPPORTED',
      );
  }
}

/** A question for the credential that a reference names; undefined without a reference. */
function asking(
  reference: string | undefined,
  provider: CredentialProvider | undefined,
): (() => Promise<Credential>) | undefined {
  if (reference === undefined) return undefined;
  return async () => {
    try {
      const credential = await provider?.(reference);
      if (typeof credential === 'object' && credential !== null) return credential;
    } catch {
      // What the host's provider threw may hold what it holds.
    }
    throw new DataProtectionError(
      `The credential ${reference} was not given: let \`credentials\` of createDataProtection answer for it`,
      'CREDENTIALS_UNAVAILABLE',
    );
  };
}

/** What stands before the organization in every key. */
function prefixOf({ cloudStorage, localStorage: local, networkShare, sftp }: StorageDestination): string {
  const prefix = cloudStorage?.prefix ?? local?.prefix ?? networkShare?.prefix ?? sftp?.prefix ?? '';
  return prefix.replace(/\/+$/, '');
}

/** The same for destinations that differ only in what does not matter to the connection. */
function placeKey({
  type,
  cloudStorage,
  localStorage: local,
  networkShare,
  sftp,
}: StorageDestination): string {
  const settings = cloudStorage ?? local ?? networkShare ?? sftp ?? {};
  return sortedJson([type, { ...settings, prefix: undefined }]);
}

/** The same text for the same settings: PostgreSQL gives the members of an object back in an order of its own. */
const sortedJson = (value: unknown): string =>
  JSON.stringify(value, (_, member: unknown) =>
    typeof member === 'object' && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([one], [other]) => (one < other ? -1 : 1)))
      : member,
  );

const placeAndPrefix = (destination: StorageDestination): readonly string[] => [
  placeKey(destination),
  prefixOf(destination),
];
