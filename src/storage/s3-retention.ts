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

  function suffices({ Mode, RetainUntilDate }: ObjectLockRetention, until: Date): boolean {
    if (RetainUntilDate === undefined || RetainUntilDate.getTime() < until.getTime()) return false;
    return Mode === 'COMPLIANCE' || Mode === mode;
  }

  /** What is locked for compliance stays so, and nothing is shortened. */
  function longer({ Mode, RetainUntilDate }: ObjectLockRetention, until: Date): ObjectLockRetention {
    const end = Math.max(until.getTime(), RetainUntilDate?.getTime() ?? 0);
    return { Mode: Mode === 'COMPLIANCE' ? Mode : mode, RetainUntilDate: wholeSeconds(end) };
  }

  return {
    async retain(key, until, { signal } = {}) {
      if (Number.isNaN(until.getTime())) {
        throw new DataProtectionError('The end of a lock is a date.', 'VALIDATION_FAILED');
      }
      const version = await present(key, signal);
      const lock = await lockOf(version, signal);
      if (suffices(lock, until)) return;
      const set = (now: ObjectLockRetention, bypass: { readonly BypassGovernanceRetention?: true }) =>
        caller.call({ operation: 'lock', key }, signal, (client, http) =>
          client.putObjectRetention({ ...version, Retention: longer(now, until), ...bypass }, http),
        );
      try {
        await set(lock, {});
      } catch (error) {
        signal?.throwIfAborted();
        // Refused as a shortening, where somebody else has set a longer lock since.
        const now = await lockOf(version, signal);
        if (suffices(now, until)) return;
        // Some stores want the permission to bypass a lock for governance also where it becomes one for compliance.
        const refused = error instanceof DataProtectionError && error.code === 'STORAGE_DENIED';
        if (!refused || now.Mode !== 'GOVERNANCE' || mode === 'GOVERNANCE') throw error;
        await set(now, { BypassGovernanceRetention: true });
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
