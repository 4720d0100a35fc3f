import { entities } from '../examples/care-platform/entities.ts';
import { organizationId } from '../examples/care-platform/generate.ts';
import { createDataProtection, defineEntity, localKeyring, localStorage } from '../src/index.ts';
import { delayed } from './storage-delay.ts';

/** One measured backup; a process of its own, so that its peak memory is its own. */
export interface StorageWorkerOrder {
  readonly port: number;
  readonly folder: string;
  readonly keyring: string;
  /** What every call of the storage waits first, in milliseconds. */
  readonly latencyMs: number;
}

export interface StorageWorkerReport {
  readonly milliseconds: number;
  readonly rssMb: number;
  readonly rows: number;
  readonly storedBytes: number;
}

const order = JSON.parse(process.argv[2] ?? '{}') as StorageWorkerOrder;
const server = { host: '127.0.0.1', port: order.port, user: 'postgres' };
await using protection = await createDataProtection({
  database: { ...server, database: 'metadata' },
  source: { ...server, database: 'platform' },
  entities: entities.map((entity) => defineEntity(entity)),
  keys: localKeyring({ file: order.keyring }),
  openStorage: () => delayed(localStorage({ path: order.folder }), order.latencyMs),
});
await protection.migrate();
const backups = protection.backups({
  userId: '01900000-0000-7000-8000-000000000001',
  organizationId: organizationId(1, 1),
  branchIds: 'ALL',
  permissions: ['backup:admin'],
});
const configuration = await backups.createConfiguration({
  name: 'Benchmark',
  scope: { includeSoftDeleted: true },
  storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: order.folder } },
});
const began = performance.now();
const { dataMetrics } = await backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
const report: StorageWorkerReport = {
  milliseconds: performance.now() - began,
  rssMb: process.resourceUsage().maxRSS / 1024,
  rows: dataMetrics?.totalRecords ?? 0,
  storedBytes: dataMetrics?.storedSizeBytes ?? 0,
};
process.stdout.write(`${JSON.stringify(report)}\n`);
