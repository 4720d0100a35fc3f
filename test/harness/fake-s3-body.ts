import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { crc32 } from 'node:zlib';
import { FakeS3Error } from './fake-s3-store.ts';

export interface ReceivedBody {
  readonly bytes: Buffer;
  /** SHA-256 in base64, where the client sent one. */
  readonly sha256: string | undefined;
}

/** The whole body, decoded and held to every checksum that came with it. */
export async function receiveBody(request: IncomingMessage): Promise<ReceivedBody> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const raw = Buffer.concat(chunks);
  const { headers } = request;
  const payload = String(headers['x-amz-content-sha256']);
  const { bytes, trailers } = payload.startsWith('STREAMING')
    ? unchunk(raw, headers)
    : { bytes: raw, trailers: {} };
  let digest: Buffer | undefined;
  const sha256Of = (encoding: 'hex' | 'base64') => {
    digest ??= createHash('sha256').update(bytes).digest();
    return digest.toString(encoding);
  };
  if (/^[0-9a-f]{64}$/.test(payload)) {
    if (sha256Of('hex') !== payload) throw new FakeS3Error(400, 'XAmzContentSHA256Mismatch');
  } else if (payload !== 'UNSIGNED-PAYLOAD' && payload !== 'STREAMING-UNSIGNED-PAYLOAD-TRAILER') {
    throw new FakeS3Error(400, 'InvalidArgument');
  }
  const sums: IncomingHttpHeaders = { ...headers, ...trailers };
  const checks: readonly [string, () => string][] = [
    ['content-md5', () => createHash('md5').update(bytes).digest('base64')],
    ['x-amz-checksum-sha256', () => sha256Of('base64')],
    ['x-amz-checksum-crc32', () => crc32Base64(bytes)],
  ];
  for (const [name, compute] of checks) {
    if (sums[name] !== undefined && sums[name] !== compute()) throw new FakeS3Error(400, 'BadDigest');
  }
  const sha256 = sums['x-amz-checksum-sha256'];
  return { bytes, sha256: typeof sha256 === 'string' ? sha256 : undefined };
}

function unchunk(raw: Buffer, headers: IncomingHttpHeaders) {
  const pieces: Buffer[] = [];
  let at = 0;
  const line = () => {
    const end = raw.indexOf('\r\n', at);
    if (end < 0) throw new FakeS3Error(400, 'IncompleteBody');
    const text = raw.toString('latin1', at, end);
    at = end + 2;
    return text;
  };
  for (;;) {
    const size = Number.parseInt(line(), 16);
    if (size === 0) break;
    pieces.push(raw.subarray(at, at + size));
    at += size + 2;
  }
  const trailers: Record<string, string> = {};
  for (let text = line(); text !== ''; text = line()) {
    const colon = text.indexOf(':');
    trailers[text.slice(0, colon)] = text.slice(colon + 1).trim();
  }
  const bytes = Buffer.concat(pieces);
  if (String(bytes.byteLength) !== headers['x-amz-decoded-content-length']) {
    throw new FakeS3Error(400, 'IncompleteBody');
  }
  if (trailers[String(headers['x-amz-trailer'])] === undefined)
    throw new FakeS3Error(400, 'MalformedTrailerError');
  return { bytes, trailers };
}

function crc32Base64(bytes: Buffer): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(bytes));
  return sum.toString('base64');
}
