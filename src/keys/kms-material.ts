import { hkdfSync } from 'node:crypto';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, KeyError, ValidationError } from '../types/errors.ts';
import { decodeBase64, KEY_BYTES } from './key-wrap.ts';
import { isKeyId } from './keyring.ts';
import type { WrappedKey } from './keys.ts';

/** Throws `VALIDATION_FAILED` unless it is 32 bytes. */
export function requireDataKey(dataKey: Uint8Array): void {
  if (dataKey instanceof Uint8Array && dataKey.byteLength === KEY_BYTES) return;
  const remedy = `Give ${KEY_BYTES} random bytes.`;
  throw new ValidationError('The data key', [{ path: '', message: 'Not a 256-bit key.', remedy }]);
}

/** The wrapped bytes; `KEY_UNAVAILABLE` when another kind of provider made them, or none. */
export function wrappedBytes(wrapped: WrappedKey, scheme: string): Buffer {
  const bytes = decodeBase64(wrapped.wrapped);
  if (wrapped.scheme === scheme && bytes !== undefined && bytes.byteLength > 0) return bytes;
  throw new KeyError(`The wrapped data key is not one of the scheme ${scheme}.`, 'KEY_UNAVAILABLE');
}

/** A copy of the key that a service gave back, of the one length that it can have. */
export function openedKey(bytes: Uint8Array | undefined, description: string): Uint8Array {
  if (bytes?.byteLength === KEY_BYTES) return new Uint8Array(bytes);
  throw new KeyError(`${description} gave something else than a 256-bit key.`, 'KEY_UNAVAILABLE');
}

/** The error for an id that does not belong to the configured key: it is never sent anywhere. */
export function foreignKey(keyId: string, description: string): KeyError {
  const shown = isKeyId(keyId) ? keyId : '(malformed id)';
  return new KeyError(`The key ${shown} is not one of ${description}.`, 'KEY_UNAVAILABLE');
}

/** Each field as a 4-byte big-endian length and its UTF-8: no two lists have one encoding. */
export function encodeFields(fields: readonly string[]): Buffer {
  return Buffer.concat(
    fields.map((field) => {
      if (typeof field !== 'string' || field === '' || !field.isWellFormed()) {
        const remedy = 'Give every field of it as a non-empty text.';
        const message = 'A field is missing or no text.';
        throw new ValidationError('The key context', [{ path: '', message, remedy }]);
      }
      const text = Buffer.from(field, 'utf8');
      const length = Buffer.alloc(4);
      length.writeUInt32BE(text.byteLength);
      return Buffer.concat([length, text]);
    }),
  );
}

/** HKDF-SHA256 without salt: what the service computed becomes a key for one purpose. */
export function deriveKey(secret: Uint8Array, label: string): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', secret, new Uint8Array(0), label, KEY_BYTES));
}

/** The host's credential; its failures and gaps are `CREDENTIALS_UNAVAILABLE`, without what the host threw. */
export async function askCredential<Field extends string>(
  ask: () => Promise<Credential> | Credential,
  fields: readonly Field[],
  description: string,
): Promise<Record<Field, string> & Credential> {
  const given = await askHost(ask, description);
  const found = fields.map((field) => {
    const value = given[field];
    if (typeof value === 'string' && value !== '') return [field, value] as const;
    throw new DataProtectionError(
      `The credential for ${description} lacks ${field}.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  });
  return { ...given, ...(Object.fromEntries(found) as Record<Field, string>) };
}

async function askHost(
  ask: () => Promise<Credential> | Credential,
  description: string,
): Promise<Credential> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof DataProtectionError) throw error;
    throw new DataProtectionError(
      `The credential for ${description} could not be got from the host.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
}

/** Milliseconds since 1970 of the credential's `expiresAt`, where it has one. */
export function expiryOf(credential: Credential): number | undefined {
  const at = Date.parse(credential.expiresAt ?? '');
  return Number.isNaN(at) ? undefined : at;
}

export function missingPackage(name: string): DataProtectionError {
  return new DataProtectionError(
    `The package ${name} is not installed: npm install ${name}`,
    'DEPENDENCY_MISSING',
  );
}
