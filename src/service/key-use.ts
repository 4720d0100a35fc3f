import type { Transaction } from '../repository/database.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { KeyError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import { KEY_ROTATION_DAYS } from '../types/keys.ts';
import type { ServiceContext } from './context.ts';
import { codeOf } from './failure.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * Notes that the transaction records a data key that this key wrapped. Throws `KEY_UNAVAILABLE`, retryable, where the key
 * was retired: a process that has not heard of a rotation wraps with it still, and what it wrapped must not count.
 */
export async function requireUsableKey(
  { wrappingKeys }: Pick<ServiceContext, 'wrappingKeys'>,
  transaction: Transaction,
  keyId: string,
): Promise<void> {
  if ((await wrappingKeys.use(transaction, keyId)) === 'USABLE') return;
  throw new KeyError(
    `The key ${keyId} was retired and wraps nothing new; is this process’s key provider up to date?`,
    'KEY_UNAVAILABLE',
    { retryable: true },
  );
}

export interface KeyAge {
  /** When the provider made it; null: it cannot tell. */
  readonly createdAt: Timestamp | null;
  readonly firstUsedAt: Timestamp | null;
  readonly retiredAt: Timestamp | null;
  readonly ageDays: number | null;
}

/** What is known of a key, and how old it is by its provider or else by its first use. A provider that does not answer counts as one that cannot tell. */
export async function ageOf(
  { keys, wrappingKeys, clock }: Pick<ServiceContext, 'keys' | 'wrappingKeys' | 'clock'>,
  keyId: string,
): Promise<KeyAge> {
  const told = await keys?.keyInfo?.(keyId).catch(() => undefined);
  const createdAt = told?.createdAt ?? null;
  const { firstUsedAt, retiredAt } = (await wrappingKeys.find(keyId)) ?? {
    firstUsedAt: null,
    retiredAt: null,
  };
  const since = createdAt ?? firstUsedAt;
  const age = since === null ? null : clock.now().getTime() - Date.parse(since);
  const ageDays = age === null ? null : Math.max(0, Math.floor(age / DAY_MS));
  return { createdAt, firstUsedAt, retiredAt, ageDays };
}

/**
 * Tells, once a day, that the key of a new backup is due for rotation. The backup is as good as any: it carries no
 * warning. Never rejects.
 */
export async function remindOfRotation(
  context: ServiceContext,
  { encryptionKeyId: keyId }: BackupSnapshot,
): Promise<void> {
  if (keyId === null) return;
  try {
    const { createdAt, firstUsedAt, ageDays } = await ageOf(context, keyId);
    const since = createdAt ?? firstUsedAt;
    if (since === null || ageDays === null || ageDays < KEY_ROTATION_DAYS) return;
    const yesterday = new Date(context.clock.now().getTime() - DAY_MS).toISOString();
    if (!(await context.wrappingKeys.remind(keyId, yesterday))) return;
    context.logger.warn({ keyId, ageDays }, 'The key that backups are encrypted with is due for rotation');
    context.events.emit('keys.rotation_due', { keyId, since, ageDays });
  } catch (error) {
    context.logger.warn({ keyId, error: codeOf(error) }, 'The age of a key could not be told');
  }
}
