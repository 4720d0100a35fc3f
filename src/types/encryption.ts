/** A data key as it may be stored: only the key provider that wrapped it opens it again. */
export interface WrappedKey {
  readonly keyId: string;
  /** Which scheme wrapped it, such as `local-aes-256-gcm-v1`. */
  readonly scheme: string;
  /** The wrapped bytes, base64. */
  readonly wrapped: string;
}

/** The only cipher of archive v1: AES-256-GCM with a random 96-bit nonce per segment. */
export const ENCRYPTION_ALGORITHMS = ['AES-256-GCM'] as const;
export type EncryptionAlgorithm = (typeof ENCRYPTION_ALGORITHMS)[number];

export const COMPRESSION_ALGORITHMS = ['ZSTD', 'GZIP', 'BROTLI', 'LZ4', 'NONE'] as const;
export type CompressionAlgorithm = (typeof COMPRESSION_ALGORITHMS)[number];

export const CHECKSUM_ALGORITHMS = ['SHA256', 'SHA512', 'BLAKE3'] as const;
export type ChecksumAlgorithm = (typeof CHECKSUM_ALGORITHMS)[number];
