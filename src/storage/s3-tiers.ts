import type { HeadObjectCommandOutput, RestoreRequest } from '@aws-sdk/client-s3';
import { DataProtectionError } from '../types/errors.ts';
import { assertObjectKey } from './object-key.ts';
import type { S3Caller } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';
import type { ArchiveTiers, StorageCall, TierState } from './storage.ts';

/** Classes that need a thaw. GLACIER_IR does not; INTELLIGENT_TIERING says it by `ArchiveStatus`. */
const ARCHIVE_CLASSES: ReadonlySet<string | undefined> = new Set(['GLACIER', 'DEEP_ARCHIVE']);

/** The head of an object; `STORAGE_NOT_FOUND` without one. */
export type Head = (key: string, call: StorageCall) => Promise<HeadObjectCommandOutput>;

export function s3Tiers(caller: S3Caller, head: Head): ArchiveTiers {
  return {
    async state(key, options = {}) {
      assertObjectKey(key);
      return stateOf(await head(key, options));
    },

    async thaw(key, { signal, days }) {
      assertObjectKey(key);
      if (!Number.isSafeInteger(days) || days < 1) {
        throw new DataProtectionError('`days` of a thaw is a whole number from 1.', 'VALIDATION_FAILED');
      }
      const info = await head(key, { signal });
      if (!isArchived(info)) return;
      await caller.call({ operation: 'thaw', key }, signal, async (client, http) => {
        try {
          const input = { Bucket: caller.bucket, Key: key, RestoreRequest: restoreRequest(info, days) };
          await client.restoreObject(input, http);
        } catch (error) {
          if (failureOf(error).name !== 'RestoreAlreadyInProgress') throw error;
        }
      });
    },
  };
}

function stateOf(info: HeadObjectCommandOutput): TierState {
  if (!isArchived(info)) return 'READABLE';
  if (info.Restore === undefined) return 'ARCHIVED';
  return info.Restore.includes('ongoing-request="true"') ? 'THAWING' : 'READABLE';
}

function isArchived({ StorageClass, ArchiveStatus }: HeadObjectCommandOutput): boolean {
  return ARCHIVE_CLASSES.has(StorageClass) || ArchiveStatus !== undefined;
}

/** From INTELLIGENT_TIERING an object comes back for good: a number of days is refused. */
function restoreRequest({ StorageClass }: HeadObjectCommandOutput, days: number): RestoreRequest {
  const speed = { GlacierJobParameters: { Tier: 'Standard' } } as const;
  return StorageClass === 'INTELLIGENT_TIERING' ? speed : { Days: days, ...speed };
}
