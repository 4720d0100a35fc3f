import {
  constants,
  generateKeyPairSync,
  type KeyObject,
  privateDecrypt,
  privateEncrypt,
  publicEncrypt,
  randomBytes,
} from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';

type Json = Record<string, unknown>;

/** The keys of Azure Key Vault over REST with real RSA keys, on 127.0.0.1 without TLS. */
export interface FakeKeyVault {
  readonly vaultUrl: string;
  readonly keyName: string;
  readonly token: string;
  disable(keyId: string): void;
  /** Answers every request with this HTTP status from now on. */
  fail(status: number): void;
  close(): Promise<void>;
}

interface Version {
  readonly id: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  enabled: boolean;
}

/** DigestInfo of SHA-256, RFC 8017, section 9.2, note 1. */
const SHA256_INFO = Buffer.from('3031300d060960864801650304020105000420', 'hex');

export async function fakeKeyVault(): Promise<FakeKeyVault> {
  const keyName = 'backup';
  const token = randomBytes(24).toString('hex');
  const versions: Version[] = [];
  let failure: number | undefined;
  let vaultUrl = '';

  function addVersion(): Version {
    const id = randomBytes(16).toString('hex');
    const version = { id, enabled: true, ...generateKeyPairSync('rsa', { modulusLength: 2048 }) };
    versions.push(version);
    return version;
  }

  const server = createServer(async (request, response) => {
    const { status, body } = await answer(request).catch((error: unknown) => {
      const [code, at] = error instanceof Refusal ? [error.code, error.status] : ['InternalError', 500];
      return { status: at, body: { error: { code, message: String(error) } } };
    });
    const challenge = `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`;
    const headers = status === 401 ? { 'www-authenticate': challenge } : {};
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  });

  async function answer(request: IncomingMessage): Promise<{ status: number; body: Json }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    if (failure !== undefined) throw new Refusal(failure, 'Failed');
    if (request.headers.authorization !== `Bearer ${token}`) throw new Refusal(401, 'Unauthorized');
    const url = new URL(request.url ?? '', 'http://fake');
    if (!/^\d{4}-\d\d-\d\d$/.test(url.searchParams.get('api-version') ?? '')) {
      throw new Refusal(400, 'BadParameter');
    }
    const input: Json = chunks.length === 0 ? {} : JSON.parse(Buffer.concat(chunks).toString());
    const [, collection, name, at = '', operation] = url.pathname.split('/');
    if (collection !== 'keys' || name !== keyName) throw new Refusal(404, 'KeyNotFound');
    if (request.method === 'POST' && at === 'rotate') return { status: 200, body: bundle(addVersion()) };
    const version = at === '' ? versions.at(-1) : versions.find(({ id }) => id === at);
    if (version === undefined) throw new Refusal(404, 'KeyNotFound');
    if (!version.enabled) throw new Refusal(403, 'Forbidden');
    if (request.method === 'GET') return { status: 200, body: bundle(version) };
    return { status: 200, body: { kid: kidOf(version), value: operate(version, String(operation), input) } };
  }

  function operate({ privateKey, publicKey }: Version, operation: string, input: Json): string {
    const value = Buffer.from(String(input.value), 'base64url');
    const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' };
    try {
      if (operation === 'wrapkey' && input.alg === 'RSA-OAEP-256') {
        return publicEncrypt({ key: publicKey, ...oaep }, value).toString('base64url');
      }
      if (operation === 'unwrapkey' && input.alg === 'RSA-OAEP-256') {
        return privateDecrypt({ key: privateKey, ...oaep }, value).toString('base64url');
      }
      if (operation === 'sign' && input.alg === 'RS256' && value.byteLength === 32) {
        const padding = constants.RSA_PKCS1_PADDING;
        const info = Buffer.concat([SHA256_INFO, value]);
        return privateEncrypt({ key: privateKey, padding }, info).toString('base64url');
      }
    } catch {
      throw new Refusal(400, 'BadParameter');
    }
    throw new Refusal(400, 'BadParameter');
  }

  const kidOf = ({ id }: Version) => `${vaultUrl}/keys/${keyName}/${id}`;

  function bundle(version: Version): Json {
    const { n, e } = version.publicKey.export({ format: 'jwk' });
    const key_ops = ['wrapKey', 'unwrapKey', 'sign'];
    return {
      key: { kid: kidOf(version), kty: 'RSA', n, e, key_ops },
      attributes: { enabled: version.enabled, created: 1, updated: 1 },
    };
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The fake has no port.');
  vaultUrl = `http://127.0.0.1:${address.port}`;
  addVersion();
  return {
    vaultUrl,
    keyName,
    token,
    disable(keyId) {
      for (const version of versions) if (keyId.endsWith(version.id)) version.enabled = false;
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
  readonly code: string;
  constructor(status: number, code: string) {
    super(code);
    this.status = status;
    this.code = code;
  }
}
