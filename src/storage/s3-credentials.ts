import { createHash } from 'node:crypto';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError } from '../types/errors.ts';

export interface S3Keys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** Keys as they are good for now: asked for once, and again when they end or are refused. */
export interface S3KeyCell {
  get(): Promise<S3Keys>;
  /** The provider refused these; the next `get` asks again, unless somebody asked meanwhile. */
  forget(keys: S3Keys): void;
}

/** Keys that end so soon are asked for again: a request that has begun must still be signed by good ones. */
const ENDING_MS = 60_000;

export function s3KeyCell(provider: () => Promise<Credential>, description: string): S3KeyCell {
  let pending: Promise<{ keys: S3Keys; endsAt: number }> | undefined;
  let known: { keys: S3Keys; endsAt: number } | undefined;

  async function ask() {
    const credential = await credentialOf(provider, `the credential of ${description}`);
    const { accessKeyId, secretAccessKey, sessionToken, expiresAt } = credential;
    if (!accessKeyId || !secretAccessKey) {
      throw unavailable(
        `The credential of ${description} needs the fields \`accessKeyId\` and \`secretAccessKey\`.`,
      );
    }
    const endsAt = expiresAt === undefined ? Number.POSITIVE_INFINITY : Date.parse(expiresAt);
    const keys = { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
    known = { keys, endsAt: Number.isNaN(endsAt) ? Number.POSITIVE_INFINITY : endsAt };
    return known;
  }

  return {
    async get() {
      if (known !== undefined && known.endsAt - Date.now() > ENDING_MS) return known.keys;
      pending ??= ask().finally(() => {
        pending = undefined;
      });
      return (await pending).keys;
    },
    forget(keys) {
      if (known?.keys === keys) known = undefined;
    },
  };
}

/** The headers of SSE-C, which every call on an object needs. */
export interface CustomerKeyHeaders {
  readonly SSECustomerAlgorithm?: string;
  readonly SSECustomerKey?: string;
  readonly SSECustomerKeyMD5?: string;
}

export async function customerKeyHeaders(
  provider: () => Promise<Credential>,
  description: string,
): Promise<CustomerKeyHeaders> {
  const { key = '' } = await credentialOf(provider, `the customer key of ${description}`);
  const bytes = Buffer.from(key, 'base64');
  if (bytes.byteLength !== 32) {
    throw unavailable(`The customer key of ${description} needs the field \`key\`: 32 bytes in base64.`);
  }
  return {
    SSECustomerAlgorithm: 'AES256',
    SSECustomerKey: bytes.toString('base64'),
    SSECustomerKeyMD5: createHash('md5').update(bytes).digest('base64'),
  };
}

/** What the host's provider throws may quote the credential, so it is not kept as a cause. */
async function credentialOf(provider: () => Promise<Credential>, what: string): Promise<Credential> {
  try {
    return await provider();
  } catch (error) {
    if (error instanceof DataProtectionError) throw error;
    throw unavailable(`The host could not give ${what}.`);
  }
}

function unavailable(message: string): DataProtectionError {
  return new DataProtectionError(message, 'CREDENTIALS_UNAVAILABLE');
}
