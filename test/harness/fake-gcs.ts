import type { KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { authorized } from './fake-gcs-auth.ts';
import {
  FakeGcsBucket,
  type FakeGcsBucketOptions,
  type FakeGcsRequest,
  GcsProblem,
} from './fake-gcs-bucket.ts';

/** What the server does instead of, or to, its answer. */
interface FakeGcsFault {
  readonly when: (request: FakeGcsRequest) => boolean;
  readonly act:
    | { readonly status: number; readonly reason?: string; readonly headers?: Record<string, string> }
    | 'RESET'
    | 'HANG'
    | 'NO_LOCK'
    | 'RESET_AFTER'
    | 'CUT_BODY'
    | 'CHANGE_BODY'
    | 'WRONG_HASH'
    | 'KEEP_HALF';
  times: number;
}

export interface FakeGcsOptions extends FakeGcsBucketOptions {
  /** Bearer tokens that are taken; or the public key that signs tokens of service accounts. Left out: no check. */
  readonly tokens?: Set<string>;
  readonly serviceAccount?: { readonly email: string; readonly publicKey: KeyObject };
}

/** The JSON API of Google Cloud Storage over one bucket `test-bucket`, as far as its documentation says what it does. */
export async function startFakeGcs(options: FakeGcsOptions = {}) {
  const bucket = new FakeGcsBucket(options);
  const requests: FakeGcsRequest[] = [];
  const faults: FakeGcsFault[] = [];
  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      if (response.headersSent) return void response.destroy();
      const problem =
        error instanceof GcsProblem ? error : new GcsProblem(500, 'backendError', String(error));
      answerProblem(response, problem);
    });
  });
  // On a busy machine Node's 5 s are short, and a request on a connection that just closes is lost.
  server.keepAliveTimeout = 60_000;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const address = new URL(request.url ?? '/', url);
    const seen: FakeGcsRequest = {
      method: request.method ?? '',
      path: address.pathname,
      query: address.searchParams,
      headers: request.headers,
      json: undefined,
    };
    requests.push(seen);
    const body = await readBody(request);
    const fault = faults.find((one) => one.times > 0 && one.when(seen));
    if (fault !== undefined) fault.times -= 1;
    const act = fault?.act;
    if (act === 'RESET') return void request.socket.destroy();
    if (act === 'HANG') return;
    if (typeof act === 'object') {
      for (const [name, value] of Object.entries(act.headers ?? {})) response.setHeader(name, value);
      return answerProblem(
        response,
        new GcsProblem(act.status, act.reason ?? 'backendError', 'a fault SECRET-MESSAGE'),
      );
    }
    if (!authorized(request.headers.authorization, options)) {
      throw new GcsProblem(401, 'authError', 'Invalid Credentials');
    }
    if (act === 'NO_LOCK') bucket.forgetsLocks = 'ONCE';
    const result = bucket.serve(seen, body, url, act === 'KEEP_HALF' ? 'KEEP_HALF' : 'KEEP_ALL');
    if (act === 'RESET_AFTER') return void request.socket.destroy();
    const headers = { ...result.headers };
    let content = Buffer.from(result.body ?? '');
    if (act === 'CHANGE_BODY') content[0] = (content[0] ?? 0) ^ 1;
    if (act === 'WRONG_HASH') {
      if (headers['x-goog-hash'] !== undefined) headers['x-goog-hash'] = 'crc32c=AAAAAA==';
      else content = Buffer.from(JSON.stringify({ ...JSON.parse(content.toString()), crc32c: 'AAAAAA==' }));
    }
    response.writeHead(result.status, { ...headers, 'content-length': content.byteLength });
    if (act !== 'CUT_BODY') return void response.end(content);
    response.write(content.subarray(0, content.byteLength >> 1), () => response.destroy());
  }

  return {
    url,
    bucket,
    requests,
    faults,
    async close(): Promise<void> {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

export type FakeGcs = Awaited<ReturnType<typeof startFakeGcs>>;

/** A body that ends before its length rejects: nothing of it is kept. */
async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function answerProblem(response: ServerResponse, { status, reason, message }: GcsProblem): void {
  const error = { code: status, message, errors: [{ message, domain: 'global', reason }] };
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error }));
}
