import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import type { CryptographyClient } from '@azure/keyvault-keys';
import type { Credential } from '../types/credentials.ts';
import { KeyError } from '../types/errors.ts';
import { KEY_BYTES } from './key-wrap.ts';
import type { KeyContext, KeyProvider } from './keys.ts';
import {
  askCredential,
  deriveKey,
  encodeFields,
  expiryOf,
  foreignKey,
  missingPackage,
  openedKey,
  requireDataKey,
  wrappedBytes,
} from './kms-material.ts';
import { kmsSession } from './kms-session.ts';
import { notRetired } from './not-retired.ts';

export interface AzureKeyVaultOptions {
  /** Such as `https://care.vault.azure.net`. */
  readonly vaultUrl: string;
  /** An RSA key whose operations are `wrapKey`, `unwrapKey` and `sign`. */
  readonly keyName: string;
  /** `tenantId`, `clientId`, `clientSecret`, optionally `expiresAt`. Absent: DefaultAzureCredential. */
  readonly credentials?: () => Promise<Credential> | Credential;
  /** The host's own TokenCredential of Azure; wins over `credentials`. */
  readonly tokenCredential?: AzureTokenCredential;
  /** `KeyClientOptions` of the SDK: TLS of a private authority, a proxy, the API version. */
  readonly clientOptions?: object;
}

export interface AzureTokenCredential {
  getToken(scopes: string | string[]): Promise<{ token: string; expiresOnTimestamp: number } | null>;
}

const SCHEME = 'azure-key-vault-v1';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const SEALED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/**
 * Data keys wrapped by an RSA key of Azure Key Vault. The vault's RSA operations take no additional data, and anyone can
 * encrypt to a public key, so the context and the origin are bound here. `wrapped` is base64 of
 *
 * ```
 * RSA-OAEP-256 of a random 32-byte kek (the size of the modulus) | nonce (12) | AES-256-GCM of the data key (32) | tag (16)
 * ```
 *
 * The AES key is HKDF-SHA256 of the kek and of the vault's RS256 signature (PKCS#1 v1.5: deterministic) over the scheme,
 * the key version's id and the context; what is signed, and the wrapped kek, are the additional data. Opening needs
 * `unwrapKey` and `sign` of the same version, and so does forging. The private key never leaves the vault.
 *
 * A key's id is the identifier of its version. `rotate` makes a new version in the vault; older versions go on
 * unwrapping while they are enabled. `macKey` is HKDF-SHA256 of such a signature: it needs no option.
 *
 * Throws `KEY_UNAVAILABLE` (`retryable` where the service was throttled, slow or away), `CREDENTIALS_UNAVAILABLE`,
 * `DEPENDENCY_MISSING`. The SDK's retries are off. A call takes at most 10 s. Needs the permissions get, wrapKey,
 * unwrapKey, sign and, for `rotate`, rotate.
 */
export function azureKeyVault(options: AzureKeyVaultOptions): KeyProvider {
  const { keyName, credentials, tokenCredential, clientOptions = {} } = options;
  const vaultUrl = options.vaultUrl.replace(/\/+$/, '');
  const keyUrl = `${vaultUrl}/keys/${keyName}/`;
  const description = `Key Vault key ${keyUrl.slice(0, -1)}`;
  const session = kmsSession({ description, open, judge });

  async function open() {
    const { KeyClient } = await load('@azure/keyvault-keys', () => import('@azure/keyvault-keys'));
    const { credential, expiresAt } = await tokenSource();
    const keys = new KeyClient(vaultUrl, credential, { ...clientOptions, retryOptions: { maxRetries: 0 } });
    // The SDK keeps the body of the first request while it is challenged for a token, one at a time: let it be this one.
    await keys.getKey(keyName);
    const versions = new Map<string, CryptographyClient>();
    const cryptography = (keyId: string) => {
      const known = versions.get(keyId);
      if (known !== undefined) return known;
      const made = keys.getCryptographyClient(keyName, { keyVersion: keyId.slice(keyUrl.length) });
      versions.set(keyId, made);
      return made;
    };
    return { client: { keys, cryptography }, expiresAt };
  }

  async function tokenSource() {
    if (tokenCredential !== undefined) return { credential: tokenCredential, expiresAt: undefined };
    const identity = await load('@azure/identity', () => import('@azure/identity'));
    if (credentials === undefined) {
      return { credential: new identity.DefaultAzureCredential(), expiresAt: undefined };
    }
    const given = await askCredential(credentials, ['tenantId', 'clientId', 'clientSecret'], description);
    const { tenantId, clientId, clientSecret } = given;
    const credential = new identity.ClientSecretCredential(tenantId, clientId, clientSecret, {
      retryOptions: { maxRetries: 0 },
    });
    return { credential, expiresAt: expiryOf(given) };
  }

  /** Ids come out of the storage: a token must not follow them to another vault. */
  function requireOwn(keyId: string | undefined): string {
    if (keyId?.startsWith(keyUrl) && /^[0-9a-f]{32}$/.test(keyId.slice(keyUrl.length))) return keyId;
    throw foreignKey(keyId ?? '', description);
  }

  async function currentKeyId(): Promise<string> {
    const key = await session.run('Reading the key', ({ keys }, abortSignal) =>
      keys.getKey(keyName, { abortSignal }),
    );
    return requireOwn(key.id);
  }

  async function signature(keyId: string, bound: Uint8Array): Promise<Uint8Array> {
    const digest = createHash('sha256').update(bound).digest();
    const answer = await session.run(`Signing with the key ${keyId}`, ({ cryptography }, abortSignal) =>
      cryptography(keyId).sign('RS256', digest, { abortSignal }),
    );
    if (answer.result.byteLength >= 256) return answer.result;
    throw new KeyError(`${description} gave no RSA signature of 2048 bits or more.`, 'KEY_UNAVAILABLE');
  }

  return {
    description,
    currentKeyId,

    async wrap(dataKey, context) {
      requireDataKey(dataKey);
      const plaintext = Buffer.from(dataKey);
      contextOf('-', context);
      const keyId = await currentKeyId();
      const bound = contextOf(keyId, context);
      const kek = randomBytes(KEY_BYTES);
      const { result } = await session.run(
        `Wrapping with the key ${keyId}`,
        ({ cryptography }, abortSignal) => cryptography(keyId).wrapKey('RSA-OAEP-256', kek, { abortSignal }),
      );
      const aesKey = deriveKey(Buffer.concat([kek, await signature(keyId, bound)]), `${SCHEME}/wrap`);
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', aesKey, nonce).setAAD(Buffer.concat([bound, result]));
      const sealed = Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
      return {
        keyId,
        scheme: SCHEME,
        wrapped: Buffer.concat([result, nonce, sealed]).toString('base64'),
      };
    },

    async unwrap(wrapped, context) {
      const keyId = requireOwn(wrapped.keyId);
      const bytes = wrappedBytes(wrapped, SCHEME);
      const bound = contextOf(keyId, context);
      if (bytes.byteLength < 256 + SEALED_BYTES) throw notTheOne(keyId);
      const wrappedKek = bytes.subarray(0, -SEALED_BYTES);
      const sealed = bytes.subarray(-SEALED_BYTES);
      const { result } = await session.run(
        `Unwrapping with the key ${keyId}`,
        ({ cryptography }, abortSignal) =>
          cryptography(keyId).unwrapKey('RSA-OAEP-256', wrappedKek, { abortSignal }),
      );
      const kek = openedKey(result, description);
      const aesKey = deriveKey(Buffer.concat([kek, await signature(keyId, bound)]), `${SCHEME}/wrap`);
      const nonce = sealed.subarray(0, NONCE_BYTES);
      const decipher = createDecipheriv('aes-256-gcm', aesKey, nonce, { authTagLength: TAG_BYTES });
      decipher.setAAD(Buffer.concat([bound, wrappedKek])).setAuthTag(sealed.subarray(-TAG_BYTES));
      const opened = decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES));
      try {
        decipher.final();
      } catch {
        throw notTheOne(keyId);
      }
      return new Uint8Array(opened);
    },

    async macKey({ organizationId, configurationId, purpose }, id) {
      encodeFields([organizationId, configurationId, purpose]);
      const keyId = id === undefined ? await currentKeyId() : requireOwn(id);
      const bound = encodeFields([SCHEME, 'mac', keyId, organizationId, configurationId, purpose]);
      return { keyId, key: deriveKey(await signature(keyId, bound), `${SCHEME}/mac`) };
    },

    async rotate() {
      const key = await session.run('Rotating the key', ({ keys }, abortSignal) =>
        keys.rotateKey(keyName, { abortSignal }),
      );
      return requireOwn(key.id);
    },

    async retire(keyId) {
      throw notRetired(requireOwn(keyId), 'disable this version of the key in the vault');
    },
  };
}

function contextOf(keyId: string, { organizationId, configurationId, snapshotId }: KeyContext): Buffer {
  return encodeFields([SCHEME, 'wrap', keyId, organizationId, configurationId, snapshotId]);
}

function notTheOne(keyId: string): KeyError {
  return new KeyError(
    `The key ${keyId} did not wrap this data key, or for another snapshot, or its bytes were altered.`,
    'KEY_UNAVAILABLE',
  );
}

async function load<Module>(name: string, importing: () => Promise<Module>): Promise<Module> {
  try {
    return await importing();
  } catch {
    throw missingPackage(name);
  }
}

/** What @azure/identity throws when the service that gives tokens refuses one, for example after a secret was rotated. */
const NO_TOKEN = new Set(['AuthenticationError', 'AuthenticationRequiredError']);

function judge(error: unknown) {
  const { statusCode: status, code = '', name = '', cause } = fieldsOf(error);
  if (name === 'RestError' && status === 401) return { kind: 'CREDENTIAL', code: 'status 401' } as const;
  const passing = isPassing(error) || (NO_TOKEN.has(name) && isPassing(cause));
  if (NO_TOKEN.has(name) && !passing) return { kind: 'CREDENTIAL', code: name } as const;
  return { kind: passing ? 'RETRY' : 'REFUSED', code: code || name } as const;
}

function isPassing(error: unknown): boolean {
  const { statusCode: status, name = '' } = fieldsOf(error);
  if (status === undefined) return name === 'RestError';
  return status >= 500 || status === 429 || status === 408;
}

function fieldsOf(error: unknown): { statusCode?: number; code?: string; name?: string; cause?: unknown } {
  return typeof error === 'object' && error !== null ? error : {};
}
