import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
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

export interface AwsKmsOptions {
  /** A symmetric encryption key: its ARN, id, or alias (`alias/...`). */
  readonly keyId: string;
  readonly region: string;
  /** An HMAC_256 key (`GENERATE_VERIFY_MAC`) of the same region; needed for `macKey`, that is, for sidecars. */
  readonly macKeyId?: string;
  readonly endpoint?: string;
  /** `accessKeyId`, `secretAccessKey`, optionally `sessionToken`, `expiresAt`. Absent: the SDK's own chain. */
  readonly credentials?: () => Promise<Credential> | Credential;
}

const SCHEME = 'aws-kms-v1';
const ARN = /^arn:(aws[a-z-]*):kms:([a-z0-9-]+):(\d{12}):key\/[A-Za-z0-9-]+$/;

const CREDENTIAL_CODES = new Set([
  'ExpiredTokenException',
  'InvalidClientTokenId',
  'UnrecognizedClientException',
]);
const PASSING_CODES = new Set([
  'ThrottlingException',
  'LimitExceededException',
  'DependencyTimeoutException',
  'KMSInternalException',
  'KeyUnavailableException',
  'RequestTimeout',
  'ServiceUnavailableException',
]);

/**
 * Data keys wrapped by AWS KMS `Encrypt`, the context as EncryptionContext (CloudTrail shows it: ids only).
 *
 * A key's id is its ARN. AWS rotates the material below an ARN and finds the right one itself, so `rotate` rejects with
 * `CONFIGURATION_INVALID`: switch on automatic rotation, or point the alias to a new key. Whatever key of the same
 * partition, region and account wrapped goes on unwrapping; a key of any other account is refused without a call.
 *
 * `macKey` is HKDF-SHA256 of the MAC that `macKeyId` gives for the key id and the context. The MAC key must stay as
 * long as the sidecars; without `macKeyId`, `macKey` rejects with `CONFIGURATION_INVALID`.
 *
 * Throws `KEY_UNAVAILABLE` (`retryable` where the service was throttled, slow or away), `CREDENTIALS_UNAVAILABLE`,
 * `DEPENDENCY_MISSING`. The SDK's retries are off; the caller repeats. A call takes at most 10 s. Needs
 * `kms:DescribeKey`, `kms:Encrypt`, `kms:Decrypt` and, on the MAC key, `kms:GenerateMac`.
 */
export function awsKms(options: AwsKmsOptions): KeyProvider {
  const { keyId, region, macKeyId, endpoint, credentials } = options;
  const description = `AWS KMS key ${keyId} in ${region}`;
  const session = kmsSession({
    description,
    judge,
    close: (client) => client.destroy(),
    async open() {
      const { KMSClient } = await loadSdk();
      const base = { region, maxAttempts: 1, ...(endpoint === undefined ? {} : { endpoint }) };
      if (credentials === undefined) return { client: new KMSClient(base) };
      const given = await askCredential(credentials, ['accessKeyId', 'secretAccessKey'], description);
      const { accessKeyId, secretAccessKey, sessionToken } = given;
      const held = { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) };
      return { client: new KMSClient({ ...base, credentials: held }), expiresAt: expiryOf(given) };
    },
  });

  async function currentKeyId(): Promise<string> {
    const metadata = await session.run('Reading the key', async (client, abortSignal) => {
      const { DescribeKeyCommand } = await loadSdk();
      return (await client.send(new DescribeKeyCommand({ KeyId: keyId }), { abortSignal })).KeyMetadata;
    });
    const arn = requireArn(metadata?.Arn);
    if (metadata?.KeyState !== 'Enabled') {
      throw new KeyError(`The key ${arn} is not enabled.`, 'KEY_UNAVAILABLE');
    }
    return arn;
  }

  function requireArn(arn: string | undefined): string {
    if (arn !== undefined && ARN.test(arn)) return arn;
    throw new KeyError(`${description} has no key ARN.`, 'KEY_UNAVAILABLE');
  }

  /** Ids come out of the storage: a key of somebody else's account must not open, or forge, anything. */
  async function requireOwn(id: string): Promise<void> {
    if (!ARN.test(id)) throw foreignKey(id, description);
    const home = ARN.test(keyId) ? keyId : await currentKeyId();
    if (place(home) !== place(id)) throw foreignKey(id, description);
  }

  return {
    description,
    currentKeyId,

    async wrap(dataKey, context) {
      requireDataKey(dataKey);
      const EncryptionContext = encryptionContext(context);
      const Plaintext = new Uint8Array(dataKey);
      const answer = await session.run('Wrapping a data key', async (client, abortSignal) => {
        const { EncryptCommand } = await loadSdk();
        const command = new EncryptCommand({ KeyId: keyId, Plaintext, EncryptionContext });
        return client.send(command, { abortSignal });
      });
      const blob = answer.CiphertextBlob;
      if (blob === undefined || blob.byteLength === 0) {
        throw new KeyError(`${description} gave no ciphertext.`, 'KEY_UNAVAILABLE');
      }
      return {
        keyId: requireArn(answer.KeyId),
        scheme: SCHEME,
        wrapped: Buffer.from(blob).toString('base64'),
      };
    },

    async unwrap(wrapped, context) {
      await requireOwn(wrapped.keyId);
      const CiphertextBlob = wrappedBytes(wrapped, SCHEME);
      const EncryptionContext = encryptionContext(context);
      const KeyId = wrapped.keyId;
      const answer = await session.run(`Unwrapping with the key ${KeyId}`, async (client, abortSignal) => {
        const { DecryptCommand } = await loadSdk();
        return client.send(new DecryptCommand({ KeyId, CiphertextBlob, EncryptionContext }), { abortSignal });
      });
      if (answer.KeyId !== KeyId) throw foreignKey(answer.KeyId ?? '', description);
      return openedKey(answer.Plaintext, description);
    },

    async macKey(context, id) {
      const bound = encodeFields([context.organizationId, context.configurationId, context.purpose]);
      if (macKeyId === undefined) {
        throw new DataProtectionError(
          'awsKms needs the option `macKeyId`, an HMAC_256 key of AWS KMS, to authenticate sidecars.',
          'CONFIGURATION_INVALID',
        );
      }
      if (id !== undefined) await requireOwn(id);
      const forKey = id ?? (await currentKeyId());
      // GenerateMac takes 4,096 bytes at most; a hash of the context is as good.
      const Message = deriveKey(
        Buffer.concat([encodeFields([forKey]), bound]),
        'care-commons/aws-kms/mac-message',
      );
      const answer = await session.run('Making a MAC key', async (client, abortSignal) => {
        const { GenerateMacCommand } = await loadSdk();
        const command = new GenerateMacCommand({ KeyId: macKeyId, MacAlgorithm: 'HMAC_SHA_256', Message });
        return client.send(command, { abortSignal });
      });
      return {
        keyId: forKey,
        key: deriveKey(openedKey(answer.Mac, description), 'care-commons/aws-kms/mac'),
      };
    },

    async rotate() {
      throw new DataProtectionError(
        'AWS KMS rotates a key below its ARN: switch on automatic rotation, or point the alias to a new key.',
        'CONFIGURATION_INVALID',
      );
    },

    async retire(id) {
      await requireOwn(id);
      throw notRetired(id, 'disable it in AWS KMS, and schedule its deletion once nobody has missed it');
    },
  };
}

async function loadSdk() {
  try {
    return await import('@aws-sdk/client-kms');
  } catch {
    throw missingPackage('@aws-sdk/client-kms');
  }
}

function place(arn: string): string {
  return arn.slice(0, arn.indexOf(':key/'));
}

function encryptionContext({ organizationId, configurationId, snapshotId }: KeyContext) {
  encodeFields([organizationId, configurationId, snapshotId]);
  return { scheme: SCHEME, organizationId, configurationId, snapshotId };
}

function judge(error: unknown) {
  const { name = '', $metadata, code } = fieldsOf(error);
  const status = $metadata?.httpStatusCode;
  if (name === 'CredentialsProviderError') return { kind: 'REFUSED', code: name } as const;
  if (CREDENTIAL_CODES.has(name)) return { kind: 'CREDENTIAL', code: name } as const;
  // Without a status there was no answer: the network.
  const passing = status === undefined || status >= 500 || status === 429 || PASSING_CODES.has(name);
  return { kind: passing ? 'RETRY' : 'REFUSED', code: code ?? name } as const;
}

function fieldsOf(error: unknown): {
  name?: string;
  code?: string;
  $metadata?: { httpStatusCode?: number };
} {
  return typeof error === 'object' && error !== null ? error : {};
}
