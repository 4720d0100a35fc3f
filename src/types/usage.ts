import type { StorageType } from './backup.ts';
import type { ErrorCode } from './errors.ts';
import type { Timestamp, UUID } from './ids.ts';

/** Which usage is asked for. */
export interface StorageUsageInput {
  /** Left out: every configuration that the actor sees, those that were deleted included while snapshots remain. */
  readonly configurationId?: UUID;
  /** true: the storages themselves are listed and compared with the catalog. Takes as long as the listing. */
  readonly measure?: boolean;
}

/** Snapshots that count, from the catalog: COMPLETED and COMPLETED_WITH_WARNINGS, not deleted. Bytes without manifests. */
export interface UsageTotals {
  readonly snapshots: number;
  /** Objects and stored bytes of the snapshots, each once however many copies there are. */
  readonly objects: number;
  readonly storedBytes: number;
  /** Before compression and encryption. */
  readonly rawBytes: number;
  /** Raw ÷ stored; null where nothing is stored. */
  readonly compressionRatio: number | null;
  readonly oldestSnapshotAt: Timestamp | null;
  readonly newestSnapshotAt: Timestamp | null;
  /** What all of it takes up: every copy that is known, and what moved snapshots left at their former places. */
  readonly occupiedBytes: number;
  /** What copies may still take up that are not known to be whole. */
  readonly pendingBytes: number;
}

/** What lies in one place in one storage class. A place is a bucket, folder or share with its prefix. */
export interface PlaceUsage {
  /** What the storage calls itself; no credential. */
  readonly description: string;
  readonly type: StorageType;
  /** The class or tier that the destination names; null: the storage's default. */
  readonly storageClass: string | null;
  readonly snapshots: number;
  /** Known to be there: for a copy of MULTI what a replication has seen. */
  readonly objects: number;
  readonly bytes: number;
  /** What a copy of MULTI that is not known to be whole may still take up. */
  readonly pendingBytes: number;
  /** Left behind by migrated snapshots, until `removeMigrated`. */
  readonly formerObjects: number;
  readonly formerBytes: number;
}

export interface ConfigurationUsage extends UsageTotals {
  readonly configurationId: UUID;
  readonly name: string;
  /** Its snapshots stay, and take up space. */
  readonly deleted: boolean;
  readonly places: readonly PlaceUsage[];
}

/** How much of a quota is used, by all configurations of the organization. */
export interface QuotaUsage {
  readonly description: string;
  readonly type: StorageType;
  readonly quotaBytes: number;
  /** Known, pending and former bytes, and what running backups have stored so far. */
  readonly usedBytes: number;
  /** Used ÷ quota. */
  readonly share: number;
}

/** What a storage itself lists below the organization's prefix, or the configuration's. */
export interface MeasuredPlace {
  readonly description: string;
  readonly type: StorageType;
  /** The rest is null or zero: the storage could not be listed. */
  readonly error: ErrorCode | null;
  /** All that was listed; manifests, sidecars and checkpoints of the audit log included. */
  readonly objects: number;
  readonly bytes: number;
  /**
   * Of these, what belongs to no snapshot of the catalog, neither to one that counts or runs nor to one that was moved
   * away: remains of failed attempts, and their claims. null for an actor who is limited to branches: he cannot tell
   * remains from what is not his to see, so only what belongs to his snapshots is counted.
   */
  readonly unaccounted: { readonly objects: number; readonly bytes: number } | null;
  /** Snapshots that should have objects in this place, and have none. */
  readonly missingSnapshots: number;
}

export interface StorageUsage extends UsageTotals {
  readonly asOf: Timestamp;
  readonly configurations: readonly ConfigurationUsage[];
  readonly places: readonly PlaceUsage[];
  /** Of the present destinations of these configurations; empty for an actor who is limited to branches. */
  readonly quotas: readonly QuotaUsage[];
  /** null: was not asked for. */
  readonly measured: readonly MeasuredPlace[] | null;
}

export interface StorageAnalyticsInput {
  readonly configurationId?: UUID;
  /** Calendar months up to the present one, 1 to 120; 12 when left out. */
  readonly months?: number;
}

/** A calendar month in the zone of each configuration. */
export interface MonthGrowth {
  /** `2026-03`. */
  readonly month: string;
  readonly snapshots: number;
  readonly addedBytes: number;
  readonly addedObjects: number;
  /** Stored bytes of an average snapshot of the month; null without one. */
  readonly averageSnapshotBytes: number | null;
  readonly removedSnapshots: number;
  readonly removedBytes: number;
  /** What the snapshots came to at the end of the month, or now. */
  readonly storedBytesAtEnd: number;
}

/** How fast it grows, over the last 90 days, or since the first snapshot where that is later (a day at least). */
export interface GrowthRate {
  readonly days: number;
  /** Added minus removed; negative where it shrinks. */
  readonly bytesPerDay: number;
  /** What grows in 30 days ÷ what was stored when these days began; null where nothing was. */
  readonly per30Days: number | null;
}

export interface QuotaProjection extends QuotaUsage {
  readonly bytesPerDay: number;
  /** When the quota will be used up at the present rate; null: never, or not within a hundred years. */
  readonly reachedAt: Timestamp | null;
}

/** What one GB costs in a month, where GB = 10^9 bytes. */
export interface StoragePrice {
  readonly perGbMonth: number;
  /** For a thousand objects written. */
  readonly perThousandWrites?: number;
  /** ISO 4217; USD when left out. Amounts of different currencies are never added. */
  readonly currency?: string;
}

/**
 * Prices by storage class (`GLACIER`), or by type (`AWS_S3`) for everything of that type whose class has no price.
 * GB = 10^9 bytes (SI, IEC 80000-13). A provider that bills per 2^30 bytes asks for 1.073741824 times less per GB: give
 * its price divided by that.
 */
export type StoragePrices = { readonly [typeOrClass: string]: StoragePrice };

/** What one place costs in a month, in amounts that are not rounded. */
export interface PlaceCost {
  readonly description: string;
  readonly type: StorageType;
  readonly storageClass: string | null;
  /** Bytes that are paid for: known and former ones. */
  readonly bytes: number;
  /** Objects written in the last 30 days, manifests included. */
  readonly writes: number;
  readonly price: StoragePrice;
  readonly currency: string;
  readonly storageCost: number;
  readonly writesCost: number;
  readonly cost: number;
}

export interface StorageCost {
  /** In all, by currency. */
  readonly perMonth: { readonly [currency: string]: number };
  readonly places: readonly PlaceCost[];
  /** Places without a price: they cost something that nobody knows, and stand in no sum. */
  readonly unpriced: readonly Pick<PlaceCost, 'description' | 'type' | 'storageClass' | 'bytes' | 'writes'>[];
}

export interface StorageAnalytics {
  readonly asOf: Timestamp;
  readonly now: UsageTotals;
  /** Oldest first; months without a backup stand there with zeros. */
  readonly months: readonly MonthGrowth[];
  readonly growth: GrowthRate;
  /** Empty for an actor who is limited to branches. */
  readonly quotas: readonly QuotaProjection[];
  readonly cost: StorageCost;
}
