import type { KeyProvider } from '../keys/keys.ts';
import type { Transaction } from '../repository/database.ts';
import type { StorageJob } from '../types/backup.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import type { RewrapKeysInput, RotatedKey } from '../types/keys.ts';
import type { Asking } from './asking.ts';
import { keyFailure } from './failure.ts';
import { requestStorageJob } from './storage-jobs.ts';

/** Throws `FORBIDDEN` unless the actor sees the whole organization: its keys serve all of it. */
export function requireWholeOrganization({ actor }: Asking): void {
  if (actor.branchIds === 'ALL') return;
  throw new DataProtectionError('Keys serve the whole organization; the actor sees branches', 'FORBIDDEN');
}

/** Makes a new current key: see `BackupService.rotateKey`. */
export async function rotateKey(asking: Asking): Promise<RotatedKey> {
  const { context } = asking;
  const keys = requireKeys(asking);
  const previousKeyId = await keys.currentKeyId().catch(throwKeyFailure);
  // Entered before and after: the provider knows no transaction.
  await entered(asking, 'keys.rotation_requested', previousKeyId, {});
  const keyId = await keys.rotate().catch(async (error: unknown) => {
    const failure = keyFailure(error);
    await entered(asking, 'keys.rotation_failed', previousKeyId, { code: failure.code });
    throw failure;
  });
  await entered(asking, 'keys.rotated', keyId, { previousKeyId });
  context.events.emit('keys.rotated', { keyId, previousKeyId });
  return { keyId, previousKeyId };
}

/** Asks for the re-wrapping of what is wrapped otherwise, by configuration: see `BackupService.rewrapKeys`. */
export async function requestRewrapping(
  asking: Asking,
  input: RewrapKeysInput,
): Promise<readonly StorageJob[]> {
  const { context, actor, system } = asking;
  const { organizationId } = actor;
  const current = await requireKeys(asking).currentKeyId().catch(throwKeyFailure);
  if (input.toKeyId !== undefined && input.toKeyId !== current) {
    throw new DataProtectionError(
      `\`toKeyId\` is not the current key, which is ${current}: only that one wraps`,
      'INVALID_STATE',
    );
  }
  const jobs: StorageJob[] = [];
  for (const id of await system.findConfigsWrappedOtherwise(current)) {
    const job = await requestStorageJob(context, {
      kind: 'REWRAPPING',
      configuration: { id, organizationId },
      snapshotId: null,
      input: { ...input },
      requestedBy: actor.userId,
    });
    jobs.push(job);
  }
  return jobs;
}

/** Has a key removed that nothing needs: see `BackupService.retireKey`. */
export async function retireKey(asking: Asking, keyId: string): Promise<void> {
  const { context } = asking;
  const keys = requireKeys(asking);
  if ((await keys.currentKeyId().catch(throwKeyFailure)) === keyId) {
    throw new DataProtectionError(
      `${keyId} is the current key; rotate before it is retired`,
      'INVALID_STATE',
    );
  }
  const { retiredBefore } = await context.db.withTransaction(async (transaction) => {
    const { organizationId } = asking.actor;
    const need = await context.wrappingKeys.retire(transaction, keyId, organizationId);
    if (need.own + need.others > 0) throw inUse(keyId, need);
    await append(asking, transaction, 'keys.retirement_begun', keyId, {});
    return need;
  });
  try {
    await remove(keys, keyId);
  } catch (error) {
    const failure = keyFailure(error);
    // An earlier call that was cut off, or one at the same time, had removed it.
    const gone = retiredBefore && failure.code === 'KEY_UNAVAILABLE' && !failure.retryable;
    if (!gone) throw await givenUp(asking, keyId, failure);
  }
  await entered(asking, 'keys.retired', keyId, {});
  context.events.emit('keys.retired', { keyId });
}

async function remove(keys: KeyProvider, keyId: string): Promise<void> {
  if (keys.retire !== undefined) return keys.retire(keyId);
  throw new DataProtectionError(
    `${keys.description} removes no keys: disable or remove ${keyId} there`,
    'NOT_SUPPORTED',
  );
}

/**
 * Unless it has become the current one again, the key stays retired where it could not be removed: whoever removes it by
 * hand must be as sure that nothing new is wrapped by it.
 */
async function givenUp(
  asking: Asking,
  keyId: string,
  failure: DataProtectionError,
): Promise<DataProtectionError> {
  const { code, retryable } = failure;
  await asking.context.db.withTransaction(async (transaction) => {
    if (code === 'INVALID_STATE' && !retryable)
      await asking.context.wrappingKeys.reinstate(transaction, keyId);
    await append(asking, transaction, 'keys.retirement_failed', keyId, { code });
  });
  return failure;
}

function inUse(keyId: string, { own, others }: { readonly own: number; readonly others: number }): KeyError {
  const needs = [
    ...(own === 0 ? [] : [`${own} kept snapshot${own === 1 ? '' : 's'} of the organization`]),
    ...(others === 0 ? [] : ['snapshots of other organizations']),
  ];
  return new KeyError(`The key ${keyId} was not retired: ${needs.join(' and ')} need it`, 'KEY_IN_USE');
}

function requireKeys({ context }: Asking): KeyProvider {
  if (context.keys !== undefined) return context.keys;
  throw new DataProtectionError('createDataProtection was given no `keys`', 'CONFIGURATION_INVALID');
}

const throwKeyFailure = (error: unknown): never => {
  throw keyFailure(error);
};

type Details = { readonly [key: string]: Json };

const entered = (asking: Asking, action: string, keyId: string, details: Details): Promise<void> =>
  asking.context.db.withTransaction((transaction) => append(asking, transaction, action, keyId, details));

async function append(
  { context, actor }: Asking,
  transaction: Transaction,
  action: string,
  keyId: string,
  details: Details,
): Promise<void> {
  await context.audit.append(transaction, {
    organizationId: actor.organizationId,
    action,
    userId: actor.userId,
    resourceType: 'wrapping_key',
    resourceId: keyId,
    details,
  });
}
