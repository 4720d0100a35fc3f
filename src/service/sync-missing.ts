import {
  createOfflineSyncRepository,
  type OfflineSyncRepository,
} from '../repository/offline-sync-repository.ts';
import { syncSweep } from '../repository/sync-sweep.ts';
import type { UUID } from '../types/ids.ts';
import type { SyncContext } from './sync-context.ts';

/**
 * Shows operations as conflicts whose predecessors, or the rest of whose batch, have not arrived; they go on by
 * themselves when these arrive. The state of an operation and its conflict are written together.
 */
export async function showMissing({ db, limits }: SyncContext, streamIds?: readonly UUID[]): Promise<void> {
  await db.withTransaction(async (transaction) => {
    const missing = await syncSweep(transaction, streamIds).missingPredecessors(limits.predecessorWaitMs);
    for (const [organizationId, operations] of Map.groupBy(missing, (one) => one.organizationId)) {
      const repository = createOfflineSyncRepository(transaction, { organizationId, branchIds: 'ALL' });
      for (const { operationId } of operations) await storeConflict(repository, operationId);
      await repository.blockDescendants(
        operations.map(({ id }) => id),
        'PREDECESSOR_CONFLICT',
      );
    }
  });
}

async function storeConflict(repository: OfflineSyncRepository, operationId: UUID): Promise<void> {
  const operation = await repository.findOperation(operationId);
  if (operation === undefined) return;
  const client = operation.operation === 'DELETE' ? null : operation.payload;
  const found = {
    detected: { type: 'DEPENDENCY', base: null, client, server: null, fields: [] },
    serverVersionNumber: 0,
    resolution: null,
    autoResolution: {
      attempted: false,
      strategy: null,
      failureReason: 'An operation that it builds on, or the rest of its batch, has not arrived.',
    },
  } as const;
  await repository.linkConflict(
    operation.id,
    await repository.storeConflict(operation, found, operation.branchId),
  );
}
