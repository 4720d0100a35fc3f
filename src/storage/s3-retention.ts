import type { ObjectLockRetention } from '@aws-sdk/client-s3';
import type { ObjectLock } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import { assertObjectKey } from './object-key.ts';
import type { S3Caller } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';
import type { Head } from './s3-tiers.ts';
import { wholeSeconds } from './s3-write-options.ts';
import type { ObjectRetention } from './storage.ts';

/** Locks of S3 Object Lock: on the present version, by its id. */
export function s3Retention(caller: S3Caller, head: Head, { mode }: ObjectLock): ObjectRetention {
  async function present(key: string, signal: AbortSignal | undefined) {
    assertObjectKey(key);
    const { VersionId } = await head(key, { signal });
    return { Bucket: caller.bucket, Key: key, ...(VersionId === undefined ? {} : { VersionId }) };
  }

  type Version = Awaited<ReturnType<typeof present>>;

  async function lockOf(version: Version, signal: AbortSignal | undefined): Promise<ObjectLockRetention> {
    const call = { operation: 'read the lock', key: version.Key };
    return caller.call(call, signal, async (client, http) => {
      try {
        return (await client.getObjectRetention(version, http)).Retention ?? {};
      } catch (error) {
        if (failureOf(error).name === 'NoSuchObjectLockConfiguration') return {};
        throw error;
      }
    });
  }

  async function holdOf(version: Version, signal: AbortSignal | undefined): Promise<boolean> {
    const call = { operation: 'read the legal hold', key: version.Key };
    return caller.call(call, signal, async (client, http) => {
      try {
        return (await client.getObjectLegalHold(version, http)).LegalHold?.Status === 'ON';
      } catch (error) {
        if (failureOf(error).name === 'NoSuchObjectLockConfiguration') return false;
        throw error;
      }
    });
  }

  return {
    async retain(key, until, { signal } = {}) {
      if (Number.isNaN(until.getTime())) {
        throw new DataProtectionError('The end of a lock is a date.', 'VALIDATION_FAILED');
      }
      const version = await present(key, signal);
      const lock = await lockOf(version, signal);
      // What is locked for compliance stays so: the provider refuses to weaken it.
      const Mode = lock.Mode === 'COMPLIANCE' ? lock.Mode : mode;
      const suffices = (now: ObjectLockRetention) =>
        reaches(now, until) && (now.Mode === 'COMPLIANCE' || now.Mode === Mode);
      if (suffices(lock)) return;
      const end = Math.max(until.getTime(), lock.RetainUntilDate?.getTime() ?? 0);
      const Retention = { Mode, RetainUntilDate: wholeSeconds(end) };
      try {
        await caller.call({ operation: 'lock', key }, signal, (client, http) =>
          client.putObjectRetention({ ...version, Retention }, http),
        );
      } catch (error) {
        // Refused as a shortening, where somebody else has set a longer lock since.
        if (signal?.aborted || !suffices(await lockOf(version, signal))) throw error;
      }
    },

    async hold(key, state, { signal } = {}) {
      const version = await present(key, signal);
      await caller.call({ operation: 'hold', key }, signal, (client, http) =>
        client.putObjectLegalHold({ ...version, LegalHold: { Status: state } }, http),
      );
    },

    async state(key, { signal } = {}) {
      const version = await present(key, signal);
      const [lock, legalHold] = await Promise.all([lockOf(version, signal), holdOf(version, signal)]);
      const { VersionId = null } = version;
      return { retainUntil: lock.RetainUntilDate ?? null, legalHold, versionId: VersionId };
    },
  };
}

function reaches({ RetainUntilDate }: ObjectLockRetention, until: Date): boolean {
  return RetainUntilDate !== undefined && RetainUntilDate.getTime() >= until.getTime();
}
