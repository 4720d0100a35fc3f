import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { mayBecome, STATUS_CHANGES } from '../../src/sync/states.ts';
import { SYNC_QUEUE_STATUSES, type SyncQueueStatus } from '../../src/types/offline-sync.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

const NOW = '2026-03-01T10:00:00.000Z';

let database: TestDatabase;
let client: pg.PoolClient;
beforeAll(async () => {
  database = await createTestDatabase();
  client = await database.pool.connect();
  await client.query('SET search_path TO care_backup');
});
afterAll(async () => {
  client.release();
  await database[Symbol.asyncDispose]();
});

/** What the other constraints want to see beside a status. */
function companions(status: SyncQueueStatus): readonly [claimToken: string | null, outcome: string | null] {
  const outcomes: { readonly [status: string]: string } = { COMPLETED: 'APPLIED', FAILED: 'REJECTED' };
  return [status === 'IN_PROGRESS' ? randomUUID() : null, outcomes[status] ?? null];
}

async function insert(streamId: string, status: SyncQueueStatus, sequenceNumber: number): Promise<string> {
  const id = randomUUID();
  await client.query(
    `INSERT INTO offline_sync_queue (id, organization_id, user_id, device_id, stream_id, operation_id, sequence_number,
       operation, entity_type, entity_id, schema_version, payload, fields, occurred_at, queued_at, status, claim_token,
       outcome, priority, lane, due_at, max_retries, actor, created_at, updated_at)
     VALUES ($1, gen_random_uuid(), gen_random_uuid(), 'device', $2, gen_random_uuid(), $3,
       'UPDATE', 'NOTE', 'note-1', 1, '{}', '{}', $4, $4, $5, $6,
       $7, 'NORMAL', 'NORMAL', $4, 5, '{}', $4, $4)`,
    [id, streamId, sequenceNumber, NOW, status, ...companions(status)],
  );
  return id;
}

/** undefined: it was allowed. */
async function refusalOf(id: string, to: SyncQueueStatus): Promise<pg.DatabaseError | undefined> {
  await client.query('SAVEPOINT change');
  try {
    const { rowCount } = await client.query(
      'UPDATE offline_sync_queue SET status = $2, claim_token = $3, outcome = $4 WHERE id = $1',
      [id, to, ...companions(to)],
    );
    expect(rowCount).toBe(1);
    return undefined;
  } catch (error) {
    if (error instanceof pg.DatabaseError) return error;
    throw error;
  } finally {
    await client.query('ROLLBACK TO SAVEPOINT change');
  }
}

test('the database allows the changes of the table, and no others', async () => {
  await client.query('BEGIN');
  const streamId = randomUUID();
  await client.query(
    `INSERT INTO sync_streams (id, organization_id, user_id, device_id, installation_id, epoch, last_seen_at, created_at)
     VALUES ($1, gen_random_uuid(), gen_random_uuid(), 'device', 'device', 1, $2, $2)`,
    [streamId, NOW],
  );
  const allowed: Record<string, SyncQueueStatus[]> = {};
  for (const [sequenceNumber, from] of SYNC_QUEUE_STATUSES.entries()) {
    const id = await insert(streamId, from, sequenceNumber);
    for (const to of SYNC_QUEUE_STATUSES) {
      const refusal = await refusalOf(id, to);
      expect([from, to, refusal === undefined]).toEqual([from, to, mayBecome(from, to)]);
      if (refusal !== undefined) {
        expect(refusal).toMatchObject({ code: '23514', constraint: 'offline_sync_queue_guard_status' });
      }
      if (refusal === undefined && to !== from) allowed[from] = [...(allowed[from] ?? []), to];
    }
  }
  await client.query('ROLLBACK');
  const expected = Object.entries(STATUS_CHANGES).flatMap(([from, changes]) =>
    changes.length === 0 ? [] : [[from, changes.toSorted()]],
  );
  const found = Object.entries(allowed).map(([from, changes]) => [from, changes.sort()]);
  expect(Object.fromEntries(found)).toEqual(Object.fromEntries(expected));
});
