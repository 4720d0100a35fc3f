import { uuidv7 } from 'uuidv7';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import type { SweptOperation } from '../repository/sync-sweep.ts';
import type { SyncContext } from './sync-context.ts';

/** Shows operations whose predecessors have not arrived as conflicts; they go on by themselves when these arrive. */
export async function storeMissing(
  context: SyncContext,
  operations: readonly SweptOperation[],
): Promise<void> {
  for (const [organizationId, missing] of Map.groupBy(operations, (one) => one.organizationId)) {
    const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
    for (const { operationId } of missing) {
      const operation = await repository.findOperation(operationId);
      if (operation === undefined) continue;
      const id = uuidv7();
      await repository.storeConflict(
        operation,
        {
          id,
          detected: { type: 'DEPENDENCY', base: null, client: operation.payload, server: null, fields: [] },
          serverVersionNumber: 0,
          resolution: null,
          autoResolution: {
            attempted: false,
            strategy: null,
            failureReason: 'An operation that it builds on has not arrived.',
          },
        },
        operation.branchId,
      );
      await repository.linkConflict(operation.id, id);
    }
    await repository.blockDescendants(
      missing.map(({ id }) => id),
      'PREDECESSOR_CONFLICT',
    );
    await repository.numberConflicts();
  }
}
