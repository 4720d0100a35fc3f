import { createHash, randomUUID } from 'node:crypto';

/** An answer of S3 that is an error: `fields` are written into its XML. */
export class FakeS3Error extends Error {
  readonly status: number;
  readonly code: string;
  readonly fields: Readonly<Record<string, string>>;

  constructor(status: number, code: string, fields: Readonly<Record<string, string>> = {}) {
    super(code);
    this.status = status;
    this.code = code;
    this.fields = fields;
  }
}

/** What an object is written with. */
export interface FakeAttributes {
  readonly storageClass: string;
  readonly customerKeyMd5: string | undefined;
  readonly encryption: string | undefined;
  readonly lockMode: string | undefined;
  readonly lockUntil: Date | undefined;
}

export interface FakeVersion extends Omit<FakeAttributes, 'storageClass' | 'lockMode' | 'lockUntil'> {
  readonly id: string;
  readonly bytes: Buffer;
  readonly etag: string;
  readonly sha256: string | undefined;
  readonly modifiedAt: Date;
  readonly isMarker: boolean;
  storageClass: string;
  lockMode: string | undefined;
  lockUntil: Date | undefined;
  legalHold: 'ON' | 'OFF' | undefined;
  /** The value of `x-amz-restore`. */
  restore: string | undefined;
  archiveStatus: string | undefined;
}

export interface FakePart {
  readonly bytes: Buffer;
  readonly etag: string;
  readonly sha256: string | undefined;
}

export interface FakeUpload {
  readonly key: string;
  readonly attributes: FakeAttributes;
  readonly parts: Map<number, FakePart>;
}

const MIN_PART_BYTES = 5 * 1024 * 1024;

/** One bucket: versions newest first, and open uploads. */
export class FakeBucket {
  readonly objects = new Map<string, FakeVersion[]>();
  readonly uploads = new Map<string, FakeUpload>();
  readonly versioned: boolean;

  constructor(versioned: boolean) {
    this.versioned = versioned;
  }

  /** The present object; undefined where there is none or a delete marker. */
  current(key: string): FakeVersion | undefined {
    const version = this.objects.get(key)?.[0];
    return version?.isMarker ? undefined : version;
  }

  version(key: string, id: string | null): FakeVersion {
    const found =
      id === null ? this.current(key) : this.objects.get(key)?.find((version) => version.id === id);
    if (found === undefined) throw new FakeS3Error(404, id === null ? 'NoSuchKey' : 'NoSuchVersion');
    return found;
  }

  add(
    key: string,
    content: Pick<FakeVersion, 'bytes' | 'etag' | 'sha256'>,
    attributes: FakeAttributes,
  ): FakeVersion {
    const version: FakeVersion = {
      ...content,
      ...attributes,
      id: this.versioned ? randomUUID() : 'null',
      modifiedAt: new Date(Math.floor(Date.now() / 1000) * 1000),
      isMarker: false,
      legalHold: undefined,
      restore: undefined,
      archiveStatus: undefined,
    };
    this.objects.set(key, [version, ...(this.versioned ? (this.objects.get(key) ?? []) : [])]);
    return version;
  }

  /** The delete marker that it made, where it made one. */
  remove(key: string, id: string | null): FakeVersion | undefined {
    const versions = this.objects.get(key) ?? [];
    if (id === null && this.versioned) {
      const marker = this.add(key, { bytes: Buffer.alloc(0), etag: '', sha256: undefined }, PLAIN);
      const made = { ...marker, isMarker: true };
      this.objects.set(key, [made, ...versions]);
      return made;
    }
    const doomed = versions.find((version) => version.id === (id ?? 'null'));
    if (doomed === undefined) return undefined;
    const isLocked = doomed.lockUntil !== undefined && doomed.lockUntil.getTime() > Date.now();
    if (isLocked || doomed.legalHold === 'ON') throw new FakeS3Error(403, 'AccessDenied');
    const left = versions.filter((version) => version !== doomed);
    if (left.length === 0) this.objects.delete(key);
    else this.objects.set(key, left);
    return undefined;
  }

  upload(id: string | null, key: string): FakeUpload {
    const upload = this.uploads.get(id ?? '');
    if (upload?.key !== key) throw new FakeS3Error(404, 'NoSuchUpload');
    return upload;
  }

  complete(
    id: string | null,
    key: string,
    wanted: readonly WantedPart[],
    size: string | undefined,
  ): FakeVersion {
    const upload = this.upload(id, key);
    if (wanted.length === 0) throw new FakeS3Error(400, 'MalformedXML');
    const parts = wanted.map(({ number, etag, sha256 }, index) => {
      const part = upload.parts.get(number);
      if (index > 0 && number <= (wanted[index - 1]?.number ?? 0))
        throw new FakeS3Error(400, 'InvalidPartOrder');
      // A store that keeps no checksums has nothing to hold the sender's against.
      if (
        part?.etag !== etag ||
        (part.sha256 !== undefined && sha256 !== undefined && sha256 !== part.sha256)
      ) {
        throw new FakeS3Error(400, 'InvalidPart');
      }
      if (index < wanted.length - 1 && part.bytes.byteLength < MIN_PART_BYTES) {
        throw new FakeS3Error(400, 'EntityTooSmall');
      }
      return part;
    });
    const bytes = Buffer.concat(parts.map((part) => part.bytes));
    if (size !== undefined && size !== String(bytes.byteLength)) throw new FakeS3Error(400, 'InvalidRequest');
    const tags = createHash('md5').update(
      Buffer.concat(parts.map(({ etag }) => Buffer.from(etag.slice(1, -1), 'hex'))),
    );
    const sums = parts.map(({ sha256 }) => Buffer.from(sha256 ?? '', 'base64'));
    const sum = createHash('sha256').update(Buffer.concat(sums)).digest('base64');
    this.uploads.delete(id ?? '');
    return this.add(
      key,
      {
        bytes,
        etag: `"${tags.digest('hex')}-${parts.length}"`,
        sha256: parts.every(({ sha256 }) => sha256 !== undefined) ? `${sum}-${parts.length}` : undefined,
      },
      upload.attributes,
    );
  }
}

export interface WantedPart {
  readonly number: number;
  readonly etag: string;
  readonly sha256: string | undefined;
}

const PLAIN: FakeAttributes = {
  storageClass: 'STANDARD',
  customerKeyMd5: undefined,
  encryption: undefined,
  lockMode: undefined,
  lockUntil: undefined,
};

export function etagOf(bytes: Buffer): string {
  return `"${createHash('md5').update(bytes).digest('hex')}"`;
}
