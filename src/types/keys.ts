import type { BackupWarning } from './backup.ts';
import type { ErrorCode } from './errors.ts';
import type { Timestamp } from './ids.ts';

/** Days after which a key is due for rotation. */
export const KEY_ROTATION_DAYS = 90;

/**
 * AVAILABLE: the newest snapshot that it wraps opens. UNAVAILABLE: the provider has it not, or another under its id.
 * UNKNOWN: nothing that counts is wrapped by it yet, the provider or the storage did not answer, or what is stored is
 * damaged.
 */
export const KEY_STATES = ['AVAILABLE', 'UNAVAILABLE', 'UNKNOWN'] as const;
export type KeyState = (typeof KEY_STATES)[number];

/** A key that kept snapshots of the organization need, or the current one. */
export interface KeyUse {
  readonly keyId: string;
  readonly current: boolean;
  /** Kept snapshots whose data key it wraps, those that run or wait for another try among them. */
  readonly snapshots: number;
  readonly oldestSnapshotAt: Timestamp | null;
  readonly newestSnapshotAt: Timestamp | null;
  /** Tried just now; the current key, where no snapshot needs it, at a data key made for that. */
  readonly state: KeyState;
  /** Why it is not AVAILABLE. */
  readonly error: ErrorCode | null;
  /** When the key was made, where the provider can tell. */
  readonly createdAt: Timestamp | null;
  /** When a backup of this installation first used it. */
  readonly firstUsedAt: Timestamp | null;
  /** When it was retired: nothing new may be wrapped by it. */
  readonly retiredAt: Timestamp | null;
  /** Whole days since it was made or, where nobody can tell, first used. */
  readonly ageDays: number | null;
}

export interface KeyStatus {
  /** null: nothing can be encrypted, since there is no key provider or it only opens. */
  readonly currentKeyId: string | null;
  /** The current one first, then by their newest snapshot. */
  readonly keys: readonly KeyUse[];
  /**
   * `KEY_TOO_OLD`: the current key is 90 days old or more. `KEY_RETIRED`: the current key was retired, and backups fail.
   * `KEY_UNAVAILABLE`: snapshots need a key that is not there.
   */
  readonly warnings: readonly BackupWarning[];
}

export interface RotatedKey {
  readonly keyId: string;
  readonly previousKeyId: string;
}

export interface RewrapKeysInput {
  /** Must be the current key: nothing is done where somebody has rotated meanwhile. */
  readonly toKeyId?: string;
}
