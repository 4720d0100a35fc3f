import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createLiveBench, type LiveBench } from '../harness/live-bench.ts';

let bench: LiveBench;
beforeEach(async () => {
  bench = await createLiveBench();
});
afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

const onlyHome = (state: Record<string, string[]>) =>
  Object.fromEntries(Object.entries(state).map(([table, rows]) => [table, rows]));

describe('a client deleted on a Tuesday', () => {
  test('comes back with everything of his, exactly, while nothing else changes', async () => {
    const before = await bench.state();
    const id = await bench.snapshot();
    await bench.sql('DELETE FROM visit WHERE client_id = 3');
    await bench.sql('DELETE FROM tag WHERE client_id = 3');
    await bench.sql('DELETE FROM client WHERE id = 3');
    await bench.sql("UPDATE visit SET note = 'still at work' WHERE client_id = 4");
    const others = (await bench.state()).visit?.filter((row) => row.includes('still at work'));
    const restore = await bench.restore(id, { scope: { clientIds: ['3'] } });
    expect(restore).toMatchObject({ status: 'COMPLETED', restoreType: 'SELECTIVE' });
    expect(restore.changes).toMatchObject([
      { entityType: 'CLIENT', archived: 1, inserts: 1, updates: 0, unchanged: 0 },
      { entityType: 'CARE_PLAN', archived: 2, inserts: 2 },
      { entityType: 'VISIT', archived: 5, inserts: 5 },
      { entityType: 'TAG', archived: 3, inserts: 3 },
    ]);
    const after = await bench.state();
    expect(after.visit?.filter((row) => row.includes('still at work'))).toEqual(others);
    await bench.sql(
      "ALTER TABLE visit DISABLE TRIGGER USER; UPDATE visit v SET note = 'visit ' || (1 + (id - 1) % 5), updated_at = timestamptz '2026-01-03' + id * interval '1 minute' WHERE client_id = 4",
    );
    expect(onlyHome(await bench.state())).toEqual(before);
  });

  test('damage is repaired and put back again', async () => {
    const id = await bench.snapshot();
    const before = await bench.state();
    await bench.sql('UPDATE visit SET note = NULL, amount = 0, photo = NULL WHERE client_id = 6');
    await bench.sql("UPDATE client SET name = 'gone' WHERE id IN (6, 10)");
    const damaged = await bench.state();
    const restore = await bench.restore(id, { scope: { clientIds: ['6', '10'] } });
    const after = await bench.state();
    expect(after.visit).toEqual(before.visit);
    expect(after.client?.find((row) => row.includes('"client 6"'))).toBeDefined();
    // Client 10 is the other organization's.
    expect(after.client?.find((row) => row.startsWith('(10,'))).toBe(
      damaged.client?.find((row) => row.startsWith('(10,')),
    );
    const undone = await bench.backups.rollbackRestore(restore.id);
    expect(undone.status).toBe('ROLLED_BACK');
    expect(await bench.state()).toEqual(damaged);
  });
});

test('a restore waits for a second person', async () => {
  const id = await bench.snapshot();
  await bench.sql("UPDATE client SET name = 'x' WHERE id = 1");
  const asked = await bench.backups.createRestoreOperation({ snapshotId: id }, { wait: true });
  expect(asked.status).toBe('PENDING_APPROVAL');
  await expect(bench.backups.approveRestoreOperation(asked.id)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  expect((await bench.sql('SELECT name FROM client WHERE id = 1'))[0]?.name).toBe('x');
  const done = await bench.second.approveRestoreOperation(asked.id, { wait: true, notes: 'seen' });
  expect(done).toMatchObject({ status: 'COMPLETED', approvalNotes: 'seen' });
  expect((await bench.sql('SELECT name FROM client WHERE id = 1'))[0]?.name).toBe('client 1');
  await expect(bench.second.approveRestoreOperation(asked.id)).rejects.toMatchObject({
    code: 'INVALID_STATE',
  });
});
