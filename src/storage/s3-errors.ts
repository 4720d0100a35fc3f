import { DataProtectionError, StorageError } from '../types/errors.ts';
import { retryAfter } from './retry-after.ts';

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
const TAKEN = new Set(['PreconditionFailed']);
const MISSING = new Set(['NoSuchKey', 'NoSuchUpload', 'NoSuchVersion']);
/** What a repetition may cure, whatever the status. */
const PASSING = new Set([
  'ConcurrentModification',
  'ConditionalRequestConflict',
  'InternalError',
  'OperationAborted',
  'RequestTimeout',
  'ServiceUnavailable',
]);
/** What no repetition cures, whatever the status. */
const PERMANENT = new Set([
  'EntityTooLarge',
  'EntityTooSmall',
  'InvalidArgument',
  'InvalidBucketState',
  'InvalidRequest',
  'MalformedXML',
  'MethodNotAllowed',
  'NotImplemented',
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
  const errno = textOf(error, 'code') ?? '';
  return {
    name: NAME.test(name) ? name : 'Error',
    status: typeof status === 'number' ? status : undefined,
    requestId: textOf(metadata, 'requestId'),
    errno: NAME.test(errno) ? errno : undefined,
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
  const message = `${call.operation} of ${call.key === '' ? '(all)' : call.key} failed in ${place.description} (${what}).`;
  const code = codeFor(failure);
  const cause = safeCause(failure);
  if (code === 'CONFIGURATION_INVALID') return new DataProtectionError(message, code, { cause });
  return new StorageError(message, code, {
    key: call.key,
    cause,
    ...(failure.retryAfterMs === undefined ? {} : { retryAfterMs: failure.retryAfterMs }),
  });
}

/** By name first: an error that comes after a 200 has no status of its own, and the SDK calls it a 503. */
function codeFor({ name, status }: S3Failure) {
  if (name === 'InvalidObjectState') return 'OBJECT_ARCHIVED';
  if (THROTTLED.has(name)) return 'STORAGE_THROTTLED';
  if (FULL.has(name) || status === 507) return 'STORAGE_FULL';
  if (CORRUPT.has(name)) return 'STORAGE_CORRUPT';
  if (DENIED.has(name)) return 'STORAGE_DENIED';
  if (TAKEN.has(name)) return 'STORAGE_ALREADY_EXISTS';
  if (MISSING.has(name)) return 'STORAGE_NOT_FOUND';
  if (PASSING.has(name)) return 'STORAGE_UNAVAILABLE';
  if (PERMANENT.has(name)) return 'CONFIGURATION_INVALID';
  switch (status) {
    case 401:
    case 403:
      return 'STORAGE_DENIED';
    case 404:
      return 'STORAGE_NOT_FOUND';
    case 412:
      return 'STORAGE_ALREADY_EXISTS';
    case 429:
    case 503:
      return 'STORAGE_THROTTLED';
    case 408:
      return 'STORAGE_UNAVAILABLE';
    case 501:
      return 'CONFIGURATION_INVALID';
    default:
      return status !== undefined && status >= 400 && status < 500
        ? 'CONFIGURATION_INVALID'
        : 'STORAGE_UNAVAILABLE';
  }
}

/** The SDK's errors hold the request and what the server quotes of it: headers with tokens and customer keys. */
function safeCause({ name, status, requestId, errno }: S3Failure): Error {
  const request = requestId !== undefined && NAME.test(requestId) ? `, request ${requestId}` : '';
  const answer = status === undefined ? 'no answer' : `HTTP ${status}`;
  return new Error(`${name}${errno === undefined ? '' : ` ${errno}`} (${answer}${request})`);
}

function fieldOf(value: unknown, field: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, field) : undefined;
}

function textOf(value: unknown, field: string): string | undefined {
  const text = fieldOf(value, field);
  return typeof text === 'string' ? text : undefined;
}
