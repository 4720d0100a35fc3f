import { createHash, randomUUID } from 'node:crypto';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { crc32c } from '../utils/crc32c.ts';
import { decode, type GoogleCloudClient, ObjectResource } from './google-cloud-client.ts';
import { crc32cText } from './google-cloud-crc32c.ts';
import { type Asked, corrupt } from './google-cloud-errors.ts';

const MIB = 1024 * 1024;
const SINGLE_REQUEST_BYTES = 16 * MIB;
/** A multiple of 256 KiB, as sessions want it. */
const CHUNK_BYTES = 16 * MIB;
const CLEANUP_MS = 5_000;

interface Upload {
  readonly name: string;
  readonly body: readonly Uint8Array[];
  /** Besides name and checksums. */
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly asked: Asked;
  readonly signal?: AbortSignal | undefined;
}

interface Checked extends Upload {
  readonly size: number;
  readonly checksums: { readonly crc32c: string; readonly md5Hash: string };
}

/** Stores an object create-only; both sides compare its checksums. */
export async function uploadObject(client: GoogleCloudClient, upload: Upload): Promise<ObjectResource> {
  const md5 = createHash('md5');
  let crc = 0;
  let size = 0;
  for (const piece of upload.body) {
    md5.update(piece);
    crc = crc32c(piece, crc);
    size += piece.byteLength;
  }
  const checked = {
    ...upload,
    size,
    checksums: { crc32c: crc32cText(crc), md5Hash: md5.digest('base64') },
  };
  const stored =
    size <= SINGLE_REQUEST_BYTES ? await inOneRequest(client, checked) : await inChunks(client, checked);
  const { checksums, asked } = checked;
  if (
    stored.size !== size ||
    stored.crc32c !== checksums.crc32c ||
    (stored.md5Hash ?? checksums.md5Hash) !== checksums.md5Hash
  ) {
    const remains = await withdraw(client, upload.name, stored, asked);
    throw corrupt('The checksum of what was stored', asked, remains);
  }
  await assertLocked(client, upload.name, stored, upload);
  return stored;
}

/** What should be locked and is not does not stay: the caller would rely on it. */
export async function assertLocked(
  client: GoogleCloudClient,
  name: string,
  stored: ObjectResource,
  { metadata, asked }: Pick<Upload, 'metadata' | 'asked'>,
): Promise<void> {
  if (metadata.retention === undefined || stored.retention !== undefined) return;
  const remains = await withdraw(client, name, stored, asked);
  throw new DataProtectionError(
    `${client.description} stored ${asked.key} without the lock; enable object retention on the bucket.${remains}`,
    'CONFIGURATION_INVALID',
  );
}

/** Removes what is not as it should be; gives what there is to say when that fails, for the error that led to it. */
export async function withdraw(
  client: GoogleCloudClient,
  name: string,
  { generation }: ObjectResource,
  asked: Asked,
): Promise<'' | ' It could not be removed and may have stayed.'> {
  try {
    await client.remove(name, generation, asked, AbortSignal.timeout(CLEANUP_MS));
    return '';
  } catch (error) {
    if (!(error instanceof DataProtectionError || error instanceof DOMException)) throw error;
    return ' It could not be removed and may have stayed.';
  }
}

function metadataText({ name, metadata, checksums }: Checked): string {
  return JSON.stringify({ ...metadata, name, ...checksums });
}

async function inOneRequest(client: GoogleCloudClient, upload: Checked): Promise<ObjectResource> {
  const { asked, signal } = upload;
  const boundary = `care-backup-${randomUUID()}`;
  const head =
    `--${boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n${metadataText(upload)}\r\n` +
    `--${boundary}\r\nContent-Type: application/octet-stream\r\n\r\n`;
  const answer = await client.insert({
    asked: { ...asked, invalidMeans: 'CORRUPT' },
    query: { uploadType: 'multipart', ...client.createOnly() },
    headers: { 'content-type': `multipart/related; boundary=${boundary}` },
    body: [Buffer.from(head), ...upload.body, Buffer.from(`\r\n--${boundary}--\r\n`)],
    signal,
    effect: 'PUBLISHES',
  });
  return decode(answer, ObjectResource, asked);
}

async function inChunks(client: GoogleCloudClient, upload: Checked): Promise<ObjectResource> {
  const session = await beginSession(client, upload);
  try {
    return await sendChunks(client, upload, session);
  } catch (error) {
    await cancelSession(client, upload, session);
    throw error;
  }
}

async function beginSession(client: GoogleCloudClient, upload: Checked): Promise<URL> {
  const { asked, signal, size } = upload;
  const answer = await client.insert({
    asked,
    query: { uploadType: 'resumable', ...client.createOnly() },
    headers: {
      'content-type': 'application/json; charset=UTF-8',
      'x-upload-content-type': 'application/octet-stream',
      'x-upload-content-length': String(size),
    },
    body: [Buffer.from(metadataText(upload))],
    signal,
  });
  const location = answer.headers.location;
  const url = location !== undefined && URL.canParse(location) ? new URL(location) : undefined;
  if (url === undefined || !client.isOwnAddress(url)) {
    throw new StorageError(
      `${client.description} gave no usable address for an upload.`,
      'STORAGE_UNAVAILABLE',
      {
        key: asked.key,
      },
    );
  }
  return url;
}

async function sendChunks(client: GoogleCloudClient, upload: Checked, session: URL): Promise<ObjectResource> {
  const { asked, signal, size } = upload;
  for (let offset = 0; ; ) {
    const end = Math.min(size, offset + CHUNK_BYTES);
    const answer = await client.session('PUT', session, {
      asked: { ...asked, invalidMeans: 'CORRUPT' },
      headers: { 'content-range': `bytes ${offset}-${end - 1}/${size}` },
      body: cut(upload.body, offset, end),
      signal,
      effect: end === size ? 'PUBLISHES' : undefined,
      accept: [308, 404, 410, 499],
    });
    if (answer.status === 200 || answer.status === 201) return decode(answer, ObjectResource, asked);
    const kept = /^bytes=0-(\d+)$/.exec(answer.headers.range ?? '')?.[1];
    const next = kept === undefined ? 0 : Number(kept) + 1;
    // The server may keep less than it was sent; without any progress, or for a session that is gone, it ends here.
    if (answer.status !== 308 || next <= offset || next > end) {
      throw new StorageError(
        `The upload session of ${asked.key} broke in ${client.description} (${answer.status}).`,
        'STORAGE_UNAVAILABLE',
        { key: asked.key },
      );
    }
    offset = next;
  }
}

/** The server forgets sessions by itself after a week; until then nothing of them is visible either. */
async function cancelSession(client: GoogleCloudClient, { asked }: Checked, session: URL): Promise<void> {
  try {
    await client.session('DELETE', session, {
      asked,
      signal: AbortSignal.timeout(CLEANUP_MS),
      accept: [404, 410, 499],
    });
  } catch (error) {
    if (!(error instanceof DataProtectionError || error instanceof DOMException)) throw error;
  }
}

function cut(body: readonly Uint8Array[], start: number, end: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const piece of body) {
    const from = Math.max(start - at, 0);
    const to = Math.min(end - at, piece.byteLength);
    if (from < to) pieces.push(piece.subarray(from, to));
    at += piece.byteLength;
  }
  return pieces;
}
