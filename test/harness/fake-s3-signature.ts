import { createHash, createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { FakeS3Error } from './fake-s3-store.ts';

export interface FakeS3Keys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$/;

/**
 * Signature version 4 of a request, as S3 checks it: the canonical request is built from what came over the wire.
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 */
export function verifySignature(
  request: IncomingMessage,
  keys: FakeS3Keys,
  expired: ReadonlySet<string>,
  region: string,
): void {
  const { headers, method = '', url = '' } = request;
  const match = AUTHORIZATION.exec(headers.authorization ?? '');
  if (match === null) throw new FakeS3Error(403, 'AccessDenied');
  const [, accessKeyId = '', day = '', signedRegion = '', signedHeaders = '', signature = ''] = match;
  if (expired.has(accessKeyId)) throw new FakeS3Error(400, 'ExpiredToken');
  if (accessKeyId !== keys.accessKeyId) throw new FakeS3Error(403, 'InvalidAccessKeyId');
  if (keys.sessionToken !== headers['x-amz-security-token']) throw new FakeS3Error(400, 'InvalidToken');
  if (signedRegion !== region) throw new FakeS3Error(400, 'AuthorizationHeaderMalformed');
  const date = String(headers['x-amz-date']);
  const at = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'));
  if (!date.startsWith(day) || !(Math.abs(Date.now() - at) < 15 * 60_000)) {
    throw new FakeS3Error(403, 'RequestTimeTooSkewed');
  }
  const names = signedHeaders.split(';');
  const mustBeSigned = ['host', ...Object.keys(headers).filter((name) => name.startsWith('x-amz-'))];
  if (mustBeSigned.some((name) => !names.includes(name))) throw new FakeS3Error(403, 'AccessDenied');

  const [path = '', query = ''] = url.split('?');
  const canonical = [
    method,
    path
      .split('/')
      .map((part) => encode(decodeURIComponent(part)))
      .join('/'),
    query
      .split('&')
      .filter((pair) => pair !== '')
      .map((pair) => {
        const [name = '', value = ''] = pair.split('=');
        return `${encode(decodeURIComponent(name))}=${encode(decodeURIComponent(value))}`;
      })
      .sort()
      .join('&'),
    ...names.map((name) => `${name}:${String(headers[name]).trim().replaceAll(/ +/g, ' ')}`),
    '',
    signedHeaders,
    String(headers['x-amz-content-sha256']),
  ].join('\n');
  const scope = `${day}/${region}/s3/aws4_request`;
  const digest = createHash('sha256').update(canonical).digest('hex');
  const text = ['AWS4-HMAC-SHA256', date, scope, digest].join('\n');
  const key = [day, region, 's3', 'aws4_request'].reduce<string | Buffer>(
    (secret, part) => createHmac('sha256', secret).update(part).digest(),
    `AWS4${keys.secretAccessKey}`,
  );
  if (createHmac('sha256', key).update(text).digest('hex') !== signature) {
    // As S3 does: the answer quotes the request, with every signed header.
    throw new FakeS3Error(403, 'SignatureDoesNotMatch', {
      AWSAccessKeyId: accessKeyId,
      CanonicalRequest: canonical,
      StringToSign: text,
    });
  }
}

function encode(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}
