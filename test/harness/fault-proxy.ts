import {
  createServer,
  type IncomingMessage,
  request as requestUpstream,
  type Server,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What happens to one request. Nothing else of it is changed. */
export type HttpFault =
  /** The connection ends when the request has arrived; the server never hears of it. */
  | { readonly effect: 'CUT_BEFORE_REQUEST' }
  /** The server gets so many bytes of the body, then both connections end. */
  | { readonly effect: 'CUT_REQUEST_BODY'; readonly afterBytes: number }
  /** The server has answered; the client’s connection ends without a byte: the answer of a write is lost. */
  | { readonly effect: 'CUT_BEFORE_RESPONSE' }
  /** The client gets the head and so many bytes of the body, then its connection ends. */
  | { readonly effect: 'CUT_RESPONSE_BODY'; readonly afterBytes: number }
  /** The client gets so many bytes of the body and a length that agrees with them. A HEAD, which has none, passes. */
  | { readonly effect: 'SHORTEN_RESPONSE_BODY'; readonly bytes: number }
  /** No answer ever comes; BEFORE the server has heard of the request, or AFTER it has answered. */
  | { readonly effect: 'STALL'; readonly when: 'BEFORE' | 'AFTER' }
  /** Both bodies pass at this rate. */
  | { readonly effect: 'SLOW'; readonly bytesPerSecond: number }
  /** The proxy answers itself; the server never hears of the request. */
  | {
      readonly effect: 'ANSWER';
      readonly status: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string;
    };

export interface ProxiedRequest {
  /** Its place among all requests, from 1. */
  readonly index: number;
  readonly method: string;
  readonly url: string;
}

export interface HttpFaultRule {
  /** Counts and affects only these requests; left out, all. */
  readonly only?: (request: ProxiedRequest) => boolean;
  /** The n-th of them, from 1, or every one. */
  readonly request: number | 'every';
  readonly fault: HttpFault;
}

export interface HttpFaultProxy {
  readonly url: string;
  readonly port: number;
  /** Every request since the last `plan`. */
  readonly requests: readonly ProxiedRequest[];
  /** The faults that took place: a test whose fault never came has tested nothing. */
  readonly injected: readonly { readonly request: ProxiedRequest; readonly fault: HttpFault }[];
  /** Begins to count anew, with these faults. The first rule that fits a request counts. */
  plan(rules: readonly HttpFaultRule[]): void;
  close(): Promise<void>;
}

/** An HTTP proxy that tests put before a provider’s fake or emulator. Without a plan it changes nothing. */
export async function httpFaultProxy(upstream: {
  readonly host?: string;
  readonly port: number;
}): Promise<HttpFaultProxy> {
  let rules: { readonly rule: HttpFaultRule; seen: number }[] = [];
  const requests: ProxiedRequest[] = [];
  const injected: { request: ProxiedRequest; fault: HttpFault }[] = [];

  function faultOf(request: ProxiedRequest): HttpFault | undefined {
    let fault: HttpFault | undefined;
    for (const entry of rules) {
      if (entry.rule.only && !entry.rule.only(request)) continue;
      entry.seen += 1;
      if (entry.rule.request === 'every' || entry.rule.request === entry.seen) fault ??= entry.rule.fault;
    }
    if (fault !== undefined) injected.push({ request, fault });
    return fault;
  }

  const server = createServer((incoming, outgoing) => {
    const { method = '', url = '' } = incoming;
    const request = { index: requests.length + 1, method, url };
    requests.push(request);
    const { socket } = incoming;
    pass(incoming, outgoing, upstream, faultOf(request), socket).catch(() => socket.destroy());
  });
  server.keepAliveTimeout = 60_000;
  const port = await listen(server);

  return {
    url: `http://127.0.0.1:${port}`,
    port,
    requests,
    injected,
    plan(next) {
      rules = next.map((rule) => ({ rule, seen: 0 }));
      requests.length = 0;
      injected.length = 0;
    },
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

async function pass(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  upstream: { readonly host?: string; readonly port: number },
  fault: HttpFault | undefined,
  socket: Socket,
): Promise<void> {
  if (fault?.effect === 'CUT_BEFORE_REQUEST') {
    socket.destroy();
    return;
  }
  if (fault?.effect === 'STALL' && fault.when === 'BEFORE') return;
  if (fault?.effect === 'ANSWER') {
    // Read to its end first: a client that is still sending would see a reset instead of the answer.
    for await (const _ of incoming);
    outgoing.writeHead(fault.status, fault.headers);
    outgoing.end(fault.body);
    return;
  }
  const answer = await forward(incoming, upstream, fault);
  if (answer === undefined || fault?.effect === 'CUT_BEFORE_RESPONSE') {
    // The server has done its work when its whole answer is there.
    if (answer !== undefined) for await (const _ of answer);
    socket.destroy();
    return;
  }
  if (fault?.effect === 'STALL') {
    for await (const _ of answer);
    return;
  }
  const shortened = fault?.effect === 'SHORTEN_RESPONSE_BODY' && incoming.method === 'HEAD';
  await giveBack(answer, outgoing, shortened ? undefined : fault);
}

/** The server’s answer; undefined where the request was cut on its way. */
async function forward(
  incoming: IncomingMessage,
  { host = '127.0.0.1', port }: { readonly host?: string; readonly port: number },
  fault: HttpFault | undefined,
): Promise<IncomingMessage | undefined> {
  const { method, url } = incoming;
  const onward = requestUpstream({
    host,
    port,
    method,
    path: url,
    headers: incoming.rawHeaders,
    agent: false,
  });
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    onward.on('response', resolve);
    onward.on('error', reject);
  });
  answered.catch(() => undefined);
  incoming.on('close', () => {
    if (!incoming.complete) onward.destroy();
  });
  let left = fault?.effect === 'CUT_REQUEST_BODY' ? fault.afterBytes : Number.POSITIVE_INFINITY;
  for await (const chunk of incoming) {
    const bytes = chunk as Buffer;
    await slowly(bytes.byteLength, fault);
    onward.write(bytes.subarray(0, left));
    left -= bytes.byteLength;
    if (left < 0) break;
  }
  if (fault?.effect === 'CUT_REQUEST_BODY') {
    onward.flushHeaders();
    // What was written is on its way before the connection ends.
    await sleep(5);
    onward.destroy();
    return undefined;
  }
  onward.end();
  return answered;
}

async function giveBack(
  answer: IncomingMessage,
  outgoing: ServerResponse,
  fault: HttpFault | undefined,
): Promise<void> {
  const status = answer.statusCode ?? 502;
  if (fault?.effect === 'SHORTEN_RESPONSE_BODY') {
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(chunk);
    const body = Buffer.concat(chunks).subarray(0, fault.bytes);
    const { 'transfer-encoding': _, ...headers } = answer.headers;
    outgoing.writeHead(status, { ...headers, 'content-length': body.byteLength });
    outgoing.end(body);
    return;
  }
  outgoing.writeHead(status, answer.rawHeaders);
  outgoing.flushHeaders();
  let left = fault?.effect === 'CUT_RESPONSE_BODY' ? fault.afterBytes : Number.POSITIVE_INFINITY;
  for await (const chunk of answer) {
    const bytes = chunk as Buffer;
    await slowly(bytes.byteLength, fault);
    outgoing.write(bytes.subarray(0, left));
    left -= bytes.byteLength;
    if (left < 0) break;
  }
  if (fault?.effect === 'CUT_RESPONSE_BODY') {
    await sleep(5);
    outgoing.destroy();
  } else {
    outgoing.end();
  }
}

async function slowly(bytes: number, fault: HttpFault | undefined): Promise<void> {
  if (fault?.effect === 'SLOW') await sleep((bytes / fault.bytesPerSecond) * 1_000);
}

/** What happens to one connection. */
export type TcpFault =
  /** Ends as soon as it is opened. */
  | { readonly effect: 'RESET' }
  /** Opened, and never a byte in either direction. */
  | { readonly effect: 'STALL' }
  /** Both sides end after so many bytes in this direction. */
  | { readonly effect: 'CUT'; readonly direction: 'TO_SERVER' | 'TO_CLIENT'; readonly afterBytes: number };

export interface TcpFaultProxy {
  readonly port: number;
  /** Connections since the last `plan`. */
  connections(): number;
  injected(): number;
  /** Begins to count anew. The fault of the n-th connection, from 1, where there is one. */
  plan(fault: (connection: number) => TcpFault | undefined): void;
  /** Ends every open connection. */
  cutAll(): void;
  close(): Promise<void>;
}

/** A proxy of bytes, for protocols other than HTTP. Without a plan it changes nothing. */
export async function tcpFaultProxy(upstream: {
  readonly host?: string;
  readonly port: number;
}): Promise<TcpFaultProxy> {
  let faultOf: (connection: number) => TcpFault | undefined = () => undefined;
  let connections = 0;
  let injected = 0;
  const open = new Set<Socket>();

  const server = createTcpServer((client) => {
    connections += 1;
    const fault = faultOf(connections);
    if (fault !== undefined) injected += 1;
    open.add(client);
    client.on('close', () => open.delete(client));
    client.on('error', () => client.destroy());
    if (fault?.effect === 'RESET') client.resetAndDestroy();
    else if (fault?.effect !== 'STALL') joined(client, upstream, fault);
  });
  const port = await listen(server);
  const cutAll = () => {
    for (const socket of open) socket.destroy();
  };

  return {
    port,
    connections: () => connections,
    injected: () => injected,
    plan(next) {
      faultOf = next;
      connections = 0;
      injected = 0;
    },
    cutAll,
    close() {
      cutAll();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

function joined(
  client: Socket,
  { host = '127.0.0.1', port }: { readonly host?: string; readonly port: number },
  fault: Extract<TcpFault, { effect: 'CUT' }> | undefined,
): void {
  const server = connect({ host, port });
  const end = () => {
    client.destroy();
    server.destroy();
  };
  const carry = (from: Socket, to: Socket, limit: number) => {
    let left = limit;
    from.on('data', (chunk: Buffer) => {
      const flowing = to.write(chunk.subarray(0, left));
      left -= chunk.byteLength;
      if (left < 0) setImmediate(end);
      else if (!flowing) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    });
    from.on('end', () => to.end());
    from.on('close', end);
    from.on('error', end);
  };
  const limit = (direction: 'TO_SERVER' | 'TO_CLIENT') =>
    fault?.direction === direction ? fault.afterBytes : Number.POSITIVE_INFINITY;
  carry(client, server, limit('TO_SERVER'));
  carry(server, client, limit('TO_CLIENT'));
}

async function listen(server: Server | ReturnType<typeof createTcpServer>): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return (server.address() as AddressInfo).port;
}
