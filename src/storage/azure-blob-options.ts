import type { ObjectLock, ServerSideEncryption } from '../types/backup.ts';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';

export interface AzureBlobStorageOptions {
  /** The container. It must exist. */
  readonly container: string;
  /** The storage account; may be left out where `endpoint` names it. */
  readonly accountName?: string;
  /** Another address than `https://<account>.blob.core.windows.net`, without a query. */
  readonly endpoint?: string;
  /** Access tier of the objects: Hot, Cool, Cold or Archive. Left out, the account's default. */
  readonly storageClass?: string;
  readonly serverSideEncryption?: ServerSideEncryption;
  /** Needs a container with version-level immutability. */
  readonly objectLock?: ObjectLock;
  /** Gives `accountKey`, `sasToken` or `connectionString`. Left out, Azure's own chain of credentials is used. */
  readonly credentials?: () => Promise<Credential>;
  /** Gives `key` for CUSTOMER_KEY. */
  readonly customerKey?: () => Promise<Credential>;
}

const ACCESS_TIERS = ['Hot', 'Cool', 'Cold', 'Archive'] as const;
export type AccessTier = (typeof ACCESS_TIERS)[number];

/** Where the account is, and how it calls itself. */
export interface AzurePlace {
  /** Without a slash at the end; undefined: only the connection string knows. */
  readonly serviceUrl: string | undefined;
  readonly accountName: string | undefined;
  readonly container: string;
  readonly description: string;
}

/** Throws `CONFIGURATION_INVALID`. */
export function azurePlace({ container, accountName, endpoint }: AzureBlobStorageOptions): AzurePlace {
  if (!/^(\$root|[a-z0-9](-?[a-z0-9]){2,62})$/.test(container)) {
    throw invalid(
      '`container` is not the name of a container: 3 to 63 lower-case letters, digits and single hyphens.',
    );
  }
  if (accountName !== undefined && !/^[a-z0-9]{3,24}$/.test(accountName)) {
    throw invalid(
      '`accountName` is not the name of a storage account: 3 to 24 lower-case letters and digits.',
    );
  }
  const serviceUrl = endpoint === undefined ? accountUrl(accountName) : endpointUrl(endpoint, accountName);
  return {
    serviceUrl,
    accountName: accountName ?? (serviceUrl === undefined ? undefined : accountOf(serviceUrl)),
    container,
    description: `AZURE_BLOB ${serviceUrl === undefined ? container : `${serviceUrl}/${container}`}`,
  };
}

function accountUrl(accountName: string | undefined): string | undefined {
  return accountName === undefined ? undefined : `https://${accountName}.blob.core.windows.net`;
}

function endpointUrl(endpoint: string, accountName: string | undefined): string {
  const url = URL.parse(endpoint);
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw invalid('`endpoint` is not an http or https URL.');
  }
  if (url.search !== '' || url.hash !== '' || url.username !== '' || url.password !== '') {
    throw invalid(
      '`endpoint` may not hold a query, a user or a password: give the credential by `credentials`.',
    );
  }
  const path = url.pathname.replace(/\/+$/, '');
  const accountPath = path === '' && isPathStyle(url) && accountName !== undefined ? `/${accountName}` : path;
  return `${url.origin}${accountPath}`;
}

/** Emulators and addresses have the account as the first segment of the path, real accounts in the host's name. */
function isPathStyle({ hostname }: URL): boolean {
  return hostname === 'localhost' || /^[\d.]+$/.test(hostname) || hostname.startsWith('[');
}

function accountOf(serviceUrl: string): string | undefined {
  const url = new URL(serviceUrl);
  return isPathStyle(url) ? url.pathname.split('/')[1] || undefined : url.hostname.split('.')[0];
}

/** Throws `CONFIGURATION_INVALID`. */
export function accessTier(storageClass: string | undefined): AccessTier | undefined {
  if (storageClass === undefined) return undefined;
  const tier = ACCESS_TIERS.find((name) => name.toLowerCase() === storageClass.toLowerCase());
  if (tier === undefined) {
    throw invalid(`\`storageClass\` is none of the access tiers ${ACCESS_TIERS.join(', ')}.`);
  }
  return tier;
}

export function invalid(message: string): DataProtectionError {
  return new DataProtectionError(`AZURE_BLOB: ${message}`, 'CONFIGURATION_INVALID');
}
