import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';

/** A request as it came over the wire. */
export interface WireRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: Buffer;
}

export interface WireAnswer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
  /** Closes the connection after so many bytes of the body, with a length that promises all of them. */
  readonly cutAfter?: number;
}

/** Answers as Blob Storage does where Azurite cannot, and keeps what it was asked. */
export interface AzureWire extends AsyncDisposable {
  /** `http(s)://127.0.0.1:<port>`. */
  readonly endpoint: string;
  readonly requests: readonly WireRequest[];
}

export async function startAzureWire(
  answer: (request: WireRequest) => WireAnswer,
  scheme: 'http' | 'https' = 'http',
): Promise<AzureWire> {
  const requests: WireRequest[] = [];
  const listener = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const request = await wireRequest(incoming);
    requests.push(request);
    send(response, request, answer(request));
  };
  const onRequest = (incoming: IncomingMessage, response: ServerResponse) =>
    void listener(incoming, response).catch(() => response.destroy());
  const server =
    scheme === 'http' ? createServer(onRequest) : createTlsServer(trustedCertificate(), onRequest);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    endpoint: `${scheme}://127.0.0.1:${address.port}`,
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** An error of Azure: the code in a header, and in the body unless the request is a HEAD. */
export function azureError(status: number, code: string, headers: Record<string, string> = {}): WireAnswer {
  return {
    status,
    headers: {
      'content-type': 'application/xml',
      'x-ms-error-code': code,
      'x-ms-request-id': 'abc-123',
      ...headers,
    },
    body: `<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>No.</Message></Error>`,
  };
}

async function wireRequest(incoming: IncomingMessage): Promise<WireRequest> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const { pathname, searchParams } = new URL(incoming.url ?? '/', 'http://wire');
  const headers = Object.fromEntries(
    Object.entries(incoming.headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join() : value,
    ]),
  );
  const { method = 'GET' } = incoming;
  return { method, path: pathname, query: searchParams, headers, body: Buffer.concat(chunks) };
}

function send(response: ServerResponse, { method }: WireRequest, answer: WireAnswer): void {
  const body = Buffer.from(answer.body ?? '');
  response.writeHead(answer.status, {
    'last-modified': new Date(0).toUTCString(),
    etag: '"0x1"',
    'content-length': String(body.byteLength),
    ...answer.headers,
  });
  if (method === 'HEAD') return void response.end();
  if (answer.cutAfter === undefined) return void response.end(body);
  response.write(body.subarray(0, answer.cutAfter), () => response.destroy());
}

let certificate: { readonly key: string; readonly cert: string } | undefined;

/** A self-signed certificate for 127.0.0.1, which this process trusts from now on. One: agents keep whom they trust. */
function trustedCertificate(): { key: string; cert: string } {
  certificate ??= makeCertificate();
  return certificate;
}

function makeCertificate(): { key: string; cert: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const cert = selfSigned(privateKey, publicKey.export({ type: 'spki', format: 'der' }));
  setDefaultCACertificates([...getCACertificates(), cert]);
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), cert };
}

/** DER of X.509 v3 (RFC 5280), as little of it as OpenSSL accepts. */
function selfSigned(privateKey: KeyObject, publicKey: Buffer): string {
  const sequence = (...parts: Buffer[]) => der(0x30, ...parts);
  const algorithm = sequence(der(0x06, Buffer.from('2a8648ce3d040302', 'hex')));
  const name = sequence(
    der(0x31, sequence(der(0x06, Buffer.from('550403', 'hex')), der(0x0c, Buffer.from('127.0.0.1')))),
  );
  const time = (year: number) => der(0x18, Buffer.from(`${year}0101000000Z`));
  const now = new Date().getUTCFullYear();
  const addresses = sequence(der(0x87, Buffer.from([127, 0, 0, 1])));
  const extension = sequence(der(0x06, Buffer.from('551d11', 'hex')), der(0x04, addresses));
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(
      0x02,
      Buffer.concat([Buffer.from([1]), createHash('sha256').update(publicKey).digest().subarray(0, 15)]),
    ),
    algorithm,
    name,
    sequence(time(now - 1), time(now + 2)),
    name,
    publicKey,
    der(0xa3, sequence(extension)),
  );
  const signature = der(0x03, Buffer.from([0]), sign('sha256', body, privateKey));
  const base64 = sequence(body, algorithm, signature).toString('base64');
  return `-----BEGIN CERTIFICATE-----\n${base64.replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`;
}

function der(tag: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
