import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { FakeS3Error } from './fake-s3-store.ts';

export interface FakeS3Options {
  /** As stores do that do not know the condition. */
  readonly ignoreIfNoneMatch?: 'PUT' | 'MULTIPART' | 'BOTH';
  readonly versioned?: boolean;
  /** Object Lock; the bucket is versioned then. */
  readonly lockEnabled?: boolean;
  /** What the bucket locks objects with that ask for no lock; needs `lockEnabled`. */
  readonly defaultRetention?: { readonly mode: string; readonly days: number };
  /** As stores do that keep no checksums. */
  readonly withoutChecksums?: boolean;
  /** Versions in a page of their list; fewer than S3's 1,000 to see several pages. */
  readonly versionsPage?: number;
  readonly sessionToken?: string;
}

export interface FakeS3Request {
  readonly method: string;
  /** The name in the S3 reference, such as PutObject. */
  readonly operation: string;
  readonly key: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
}

export interface FakeS3Answer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string | undefined>>;
  readonly body?: Buffer | string;
}

export function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

/** What a request asks for, by its line and headers. */
export function recordedRequest(
  { method = '', url = '', headers }: IncomingMessage,
  bucketName: string,
): FakeS3Request {
  const { pathname, searchParams: query } = new URL(url, 'http://fake');
  const [, bucket = '', ...rest] = pathname.split('/');
  const key = decodeURIComponent(rest.join('/'));
  if (bucket !== bucketName) throw new FakeS3Error(404, 'NoSuchBucket');
  return { method, operation: operationOf(method, key, query), key, query, headers };
}

function operationOf(method: string, key: string, query: URLSearchParams): string {
  const has = (name: string) => query.has(name);
  const names: readonly (readonly [boolean, string])[] =
    key === ''
      ? [
          [method === 'HEAD', 'HeadBucket'],
          [method === 'GET' && has('versions'), 'ListObjectVersions'],
          [method === 'GET' && has('uploads'), 'ListMultipartUploads'],
          [method === 'GET' && query.get('list-type') === '2', 'ListObjectsV2'],
        ]
      : [
          [method === 'POST' && has('uploads'), 'CreateMultipartUpload'],
          [method === 'POST' && has('restore'), 'RestoreObject'],
          [method === 'POST' && has('uploadId'), 'CompleteMultipartUpload'],
          [method === 'PUT' && has('partNumber'), 'UploadPart'],
          [method === 'PUT' && has('retention'), 'PutObjectRetention'],
          [method === 'PUT' && has('legal-hold'), 'PutObjectLegalHold'],
          [method === 'PUT', 'PutObject'],
          [method === 'GET' && has('uploadId'), 'ListParts'],
          [method === 'GET' && has('retention'), 'GetObjectRetention'],
          [method === 'GET' && has('legal-hold'), 'GetObjectLegalHold'],
          [method === 'GET', 'GetObject'],
          [method === 'HEAD', 'HeadObject'],
          [method === 'DELETE' && has('uploadId'), 'AbortMultipartUpload'],
          [method === 'DELETE', 'DeleteObject'],
        ];
  const name = names.find(([matches]) => matches)?.[1];
  if (name === undefined) throw new FakeS3Error(501, 'NotImplemented');
  return name;
}
