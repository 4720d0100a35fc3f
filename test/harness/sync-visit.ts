import type { QueueOperationInput } from '../../src/types/offline-sync.ts';
import type { SyncEntityOptions, SyncOptions } from '../../src/types/sync-handler.ts';
import { ALICE, createSyncBench, Device, type SyncBench } from './sync-bench.ts';

export type Operation = QueueOperationInput & { operationId: string };

/** With options of its own for visits. */
export const visitBench = (
  visit: Partial<SyncEntityOptions>,
  more: Partial<SyncOptions> = {},
): Promise<SyncBench> =>
  createSyncBench({
    syncOptions: {
      ...more,
      entities: [{ type: 'VISIT', ...visit }, { type: 'EVV_RECORD' }, { type: 'NOTE' }],
    },
  });

/** Alice's device and one visit that she has offline. */
export async function alicesVisit(bench: SyncBench, row: object = { notes: 'a', minutes: 1 }) {
  const device = new Device();
  const alice = bench.as(ALICE);
  const id = await bench.aVisit({ ...row });
  const [base] = await alice.readForOffline('VISIT', [id]);
  if (base === undefined) throw new Error('not readable');
  const { version, data, signature } = base;
  const previousVersion = { version, data, ...(signature === undefined ? {} : { signature }) };
  const update = (payload: QueueOperationInput['payload'], over: Partial<QueueOperationInput> = {}) =>
    device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: payload ?? {},
      previousVersion,
      ...over,
    });
  const process = () => alice.processPendingOperations(device.deviceId);
  return { device, alice, id, update, process };
}

/** Without outcomes and reasons. */
export const statuses = async (bench: SyncBench, ...operations: readonly Operation[]): Promise<string[]> => {
  const all = await bench.standing();
  return operations.map(({ operationId }) => all[operationId]?.split(' ')[0] ?? 'not there');
};
