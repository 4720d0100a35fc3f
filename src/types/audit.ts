import type { ListInput } from './backup.ts';
import type { Json, Timestamp, UUID } from './ids.ts';

/** An entry of an organization's audit log: `hash` covers everything of it, `prevHash` is that of the entry before. */
export interface AuditEntry {
  readonly organizationId: UUID;
  /** 1 for the organization's first; without gaps. */
  readonly sequence: number;
  readonly timestamp: Timestamp;
  /** Such as `snapshot.verified`. */
  readonly action: string;
  readonly userId: UUID;
  /** Such as `backup_snapshot`. */
  readonly resourceType: string;
  readonly resourceId: string;
  /** Ids, names and counts: never a row's content, a key or a credential. */
  readonly details: { readonly [key: string]: Json };
  /** SHA-256, hexadecimal. */
  readonly prevHash: string;
  readonly hash: string;
}

/** Entries from `from` until before `to`. */
export interface ListAuditLogInput extends ListInput {
  readonly resourceType?: string;
  readonly resourceId?: string;
  readonly action?: string;
  readonly from?: Timestamp;
  readonly to?: Timestamp;
}

/** What the chain was at a moment: the hash of its last entry, which covers all before it. */
export interface AuditCheckpoint {
  readonly organizationId: UUID;
  readonly sequence: number;
  readonly hash: string;
  readonly writtenAt: Timestamp;
  /** Whether a key vouches for it. Without a key provider it has a digest only, which anybody can make. */
  readonly authenticated: boolean;
  /** Its object in the default storage; null: there is no default destination. */
  readonly storageKey: string | null;
}

/**
 * MISSING: an entry is not there. ALTERED: an entry is not what its hash says. NOT_LINKED: it does not follow from the one
 * before. HEAD_DIFFERS: the last entry is not the one that was appended last. NOT_REMOVED: an entry stands where pruning
 * removed all. CHECKPOINT_DIFFERS: an entry is not the one that a checkpoint saw. CHECKPOINT_BEYOND_END: a checkpoint saw
 * entries that are not there any more. CHECKPOINT_FORGED: a checkpoint is damaged, or not made with its key.
 * CHECKPOINT_KEY_UNKNOWN: the key provider does not have the key that a checkpoint names.
 */
export const AUDIT_PROBLEMS = [
  'MISSING',
  'ALTERED',
  'NOT_LINKED',
  'HEAD_DIFFERS',
  'NOT_REMOVED',
  'CHECKPOINT_DIFFERS',
  'CHECKPOINT_BEYOND_END',
  'CHECKPOINT_FORGED',
  'CHECKPOINT_KEY_UNKNOWN',
] as const;
export type AuditProblemReason = (typeof AUDIT_PROBLEMS)[number];

/** The first entry, or the first checkpoint by the entry that it is of, that is wrong. */
export interface AuditProblem {
  readonly sequence: number;
  readonly reason: AuditProblemReason;
}

/** What `verifyAuditLog` found. */
export interface AuditVerdict {
  readonly valid: boolean;
  /** null: none. */
  readonly problem: AuditProblem | null;
  readonly verifiedAt: Timestamp;
  /** The first entry that must be there: 1, or the one behind what was pruned. */
  readonly firstSequence: number;
  /** Entries, from there on, that are right: all of them, or those before the problem. */
  readonly entries: number;
  /** Of the last entry that is right; 64 zeros where there is none. null where something is wrong. */
  readonly head: string | null;
  readonly checkpoints: {
    readonly inDatabase: number;
    /** null: there is no default destination. */
    readonly inStorage: number | null;
    /** In the database and not in the default storage: somebody removed them, or the default was another. */
    readonly missingInStorage: number;
    /**
     * Up to this entry a key vouches for the log: whoever has the database alone could not have made it anew. What is
     * behind it, or all where it is null, is chained and no more. Checkpoints are made daily: one that falls back is an alarm.
     */
    readonly authenticatedThrough: number | null;
  };
}

export interface PruneAuditLogInput {
  /** Entries from before this moment go. */
  readonly before: Timestamp;
  /** Days that entries must be kept, 1 or more: `before` must lie as far back. HIPAA: 2,190 (6 years). */
  readonly retentionDays: number;
}

export interface PrunedAuditLog {
  readonly removed: number;
  /** The last entry that was removed; null: none was. */
  readonly through: number | null;
}
