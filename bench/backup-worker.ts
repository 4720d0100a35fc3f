import { entities } from '../examples/care-platform/entities.ts';
import { organizationId } from '../examples/care-platform/generate.ts';
import { createDataProtection, defineEntity, localKeyring } from '../src/index.ts';

/** What one measured run does; a process of its own, so that its peak memory is its own. */
export interface WorkerOrder {
  readonly port: number;
  readonly storage: string;
  readonly keyring: string;
  readonly action: 'BACKUP' | 'RESTORE';
  /** For BACKUP. */
  readonly integrityCheck: boolean;
  /** For RESTORE. */
  readonly snapshotId?: string;
  readonly validate: boolean;
}

export interface WorkerReport {
  readonly milliseconds: number;
  readonly rssMb: number;
  readonly snapshotId: string;
  readonly rows: number;
  readonly rawBytes: number;
  readonly storedBytes: number;
}

const order = JSON.parse(process.argv[2] ?? '{}') as WorkerOrder;
const server = { host: '127.0.0.1', port: order.port, user: 'postgres' };
await using protection = await createDataProtection({
  database: { ...server, database: 'metadata' },
  source: { ...server, database: 'platform' },
  entities: entities.map((entity) => defineEntity(entity)),
  keys: localKeyring({ file: order.keyring }),
  storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: order.storage } },
});
await protection.migrate();
const backups = protection.backups({
  userId: '01900000-0000-7000-8000-000000000001',
  organizationId: organizationId(1, 1),
  branchIds: 'ALL',
  permissions: ['backup:admin'],
});
const report = order.action === 'BACKUP' ? await backup() : await restore(order.snapshotId ?? '');
process.stdout.write(`${JSON.stringify(report)}\n`);

async function backup(): Promise<WorkerReport> {
  const configuration = await backups.createConfiguration({
    name: 'Benchmark',
    scope: { includeSoftDeleted: true },
    integrityCheckEnabled: order.integrityCheck,
  });
  const began = performance.now();
  const snapshot = await backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
  return measured(performance.now() - began, snapshot.id, snapshot.dataMetrics);
}

async function restore(snapshotId: string): Promise<WorkerReport> {
  const began = performance.now();
  const operation = await backups.createRestoreOperation(
    {
      snapshotId,
      restoreDestination: { type: 'TEST', schemaName: 'restored' },
      validationEnabled: order.validate,
    },
    { wait: true },
  );
  return measured(performance.now() - began, snapshotId, operation.dataMetrics);
}

function measured(
  milliseconds: number,
  snapshotId: string,
  metrics: { totalRecords: number; totalSizeBytes: number; storedSizeBytes?: number } | null,
): WorkerReport {
  return {
    milliseconds,
    rssMb: process.resourceUsage().maxRSS / 1024,
    snapshotId,
    rows: metrics?.totalRecords ?? 0,
    rawBytes: metrics?.totalSizeBytes ?? 0,
    storedBytes: metrics?.storedSizeBytes ?? 0,
  };
}
