import type { WrappedKey } from '../types/encryption.ts';
import type { Timestamp, UUID } from '../types/ids.ts';

export type { WrappedKey };

/**
 * The key contract: envelope encryption. Data keys never leave the process unwrapped; master keys never leave the
 * provider. The suite in `test/contract/keys.ts` holds every provider to it.
 */
export interface KeyProvider {
  /** What it is, for logs: a kind and a place, never a key. */
  readonly description: string;

  /** The id of the key that `wrap` uses now. Ids are not secret: `[A-Za-z0-9._:/-]{1,255}`. */
  currentKeyId(): Promise<string>;

  /** Encrypts a 256-bit data key so that only the same provider with the same context opens it again. */
  wrap(dataKey: Uint8Array, context: KeyContext): Promise<WrappedKey>;

  /**
   * The data key again. `KEY_UNAVAILABLE` when the key is missing, is another one under the same id, or the context
   * or the wrapped bytes are not the ones that `wrap` saw; never a wrong key.
   */
  unwrap(wrapped: WrappedKey, context: KeyContext): Promise<Uint8Array>;

  /**
   * A 256-bit secret for authenticating what belongs to `context` but is written outside an archive (sidecars).
   * The same key id and context give the same secret; any other, an unrelated one. Without `keyId`, the current key.
   */
  macKey(context: MacContext, keyId?: string): Promise<MacKey>;

  /** Makes a new current key; older keys go on unwrapping. Gives the new id. */
  rotate(): Promise<string>;

  /**
   * When a key was made; undefined where the provider cannot tell. Absent: it never can. Throws `KEY_UNAVAILABLE` for
   * a key that it does not have.
   */
  keyInfo?(keyId: string): Promise<KeyInfo | undefined>;

  /**
   * Removes a key for good. Whoever calls it has made sure that nothing needs it. Durable when it resolves. Changes
   * nothing and rejects with `INVALID_STATE` for the current key, with `KEY_UNAVAILABLE` for one that is not there, and
   * with `NOT_SUPPORTED`, which says how it is done, where only the host can remove keys. Absent: likewise.
   */
  retire?(keyId: string): Promise<void>;
}

export interface KeyInfo {
  readonly createdAt: Timestamp;
}

/** What a wrapped key is bound to: it opens for this snapshot only. */
export interface KeyContext {
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  readonly snapshotId: UUID;
}

export interface MacContext {
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  /** What the secret is for, such as `sidecar`. */
  readonly purpose: string;
}

/** For what belongs to no configuration of backups. */
export const NO_CONFIGURATION: UUID = '00000000-0000-0000-0000-000000000000';

export interface MacKey {
  readonly keyId: string;
  readonly key: Uint8Array;
}
