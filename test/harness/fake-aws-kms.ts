import { createCipheriv, createDecipheriv, createHmac, randomBytes, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';

type Json = Record<string, unknown>;

/** AWS KMS over JSON 1.1 (`X-Amz-Target: TrentService.*`) with real keys, on 127.0.0.1. */
export interface FakeAwsKms {
  readonly endpoint: string;
  readonly arn: string;
  readonly macArn: string;
  readonly secrets: readonly string[];
  readonly accessKeyId: string;
  /** The credentials that came, one per request. */
  readonly seen: string[];
  disable(): void;
  /** Answers every request so, until called without arguments. */
  fail(status?: number, type?: string): void;
  close(): Promise<void>;
}

export const AWS_REGION = 'us-east-1';
const ACCOUNT = '111122223333';

export async function fakeAwsKms(keyName: string = randomUUID()): Promise<FakeAwsKms> {
  const arn = `arn:aws:kms:${AWS_REGION}:${ACCOUNT}:key/${keyName}`;
  const macArn = `arn:aws:kms:${AWS_REGION}:${ACCOUNT}:key/mac-${keyName}`;
  const key = randomBytes(32);
  const macKey = randomBytes(32);
  const accessKeyId = `AKIA${randomBytes(8).toString('hex').toUpperCase()}`;
  const seen: string[] = [];
  let enabled = true;
  let failure: { status: number; type: string } | undefined;

  const server = createServer(async (request, response) => {
    const { status, body } = await answer(request).catch((error: unknown) =>
      error instanceof Refusal
        ? { status: error.status, body: { __type: error.type, message: 'refused' } }
        : { status: 500, body: { __type: 'KMSInternalException', message: String(error) } },
    );
    response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' }).end(JSON.stringify(body));
  });

  async function answer(request: IncomingMessage): Promise<{ status: number; body: Json }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    if (failure !== undefined) throw new Refusal(failure.type, failure.status);
    const scope =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/\d{8}\/([^/]+)\/kms\/aws4_request, SignedHeaders=.*, Signature=[0-9a-f]{64}$/.exec(
        request.headers.authorization ?? '',
      );
    if (scope === null) throw new Refusal('MissingAuthenticationTokenException');
    seen.push(String(scope[1]));
    if (scope[1] !== accessKeyId) throw new Refusal('UnrecognizedClientException');
    if (scope[2] !== AWS_REGION) throw new Refusal('InvalidSignatureException');
    if (request.method !== 'POST' || request.headers['content-type'] !== 'application/x-amz-json-1.1') {
      throw new Refusal('SerializationException');
    }
    const target = String(request.headers['x-amz-target']).replace('TrentService.', '');
    const input: Json = JSON.parse(Buffer.concat(chunks).toString());
    const operation = operations[target];
    if (operation === undefined) throw new Refusal('UnknownOperationException');
    return { status: 200, body: operation(input) };
  }

  function requireKey(id: unknown): void {
    if (id !== arn && id !== keyName && id !== 'alias/backup') throw new Refusal('NotFoundException');
    if (!enabled) throw new Refusal('DisabledException');
  }

  const operations: Record<string, (input: Json) => Json> = {
    DescribeKey() {
      return {
        KeyMetadata: { Arn: arn, KeyId: keyName, KeyState: enabled ? 'Enabled' : 'Disabled' },
      };
    },
    Encrypt({ KeyId, Plaintext, EncryptionContext }) {
      requireKey(KeyId);
      const nonce = randomBytes(12);
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(canonical(EncryptionContext));
      const sealed = Buffer.concat([cipher.update(bytesOf(Plaintext)), cipher.final(), cipher.getAuthTag()]);
      const blob = Buffer.concat([nonce, sealed]).toString('base64');
      return { CiphertextBlob: blob, KeyId: arn, EncryptionAlgorithm: 'SYMMETRIC_DEFAULT' };
    },
    Decrypt({ KeyId, CiphertextBlob, EncryptionContext }) {
      requireKey(KeyId);
      const blob = bytesOf(CiphertextBlob);
      try {
        const cipher = createDecipheriv('aes-256-gcm', key, blob.subarray(0, 12), { authTagLength: 16 });
        cipher.setAAD(canonical(EncryptionContext)).setAuthTag(blob.subarray(-16));
        const opened = Buffer.concat([cipher.update(blob.subarray(12, -16)), cipher.final()]);
        return { KeyId: arn, Plaintext: opened.toString('base64'), EncryptionAlgorithm: 'SYMMETRIC_DEFAULT' };
      } catch {
        throw new Refusal('InvalidCiphertextException');
      }
    },
    GenerateMac({ KeyId, MacAlgorithm, Message }) {
      if (KeyId !== macArn) throw new Refusal('NotFoundException');
      const message = bytesOf(Message);
      if (MacAlgorithm !== 'HMAC_SHA_256' || message.byteLength > 4096)
        throw new Refusal('ValidationException');
      const Mac = createHmac('sha256', macKey).update(message).digest('base64');
      return { KeyId: macArn, Mac, MacAlgorithm };
    },
  };

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The fake has no port.');
  return {
    endpoint: `http://127.0.0.1:${address.port}`,
    arn,
    macArn,
    accessKeyId,
    seen,
    secrets: [key, macKey].flatMap((one) => [one.toString('base64'), one.toString('hex')]),
    disable() {
      enabled = false;
    },
    fail(status, type) {
      failure = status === undefined ? undefined : { status, type: type ?? '' };
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

class Refusal extends Error {
  readonly type: string;
  readonly status: number;
  constructor(type: string, status = 400) {
    super(type);
    this.type = type;
    this.status = status;
  }
}

function bytesOf(value: unknown): Buffer {
  const bytes = Buffer.from(String(value), 'base64');
  if (bytes.byteLength === 0) throw new Refusal('ValidationException');
  return bytes;
}

function canonical(context: unknown): Buffer {
  return Buffer.from(JSON.stringify(Object.entries(context ?? {}).sort()));
}
