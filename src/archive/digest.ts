import { createHash, timingSafeEqual } from 'node:crypto';
import { Blake3Hasher } from '@napi-rs/blake-hash';
import type { ChecksumAlgorithm } from '../types/encryption.ts';

/** Bytes of a digest. */
export const DIGEST_SIZES: Readonly<Record<ChecksumAlgorithm, number>> = {
  SHA256: 32,
  SHA512: 64,
  BLAKE3: 32,
};

/** The digest of the pieces one after another, lower-case hexadecimal. */
export function digestHex(algorithm: ChecksumAlgorithm, pieces: readonly Uint8Array[]): string {
  const hash = hasher(algorithm);
  for (const piece of pieces) hash.update(piece);
  return hash.digest('hex');
}

function hasher(algorithm: ChecksumAlgorithm): {
  update(bytes: Uint8Array): unknown;
  digest(format: 'hex'): string;
} {
  switch (algorithm) {
    case 'SHA256':
      return createHash('sha256');
    case 'SHA512':
      return createHash('sha512');
    case 'BLAKE3':
      return new Blake3Hasher();
  }
}

/** SHA-256 of the bytes. */
export function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}

/** Whether both are the same bytes; takes as long wherever they differ. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
