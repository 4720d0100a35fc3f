import { once } from 'node:events';
import {
  type ClientRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request as plain,
} from 'node:http';
import { request as secure } from 'node:https';

export interface HttpRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: readonly Uint8Array[];
  readonly signal?: AbortSignal | undefined;
  /**
   * PUBLISHES: the end of the body makes an object visible. From then on an abort waits for the answer, because only it
   * tells whether the object is there.
   */
  readonly effect?: 'PUBLISHES';
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** How long an aborted call waits for the answer to a request that publishes. */
const ANSWER_GRACE_MS = 5_000;
const SLICE_BYTES = 256 * 1024;

/**
 * One HTTP exchange, as it is on the wire: no redirects, no decoding, no retry. Rejects when the connection fails or ends
 * before the answer does; never gives part of an answer. Connections are those of Node's global agents (kept alive;
 * `NODE_USE_ENV_PROXY=1` sends them through the proxy of the environment).
 */
export async function exchange(call: HttpRequest): Promise<HttpAnswer> {
  const { signal } = call;
  signal?.throwIfAborted();
  const body = slices(call.body ?? []);
  const length = body.reduce((sum, slice) => sum + slice.byteLength, 0);
  const request = (call.url.protocol === 'http:' ? plain : secure)(call.url, {
    method: call.method,
    headers: { ...call.headers, 'content-length': String(length) },
  });
  const state = { sent: false, answered: false };
  let grace: NodeJS.Timeout | undefined;
  let gaveUp = false;
  const onAbort = () => {
    if (state.sent && call.effect === 'PUBLISHES') {
      grace = setTimeout(() => {
        gaveUp = true;
        request.destroy(new Error('The call was aborted and the answer did not come.'));
      }, ANSWER_GRACE_MS);
    } else request.destroy(new Error('The call was aborted.'));
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const answered = answerOf(request);
    request.once('response', () => {
      state.answered = true;
    });
    // The same failure ends both; who fails first is told by the answer.
    send(request, body, state).catch(() => undefined);
    return await answered;
  } catch (error) {
    if (signal?.aborted && !gaveUp) throw signal.reason;
    throw error;
  } finally {
    clearTimeout(grace);
    signal?.removeEventListener('abort', onAbort);
    if (!request.writableFinished) request.destroy();
  }
}

async function send(
  request: ClientRequest,
  body: readonly Uint8Array[],
  state: { sent: boolean; readonly answered: boolean },
): Promise<void> {
  for (const slice of body.slice(0, -1)) {
    // A server that refuses answers before it has read everything.
    if (request.destroyed || state.answered) return;
    if (!request.write(slice)) await drained(request);
  }
  if (request.destroyed) return;
  state.sent = true;
  const last = body.at(-1);
  if (last === undefined) request.end();
  else request.end(last);
}

/** Resolves when the socket takes more, or never will. Leaves no listener behind: a large body waits many times. */
async function drained(request: ClientRequest): Promise<void> {
  const heard = new AbortController();
  const { signal } = heard;
  try {
    await Promise.race([once(request, 'drain', { signal }), once(request, 'close', { signal })]);
  } finally {
    heard.abort();
  }
}

function answerOf(request: ClientRequest): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    request.on('error', reject);
    request.on('close', () => reject(new Error('The connection ended before the answer.')));
    request.on('response', (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        if (!response.complete) return reject(new Error('The connection ended inside the answer.'));
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks),
        });
      });
    });
  });
}

/** The same bytes in pieces that a socket takes in turn, so that an abort is noticed between them. */
function slices(body: readonly Uint8Array[]): Uint8Array[] {
  const all: Uint8Array[] = [];
  for (const piece of body) {
    for (let offset = 0; offset < piece.byteLength; offset += SLICE_BYTES) {
      all.push(piece.subarray(offset, offset + SLICE_BYTES));
    }
  }
  return all;
}
