import {
  createCipheriv,
  createDecipheriv,
  createHash,
  hkdfSync,
  type KeyObject,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto';
import { KeyError, ValidationError } from '../types/errors.ts';
import type { KeyContext, MacContext, WrappedKey } from './keys.ts';

/**
 * How a 256-bit master key that this process holds wraps data keys. `wrapped` is base64 of
 *
 * ```
 * nonce (12) | commitment (32) | AES-256-GCM ciphertext of the data key (32) | tag (16)
 * ```
 *
 * The AES key and the commitment are HKDF-SHA256 of the master key (no salt); `info` is a label of each and the
 * SHA-256 of the scheme, the key id and the whole context; what was hashed is the additional data. AES-GCM alone does not commit
 * to its key (one ciphertext can open under two keys); the commitment does, so a wrong key is seen before decryption.
 */
export interface WrapScheme {
  readonly name: string;
  /** The start of every HKDF `info`: keys of two schemes have nothing in common. */
  readonly label: string;
  /** Who wraps with it, for messages. */
  readonly maker: string;
}

const LOCAL_KEYRING: WrapScheme = {
  name: 'local-aes-256-gcm-v1',
  label: 'care-commons/local-keyring',
  maker: 'local keyring',
};

/** The master key is Argon2id of a passphrase; its id says salt and parameters (`passphrase-key-id.ts`). */
export const PASSPHRASE: WrapScheme = {
  name: 'passphrase-aes-256-gcm-v1',
  label: 'care-commons/passphrase',
  maker: 'passphrase',
};

export const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const CIPHERTEXT_AT = NONCE_BYTES + KEY_BYTES;
const TAG_AT = CIPHERTEXT_AT + KEY_BYTES;
const WRAPPED_BYTES = TAG_AT + TAG_BYTES;

/** Throws `VALIDATION_FAILED` when the data key is not 32 bytes or the context has an empty field. */
export function wrapDataKey(
  master: KeyObject,
  keyId: string,
  dataKey: Uint8Array,
  context: KeyContext,
  scheme = LOCAL_KEYRING,
): WrappedKey {
  if (!(dataKey instanceof Uint8Array) || dataKey.byteLength !== KEY_BYTES) {
    const remedy = `Give ${KEY_BYTES} random bytes.`;
    throw new ValidationError('The data key', [{ path: '', message: 'Not a 256-bit key.', remedy }]);
  }
  const bound = encodeContext(scheme, keyId, context);
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', derive(scheme, master, 'wrap', bound), nonce);
  cipher.setAAD(bound);
  const ciphertext = Buffer.concat([cipher.update(dataKey), cipher.final()]);
  const commitment = derive(scheme, master, 'commitment', bound);
  const wrapped = Buffer.concat([nonce, commitment, ciphertext, cipher.getAuthTag()]);
  return { keyId, scheme: scheme.name, wrapped: wrapped.toString('base64') };
}

/** Throws `KEY_UNAVAILABLE` unless the master key, the key id, the context and the bytes are those of the wrapping. */
export function unwrapDataKey(
  master: KeyObject,
  wrapped: WrappedKey,
  context: KeyContext,
  scheme = LOCAL_KEYRING,
): Uint8Array {
  const bytes = decodeBase64(wrapped.wrapped);
  if (wrapped.scheme !== scheme.name || bytes?.byteLength !== WRAPPED_BYTES) {
    throw new KeyError(`The wrapped data key is not one that a ${scheme.maker} made.`, 'KEY_UNAVAILABLE');
  }
  const bound = encodeContext(scheme, wrapped.keyId, context);
  const commitment = bytes.subarray(NONCE_BYTES, CIPHERTEXT_AT);
  if (!timingSafeEqual(commitment, derive(scheme, master, 'commitment', bound)))
    throw notTheOne(wrapped.keyId, scheme);
  const decipher = createDecipheriv(
    'aes-256-gcm',
    derive(scheme, master, 'wrap', bound),
    bytes.subarray(0, NONCE_BYTES),
    {
      authTagLength: TAG_BYTES,
    },
  );
  decipher.setAAD(bound);
  decipher.setAuthTag(bytes.subarray(TAG_AT));
  const opened = decipher.update(bytes.subarray(CIPHERTEXT_AT, TAG_AT));
  try {
    decipher.final();
  } catch {
    throw notTheOne(wrapped.keyId, scheme);
  }
  return new Uint8Array(opened);
}

/** 32 bytes that belong to the master key, its id, the organization, the configuration and the purpose. */
export function deriveMacKey(
  master: KeyObject,
  keyId: string,
  context: MacContext,
  scheme = LOCAL_KEYRING,
): Uint8Array {
  const bound = encodeFields(scheme, [
    keyId,
    context.organizationId,
    context.configurationId,
    context.purpose,
  ]);
  return new Uint8Array(derive(scheme, master, 'mac', bound));
}

/** A public name for a key that came without one; another key has another name. */
export function fingerprint(master: KeyObject): string {
  return derive(LOCAL_KEYRING, master, 'fingerprint', encodeFields(LOCAL_KEYRING, []))
    .subarray(0, 8)
    .toString('hex');
}

/** The bytes of canonical, padded base64; undefined for anything else. */
export function decodeBase64(text: unknown): Buffer | undefined {
  if (typeof text !== 'string') return undefined;
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

function derive(scheme: WrapScheme, master: KeyObject, label: string, bound: Uint8Array): Buffer {
  // Hashed because Node takes at most 1,024 bytes of info.
  const digest = createHash('sha256').update(bound).digest();
  const info = Buffer.concat([encodeFields(scheme, [scheme.label, label]), digest]);
  return Buffer.from(hkdfSync('sha256', master, new Uint8Array(0), info, KEY_BYTES));
}

function encodeContext(scheme: WrapScheme, keyId: string, context: KeyContext): Buffer {
  return encodeFields(scheme, [keyId, context.organizationId, context.configurationId, context.snapshotId]);
}

/** The scheme and the fields, each as a 4-byte big-endian length and its UTF-8: no two lists have one encoding. */
function encodeFields(scheme: WrapScheme, fields: readonly string[]): Buffer {
  const parts = [scheme.name, ...fields].map((field) => {
    if (typeof field !== 'string' || field === '' || !field.isWellFormed()) {
      const remedy = 'Give every field of it as a non-empty text.';
      throw new ValidationError('The key context', [
        { path: '', message: 'A field is missing or no text.', remedy },
      ]);
    }
    const text = Buffer.from(field, 'utf8');
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.byteLength);
    return Buffer.concat([length, text]);
  });
  return Buffer.concat(parts);
}

function notTheOne(keyId: string, { maker }: WrapScheme): KeyError {
  return new KeyError(
    `The key ${JSON.stringify(keyId)} of this ${maker} is not the one that wrapped this data key, or it was wrapped for another snapshot, or its bytes were altered.`,
    'KEY_UNAVAILABLE',
  );
}
