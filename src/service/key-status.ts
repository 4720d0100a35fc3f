import { randomBytes } from 'node:crypto';
import type { KeyProvider } from '../keys/keys.ts';
import type { KeptByKey } from '../repository/key-uses.ts';
import type { BackupWarning } from '../types/backup.ts';
import { DataProtectionError, type ErrorCode, KeyError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { KEY_ROTATION_DAYS, type KeyState, type KeyStatus, type KeyUse } from '../types/keys.ts';
import type { Asking } from './asking.ts';
import { keyFailure } from './failure.ts';
import { ageOf } from './key-use.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';

/** What the organization’s kept snapshots need of keys, and the state of each key: see `BackupService.getKeyStatus`. */
export async function keyStatus(asking: Asking, signal: AbortSignal): Promise<KeyStatus> {
  const { context, system } = asking;
  const kept = await system.listKeptByKey();
  const currentKeyId = await currentKey(context.keys);
  const needed = new Map<string, KeptByKey | undefined>([
    ...(currentKeyId === null ? [] : [[currentKeyId, undefined] as const]),
    ...kept.map((one) => [one.keyId, one] as const),
  ]);
  const keys: KeyUse[] = [];
  for (const [keyId, use] of needed) {
    keys.push({
      keyId,
      current: keyId === currentKeyId,
      snapshots: use?.snapshots ?? 0,
      oldestSnapshotAt: use?.oldestSnapshotAt ?? null,
      newestSnapshotAt: use?.newestSnapshotAt ?? null,
      ...(await stateOf(asking, use, keyId === currentKeyId ? 'CURRENT' : 'OLDER', signal)),
      ...(await ageOf(context, keyId)),
    });
  }
  return { currentKeyId, keys, warnings: keys.flatMap(warningsOf) };
}

/** null where nothing can be wrapped. */
async function currentKey(keys: KeyProvider | undefined): Promise<string | null> {
  try {
    return (await keys?.currentKeyId()) ?? null;
  } catch (error) {
    if (error instanceof DataProtectionError && error.code === 'CONFIGURATION_INVALID') return null;
    throw keyFailure(error);
  }
}

type Probe = Pick<KeyUse, 'state' | 'error'>;

async function stateOf(
  { context, actor, system }: Asking,
  use: KeptByKey | undefined,
  key: 'CURRENT' | 'OLDER',
  signal: AbortSignal,
): Promise<Probe> {
  try {
    const newest = use?.newestId == null ? undefined : await system.findSnapshotById(use.newestId);
    if (newest !== undefined) await openSnapshotArchive(context, newest, signal);
    else if (key === 'CURRENT') await tryKey(context.keys, actor.organizationId);
    else return { state: 'UNKNOWN', error: null };
    return { state: 'AVAILABLE', error: null };
  } catch (error) {
    signal.throwIfAborted();
    const { code, retryable } = keyFailure(error);
    return { state: stateAfter(code, retryable ? 'MAY_PASS' : 'STAYS'), error: code };
  }
}

const stateAfter = (code: ErrorCode, failure: 'MAY_PASS' | 'STAYS'): KeyState =>
  code === 'KEY_UNAVAILABLE' && failure === 'STAYS' ? 'UNAVAILABLE' : 'UNKNOWN';

/** Whether the current key opens what it wraps. */
async function tryKey(keys: KeyProvider | undefined, id: UUID): Promise<void> {
  if (keys === undefined) throw new KeyError('There is no key provider', 'KEY_UNAVAILABLE');
  const nowhere = { organizationId: id, configurationId: id, snapshotId: id };
  const dataKey = randomBytes(32);
  const opened = await keys.unwrap(await keys.wrap(dataKey, nowhere), nowhere);
  if (!dataKey.equals(opened)) throw new KeyError('The key gives another one back', 'KEY_UNAVAILABLE');
}

function warningsOf({ keyId, current, snapshots, state, retiredAt, ageDays }: KeyUse): BackupWarning[] {
  const warnings: BackupWarning[] = [];
  if (current && ageDays !== null && ageDays >= KEY_ROTATION_DAYS) {
    warnings.push({
      code: 'KEY_TOO_OLD',
      message: `The current key ${keyId} is ${ageDays} days old; rotate it every ${KEY_ROTATION_DAYS} days`,
    });
  }
  if (current && retiredAt !== null) {
    const message = `The current key ${keyId} was retired, and backups fail; make another one current`;
    warnings.push({ code: 'KEY_RETIRED', message });
  }
  if (state === 'UNAVAILABLE') {
    const message = `${snapshots} snapshots need the key ${keyId}, which the key provider cannot open`;
    warnings.push({ code: 'KEY_UNAVAILABLE', message });
  }
  return warnings;
}
