import type { S3, S3ClientConfig } from '@aws-sdk/client-s3';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';
import { type S3KeyCell, s3KeyCell } from './s3-credentials.ts';
import { failureOf, mayBeStaleCredential, type S3Call, type S3Place, s3Error } from './s3-errors.ts';

export interface S3ClientOptions extends S3Place {
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly forcePathStyle?: boolean | undefined;
  readonly credentials?: (() => Promise<Credential>) | undefined;
  readonly tls?: { readonly ca?: string } | undefined;
}

/** Makes calls: signs them, asks for a new credential once where one has ended, and gives the library's errors. */
export interface S3Caller extends S3Place {
  /** `run` is called a second time where the first credential was refused. Rejects with the signal's reason. */
  call<T>(call: S3Call, signal: AbortSignal | undefined, run: S3Run<T>): Promise<T>;
  close(): Promise<void>;
}

export type S3Run<T> = (client: S3, http: { readonly abortSignal?: AbortSignal }) => Promise<T>;

/** More than the throttling decorators let through; a queue in the agent would look like a slow provider. */
const MAX_SOCKETS = 256;
const MAX_IDLE_SOCKETS = 64;

const SILENT = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };

export function s3Caller(options: S3ClientOptions): S3Caller {
  const { description, bucket, credentials } = options;
  const cell = credentials === undefined ? undefined : s3KeyCell(credentials, description);
  let opened: Promise<S3> | undefined;

  function client(): Promise<S3> {
    opened ??= openClient(options, cell).catch((error) => {
      opened = undefined;
      throw error;
    });
    return opened;
  }

  async function withFreshCredential<T>(http: { abortSignal?: AbortSignal }, run: S3Run<T>): Promise<T> {
    // Asked for here too, so that the host's failure is not wrapped by the SDK.
    const keys = await cell?.get();
    const s3 = await client();
    try {
      return await run(s3, http);
    } catch (error) {
      const aborted = http.abortSignal?.aborted === true;
      if (cell === undefined || keys === undefined || aborted || error instanceof DataProtectionError)
        throw error;
      if (!mayBeStaleCredential(failureOf(error))) throw error;
      cell.forget(keys);
      await cell.get();
      return await run(s3, http);
    }
  }

  return {
    description,
    bucket,
    async call(call, signal, run) {
      signal?.throwIfAborted();
      try {
        return await withFreshCredential(signal === undefined ? {} : { abortSignal: signal }, run);
      } catch (error) {
        signal?.throwIfAborted();
        throw s3Error(error, call, { description, bucket });
      }
    },
    async close() {
      const closing = opened;
      opened = undefined;
      if (closing !== undefined) (await closing).destroy();
    },
  };
}

async function openClient(options: S3ClientOptions, cell: S3KeyCell | undefined): Promise<S3> {
  const { S3 } = await loadSdk();
  const client = new S3(clientConfig(options, cell));
  client.middlewareStack.add(
    (next, { commandName }) =>
      (args) => {
        if (holdsHeaders(args.request)) addIntegrityHeaders(args.request.headers, commandName);
        return next(args);
      },
    { step: 'build', name: 'integrityHeaders', priority: 'low' },
  );
  return client;
}

function clientConfig(
  { region, endpoint, forcePathStyle = endpoint !== undefined, tls }: S3ClientOptions,
  cell: S3KeyCell | undefined,
): S3ClientConfig {
  const agent = {
    keepAlive: true,
    maxSockets: MAX_SOCKETS,
    maxFreeSockets: MAX_IDLE_SOCKETS,
    scheduling: 'lifo',
  } as const;
  const signingRegion = region ?? (endpoint === undefined ? undefined : 'us-east-1');
  return {
    maxAttempts: 1,
    forcePathStyle,
    followRegionRedirects: false,
    // With it the SDK opens a connection for every body.
    expectContinueHeader: false,
    // Every body has its SHA-256 in the signature and as a checksum; SDK trailers are unknown to some stores.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    logger: SILENT,
    requestHandler: {
      httpAgent: agent,
      httpsAgent: tls?.ca === undefined ? agent : { ...agent, ca: tls.ca },
      socketTimeout: 0,
      logger: SILENT,
    },
    ...(signingRegion === undefined ? {} : { region: signingRegion }),
    ...(endpoint === undefined ? {} : { endpoint }),
    // Ended at once for the SDK, so that it asks the cell for every request: the cell knows when to ask the host.
    ...(cell === undefined
      ? {}
      : { credentials: async () => ({ ...(await cell.get()), expiration: new Date(0) }) }),
  };
}

/**
 * Where the SHA-256 of the whole body is known, the signature covers it, so that stores that know no checksums refuse
 * changed bytes too. The checksum of a whole object is asked for with it; checked where its bytes are read.
 */
function addIntegrityHeaders(headers: Record<string, string>, commandName: string | undefined): void {
  const checksum = headers['x-amz-checksum-sha256'];
  if (checksum !== undefined && (commandName === 'PutObjectCommand' || commandName === 'UploadPartCommand')) {
    headers['x-amz-content-sha256'] = Buffer.from(checksum, 'base64').toString('hex');
  }
  if (commandName === 'GetObjectCommand' && headers.range === undefined) {
    headers['x-amz-checksum-mode'] = 'ENABLED';
  }
}

function holdsHeaders(request: unknown): request is { headers: Record<string, string> } {
  return typeof request === 'object' && request !== null && 'headers' in request;
}

async function loadSdk(): Promise<typeof import('@aws-sdk/client-s3')> {
  try {
    return await import('@aws-sdk/client-s3');
  } catch (cause) {
    throw new DataProtectionError(
      'AWS_S3 storage needs a package: npm install @aws-sdk/client-s3',
      'DEPENDENCY_MISSING',
      { cause },
    );
  }
}
