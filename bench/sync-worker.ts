import { createDataProtection } from '../src/compose.ts';
import { localKeyring } from '../src/keys/local-keyring.ts';
import { syncTables } from '../test/harness/sync-bench.ts';

/** A worker in a process of its own, so that its peak memory is its own. */
export interface SyncWorkerOrder {
  readonly url: string;
  readonly keyring: string;
}

/** What it says: that it works, what it has applied in the CRITICAL lane and when, and, asked to stop, how large it was. */
export type SyncWorkerReport =
  | { readonly kind: 'READY' }
  | { readonly kind: 'APPLIED'; readonly operationId: string; readonly at: number }
  | { readonly kind: 'STOPPED'; readonly rssMb: number };

const order = JSON.parse(process.argv[2] ?? '{}') as SyncWorkerOrder;
const report = (one: SyncWorkerReport): void => void process.send?.(one);
const protection = await createDataProtection({
  database: order.url,
  entities: syncTables(),
  keys: localKeyring({ file: order.keyring }),
  sync: { entities: [{ type: 'VISIT' }, { type: 'EVV_RECORD' }, { type: 'NOTE' }] },
});
protection.on('sync.operation', ({ operationId, entityType, status }) => {
  if (status === 'COMPLETED' && entityType === 'EVV_RECORD')
    report({ kind: 'APPLIED', operationId, at: Date.now() });
});
const worker = await protection.startWorker({ pollMs: 5_000 });
process.once('message', () => {
  void worker
    .stop()
    .then(() => protection.close())
    .then(() => {
      report({ kind: 'STOPPED', rssMb: process.resourceUsage().maxRSS / 1024 });
      process.disconnect();
    });
});
report({ kind: 'READY' });
