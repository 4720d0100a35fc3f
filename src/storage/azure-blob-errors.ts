import { DataProtectionError, StorageError } from '../types/errors.ts';

/** What is known of a failed request: nothing here quotes a header, a URL or a message of the server. */
interface AzureFailure {
  /** HTTP status; undefined where there was no answer. */
  readonly status: number | undefined;
  /** Azure's error code, such as `BlobNotFound`; else the code or name of the error. */
  readonly code: string;
  readonly retryAfterMs: number | undefined;
  readonly requestId: string | undefined;
}

interface ErrorLike {
  readonly name?: unknown;
  readonly code?: unknown;
  readonly statusCode?: unknown;
  readonly response?: unknown;
}

interface ResponseLike {
  readonly headers?: { get?(name: string): unknown };
}

/** Codes and names are words; anything else might quote what it should not. */
const WORD = /^[A-Za-z][A-Za-z0-9_]{0,80}$/;

export function azureFailure(error: unknown): AzureFailure {
  const { name, code, statusCode, response } = isObject<ErrorLike>(error) ? error : {};
  const header = (wanted: string): string | undefined => {
    const value = isObject<ResponseLike>(response) ? response.headers?.get?.(wanted) : undefined;
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const words = [header('x-ms-error-code'), code, name].filter(
    (word): word is string => typeof word === 'string' && WORD.test(word),
  );
  const requestId = header('x-ms-request-id');
  return {
    status: typeof statusCode === 'number' ? statusCode : undefined,
    code: words[0] ?? 'Error',
    retryAfterMs: milliseconds(
      header('retry-after-ms') ?? header('x-ms-retry-after-ms'),
      header('retry-after'),
    ),
    requestId: requestId !== undefined && /^[0-9a-f-]{1,40}$/i.test(requestId) ? requestId : undefined,
  };
}

function isObject<T extends object>(value: unknown): value is T {
  return typeof value === 'object' && value !== null;
}

/** `Retry-After` is seconds or a date (RFC 9110, 10.2.3). */
function milliseconds(exact: string | undefined, coarse: string | undefined): number | undefined {
  if (exact !== undefined && /^\d{1,9}$/.test(exact)) return Number(exact);
  if (coarse === undefined) return undefined;
  if (/^\d{1,6}$/.test(coarse)) return Number(coarse) * 1000;
  const date = Date.parse(coarse);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** Whether other credentials may help: the request was refused before anything was done. */
export function isAuthenticationFailure(error: unknown): boolean {
  const { status, code } = azureFailure(error);
  if (status === 401) return true;
  return status === 403 && (code === 'AuthenticationFailed' || code === 'InvalidAuthenticationInfo');
}

export function isMissing(error: unknown): boolean {
  const { status, code } = azureFailure(error);
  return status === 404 && code === 'BlobNotFound';
}

const TAKEN: Readonly<Record<number, readonly string[]>> = {
  // Without the permission to overwrite, a SAS is told so only where there is something to overwrite.
  403: ['UnauthorizedBlobOverwrite'],
  409: [
    'BlobAlreadyExists',
    'BlobArchived',
    'BlobBeingRehydrated',
    'BlobImmutableDueToPolicy',
    'InvalidBlobType',
  ],
  412: ['ConditionNotMet', 'LeaseIdMissing', 'TargetConditionNotMet'],
};

/** Whether a create-only write was refused because there is something under the key. Leases and locks say so too. */
export function saysTaken(error: unknown): boolean {
  const { status, code } = azureFailure(error);
  return status !== undefined && (TAKEN[status]?.includes(code) ?? false);
}

export function taken(key: string, description: string): StorageError {
  return new StorageError(`The object ${key} exists already in ${description}.`, 'STORAGE_ALREADY_EXISTS', {
    key,
  });
}

export function notFound(key: string, description: string): StorageError {
  return new StorageError(`There is no object ${key} in ${description}.`, 'STORAGE_NOT_FOUND', { key });
}

export function corrupt(key: string, what: string, description: string): StorageError {
  return new StorageError(`${description}: ${what} (${key}).`, 'STORAGE_CORRUPT', { key });
}

interface FailedCall {
  readonly operation: string;
  readonly key: string;
  readonly description: string;
  readonly container: string;
}

/** The library's error for what the SDK threw. By status and code, never by message. */
export function describeAzureFailure(error: unknown, call: FailedCall): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  const failure = azureFailure(error);
  const { status, code, retryAfterMs, requestId } = failure;
  const { operation, key, description, container } = call;
  const answer = status === undefined ? code : `${status} ${code}`;
  const message = `${operation} of ${key === '' ? '(all)' : key} failed in ${description} (${answer}).`;
  // The SDK's error holds the request, and with it the signature: only what is known to be harmless goes on.
  const cause = new Error(requestId === undefined ? answer : `${answer}, request ${requestId}`);
  if (code === 'ContainerNotFound' || code === 'ContainerBeingDeleted') {
    return new DataProtectionError(
      `The container ${container} of ${description} does not exist: create it, or correct its name.`,
      'CONFIGURATION_INVALID',
      { cause },
    );
  }
  if (status === undefined && IDENTITY_FAILURES.has(code)) {
    return new DataProtectionError(
      `No credential for ${description}: Azure's own chain found none, and no \`credentialsRef\` is given.`,
      'CREDENTIALS_UNAVAILABLE',
      { cause },
    );
  }
  const meaning = codeOf(failure);
  if (meaning === 'CONFIGURATION_INVALID') return new DataProtectionError(message, meaning, { cause });
  return new StorageError(message, meaning, {
    key,
    cause,
    ...(retryAfterMs !== undefined && { retryAfterMs }),
  });
}

const IDENTITY_FAILURES: ReadonlySet<string> = new Set([
  'CredentialUnavailableError',
  'AggregateAuthenticationError',
  'AuthenticationRequiredError',
]);

const DENIED: ReadonlySet<string> = new Set([
  'BlobCustomerSpecifiedEncryptionMismatch',
  'BlobDoesNotUseCustomerSpecifiedEncryption',
  'BlobImmutableDueToPolicy',
  'BlobUsesCustomerSpecifiedEncryption',
  'InvalidAuthenticationInfo',
  'LeaseIdMissing',
  'LeaseIdMismatchWithBlobOperation',
]);

const CORRUPT: ReadonlySet<string> = new Set(['Crc64Mismatch', 'InvalidMd5', 'Md5Mismatch']);

function codeOf({ status, code }: AzureFailure) {
  if (CORRUPT.has(code)) return 'STORAGE_CORRUPT';
  if (status === 409 && (code === 'BlobArchived' || code === 'BlobBeingRehydrated')) return 'OBJECT_ARCHIVED';
  if (status === 404 && code === 'BlobNotFound') return 'STORAGE_NOT_FOUND';
  if (status === 401 || status === 403 || DENIED.has(code)) return 'STORAGE_DENIED';
  if (status === 429 || (status === 503 && code === 'ServerBusy')) return 'STORAGE_THROTTLED';
  return isPermanent(status, code) ? 'CONFIGURATION_INVALID' : 'STORAGE_UNAVAILABLE';
}

/** Conflicts that end by themselves, and blocks that another writer discarded. */
const PASSING: ReadonlySet<string> = new Set([
  'AccountBeingCreated',
  'InvalidBlockList',
  'LeaseAlreadyPresent',
  'OperationTimedOut',
  'PendingCopyOperation',
  'SnapshotsPresent',
  'SystemInUse',
]);

/** Whether no repetition helps. A 404 that is not Azure's word for a missing blob may be a proxy's. */
function isPermanent(status: number | undefined, code: string): boolean {
  if (status === undefined || PASSING.has(code)) return false;
  return status === 501 || (status >= 400 && status < 500 && ![404, 408, 412].includes(status));
}
