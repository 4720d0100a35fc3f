import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';

type Json = Record<string, unknown>;

/** Cloud KMS v1 over REST with real keys, on 127.0.0.1. */
export interface FakeGoogleKms {
  readonly endpoint: string;
  readonly accessToken: string;
  readonly secrets: readonly string[];
  disable(version: string): void;
  /** Changes the bytes, not the sums, of what it answers from now on. */
  corrupt(): void;
  /** New versions are never generated from now on. `polls` tells how often they were asked for. */
  stall(): void;
  polls(): number;
  /** Answers every request with this HTTP status from now on. */
  fail(status: number): void;
  close(): Promise<void>;
}

const RING = 'projects/care/locations/global/keyRings/backup/cryptoKeys';
export const GOOGLE_KEY = `${RING}/data`;
export const GOOGLE_MAC_KEY = `${RING}/mac/cryptoKeyVersions/1`;

export async function fakeGoogleKms(): Promise<FakeGoogleKms> {
  const accessToken = `ya29.${randomBytes(16).toString('hex')}`;
  const versions = new Map([[1, { key: randomBytes(32), state: 1, polls: 0 }]]);
  const macKey = randomBytes(32);
  let primary = 1;
  let corrupted = false;
  let stalled = false;
  let failure: number | undefined;

  const nameOf = (version: number) => `${GOOGLE_KEY}/cryptoKeyVersions/${version}`;
  const describe = (version: number) => ({ name: nameOf(version), state: versions.get(version)?.state });

  const server = createServer(async (request, response) => {
    const { status, body } = await answer(request).catch((error: unknown) => {
      const code = error instanceof Refusal ? error.status : 500;
      return { status: code, body: { error: { code, message: String(error), status: 'REFUSED' } } };
    });
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });

  async function answer(request: IncomingMessage): Promise<{ status: number; body: Json }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    if (failure !== undefined) throw new Refusal(failure);
    if (request.headers.authorization !== `Bearer ${accessToken}`) throw new Refusal(401);
    const path = decodeURIComponent(new URL(request.url ?? '', 'http://fake').pathname);
    const input: Json = chunks.length === 0 ? {} : JSON.parse(Buffer.concat(chunks).toString());
    return { status: 200, body: route(`${request.method} ${path.replace('/v1/', '')}`, input) };
  }

  function route(call: string, input: Json): Json {
    if (call === `GET ${GOOGLE_KEY}`) return { name: GOOGLE_KEY, purpose: 1, primary: describe(primary) };
    if (call === `POST ${GOOGLE_KEY}/cryptoKeyVersions`) {
      const version = versions.size + 1;
      versions.set(version, { key: randomBytes(32), state: 5, polls: 0 });
      return describe(version);
    }
    if (call === `POST ${GOOGLE_KEY}:updatePrimaryVersion`) {
      const version = Number(input.cryptoKeyVersionId);
      if (versions.get(version)?.state !== 1) throw new Refusal(400);
      primary = version;
      return { name: GOOGLE_KEY, primary: describe(primary) };
    }
    if (call === `POST ${GOOGLE_KEY}:decrypt`) return decrypt(input);
    if (call === `POST ${GOOGLE_MAC_KEY}:macSign`) {
      const data = bytesOf(input.data, input.dataCrc32c);
      const mac = createHmac('sha256', macKey).update(data).digest();
      return { name: GOOGLE_MAC_KEY, ...sealed('mac', mac), verifiedDataCrc32c: true };
    }
    const match = /^(GET|POST) (.*)\/cryptoKeyVersions\/(\d+)(:encrypt)?$/.exec(call);
    const number = Number(match?.[3]);
    const version = match?.[2] === GOOGLE_KEY ? versions.get(number) : undefined;
    if (version === undefined) throw new Refusal(404);
    if (match?.[1] === 'GET') {
      version.polls += 1;
      if (!stalled && version.state === 5) version.state = 1;
      return describe(number);
    }
    if (version.state !== 1) throw new Refusal(400);
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', version.key, nonce);
    cipher.setAAD(bytesOf(input.additionalAuthenticatedData, input.additionalAuthenticatedDataCrc32c));
    const plaintext = bytesOf(input.plaintext, input.plaintextCrc32c);
    const parts = [Buffer.of(number), nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()];
    return {
      name: nameOf(number),
      ...sealed('ciphertext', Buffer.concat(parts)),
      verifiedPlaintextCrc32c: true,
      verifiedAdditionalAuthenticatedDataCrc32c: true,
    };
  }

  function decrypt(input: Json): Json {
    const blob = bytesOf(input.ciphertext, input.ciphertextCrc32c);
    const aad = bytesOf(input.additionalAuthenticatedData, input.additionalAuthenticatedDataCrc32c);
    const version = versions.get(blob[0] ?? 0);
    if (version?.state !== 1 || blob.byteLength < 29) throw new Refusal(400);
    const cipher = createDecipheriv('aes-256-gcm', version.key, blob.subarray(1, 13), { authTagLength: 16 });
    cipher.setAAD(aad).setAuthTag(blob.subarray(-16));
    const opened = cipher.update(blob.subarray(13, -16));
    try {
      cipher.final();
    } catch {
      throw new Refusal(400);
    }
    return sealed('plaintext', opened);
  }

  function sealed(name: string, bytes: Buffer): Json {
    const sum = String(castagnoli(bytes));
    if (corrupted) bytes[0] = (bytes[0] ?? 0) ^ 1;
    return { [name]: bytes.toString('base64'), [`${name}Crc32c`]: sum };
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The fake has no port.');
  return {
    endpoint: `http://127.0.0.1:${address.port}`,
    accessToken,
    secrets: [macKey, ...[...versions.values()].map(({ key }) => key)].map((key) => key.toString('base64')),
    disable(id) {
      const version = versions.get(Number(id.slice(id.lastIndexOf('/') + 1)));
      if (version !== undefined) version.state = 2;
    },
    stall() {
      stalled = true;
    },
    polls: () => [...versions.values()].reduce((sum, { polls }) => sum + polls, 0),
    corrupt() {
      corrupted = true;
    },
    fail(status) {
      failure = status;
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

class Refusal extends Error {
  readonly status: number;
  constructor(status: number) {
    super(`status ${status}`);
    this.status = status;
  }
}

function bytesOf(value: unknown, sum: unknown): Buffer {
  const bytes = Buffer.from(String(value), 'base64');
  if (String(castagnoli(bytes)) !== String(sum)) throw new Refusal(400);
  return bytes;
}

/** CRC-32C by its table, so that the library's own code is not its judge. */
const TABLE = Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

function castagnoli(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 255] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}
