import { DataProtectionError, StorageError } from '../types/errors.ts';

/** What a call was about, for messages. */
export interface S3Call {
  readonly operation: string;
  /** The object, or the prefix of a listing. */
  readonly key: string;
}

export interface S3Place {
  readonly description: string;
  readonly bucket: string;
}

/** What an answer that is no success says, without the answer: its headers and texts may quote credentials. */
export interface S3Failure {
  /** The code of the provider's answer, or the name of the error. */
  readonly name: string;
  /** HTTP status; undefined where there was no answer. */
  readonly status: number | undefined;
  readonly requestId: string | undefined;
  /** The system's code where the connection failed. */
  readonly errno: string | undefined;
  readonly retryAfterMs: number | undefined;
}

/** Names are letters and digits, as in `NoSuchKey` and `KMS.DisabledException`; a server could send anything. */
const NAME = /^[A-Za-z0-9._-]{1,64}$/;

const DENIED = new Set([
  'AccessDenied',
  'AccountProblem',
  'AllAccessDisabled',
  'ExpiredToken',
  'ExpiredTokenException',
  'InvalidAccessKeyId',
  'InvalidToken',
  'RequestTimeTooSkewed',
  'SignatureDoesNotMatch',
  'TokenRefreshRequired',
]);
/** What a new credential may cure. A HEAD has no code, only a status: see `mayBeStaleCredential`. */
const STALE = new Set([
  'ExpiredToken',
  'ExpiredTokenException',
  'InvalidAccessKeyId',
  'InvalidToken',
  'TokenRefreshRequired',
]);
const THROTTLED = new Set([
  'RequestLimitExceeded',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'TooManyRequestsException',
]);
const FULL = new Set(['EntityQuotaExceeded', 'InsufficientStorage', 'QuotaExceeded', 'XMinioStorageFull']);
const CORRUPT = new Set([
  'BadDigest',
  'IncompleteBody',
  'InvalidDigest',
  'InvalidPart',
  'InvalidPartOrder',
  'XAmzContentChecksumMismatch',
  'XAmzContentSHA256Mismatch',
]);
/** The option that is wrong. */
const MISCONFIGURED: Readonly<Record<string, string>> = {
  AuthorizationHeaderMalformed: '`region`',
  IllegalLocationConstraintException: '`region`',
  InvalidBucketName: '`bucket`',
  InvalidStorageClass: '`storageClass`',
  NoSuchBucket: '`bucket`',
  PermanentRedirect: '`region` or `endpoint`',
};

export function failureOf(error: unknown): S3Failure {
  const metadata = fieldOf(error, '$metadata');
  const name = textOf(error, 'name') ?? textOf(error, 'Code') ?? '';
  const status = fieldOf(metadata, 'httpStatusCode');
  return {
    name: NAME.test(name) ? name : 'Error',
    status: typeof status === 'number' ? status : undefined,
    requestId: textOf(metadata, 'requestId'),
    errno: textOf(error, 'code'),
    retryAfterMs: retryAfter(textOf(fieldOf(fieldOf(error, '$response'), 'headers'), 'retry-after')),
  };
}

/** Whether the credential that was used may have ended. The answer to a HEAD has no body that could say so. */
export function mayBeStaleCredential({ name, status }: S3Failure): boolean {
  const silent = !DENIED.has(name) && !/[a-z]{2}[A-Z]/.test(name);
  return STALE.has(name) || (silent && (status === 400 || status === 403));
}

/** The library's error for what a call threw. */
export function s3Error(error: unknown, call: S3Call, place: S3Place): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  const failure = failureOf(error);
  const { name, status, errno } = failure;
  const option = MISCONFIGURED[name] ?? (name.startsWith('KMS.') ? '`serverSideEncryption`' : undefined);
  if (option !== undefined) {
    return new DataProtectionError(
      `${place.description} refuses ${option} (bucket ${place.bucket}): ${name}.`,
      'CONFIGURATION_INVALID',
      { cause: safeCause(failure) },
    );
  }
  if (name === 'CredentialsProviderError') {
    return new DataProtectionError(
      `No credential was found for ${place.description}: not by a reference, nor in the environment.`,
      'CREDENTIALS_UNAVAILABLE',
      { cause: safeCause(failure) },
    );
  }
  const what = status === undefined ? (errno ?? name) : `${name}, HTTP ${status}`;
  return new StorageError(
    `${call.operation} of ${call.key === '' ? '(all)' : call.key} failed in ${place.description} (${what}).`,
    codeFor(failure),
    {
      key: call.key,
      cause: safeCause(failure),
      ...(failure.retryAfterMs === undefined ? {} : { retryAfterMs: failure.retryAfterMs }),
    },
  );
}

function codeFor({ name, status }: S3Failure) {
  if (name === 'InvalidObjectState') return 'OBJECT_ARCHIVED';
  if (THROTTLED.has(name)) return 'STORAGE_THROTTLED';
  if (FULL.has(name)) return 'STORAGE_FULL';
  if (CORRUPT.has(name)) return 'STORAGE_CORRUPT';
  if (DENIED.has(name)) return 'STORAGE_DENIED';
  switch (status) {
    case 401:
    case 403:
      return 'STORAGE_DENIED';
    case 404:
      return 'STORAGE_NOT_FOUND';
    case 412:
      return 'STORAGE_ALREADY_EXISTS';
    case 429:
      return 'STORAGE_THROTTLED';
    case 503:
      return name === 'ServiceUnavailable' || name === 'InternalError'
        ? 'STORAGE_UNAVAILABLE'
        : 'STORAGE_THROTTLED';
    case 507:
      return 'STORAGE_FULL';
    default:
      return 'STORAGE_UNAVAILABLE';
  }
}

/** The SDK's errors hold the request and what the server quotes of it: headers with tokens and customer keys. */
function safeCause({ name, status, requestId, errno }: S3Failure): Error {
  const request = requestId !== undefined && NAME.test(requestId) ? `, request ${requestId}` : '';
  const answer = status === undefined ? 'no answer' : `HTTP ${status}`;
  return new Error(`${name}${errno === undefined ? '' : ` ${errno}`} (${answer}${request})`);
}

function retryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function fieldOf(value: unknown, field: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, field) : undefined;
}

function textOf(value: unknown, field: string): string | undefined {
  const text = fieldOf(value, field);
  return typeof text === 'string' ? text : undefined;
}
