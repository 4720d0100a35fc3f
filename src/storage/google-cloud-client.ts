import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { ObjectLock, ServerSideEncryption } from '../types/backup.ts';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';
import { askHost, authorizer } from './google-cloud-auth.ts';
import { type Asked, refusal, unreachable, unreadable } from './google-cloud-errors.ts';
import { exchange, type HttpAnswer, type HttpRequest } from './google-cloud-http.ts';
import type { PutCall } from './storage.ts';

export interface GoogleCloudOptions {
  readonly bucket: string;
  /** Another address than `https://storage.googleapis.com`: a private endpoint, or an emulator (`http:`). */
  readonly endpoint?: string | undefined;
  /** Class of the objects (NEARLINE, COLDLINE, ARCHIVE). Objects put with tier HOT get the bucket's default. */
  readonly storageClass?: string | undefined;
  readonly serverSideEncryption?: ServerSideEncryption | undefined;
  /** A lock on every object as it is written. The bucket must have object retention enabled. */
  readonly objectLock?: ObjectLock | undefined;
  /** `clientEmail` and `privateKey`, or `accessToken`. Left out: application default credentials. */
  readonly credentials?: (() => Promise<Credential>) | undefined;
  /** `key`: 32 bytes in base64, for CUSTOMER_KEY. */
  readonly customerKey?: (() => Promise<Credential>) | undefined;
}

export const ObjectResource = z.object({
  name: z.string(),
  generation: z.string().regex(/^\d+$/),
  metageneration: z.string().optional(),
  size: z.string().regex(/^\d+$/).transform(Number),
  timeCreated: z.string().transform((text) => new Date(text)),
  crc32c: z.string().optional(),
  md5Hash: z.string().optional(),
  retention: z.object({ mode: z.string(), retainUntilTime: z.string() }).optional(),
  retentionExpirationTime: z.string().optional(),
  temporaryHold: z.boolean().optional(),
  eventBasedHold: z.boolean().optional(),
});
export type ObjectResource = z.output<typeof ObjectResource>;

const Page = z.object({ items: z.array(ObjectResource).default([]), nextPageToken: z.string().optional() });

export type Query = Readonly<Record<string, string | undefined>>;

interface ApiCall {
  readonly asked: Asked;
  readonly query?: Query;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: readonly Uint8Array[];
  readonly signal?: AbortSignal | undefined;
  readonly effect?: HttpRequest['effect'] | undefined;
  /** Statuses besides 2xx that the caller understands. */
  readonly accept?: readonly number[];
}

/** The calls of the JSON API that storage, uploads and retention are made of. */
export type GoogleCloudClient = ReturnType<typeof googleCloudClient>;

export function googleCloudClient(options: GoogleCloudOptions) {
  const endpoint = new URL(options.endpoint ?? 'https://storage.googleapis.com');
  const bucketPath = `/b/${encodeURIComponent(options.bucket)}`;
  const description = `GOOGLE_CLOUD_STORAGE ${options.bucket}`;
  const auth = authorizer({ credentials: options.credentials, endpoint, description });
  let customerKey: Promise<Readonly<Record<string, string>>> | undefined;
  let bucketSeen = false;

  function address(path: string, query: Query = {}): URL {
    const url = new URL(endpoint.origin);
    url.pathname = path;
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, value);
    }
    return url;
  }

  async function encryptionHeaders(): Promise<Readonly<Record<string, string>>> {
    if (options.serverSideEncryption?.type !== 'CUSTOMER_KEY') return {};
    customerKey ??= customerKeyHeaders(options, description);
    customerKey.catch(() => {
      customerKey = undefined;
    });
    return await customerKey;
  }

  /** The answer when its status is 2xx or accepted; other answers are errors. Asks once for new credentials on 401. */
  async function call(method: string, url: URL, api: ApiCall): Promise<HttpAnswer> {
    api.signal?.throwIfAborted();
    const answer = await attempt(method, url, api);
    if (answer.status !== 401 || options.credentials === undefined) return understood(answer, api);
    auth.forget();
    return understood(await attempt(method, url, api), api);
  }

  async function attempt(method: string, url: URL, api: ApiCall): Promise<HttpAnswer> {
    const headers = {
      ...(await auth.headers(url)),
      ...(await encryptionHeaders()),
      ...api.headers,
    };
    try {
      return await exchange({
        method,
        url,
        headers,
        signal: api.signal,
        ...(api.body === undefined ? {} : { body: api.body }),
        ...(api.effect === undefined ? {} : { effect: api.effect }),
      });
    } catch (error) {
      if (api.signal?.aborted && error === api.signal.reason) throw error;
      throw unreachable(error, api.asked);
    }
  }

  function understood(answer: HttpAnswer, api: ApiCall): HttpAnswer {
    if ((answer.status >= 200 && answer.status < 300) || api.accept?.includes(answer.status)) {
      if (answer.status !== 404) bucketSeen = true;
      return answer;
    }
    throw refusal(answer, api.asked);
  }

  function bucketMissing(): DataProtectionError {
    return new DataProtectionError(
      `There is no bucket ${options.bucket} in Google Cloud Storage.`,
      'CONFIGURATION_INVALID',
    );
  }

  return {
    description,
    options,
    bucketMissing,

    asked(operation: string, key: string, invalidMeans?: 'CORRUPT'): Asked {
      return { operation, key, description, ...(invalidMeans === undefined ? {} : { invalidMeans }) };
    },

    /** A call about one object. */
    object(method: string, name: string, api: ApiCall, suffix = ''): Promise<HttpAnswer> {
      const url = address('/', api.query);
      url.pathname = `/storage/v1${bucketPath}/o/${encodeURIComponent(name)}${suffix}`;
      return call(method, url, api);
    },

    /** The beginning of an upload. 404 can only mean the bucket. */
    async insert(api: ApiCall): Promise<HttpAnswer> {
      const answer = await call('POST', address(`/upload/storage/v1${bucketPath}/o`, api.query), {
        ...api,
        accept: [404],
      });
      if (answer.status === 404) throw bucketMissing();
      return answer;
    },

    /** A call to a session of a resumable upload; its address is a secret of its own. */
    session(method: string, url: URL, api: ApiCall): Promise<HttpAnswer> {
      return call(method, url, api);
    },

    /** Whether an address is on the server that the options name, or Google's: no token is sent elsewhere. */
    isOwnAddress(url: URL): boolean {
      return (
        url.origin === endpoint.origin ||
        (url.protocol === 'https:' && url.hostname.endsWith('.googleapis.com'))
      );
    },

    async metadata(
      name: string,
      asked: Asked,
      signal: AbortSignal | undefined,
    ): Promise<ObjectResource | undefined> {
      const answer = await this.object('GET', name, { asked, signal, accept: [404] });
      if (answer.status !== 404) return decode(answer, ObjectResource, asked);
      await this.assertBucket(signal);
      return undefined;
    },

    /** Objects whose names start with a prefix, in the order of their names; all versions with `versions`. */
    async *objects(
      prefix: string,
      asked: Asked,
      call_: { readonly signal?: AbortSignal | undefined; readonly query?: Query },
    ): AsyncGenerator<ObjectResource> {
      let pageToken: string | undefined;
      do {
        const query = {
          prefix,
          maxResults: '1000',
          fields: 'items(name,generation,size,timeCreated),nextPageToken',
          ...call_.query,
          pageToken,
        };
        const answer = await call('GET', address(`/storage/v1${bucketPath}/o`, query), {
          asked,
          signal: call_.signal,
          accept: [404],
        });
        if (answer.status === 404) throw bucketMissing();
        const page = decode(answer, Page, asked);
        yield* page.items;
        pageToken = page.nextPageToken;
      } while (pageToken !== undefined);
    },

    /** Tells a missing object from a missing bucket, once: a listing needs no permission that is not needed anyway. */
    async assertBucket(signal: AbortSignal | undefined): Promise<void> {
      if (bucketSeen) return;
      const asked = this.asked('list', '');
      for await (const _ of this.objects('', asked, { signal, query: { maxResults: '1' } })) return;
    },

    /** Removes one version for good; nothing happens when there is none. */
    async remove(
      name: string,
      generation: string,
      asked: Asked,
      signal: AbortSignal | undefined,
    ): Promise<void> {
      await this.object('DELETE', name, { asked, signal, query: { generation }, accept: [404] });
    },

    /** The class of an object of a tier; undefined is the bucket's default. */
    storageClassOf(tier: PutCall['tier']): string | undefined {
      return tier === 'HOT' ? undefined : options.storageClass;
    },

    /** What every new object of a caller carries. `now` dates the lock. */
    newObject(storageClass: string | undefined): Readonly<Record<string, unknown>> {
      const { objectLock } = options;
      return {
        ...plainObject(storageClass),
        ...(objectLock === undefined
          ? {}
          : {
              retention: {
                mode: lockMode(objectLock),
                retainUntilTime: new Date(Date.now() + objectLock.retainDays * 86_400_000).toISOString(),
              },
            }),
      };
    },

    /** Create-only, with the key of the provider's key service where one is named. */
    createOnly(): Query {
      const { serverSideEncryption } = options;
      return {
        ifGenerationMatch: '0',
        kmsKeyName: serverSideEncryption?.type === 'KMS' ? serverSideEncryption.keyId : undefined,
      };
    },
  };
}

/** An object without a lock. */
export function plainObject(storageClass?: string): Readonly<Record<string, unknown>> {
  return {
    contentType: 'application/octet-stream',
    ...(storageClass === undefined ? {} : { storageClass }),
  };
}

export function lockMode(lock: ObjectLock | undefined): 'Locked' | 'Unlocked' {
  return lock?.mode === 'COMPLIANCE' ? 'Locked' : 'Unlocked';
}

/** An answer that is not what the API documents is a failure of the server or of something before it. */
export function decode<T>(answer: HttpAnswer, schema: z.ZodType<T>, asked: Asked): T {
  try {
    return schema.parse(JSON.parse(answer.body.toString('utf8')));
  } catch {
    // What a parser says quotes the answer: no cause.
    throw unreadable(asked);
  }
}

async function customerKeyHeaders(options: GoogleCloudOptions, description: string) {
  const { key } = options.customerKey === undefined ? {} : await askHost(options.customerKey, description);
  const bytes = Buffer.from(key ?? '', 'base64');
  if (bytes.byteLength !== 32) {
    throw new DataProtectionError(
      `CUSTOMER_KEY of ${description} needs a customer key \`key\` of 32 bytes in base64.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
  return {
    'x-goog-encryption-algorithm': 'AES256',
    'x-goog-encryption-key': bytes.toString('base64'),
    'x-goog-encryption-key-sha256': createHash('sha256').update(bytes).digest('base64'),
  };
}
