import { createHash, randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { crc32cText } from '../../src/storage/google-cloud-crc32c.ts';
import { crc32c as crcOf } from '../../src/utils/crc32c.ts';

export interface FakeGcsRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  /** The JSON part of the body, where it has one. */
  json: Record<string, unknown> | undefined;
}

export interface FakeGcsBucketOptions {
  readonly versioning?: 'ON' | 'OFF';
  readonly objectRetention?: 'ON' | 'OFF';
}

export class GcsProblem extends Error {
  readonly status: number;
  readonly reason: string;
  constructor(status: number, reason: string, message: string = reason) {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

interface Retention {
  readonly mode: 'Locked' | 'Unlocked';
  readonly retainUntilTime: string;
}

interface FakeGcsObject {
  readonly name: string;
  readonly generation: bigint;
  metageneration: number;
  readonly bytes: Buffer;
  readonly created: string;
  readonly crc32c: string;
  readonly md5Hash: string | undefined;
  readonly componentCount: number | undefined;
  readonly storageClass: string;
  readonly keySha256: string | undefined;
  readonly kmsKeyName: string | undefined;
  retention: Retention | undefined;
  temporaryHold: boolean;
}

interface Session {
  readonly metadata: Record<string, unknown>;
  readonly request: FakeGcsRequest;
  bytes: Buffer;
}

interface FakeGcsAnswer {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body?: Uint8Array | string;
}

const GRANULARITY = 256 * 1024;

/** The objects of one bucket and the methods of the JSON API on them. */
export class FakeGcsBucket {
  readonly live = new Map<string, FakeGcsObject>();
  noncurrent: FakeGcsObject[] = [];
  readonly sessions = new Map<string, Session>();
  /** A server that takes an object and drops its lock without a word. */
  forgetsLocks: 'ONCE' | 'NEVER' = 'NEVER';
  #clock = BigInt(Date.now()) * 1000n;
  readonly #options: FakeGcsBucketOptions;

  constructor(options: FakeGcsBucketOptions) {
    this.#options = options;
  }

  serve(
    request: FakeGcsRequest,
    body: Buffer,
    url: string,
    keeping: 'KEEP_ALL' | 'KEEP_HALF',
  ): FakeGcsAnswer {
    const { method, path, query } = request;
    const [, upload, bucket, name, compose] =
      /^(\/upload)?\/storage\/v1\/b\/([^/]+)\/o(?:\/([^/]+?)(\/compose)?)?$/.exec(path) ?? [];
    if (bucket !== 'test-bucket')
      throw new GcsProblem(404, 'notFound', 'The specified bucket does not exist.');
    if (upload !== undefined) {
      const session = query.get('upload_id');
      if (session !== null) return this.#session(request, session, body, keeping);
      if (query.get('uploadType') === 'multipart') return this.#multipart(request, body);
      if (query.get('uploadType') === 'resumable') return this.#begin(request, body, url);
      throw new GcsProblem(400, 'badRequest');
    }
    if (name === undefined) return this.#list(query);
    const object = decodeURIComponent(name);
    if (compose !== undefined) return this.#compose(request, object, body);
    if (method === 'GET')
      return query.get('alt') === 'media'
        ? this.#media(request, object)
        : json(this.#resource(this.#find(object, query), request));
    if (method === 'DELETE') return this.#delete(object, query);
    if (method === 'PATCH') return this.#patch(request, object, body);
    throw new GcsProblem(405, 'methodNotAllowed');
  }

  #find(name: string, query: URLSearchParams): FakeGcsObject {
    const generation = query.get('generation');
    const found =
      generation === null
        ? this.live.get(name)
        : [...this.live.values(), ...this.noncurrent].find(
            (one) => one.name === name && one.generation === BigInt(generation),
          );
    if (found === undefined) throw new GcsProblem(404, 'notFound', `No such object: ${name}`);
    const metageneration = query.get('ifMetagenerationMatch');
    if (metageneration !== null && Number(metageneration) !== found.metageneration) {
      throw new GcsProblem(412, 'conditionNotMet');
    }
    return found;
  }

  #resource(object: FakeGcsObject, request: FakeGcsRequest | 'LISTED'): Record<string, unknown> {
    const hidden =
      object.keySha256 !== undefined && (request === 'LISTED' || keyOf(request) !== object.keySha256);
    return {
      kind: 'storage#object',
      name: object.name,
      generation: String(object.generation),
      metageneration: String(object.metageneration),
      size: String(object.bytes.byteLength),
      timeCreated: object.created,
      storageClass: object.storageClass,
      ...(hidden ? {} : { crc32c: object.crc32c, md5Hash: object.md5Hash }),
      componentCount: object.componentCount,
      kmsKeyName: object.kmsKeyName,
      retention: object.retention,
      ...(object.temporaryHold ? { temporaryHold: true } : {}),
    };
  }

  #multipart(request: FakeGcsRequest, body: Buffer): FakeGcsAnswer {
    const boundary = /boundary=(\S+)$/.exec(request.headers['content-type'] ?? '')?.[1];
    const head = body.indexOf('\r\n\r\n');
    const next = body.indexOf(`\r\n--${boundary}\r\n`, head);
    const content = body.indexOf('\r\n\r\n', next + 4);
    const close = `\r\n--${boundary}--`;
    // The line end after it is optional (RFC 2046, 5.1.1).
    const end = body.subarray(-2).toString() === '\r\n' ? `${close}\r\n` : close;
    if (
      boundary === undefined ||
      head < 0 ||
      next < 0 ||
      content < 0 ||
      !body.subarray(-end.length).equals(Buffer.from(end))
    ) {
      throw new GcsProblem(400, 'badContent', 'Malformed multipart body.');
    }
    const given = JSON.parse(body.subarray(head + 4, next).toString());
    const metadata = { name: request.query.get('name') ?? undefined, ...given };
    request.json = metadata;
    return json(this.#store(request, metadata, body.subarray(content + 4, body.length - end.length)));
  }

  #begin(request: FakeGcsRequest, body: Buffer, url: string): FakeGcsAnswer {
    const metadata = JSON.parse(body.toString());
    request.json = metadata;
    this.#assertAbsent(request, String(metadata.name));
    const id = randomUUID();
    this.sessions.set(id, { metadata, request, bytes: Buffer.alloc(0) });
    const location = `${url}${request.path}?uploadType=resumable&upload_id=${id}`;
    return { status: 200, headers: { location } };
  }

  #session(
    request: FakeGcsRequest,
    id: string,
    body: Buffer,
    keeping: 'KEEP_ALL' | 'KEEP_HALF',
  ): FakeGcsAnswer {
    const session = this.sessions.get(id);
    if (session === undefined) throw new GcsProblem(404, 'notFound', 'No such session.');
    if (request.method === 'DELETE') {
      this.sessions.delete(id);
      return { status: 499 };
    }
    if (keyOf(request) !== keyOf(session.request))
      throw new GcsProblem(400, 'customerEncryptionKeyIsIncorrect');
    const range = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(String(request.headers['content-range'] ?? ''));
    if (range === null) throw new GcsProblem(400, 'badRequest', 'Invalid Content-Range.');
    const [, first, last, total] = range;
    if (first !== undefined && last !== undefined) {
      if (Number(first) !== session.bytes.byteLength)
        throw new GcsProblem(503, 'backendError', 'Invalid offset.');
      if (Number(last) - Number(first) + 1 !== body.byteLength) throw new GcsProblem(400, 'badRequest');
      const final = Number(last) + 1 === Number(total);
      if (!final && body.byteLength % GRANULARITY !== 0)
        throw new GcsProblem(400, 'badRequest', 'Not 256 KiB.');
      const kept =
        keeping === 'KEEP_HALF'
          ? Math.floor(body.byteLength / 2 / GRANULARITY) * GRANULARITY
          : body.byteLength;
      session.bytes = Buffer.concat([session.bytes, body.subarray(0, kept)]);
    }
    if (session.bytes.byteLength === Number(total)) {
      const resource = this.#store(session.request, session.metadata, session.bytes);
      this.sessions.delete(id);
      return json(resource);
    }
    const size = session.bytes.byteLength;
    return { status: 308, headers: size === 0 ? {} : { range: `bytes=0-${size - 1}` } };
  }

  #assertAbsent({ query }: FakeGcsRequest, name: string): void {
    const match = query.get('ifGenerationMatch');
    const present = this.live.get(name)?.generation ?? 0n;
    if (match !== null && BigInt(match) !== present) throw new GcsProblem(412, 'conditionNotMet');
  }

  #store(
    request: FakeGcsRequest,
    metadata: Record<string, unknown>,
    content: Uint8Array,
    componentCount?: number,
  ): Record<string, unknown> {
    const name = String(metadata.name);
    if (Buffer.byteLength(name) > 1024 || name === '') throw new GcsProblem(400, 'invalid', 'Invalid name.');
    const bytes = Buffer.from(content);
    // Held to the one of the SDK by test/unit/storage-gcs.test.ts, and much faster.
    const crc32c = crc32cText(crcOf(bytes));
    const md5Hash = createHash('md5').update(bytes).digest('base64');
    if ((metadata.crc32c ?? crc32c) !== crc32c || (metadata.md5Hash ?? md5Hash) !== md5Hash) {
      throw new GcsProblem(400, 'invalid', "Provided checksum doesn't match calculated checksum.");
    }
    const retention = this.forgetsLocks === 'ONCE' ? undefined : decodeRetention(metadata.retention);
    this.forgetsLocks = 'NEVER';
    if (retention !== undefined && this.#options.objectRetention !== 'ON') {
      throw new GcsProblem(400, 'invalid', 'Object retention is not enabled on the bucket.');
    }
    const keySha256 = keyOf(request);
    const kmsKeyName = request.query.get('kmsKeyName') ?? undefined;
    if (keySha256 !== undefined && kmsKeyName !== undefined) throw new GcsProblem(400, 'invalid');
    this.#assertAbsent(request, name);
    this.#clock += 1n;
    const object: FakeGcsObject = {
      name,
      generation: this.#clock,
      metageneration: 1,
      bytes,
      created: new Date().toISOString(),
      crc32c,
      md5Hash: componentCount === undefined ? md5Hash : undefined,
      componentCount,
      storageClass: String(metadata.storageClass ?? 'STANDARD'),
      keySha256,
      kmsKeyName,
      retention,
      temporaryHold: false,
    };
    const before = this.live.get(name);
    if (before !== undefined && this.#options.versioning === 'ON') this.noncurrent.push(before);
    this.live.set(name, object);
    return this.#resource(object, request);
  }

  #compose(request: FakeGcsRequest, name: string, body: Buffer): FakeGcsAnswer {
    const { sourceObjects, destination } = JSON.parse(body.toString());
    request.json = { sourceObjects, destination };
    if (!Array.isArray(sourceObjects) || sourceObjects.length < 1 || sourceObjects.length > 32) {
      throw new GcsProblem(400, 'invalid', 'The number of source components is out of range.');
    }
    const sources = sourceObjects.map((source) => {
      const query = new URLSearchParams(
        source.generation === undefined ? {} : { generation: source.generation },
      );
      const found = this.#find(source.name, query);
      assertKey(found, request);
      return found;
    });
    const target = String(destination?.storageClass ?? 'STANDARD');
    const other = sources.find(({ storageClass }) => storageClass !== target);
    if (other !== undefined) {
      throw new GcsProblem(
        400,
        'invalid',
        `Cannot compose object with destination storage class ${target} from source components that have ` +
          `different storage classes (${other.storageClass}).`,
      );
    }
    const count = sources.reduce((sum, { componentCount }) => sum + (componentCount ?? 1), 0);
    const bytes = Buffer.concat(sources.map(({ bytes }) => bytes));
    return json(this.#store(request, { ...destination, name }, bytes, count));
  }

  #list(query: URLSearchParams): FakeGcsAnswer {
    const prefix = query.get('prefix') ?? '';
    const start = query.get('startOffset') ?? '';
    const limit = Math.min(1000, Number(query.get('maxResults') ?? 1000));
    const versions = query.get('versions') === 'true';
    const all = [...this.live.values(), ...(versions ? this.noncurrent : [])]
      .filter(({ name }) => name.startsWith(prefix) && name >= start)
      .map((object) => ({ object, sort: `${object.name}\0${String(object.generation).padStart(20, '0')}` }))
      .sort((a, b) => (a.sort < b.sort ? -1 : 1));
    const token = query.get('pageToken');
    const after = token === null ? '' : Buffer.from(token, 'base64').toString();
    const rest = all.filter(({ sort }) => sort > after);
    const page = rest.slice(0, limit);
    const last = page.at(-1);
    return json({
      kind: 'storage#objects',
      ...(page.length === 0 ? {} : { items: page.map(({ object }) => this.#resource(object, 'LISTED')) }),
      ...(rest.length > page.length && last !== undefined
        ? { nextPageToken: Buffer.from(last.sort).toString('base64') }
        : {}),
    });
  }

  #media(request: FakeGcsRequest, name: string): FakeGcsAnswer {
    const object = this.#find(name, request.query);
    assertKey(object, request);
    const size = object.bytes.byteLength;
    const headers = {
      'x-goog-hash': `crc32c=${object.crc32c}${object.md5Hash === undefined ? '' : `,md5=${object.md5Hash}`}`,
      'x-goog-generation': String(object.generation),
      'x-goog-stored-content-length': String(size),
    };
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    if (first === undefined) return { status: 200, headers, body: object.bytes };
    if (Number(first) >= size) throw new GcsProblem(416, 'requestedRangeNotSatisfiable');
    const end = Math.min(size - 1, Number(last));
    return {
      status: 206,
      headers: { ...headers, 'content-range': `bytes ${first}-${end}/${size}` },
      body: object.bytes.subarray(Number(first), end + 1),
    };
  }

  #delete(name: string, query: URLSearchParams): FakeGcsAnswer {
    const object = this.#find(name, query);
    if (object.temporaryHold) throw new GcsProblem(403, 'objectUnderActiveHold');
    if (object.retention !== undefined && Date.parse(object.retention.retainUntilTime) > Date.now()) {
      throw new GcsProblem(403, 'retentionPolicyNotMet');
    }
    if (this.live.get(name) === object) {
      this.live.delete(name);
      if (this.#options.versioning === 'ON' && !query.has('generation')) this.noncurrent.push(object);
    } else this.noncurrent = this.noncurrent.filter((one) => one !== object);
    return { status: 204 };
  }

  #patch(request: FakeGcsRequest, name: string, body: Buffer): FakeGcsAnswer {
    const object = this.#find(name, request.query);
    const patch = JSON.parse(body.toString());
    request.json = patch;
    if ('retention' in patch) {
      const next = decodeRetention(patch.retention);
      const now = object.retention;
      const override = request.query.get('overrideUnlockedRetention') === 'true';
      if (this.#options.objectRetention !== 'ON') throw new GcsProblem(400, 'invalid');
      const shorter = now !== undefined && (next === undefined || next.retainUntilTime < now.retainUntilTime);
      const unlocks = now?.mode === 'Locked' && next?.mode !== 'Locked';
      const otherMode = now !== undefined && next?.mode !== now.mode;
      if ((shorter && now.mode === 'Locked') || unlocks) throw new GcsProblem(403, 'forbidden');
      if ((shorter || otherMode) && !override) throw new GcsProblem(403, 'forbidden');
      object.retention = next;
    }
    if ('temporaryHold' in patch) object.temporaryHold = patch.temporaryHold === true;
    object.metageneration += 1;
    return json(this.#resource(object, request));
  }
}

function json(body: Record<string, unknown>): FakeGcsAnswer {
  return {
    status: 200,
    headers: { 'content-type': 'application/json; charset=UTF-8' },
    body: JSON.stringify(body),
  };
}

function decodeRetention(value: unknown): Retention | undefined {
  if (value === undefined || value === null) return undefined;
  const { mode, retainUntilTime } = value as Retention;
  if (!['Locked', 'Unlocked'].includes(mode) || !(Date.parse(retainUntilTime) > Date.now())) {
    throw new GcsProblem(400, 'invalid', 'Invalid retention.');
  }
  return { mode, retainUntilTime };
}

/** The SHA-256 of the customer's key of a request, after the checks that the server makes. */
function keyOf({ headers }: FakeGcsRequest): string | undefined {
  const algorithm = headers['x-goog-encryption-algorithm'];
  if (algorithm === undefined) return undefined;
  const key = Buffer.from(String(headers['x-goog-encryption-key'] ?? ''), 'base64');
  const sha256 = createHash('sha256').update(key).digest('base64');
  if (algorithm !== 'AES256') throw new GcsProblem(400, 'customerEncryptionAlgorithmIsInvalid');
  if (key.byteLength !== 32) throw new GcsProblem(400, 'customerEncryptionKeyFormatIsInvalid');
  if (headers['x-goog-encryption-key-sha256'] !== sha256) {
    throw new GcsProblem(400, 'customerEncryptionKeySha256IsInvalid');
  }
  return sha256;
}

function assertKey({ keySha256 }: FakeGcsObject, request: FakeGcsRequest): void {
  const given = keyOf(request);
  if (keySha256 === given) return;
  if (given === undefined) throw new GcsProblem(400, 'resourceIsEncryptedWithCustomerEncryptionKey');
  throw new GcsProblem(
    400,
    keySha256 === undefined
      ? 'resourceNotEncryptedWithCustomerEncryptionKey'
      : 'customerEncryptionKeyIsIncorrect',
  );
}
