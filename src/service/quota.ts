import type { BackupRepository } from '../repository/backup-repository.ts';
import type { SnapshotResult } from '../repository/snapshot-end.ts';
import type {
  BackupConfiguration,
  BackupSnapshot,
  BackupWarning,
  StorageDestination,
  StorageType,
} from '../types/backup.ts';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { QuotaUsage } from '../types/usage.ts';
import { formatBytes } from '../utils/bytes.ts';
import type { ServiceContext } from './context.ts';
import { codeOf } from './failure.ts';

/** From here on a backup that ends warns. */
const WARNING_SHARE = 0.8;

/** A single store with what the organization may have there. */
interface LimitedStore {
  readonly destination: StorageDestination;
  readonly description: string;
  readonly quotaBytes: number;
}

/**
 * The stores of a destination that have a quota. Of MULTI each copy has its own, or that of the whole: what a backup
 * takes up, it takes up in each.
 */
function limitedStores(context: ServiceContext, destination: StorageDestination): readonly LimitedStore[] {
  const { quotaBytes, destinations = [] } = destination;
  if (quotaBytes === undefined && destinations.every((copy) => copy.quotaBytes === undefined)) return [];
  const { storage } = context.openStorage(destination);
  const stores = (storage.copies ?? [{ storage, index: -1 }]).map((copy) => {
    const single = destinations[copy.index] ?? destination;
    return { single, description: copy.storage.description };
  });
  return stores.flatMap(({ single, description }) => {
    const quota = single.quotaBytes ?? quotaBytes;
    return quota === undefined ? [] : [{ destination: single, description, quotaBytes: quota }];
  });
}

/**
 * How much of each quota of a destination is used. `repository` sees the whole organization. Of the configuration
 * itself no run counts: one that is not over is dead, or the one that asks.
 */
async function quotasOf(
  context: ServiceContext,
  repository: BackupRepository,
  configurationId: UUID,
  destination: StorageDestination,
): Promise<readonly QuotaUsage[]> {
  const stores = limitedStores(context, destination);
  if (stores.length === 0) return [];
  const used = await repository.takeQuotaUse(
    stores.map((store) => store.destination),
    configurationId,
  );
  return stores.map((store, index) =>
    quotaUsage({
      ...store,
      type: store.destination.type,
      usedBytes: used.find((use) => use.index === index)?.usedBytes ?? 0,
    }),
  );
}

export function quotaUsage(quota: {
  readonly description: string;
  readonly type: StorageType;
  readonly quotaBytes: number;
  readonly usedBytes: number;
}): QuotaUsage {
  const { description, type, quotaBytes, usedBytes } = quota;
  return { description, type, quotaBytes, usedBytes, share: usedBytes / quotaBytes };
}

/**
 * Throws `STORAGE_QUOTA_EXCEEDED` where a quota of the destination is used up before a backup begins. Backups that run at
 * the same time count with what they have stored so far; what they are yet to store nobody knows, so that those who have
 * begun below the quota may pass it together.
 */
export async function requireQuota(
  context: ServiceContext,
  { id, organizationId, storageDestination }: BackupConfiguration,
): Promise<void> {
  const repository = context.repository({ organizationId, branchIds: 'ALL' });
  const quotas = await quotasOf(context, repository, id, storageDestination);
  const full = quotas.filter(({ share }) => share >= 1);
  tellQuotas(context, organizationId, full);
  const [first] = full;
  if (first === undefined) return;
  throw new StorageError(
    `The quota of ${first.description} is used up: ${formatBytes(first.quotaBytes)}`,
    'STORAGE_QUOTA_EXCEEDED',
  );
}

/**
 * The result of a run with a warning for each quota of which 80 % or more are used with it. `repository` belongs to the
 * transaction that enters the result and sees the whole organization; of two runs that end at once one waits for the
 * other. What cannot be told is a warning too: it must not cost the backup.
 */
export async function withQuotaWarnings(
  context: ServiceContext,
  repository: BackupRepository,
  snapshot: BackupSnapshot,
  result: SnapshotResult,
): Promise<{ readonly result: SnapshotResult; readonly reached: readonly QuotaUsage[] }> {
  const added = result.dataMetrics.storedSizeBytes;
  try {
    const { configurationId } = snapshot;
    const { destination } = result.storageLocation;
    const before = await quotasOf(context, repository, configurationId, destination);
    const reached = before
      .map((quota) => quotaUsage({ ...quota, usedBytes: quota.usedBytes + added }))
      .filter(({ share }) => share >= WARNING_SHARE);
    return { result: withWarnings(result, reached.map(warningOf)), reached };
  } catch (error) {
    if (error instanceof DataProtectionError && error.code.startsWith('DATABASE_')) throw error;
    context.logger.error({ snapshotId: snapshot.id, error: codeOf(error) }, 'The quota could not be told');
    const message = 'How much of the quota of the storage is used could not be told';
    return { result: withWarnings(result, [{ code: 'QUOTA_UNKNOWN', message }]), reached: [] };
  }
}

/** Tells listeners of quotas that are nearly or wholly used. */
export function tellQuotas(
  context: ServiceContext,
  organizationId: UUID,
  quotas: readonly QuotaUsage[],
): void {
  for (const quota of quotas) context.events.emit('storage.quota', { organizationId, ...quota });
}

function withWarnings(result: SnapshotResult, warnings: readonly BackupWarning[]): SnapshotResult {
  if (warnings.length === 0) return result;
  return { ...result, status: 'COMPLETED_WITH_WARNINGS', warnings: [...result.warnings, ...warnings] };
}

function warningOf({ description, share, usedBytes, quotaBytes }: QuotaUsage): BackupWarning {
  const used = `${formatBytes(usedBytes)} of ${formatBytes(quotaBytes)}`;
  return {
    code: 'QUOTA_WARNING',
    message: `${Math.floor(share * 100)} % of the quota of ${description} are used: ${used}`,
  };
}
