import { randomUUID } from 'node:crypto';
import { expect } from 'vitest';
import type { QueueOperationInput } from '../../src/types/offline-sync.ts';
import { BRANCH_A, type Device, type SyncBench } from './sync-bench.ts';
import { untilTrue } from './worker-fleet.ts';

/** From then on every write of a visit leaves a line in `effects`, in its own transaction. */
export async function recordWrites(bench: SyncBench): Promise<void> {
  await bench.sql(`
    CREATE FUNCTION note_effect() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.effects (operation_id, entity_id) VALUES (gen_random_uuid(), NEW.id); RETURN NEW; END $$`);
  await bench.sql(
    'CREATE TRIGGER effect AFTER INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION note_effect()',
  );
}

export interface Shift {
  readonly operations: QueueOperationInput[];
  /** How often each visit is to be written. */
  readonly writes: ReadonlyMap<string, number>;
}

/** Visits that are made, changed three times and, some, deleted; and an atomic batch. */
export function aShift(device: Device): Shift {
  const operations: QueueOperationInput[] = [];
  const writes = new Map<string, number>();
  const add = (operation: Omit<QueueOperationInput, 'deviceId' | 'sequenceNumber' | 'entityType'>): void => {
    operations.push(device.does({ ...operation, entityType: 'VISIT' }));
    writes.set(operation.entityId, (writes.get(operation.entityId) ?? 0) + 1);
  };
  for (let n = 0; n < 6; n += 1) {
    const entityId = randomUUID();
    add({ operation: 'CREATE', entityId, payload: { id: entityId, branch_id: BRANCH_A, minutes: 0 } });
    for (const minutes of [1, 2, 3]) add({ operation: 'UPDATE', entityId, payload: { minutes } });
    if (n % 2 === 0) add({ operation: 'DELETE', entityId });
  }
  const batchId = randomUUID();
  for (let n = 0; n < 3; n += 1) {
    const entityId = randomUUID();
    add({
      operation: 'CREATE',
      entityId,
      payload: { id: entityId, branch_id: BRANCH_A },
      batchId,
      batchSize: 3,
    });
  }
  return { operations, writes };
}

/** That every operation took effect, and every visit was written as often as was asked for. */
export async function expectOnce(
  bench: SyncBench,
  writes: ReadonlyMap<string, number>,
  operations: readonly QueueOperationInput[],
): Promise<void> {
  const standing = await bench.standing();
  for (const { operationId } of operations) expect(standing[operationId ?? '']).toBe('COMPLETED APPLIED');
  const effects = await bench.sql<{ id: string; n: number }>(
    'SELECT entity_id AS id, count(*)::int AS n FROM effects GROUP BY entity_id',
  );
  expect(new Map(effects.map(({ id, n }) => [id, n]))).toEqual(writes);
  const versions = await bench.sql<{ id: string; version: number }>(
    'SELECT entity_id AS id, version::int AS version FROM care_backup.sync_entity_state',
  );
  expect(new Map(versions.map(({ id, version }) => [id, version]))).toEqual(writes);
}

export const allEnded = (bench: SyncBench, limitMs: number): Promise<void> =>
  untilTrue(
    'everything has ended',
    async () => {
      const [row] = await bench.sql<{ n: number }>(
        'SELECT count(*)::int AS n FROM care_backup.offline_sync_queue WHERE runnable',
      );
      return row?.n === 0;
    },
    limitMs,
  );
