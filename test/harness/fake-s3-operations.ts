import { createHash, randomUUID } from 'node:crypto';
import type { ReceivedBody } from './fake-s3-body.ts';
import {
  etagOf,
  type FakeAttributes,
  type FakeBucket,
  FakeS3Error,
  type FakeVersion,
  type WantedPart,
} from './fake-s3-store.ts';
import { escapeXml, type FakeS3Answer, type FakeS3Options, type FakeS3Request } from './fake-s3-wire.ts';

type Operation = (
  request: FakeS3Request,
  body: ReceivedBody,
  bucket: FakeBucket,
  options: FakeS3Options,
) => FakeS3Answer;

/** Answers a request whose signature and checksums are right, as the S3 reference describes the operation. */
export function handleRequest(
  request: FakeS3Request,
  body: ReceivedBody,
  bucket: FakeBucket,
  options: FakeS3Options,
): FakeS3Answer {
  const operation = OPERATIONS[request.operation];
  if (operation === undefined) throw new FakeS3Error(501, 'NotImplemented');
  return operation(request, body, bucket, options);
}

const ARCHIVED = new Set(['GLACIER', 'DEEP_ARCHIVE']);
const PAGE = 1000;

const OPERATIONS: Readonly<Record<string, Operation>> = {
  HeadBucket: () => ({}),

  PutObject({ key, headers }, { bytes, sha256 }, bucket, options) {
    const attributes = attributesOf(headers, options);
    if (headers['content-length'] === undefined) throw new FakeS3Error(411, 'MissingContentLength');
    assertChecked(attributes, headers);
    if (options.ignoreIfNoneMatch === 'MULTIPART' || options.ignoreIfNoneMatch === undefined) {
      assertFree(headers['if-none-match'], key, bucket);
    }
    const content = { bytes, etag: etagOf(bytes), sha256: options.withoutChecksums ? undefined : sha256 };
    return { headers: versionHeaders(bucket.add(key, content, attributes), bucket) };
  },

  GetObject({ key, query, headers }, _, bucket) {
    const version = bucket.version(key, query.get('versionId'));
    assertCustomerKey(version, headers);
    if (isFrozen(version)) throw new FakeS3Error(403, 'InvalidObjectState');
    const { bytes } = version;
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '');
    if (range === null) return { headers: objectHeaders(version, bucket, headers), body: bytes };
    const first = Number(range[1]);
    const last = Math.min(Number(range[2]), bytes.byteLength - 1);
    if (first >= bytes.byteLength) throw new FakeS3Error(416, 'InvalidRange');
    return {
      status: 206,
      headers: {
        ...objectHeaders(version, bucket, {}),
        'content-range': `bytes ${first}-${last}/${bytes.byteLength}`,
      },
      body: bytes.subarray(first, last + 1),
    };
  },

  HeadObject({ key, query, headers }, _, bucket) {
    const version = bucket.version(key, query.get('versionId'));
    assertCustomerKey(version, headers);
    const size = String(version.bytes.byteLength);
    return { headers: { ...objectHeaders(version, bucket, headers), 'content-length': size } };
  },

  DeleteObject({ key, query }, _, bucket) {
    const id = query.get('versionId');
    const marker = bucket.remove(key, id);
    const made = { 'x-amz-delete-marker': 'true', 'x-amz-version-id': marker?.id };
    return { status: 204, headers: marker === undefined ? {} : made };
  },

  ListObjectsV2({ query }, _, bucket) {
    const prefix = query.get('prefix') ?? '';
    const after = Buffer.from(query.get('continuation-token') ?? '', 'base64url').toString();
    const isUrl = query.get('encoding-type') === 'url';
    const keys = [...bucket.objects.keys()]
      .filter((key) => key.startsWith(prefix) && key > after && bucket.current(key) !== undefined)
      .sort();
    const page = keys.slice(0, PAGE);
    const contents = page.map((key) => {
      const name = isUrl ? encodeURIComponent(key).replaceAll('%2F', '/').replaceAll('%20', '+') : key;
      return `<Contents>${entryXml(name, bucket.version(key, null))}</Contents>`;
    });
    const next = Buffer.from(page.at(-1) ?? '').toString('base64url');
    const more = keys.length > page.length;
    return xml('ListBucketResult', [
      `<IsTruncated>${more}</IsTruncated><KeyCount>${page.length}</KeyCount><MaxKeys>${PAGE}</MaxKeys>`,
      more ? `<NextContinuationToken>${next}</NextContinuationToken>` : '',
      ...contents,
    ]);
  },

  ListObjectVersions({ query }, _, bucket, { versionsPage = PAGE }) {
    const prefix = query.get('prefix') ?? '';
    const [keyMarker, idMarker] = [query.get('key-marker') ?? '', query.get('version-id-marker')];
    const all = [...bucket.objects]
      .filter(([key]) => key.startsWith(prefix))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([key, versions]) => versions.map((version, index) => ({ key, version, index })));
    const at = all.findIndex(({ key, version }) => key === keyMarker && version.id === idMarker);
    const left = keyMarker === '' ? all : all.slice(at + 1);
    const page = left.slice(0, versionsPage);
    const last = page.at(-1);
    const more = left.length > page.length;
    return xml('ListVersionsResult', [
      `<IsTruncated>${more}</IsTruncated>`,
      more
        ? `<NextKeyMarker>${last?.key}</NextKeyMarker><NextVersionIdMarker>${last?.version.id}</NextVersionIdMarker>`
        : '',
      ...page.map(({ key, version, index }) => {
        const name = version.isMarker ? 'DeleteMarker' : 'Version';
        const id = `<VersionId>${version.id}</VersionId><IsLatest>${index === 0}</IsLatest>`;
        return `<${name}>${entryXml(key, version)}${id}</${name}>`;
      }),
    ]);
  },

  CreateMultipartUpload({ key, headers }, _, bucket, options) {
    const id = randomUUID();
    bucket.uploads.set(id, { key, attributes: attributesOf(headers, options), parts: new Map() });
    return xml('InitiateMultipartUploadResult', [`<Key>${key}</Key><UploadId>${id}</UploadId>`]);
  },

  UploadPart({ key, query, headers }, { bytes, sha256 }, bucket, options) {
    const upload = bucket.upload(query.get('uploadId'), key);
    const number = Number(query.get('partNumber'));
    if (!(number >= 1 && number <= 10_000)) throw new FakeS3Error(400, 'InvalidArgument');
    if (upload.attributes.customerKeyMd5 !== customerKeyMd5(headers))
      throw new FakeS3Error(400, 'InvalidRequest');
    assertChecked(upload.attributes, headers);
    const part = { bytes, etag: etagOf(bytes), sha256: options.withoutChecksums ? undefined : sha256 };
    upload.parts.set(number, part);
    return { headers: { etag: part.etag, 'x-amz-checksum-sha256': part.sha256 } };
  },

  ListParts({ key, query, headers }, _, bucket) {
    const { parts, attributes } = bucket.upload(query.get('uploadId'), key);
    if (attributes.customerKeyMd5 !== customerKeyMd5(headers)) throw new FakeS3Error(400, 'InvalidRequest');
    const after = Number(query.get('part-number-marker') ?? 0);
    const left = [...parts].filter(([number]) => number > after).sort(([a], [b]) => a - b);
    const page = left.slice(0, PAGE);
    return xml('ListPartsResult', [
      `<IsTruncated>${left.length > page.length}</IsTruncated>`,
      `<NextPartNumberMarker>${page.at(-1)?.[0] ?? 0}</NextPartNumberMarker>`,
      ...page.map(([number, { bytes, etag, sha256 }]) => {
        const sum = sha256 === undefined ? '' : `<ChecksumSHA256>${sha256}</ChecksumSHA256>`;
        return `<Part><PartNumber>${number}</PartNumber><ETag>${escapeXml(etag)}</ETag><Size>${bytes.byteLength}</Size>${sum}</Part>`;
      }),
    ]);
  },

  CompleteMultipartUpload({ key, query, headers }, { bytes }, bucket, options) {
    const id = query.get('uploadId');
    if (bucket.upload(id, key).attributes.customerKeyMd5 !== customerKeyMd5(headers)) {
      throw new FakeS3Error(400, 'InvalidRequest');
    }
    if (options.ignoreIfNoneMatch === 'PUT' || options.ignoreIfNoneMatch === undefined) {
      assertFree(headers['if-none-match'], key, bucket);
    }
    const size = headers['x-amz-mp-object-size'];
    const version = bucket.complete(
      id,
      key,
      wantedParts(bytes.toString()),
      size === undefined ? undefined : String(size),
    );
    return {
      ...xml('CompleteMultipartUploadResult', [`<ETag>${escapeXml(version.etag)}</ETag>`]),
      headers: versionHeaders(version, bucket),
    };
  },

  AbortMultipartUpload({ key, query }, _, bucket) {
    bucket.upload(query.get('uploadId'), key);
    bucket.uploads.delete(query.get('uploadId') ?? '');
    return { status: 204 };
  },

  ListMultipartUploads(_request, _body, bucket) {
    const uploads = [...bucket.uploads].map(
      ([id, { key }]) => `<Upload><Key>${key}</Key><UploadId>${id}</UploadId></Upload>`,
    );
    return xml('ListMultipartUploadsResult', ['<IsTruncated>false</IsTruncated>', ...uploads]);
  },

  RestoreObject({ key }, { bytes }, bucket) {
    const version = bucket.version(key, null);
    const isTiered = version.storageClass === 'INTELLIGENT_TIERING';
    if (!ARCHIVED.has(version.storageClass) && version.archiveStatus === undefined) {
      throw new FakeS3Error(403, 'InvalidObjectState');
    }
    if (version.restore?.includes('"true"')) throw new FakeS3Error(409, 'RestoreAlreadyInProgress');
    if (/<Days>[1-9]\d*<\/Days>/.test(bytes.toString()) === isTiered)
      throw new FakeS3Error(400, 'MalformedXML');
    const again = version.restore !== undefined;
    if (!again) version.restore = 'ongoing-request="true"';
    return { status: again ? 200 : 202 };
  },

  PutObjectRetention({ key, query, headers }, { bytes }, bucket, options) {
    assertLocks(options);
    if (headers['content-md5'] === undefined && !hasChecksum(headers))
      throw new FakeS3Error(400, 'InvalidRequest');
    const version = bucket.version(key, query.get('versionId'));
    const text = bytes.toString();
    const mode = textOf(text, 'Mode');
    const until = new Date(textOf(text, 'RetainUntilDate') ?? '');
    const isShorter = version.lockUntil !== undefined && until < version.lockUntil;
    const isOther = version.lockMode !== undefined && version.lockMode !== mode;
    const mayBypass =
      version.lockMode === 'GOVERNANCE' && headers['x-amz-bypass-governance-retention'] === 'true';
    if ((isShorter || isOther) && !mayBypass) throw new FakeS3Error(403, 'AccessDenied');
    version.lockMode = mode;
    version.lockUntil = until;
    return {};
  },

  GetObjectRetention({ key, query }, _, bucket, options) {
    assertLocks(options);
    const { lockMode, lockUntil } = bucket.version(key, query.get('versionId'));
    if (lockUntil === undefined) throw new FakeS3Error(404, 'NoSuchObjectLockConfiguration');
    const until = lockUntil.toISOString();
    return xml('Retention', [`<Mode>${lockMode}</Mode><RetainUntilDate>${until}</RetainUntilDate>`]);
  },

  PutObjectLegalHold({ key, query }, { bytes }, bucket, options) {
    assertLocks(options);
    bucket.version(key, query.get('versionId')).legalHold =
      textOf(bytes.toString(), 'Status') === 'ON' ? 'ON' : 'OFF';
    return {};
  },

  GetObjectLegalHold({ key, query }, _, bucket, options) {
    assertLocks(options);
    const { legalHold } = bucket.version(key, query.get('versionId'));
    if (legalHold === undefined) throw new FakeS3Error(404, 'NoSuchObjectLockConfiguration');
    return xml('LegalHold', [`<Status>${legalHold}</Status>`]);
  },
};

type Headers = FakeS3Request['headers'];

function assertFree(condition: string | undefined, key: string, bucket: FakeBucket): void {
  if (condition === undefined) return;
  if (condition !== '*') throw new FakeS3Error(501, 'NotImplemented');
  if (bucket.current(key) !== undefined) throw new FakeS3Error(412, 'PreconditionFailed');
}

function assertLocks({ lockEnabled = false }: FakeS3Options): void {
  if (!lockEnabled) throw new FakeS3Error(400, 'InvalidRequest');
}

/** What is locked, by itself or by the bucket, is sent with a checksum; the hash in the signature is none. */
function assertChecked({ lockMode }: FakeAttributes, headers: Headers): void {
  if (lockMode === undefined || headers['content-md5'] !== undefined || hasChecksum(headers)) return;
  throw new FakeS3Error(400, 'InvalidRequest');
}

function attributesOf(headers: Headers, options: FakeS3Options): FakeAttributes {
  const text = (name: string) => {
    const value = headers[name];
    return value === undefined ? undefined : String(value);
  };
  const until = text('x-amz-object-lock-retain-until-date');
  const lockMode = text('x-amz-object-lock-mode');
  if (lockMode !== undefined || until !== undefined) assertLocks(options);
  if ((lockMode === undefined) !== (until === undefined)) throw new FakeS3Error(400, 'InvalidArgument');
  return {
    storageClass: text('x-amz-storage-class') ?? 'STANDARD',
    customerKeyMd5: customerKeyMd5(headers),
    encryption: text('x-amz-server-side-encryption'),
    ...(lockMode === undefined && options.defaultRetention !== undefined
      ? defaultLock(options.defaultRetention)
      : { lockMode, lockUntil: until === undefined ? undefined : new Date(until) }),
  };
}

function defaultLock({ mode, days }: NonNullable<FakeS3Options['defaultRetention']>) {
  return { lockMode: mode, lockUntil: new Date(Date.now() + days * 86_400_000) };
}

/** The digest of the customer's key, which must agree with the key and the algorithm beside it. */
function customerKeyMd5(headers: Headers): string | undefined {
  const prefix = 'x-amz-server-side-encryption-customer';
  const [algorithm, key, md5] = ['algorithm', 'key', 'key-md5'].map((name) => headers[`${prefix}-${name}`]);
  if (algorithm === undefined && key === undefined && md5 === undefined) return undefined;
  const bytes = Buffer.from(String(key), 'base64');
  const digest = createHash('md5').update(bytes).digest('base64');
  if (algorithm !== 'AES256' || bytes.byteLength !== 32 || md5 !== digest) {
    throw new FakeS3Error(400, 'InvalidArgument');
  }
  return digest;
}

function assertCustomerKey(version: FakeVersion, headers: Headers): void {
  if (version.customerKeyMd5 !== customerKeyMd5(headers)) throw new FakeS3Error(400, 'InvalidRequest');
}

function isFrozen({ storageClass, archiveStatus, restore }: FakeVersion): boolean {
  return (ARCHIVED.has(storageClass) || archiveStatus !== undefined) && !restore?.includes('"false"');
}

function hasChecksum(headers: Headers): boolean {
  return Object.keys(headers).some((name) => name.startsWith('x-amz-checksum-'));
}

function versionHeaders(version: FakeVersion, bucket: FakeBucket) {
  return {
    etag: version.etag,
    'x-amz-version-id': bucket.versioned ? version.id : undefined,
    'x-amz-server-side-encryption': version.encryption,
  };
}

function objectHeaders(version: FakeVersion, bucket: FakeBucket, headers: Headers) {
  return {
    ...versionHeaders(version, bucket),
    'last-modified': version.modifiedAt.toUTCString(),
    'x-amz-storage-class': version.storageClass === 'STANDARD' ? undefined : version.storageClass,
    'x-amz-archive-status': version.archiveStatus,
    'x-amz-restore': version.restore,
    'x-amz-checksum-sha256': headers['x-amz-checksum-mode'] === 'ENABLED' ? version.sha256 : undefined,
  };
}

function entryXml(name: string, { modifiedAt, bytes, etag }: FakeVersion): string {
  return `<Key>${escapeXml(name)}</Key><LastModified>${modifiedAt.toISOString()}</LastModified><ETag>${escapeXml(etag)}</ETag><Size>${bytes.byteLength}</Size>`;
}

function wantedParts(text: string): WantedPart[] {
  return [...text.matchAll(/<Part>(.*?)<\/Part>/gs)].map(([, part = '']) => ({
    number: Number(textOf(part, 'PartNumber')),
    etag: (textOf(part, 'ETag') ?? '').replaceAll('&quot;', '"'),
    sha256: textOf(part, 'ChecksumSHA256'),
  }));
}

function textOf(text: string, name: string): string | undefined {
  return new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1];
}

function xml(root: string, children: readonly string[]): FakeS3Answer {
  const namespace = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"';
  return {
    headers: { 'content-type': 'application/xml' },
    body: `<?xml version="1.0" encoding="UTF-8"?>\n<${root} ${namespace}>${children.join('')}</${root}>`,
  };
}
