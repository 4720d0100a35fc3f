import { StorageError } from '../types/errors.ts';
import { crc32c } from '../utils/crc32c.ts';
import type { GoogleCloudClient } from './google-cloud-client.ts';
import { crc32cText } from './google-cloud-crc32c.ts';
import { type Asked, corrupt } from './google-cloud-errors.ts';
import type { HttpAnswer } from './google-cloud-http.ts';
import type { ByteRange } from './storage.ts';

/**
 * Content and what describes it come in one answer, so they are of one version. The whole is checked against the CRC-32C
 * that the server keeps; of a range there is none, so its place and length are.
 */
export async function readObject(
  client: GoogleCloudClient,
  key: string,
  range: ByteRange | undefined,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const asked = client.asked('get', key);
  if (range?.length === 0) {
    if ((await client.metadata(key, asked, signal)) === undefined) throw notFound(asked);
    return new Uint8Array();
  }
  const answer = await client.object('GET', key, {
    asked,
    signal,
    query: { alt: 'media' },
    // Objects stored as gzip come as they are stored.
    headers: { 'accept-encoding': 'gzip', ...(range === undefined ? {} : { range: rangeHeader(range) }) },
    accept: [404, 416],
  });
  if (answer.status === 404) {
    await client.assertBucket(signal);
    throw notFound(asked);
  }
  // The range begins past the end, or the object is empty.
  if (answer.status === 416 && range !== undefined) return new Uint8Array();
  if (answer.status === 206 && range !== undefined) return checkedRange(answer, range, asked);
  if (answer.status !== 200) throw corrupt('The status of the answer', asked);
  const whole = checkedWhole(answer, asked);
  return range === undefined ? whole : whole.slice(range.offset, range.offset + range.length);
}

function rangeHeader({ offset, length }: ByteRange): string {
  const last = Math.min(Number.MAX_SAFE_INTEGER, offset + length - 1);
  return `bytes=${offset}-${last}`;
}

function checkedWhole({ headers, body }: HttpAnswer, asked: Asked): Uint8Array {
  const size = headers['x-goog-stored-content-length'] ?? headers['content-length'];
  if (size !== undefined && Number(size) !== body.byteLength) throw corrupt('The length', asked);
  const expected = hashOf(headers['x-goog-hash']);
  // Every object of this storage has one; without it nobody could tell changed bytes from right ones.
  if (expected === undefined) throw corrupt('The missing checksum', asked);
  if (expected !== crc32cText(crc32c(body))) throw corrupt('The checksum', asked);
  return body;
}

function checkedRange(answer: HttpAnswer, range: ByteRange, asked: Asked): Uint8Array {
  const { headers, body } = answer;
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers['content-range'] ?? '') ?? [];
  const size = Number(total);
  const length = Math.min(range.length, size - range.offset);
  if (
    Number(first) !== range.offset ||
    Number(last) !== range.offset + length - 1 ||
    body.byteLength !== length
  ) {
    throw corrupt('The range', asked);
  }
  const expected = hashOf(headers['x-goog-hash']);
  if (length === size && expected !== undefined && expected !== crc32cText(crc32c(body))) {
    throw corrupt('The checksum', asked);
  }
  return body;
}

function hashOf(header: string | string[] | undefined): string | undefined {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '');
  return /(?:^|,)\s*crc32c=([A-Za-z0-9+/=]+)/.exec(text)?.[1];
}

export function notFound({ key, description }: Asked): StorageError {
  return new StorageError(`There is no object ${key} in ${description}.`, 'STORAGE_NOT_FOUND', { key });
}
