import type { BlobDownloadResponseParsed } from '@azure/storage-blob';
import type { AzureClient } from './azure-blob-connection.ts';
import { azureFailure, corrupt } from './azure-blob-errors.ts';
import { abortedBy, md5Of } from './azure-blob-write.ts';
import type { ByteRange, StorageCall } from './storage.ts';

/** `work` of a get: exactly the bytes that are there, or an error. */
export async function readBlob(
  { container, contentKey }: AzureClient,
  key: string,
  range: ByteRange | undefined,
  description: string,
  { signal }: StorageCall,
): Promise<Uint8Array> {
  const blob = container.getBlobClient(key);
  const options = { ...contentKey, ...abortedBy(signal) };
  if (range?.length === 0) {
    await blob.getProperties(options);
    return new Uint8Array();
  }
  let answer: BlobDownloadResponseParsed;
  try {
    answer = await blob.download(range?.offset, range?.length, { ...options, maxRetryRequests: 0 });
  } catch (error) {
    const { status, code } = azureFailure(error);
    // The object is there, and the range begins past its end.
    if (range !== undefined && status === 416 && code === 'InvalidRange') return new Uint8Array();
    throw error;
  }
  const expected = range === undefined ? answer.contentLength : rangeLength(range, answer.contentRange);
  if (expected === undefined || answer.contentLength !== expected) {
    answer.readableStreamBody?.on('error', () => undefined).resume();
    throw corrupt(key, 'the answer is another range than the one asked for', description);
  }
  const bytes = await readAll(answer, expected);
  if (bytes.byteLength !== expected) {
    throw corrupt(key, `${bytes.byteLength} of ${expected} bytes arrived`, description);
  }
  const md5 = range === undefined ? answer.contentMD5 : undefined;
  if (md5 !== undefined && Buffer.compare(md5, md5Of([bytes])) !== 0) {
    throw corrupt(key, 'the bytes are not those of the stored MD5', description);
  }
  return bytes;
}

/** How many bytes the answer to a range must have; undefined where it is none. */
function rangeLength({ offset, length }: ByteRange, contentRange: string | undefined): number | undefined {
  const [, start, end, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(contentRange ?? '') ?? [];
  const expected = Math.min(length, Number(total) - offset);
  return Number(start) === offset && Number(end) - offset + 1 === expected ? expected : undefined;
}

async function readAll(answer: BlobDownloadResponseParsed, size: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer.readableStreamBody ?? []) {
    chunks.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
  }
  const [only, ...others] = chunks;
  // A chunk alone may be a view of a buffer that others see too.
  return only !== undefined && others.length === 0 ? Uint8Array.from(only) : joined(chunks, size);
}

function joined(chunks: readonly Buffer[], size: number): Uint8Array {
  const length = chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const whole = new Uint8Array(Math.max(length, size));
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole.subarray(0, length);
}
