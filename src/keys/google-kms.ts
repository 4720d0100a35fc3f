import { setTimeout as sleep } from 'node:timers/promises';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import { crc32c } from '../utils/crc32c.ts';
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

export interface GoogleKmsOptions {
  /** `projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>` of purpose ENCRYPT_DECRYPT. */
  readonly keyName: string;
  /** A version (`.../cryptoKeyVersions/1`) of an HMAC_SHA256 key of purpose MAC; needed for `macKey` (sidecars). */
  readonly macKeyVersion?: string;
  /** Such as `https://cloudkms.googleapis.com`. */
  readonly endpoint?: string;
  /** `clientEmail` and `privateKey`, or `accessToken`; optionally `expiresAt`. Absent: the SDK's own chain. */
  readonly credentials?: () => Promise<Credential> | Credential;
}

const SCHEME = 'google-kms-v1';
const UNAUTHENTICATED = 16;
/** DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE, DATA_LOSS of google.rpc.Code. */
const PASSING_CODES = new Set([4, 8, 10, 13, 14, 15]);
const ONE_TRY = { retry: null, timeout: 10_000 };

/**
 * Data keys wrapped by Google Cloud KMS over its REST transport (gRPC is not needed for single calls, and proxies let
 * HTTP/1.1 through). A key's id is the full name of the crypto key version: `wrap` names the primary version itself, and
 * the additional authenticated data holds that id and the context. CRC32C sums are checked both ways.
 *
 * `rotate` makes a new version and sets it primary; older versions go on unwrapping while they are enabled. A version
 * that is not generated within 10 s is `KEY_UNAVAILABLE`, `retryable`: it stays, and is not primary.
 *
 * `macKey` is HKDF-SHA256 of the MAC that `macKeyVersion` gives for the key id and the context. That version must stay
 * as long as the sidecars; without the option, `macKey` rejects with `CONFIGURATION_INVALID`.
 *
 * Throws `KEY_UNAVAILABLE` (`retryable` where the service was throttled, slow or away, or an answer was damaged),
 * `CREDENTIALS_UNAVAILABLE`, `DEPENDENCY_MISSING`. The SDK's retries are off. A call takes at most 10 s.
 */
export function googleKms(options: GoogleKmsOptions): KeyProvider {
  const { keyName, macKeyVersion, endpoint, credentials } = options;
  const description = `Google KMS key ${keyName}`;
  const session = kmsSession({ description, open, judge });

  async function open() {
    const { KeyManagementServiceClient } = await loadSdk();
    const place = endpoint === undefined ? {} : placeOf(endpoint);
    const given = credentials && (await askCredential(credentials, [], description));
    if (given === undefined) {
      return { client: new KeyManagementServiceClient({ ...place, fallback: true }) };
    }
    const { accessToken } = given;
    if (accessToken !== undefined) {
      // Of this user only the access token is used: without a refresh token it never asks for another.
      const user = { type: 'authorized_user', client_id: '-', client_secret: '-', refresh_token: '-' };
      const client = new KeyManagementServiceClient({ ...place, fallback: true, credentials: user });
      (await client.auth.getClient()).setCredentials({ access_token: accessToken });
      return { client, expiresAt: expiryOf(given) };
    }
    const { clientEmail, privateKey } = await askCredential(
      () => given,
      ['clientEmail', 'privateKey'],
      description,
    );
    const account = { client_email: clientEmail, private_key: privateKey };
    const client = new KeyManagementServiceClient({ ...place, fallback: true, credentials: account });
    return { client, expiresAt: expiryOf(given) };
  }

  function requireOwn(id: string | null | undefined): string {
    const version = id?.startsWith(`${keyName}/cryptoKeyVersions/`) ? id.slice(keyName.length + 19) : '';
    if (typeof id !== 'string' || !/^\d{1,9}$/.test(version)) throw foreignKey(id ?? '', description);
    return id;
  }

  async function currentKeyId(): Promise<string> {
    const [key] = await session.run('Reading the key', (client) =>
      client.getCryptoKey({ name: keyName }, ONE_TRY),
    );
    return requireOwn(key.primary?.name);
  }

  function damaged(): KeyError {
    const message = `${description}: a checksum does not match; bytes changed on the way.`;
    return new KeyError(message, 'KEY_UNAVAILABLE', { retryable: true });
  }

  function checked(bytes: unknown, sum: { value?: unknown } | null | undefined): Uint8Array {
    if (!(bytes instanceof Uint8Array) || String(sum?.value) !== String(crc32c(bytes))) throw damaged();
    return bytes;
  }

  return {
    description,
    currentKeyId,

    async wrap(dataKey, context) {
      requireDataKey(dataKey);
      const plaintext = Buffer.from(dataKey);
      boundTo('', context);
      const keyId = await currentKeyId();
      const aad = boundTo(keyId, context);
      const request = {
        name: keyId,
        plaintext,
        plaintextCrc32c: { value: crc32c(plaintext) },
        additionalAuthenticatedData: aad,
        additionalAuthenticatedDataCrc32c: { value: crc32c(aad) },
      };
      const [answer] = await session.run('Wrapping a data key', (client) => client.encrypt(request, ONE_TRY));
      const { verifiedPlaintextCrc32c, verifiedAdditionalAuthenticatedDataCrc32c } = answer;
      if (!verifiedPlaintextCrc32c || !verifiedAdditionalAuthenticatedDataCrc32c) throw damaged();
      const ciphertext = checked(answer.ciphertext, answer.ciphertextCrc32c);
      if (answer.name !== keyId) throw foreignKey(answer.name ?? '', description);
      return { keyId, scheme: SCHEME, wrapped: Buffer.from(ciphertext).toString('base64') };
    },

    async unwrap(wrapped, context) {
      const keyId = requireOwn(wrapped.keyId);
      const ciphertext = wrappedBytes(wrapped, SCHEME);
      const aad = boundTo(keyId, context);
      const request = {
        name: keyName,
        ciphertext,
        ciphertextCrc32c: { value: crc32c(ciphertext) },
        additionalAuthenticatedData: aad,
        additionalAuthenticatedDataCrc32c: { value: crc32c(aad) },
      };
      const [answer] = await session.run(`Unwrapping with the key ${keyId}`, (client) =>
        client.decrypt(request, ONE_TRY),
      );
      return openedKey(checked(answer.plaintext, answer.plaintextCrc32c), description);
    },

    async macKey(context, id) {
      const { organizationId, configurationId, purpose } = context;
      encodeFields([organizationId, configurationId, purpose]);
      if (macKeyVersion === undefined) {
        throw new DataProtectionError(
          'googleKms needs the option `macKeyVersion`, a version of an HMAC_SHA256 key, to authenticate sidecars.',
          'CONFIGURATION_INVALID',
        );
      }
      const keyId = id === undefined ? await currentKeyId() : requireOwn(id);
      const data = encodeFields([SCHEME, 'mac', keyId, organizationId, configurationId, purpose]);
      const request = { name: macKeyVersion, data, dataCrc32c: { value: crc32c(data) } };
      const [answer] = await session.run('Making a MAC key', (client) => client.macSign(request, ONE_TRY));
      if (!answer.verifiedDataCrc32c) throw damaged();
      const mac = openedKey(checked(answer.mac, answer.macCrc32c), description);
      return { keyId, key: deriveKey(mac, 'care-commons/google-kms/mac') };
    },

    async rotate() {
      const keyId = await session.run('Making a key version', async (client, signal) => {
        let [version] = await client.createCryptoKeyVersion({ parent: keyName }, ONE_TRY);
        const name = requireOwn(version.name);
        while (version.state === 'PENDING_GENERATION') {
          // Ends with the session's patience.
          await sleep(200, undefined, { signal });
          [version] = await client.getCryptoKeyVersion({ name }, ONE_TRY);
        }
        return name;
      });
      const cryptoKeyVersionId = keyId.slice(keyId.lastIndexOf('/') + 1);
      await session.run('Setting the primary version', (client) =>
        client.updateCryptoKeyPrimaryVersion({ name: keyName, cryptoKeyVersionId }, ONE_TRY),
      );
      return keyId;
    },

    async retire(keyId) {
      throw notRetired(
        requireOwn(keyId),
        'disable, and later destroy, this version of the key in Google Cloud',
      );
    },
  };
}

async function loadSdk() {
  try {
    return await import('@google-cloud/kms');
  } catch {
    throw missingPackage('@google-cloud/kms');
  }
}

function placeOf(endpoint: string) {
  const { protocol, hostname, port } = new URL(endpoint);
  const scheme = protocol.slice(0, -1);
  return { apiEndpoint: hostname, protocol: scheme, port: Number(port) || (scheme === 'http' ? 80 : 443) };
}

function boundTo(keyId: string, { organizationId, configurationId, snapshotId }: KeyContext): Buffer {
  return encodeFields([SCHEME, keyId || '-', organizationId, configurationId, snapshotId]);
}

/** What an error of the SDK means. */
export function judge(error: unknown) {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  if (isGrantInvalid(error)) return { kind: 'CREDENTIAL', code: 'invalid_grant' } as const;
  if (code === UNAUTHENTICATED) return { kind: 'CREDENTIAL', code: 'status 16' } as const;
  const passing = typeof code === 'number' && PASSING_CODES.has(code);
  return { kind: passing ? 'RETRY' : 'REFUSED', code: `status ${String(code)}` } as const;
}

/** Google's token service refused the credential (RFC 6749, 5.2): the auth library says so, bare or as a cause. */
function isGrantInvalid(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return /^invalid_grant\b/.test(error.message) || isGrantInvalid(error.cause);
}
