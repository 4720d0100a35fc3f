import { z } from 'zod';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import type { HttpAnswer } from './google-cloud-http.ts';
import { retryAfter } from './retry-after.ts';

/** What was asked for, for the words of an error. */
export interface Asked {
  readonly operation: string;
  readonly key: string;
  readonly description: string;
  /** What a 400 `invalid` means: while bytes are sent with their checksum, that they arrived changed. */
  readonly invalidMeans?: 'CORRUPT';
}

const ErrorBody = z.object({
  error: z.object({ errors: z.array(z.object({ reason: z.string().max(100) })).optional() }),
});

const THROTTLES = ['rateLimitExceeded', 'userRateLimitExceeded', 'slowDown'];
const QUOTAS = ['quotaExceeded', 'dailyLimitExceeded'];
const WRONG_KEY = [
  'customerEncryptionKeyIsIncorrect',
  'resourceIsEncryptedWithCustomerEncryptionKey',
  'resourceNotEncryptedWithCustomerEncryptionKey',
];

/** The first machine-readable reason of an answer of the JSON API. */
function reasonOf(answer: HttpAnswer): string | undefined {
  try {
    const reason = ErrorBody.parse(JSON.parse(answer.body.toString('utf8'))).error.errors?.[0]?.reason;
    return reason !== undefined && /^[A-Za-z0-9_.-]+$/.test(reason) ? reason : undefined;
  } catch {
    // Proxies answer with pages; the status then says what there is to say.
    return undefined;
  }
}

/** What an answer that is not success means. Only status and reason count; the message of the server is not shown. */
export function refusal(answer: HttpAnswer, asked: Asked): DataProtectionError {
  const reason = reasonOf(answer);
  const { key } = asked;
  const message = `${asked.operation} of ${key === '' ? '(all)' : key} failed in ${asked.description} (${answer.status}${reason === undefined ? '' : ` ${reason}`}).`;
  const code = codeOf(answer.status, reason, asked);
  if (code === 'CONFIGURATION_INVALID') return new DataProtectionError(message, code);
  const retryAfterMs = retryAfter(answer.headers['retry-after']);
  return new StorageError(message, code, {
    key,
    ...(code === 'STORAGE_THROTTLED' && retryAfterMs !== undefined ? { retryAfterMs } : {}),
  });
}

function codeOf(status: number, reason: string | undefined, asked: Asked) {
  if (reason !== undefined && WRONG_KEY.includes(reason)) return 'STORAGE_DENIED';
  if (status === 403 && reason !== undefined && THROTTLES.includes(reason)) return 'STORAGE_THROTTLED';
  if (status === 403 && reason !== undefined && QUOTAS.includes(reason)) return 'STORAGE_FULL';
  if (status === 400 && reason === 'invalid' && asked.invalidMeans === 'CORRUPT') return 'STORAGE_CORRUPT';
  switch (status) {
    case 401:
    case 403:
    case 407:
      return 'STORAGE_DENIED';
    case 404:
      return 'STORAGE_NOT_FOUND';
    case 412:
      return 'STORAGE_ALREADY_EXISTS';
    case 429:
    case 503:
      return 'STORAGE_THROTTLED';
    case 400:
    case 411:
    case 413:
      return 'CONFIGURATION_INVALID';
    default:
      return 'STORAGE_UNAVAILABLE';
  }
}

/** `remains` is a sentence about what has stayed. */
export function corrupt(what: string, { key, description }: Asked, remains = ''): StorageError {
  const message = `${what} of ${key} does not match in ${description}.${remains}`;
  return new StorageError(message, 'STORAGE_CORRUPT', { key });
}

/** A failure below HTTP. Node's errors name addresses and system calls, never headers. */
export function unreachable(cause: unknown, { operation, key, description }: Asked): StorageError {
  return new StorageError(
    `${operation} of ${key === '' ? '(all)' : key} got no answer from ${description}.`,
    'STORAGE_UNAVAILABLE',
    { key, cause },
  );
}

/** An answer of success that is none of the API. */
export function unreadable({ operation, key, description }: Asked): StorageError {
  return new StorageError(
    `${operation} of ${key === '' ? '(all)' : key} got an answer that cannot be read from ${description}.`,
    'STORAGE_UNAVAILABLE',
    { key },
  );
}
