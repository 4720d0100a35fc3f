import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { receiveBody } from './fake-s3-body.ts';
import { handleRequest } from './fake-s3-operations.ts';
import { type FakeS3Keys, verifySignature } from './fake-s3-signature.ts';
import { FakeBucket, FakeS3Error } from './fake-s3-store.ts';
import {
  escapeXml,
  type FakeS3Answer,
  type FakeS3Options,
  type FakeS3Request,
  recordedRequest,
} from './fake-s3-wire.ts';

/** Instead of the answer: an error of S3, or a connection that is cut, before the request or in the answer's body. */
export type FakeS3Fault =
  | { readonly status: number; readonly code?: string; readonly headers?: Readonly<Record<string, string>> }
  | 'CUT_BEFORE'
  | 'CUT_ANSWER'
  | 'SHORT_ANSWER'
  | 'ALTERED_ANSWER'
  | 'LOSE_ANSWER';

export interface FakeS3 {
  readonly endpoint: string;
  readonly bucket: FakeBucket;
  readonly bucketName: string;
  readonly region: string;
  keys: FakeS3Keys;
  /** Access keys that have ended. */
  readonly expired: Set<string>;
  readonly requests: FakeS3Request[];
  /** Asked for every request whose signature is right. */
  fault: (request: FakeS3Request) => FakeS3Fault | undefined | Promise<FakeS3Fault | undefined>;
  close(): Promise<void>;
}

/**
 * S3 over HTTP, in memory, one bucket: as strict as its reference about signatures, checksums, conditions, parts,
 * versions and locks, so that what passes here has a chance there.
 */
export async function startFakeS3(options: FakeS3Options = {}): Promise<FakeS3> {
  const bucket = new FakeBucket(options.versioned === true || options.lockEnabled === true);
  const server = createServer((request, response) => {
    answer(request, response).catch(() => request.socket.destroy());
  });
  // On a busy machine Node's 5 s are short, and a request on a connection that just closes is lost.
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  const fake: FakeS3 = {
    endpoint: `http://127.0.0.1:${port}`,
    bucket,
    bucketName: 'backups',
    region: 'eu-central-1',
    keys: {
      accessKeyId: 'AKIDFAKEFAKEFAKEFAKE',
      secretAccessKey: `secret-${randomUUID()}`,
      ...(options.sessionToken === undefined ? {} : { sessionToken: options.sessionToken }),
    },
    expired: new Set(),
    requests: [],
    fault: () => undefined,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // A client that goes away in the middle of its body has stored nothing.
    const received = await receiveBody(request).catch((error: unknown) => {
      if (error instanceof FakeS3Error) return error;
      throw error;
    });
    let fault: FakeS3Fault | undefined;
    let result: FakeS3Answer;
    try {
      const recorded = recordedRequest(request, fake.bucketName);
      verifySignature(request, fake.keys, fake.expired, fake.region);
      fake.requests.push(recorded);
      fault = await fake.fault(recorded);
      if (fault === 'CUT_BEFORE') return void request.socket.destroy();
      if (typeof fault === 'object') {
        result = errorAnswer(new FakeS3Error(fault.status, fault.code ?? 'InternalError'), fault.headers);
      } else {
        if (received instanceof FakeS3Error) throw received;
        result = handleRequest(recorded, received, bucket, options);
      }
    } catch (error) {
      result = errorAnswer(error instanceof FakeS3Error ? error : new FakeS3Error(500, 'InternalError'));
    }
    if (fault === 'LOSE_ANSWER') return void request.socket.destroy();
    send(request, response, result, fault);
  }

  return fake;
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  { status = 200, headers = {}, body = '' }: FakeS3Answer,
  fault: FakeS3Fault | undefined,
): void {
  const bytes = Buffer.from(body);
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) response.setHeader(name, value);
  response.setHeader('x-amz-request-id', randomUUID());
  const isHead = request.method === 'HEAD';
  if (!isHead && status !== 204) response.setHeader('content-length', bytes.byteLength);
  if (isHead || status === 204) return void response.end();
  if (fault === 'CUT_ANSWER') {
    response.write(bytes.subarray(0, Math.floor(bytes.byteLength / 2)), () => request.socket.destroy());
  } else if (fault === 'SHORT_ANSWER') {
    response.removeHeader('content-length');
    response.end(bytes.subarray(0, bytes.byteLength - 1));
  } else if (fault === 'ALTERED_ANSWER') {
    const altered = Buffer.from(bytes);
    altered[0] = (altered[0] ?? 0) ^ 1;
    response.end(altered);
  } else {
    response.end(bytes);
  }
}

function errorAnswer(error: FakeS3Error, headers: Readonly<Record<string, string>> = {}): FakeS3Answer {
  const fields = Object.entries({ Code: error.code, Message: `About ${error.code}.`, ...error.fields });
  const xml = fields.map(([name, value]) => `<${name}>${escapeXml(value)}</${name}>`).join('');
  return {
    status: error.status,
    headers: { 'content-type': 'application/xml', ...headers },
    body: `<?xml version="1.0" encoding="UTF-8"?>\n<Error>${xml}</Error>`,
  };
}
