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

describe('conflicts are decided by people', () => {
  test('each way, one by one, and all of it can be rolled back', async () => {
    const id = await bench.snapshot();
    await bench.sql(`UPDATE visit SET note = 'mine', amount = 7 WHERE id IN (11, 12); DELETE FROM visit WHERE id = 15;
      INSERT INTO tag VALUES (3, 'new', 1, now())`);
    const before = await bench.state();
    const scope = { clientIds: ['3'] };
    const restore = await bench.restore(id, {
      scope,
      conflictResolutionStrategy: 'MANUAL',
      deleteNotInBackup: true,
    });
    expect(restore.status).toBe('COMPLETED_WITH_WARNINGS');
    const { items } = await bench.backups.listRestoreConflicts(restore.id);
    const of = (recordId: string) => items.find((conflict) => conflict.recordId === recordId)?.id ?? '';
    expect(items.map(({ recordId, kind, fields }) => [recordId, kind, fields.join()]).sort()).toEqual([
      ['11', 'DIFFERENT', 'note,amount,updated_at'],
      ['12', 'DIFFERENT', 'note,amount,updated_at'],
      ['["3","new"]', 'NOT_IN_BACKUP', ''],
    ]);
    const decide = (
      recordId: string,
      input: { resolution: 'BACKUP' | 'EXISTING' | 'FIELDS'; fields?: string[] },
    ) => bench.backups.resolveRestoreConflict({ conflictId: of(recordId), ...input });
    const decided = await decide('11', { resolution: 'BACKUP' });
    expect(decided).toMatchObject({ status: 'RESOLVED', resolution: 'BACKUP', backup: { note: 'visit 1' } });
    await expect(decide('12', { resolution: 'FIELDS', fields: ['nothing'] })).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
    await decide('12', { resolution: 'FIELDS', fields: ['amount'] });
    await decide('["3","new"]', { resolution: 'BACKUP' });
    expect(
      await bench.sql('SELECT id::int, note, amount FROM visit WHERE id IN (11, 12) ORDER BY 1'),
    ).toEqual([
      { id: 11, note: 'visit 1', amount: '0.33' },
      { id: 12, note: 'mine', amount: '0.67' },
    ]);
    expect(await bench.sql("SELECT FROM tag WHERE word = 'new'")).toEqual([]);
    await expect(decide('11', { resolution: 'EXISTING' })).rejects.toMatchObject({ code: 'INVALID_STATE' });
    await bench.backups.rollbackRestore(restore.id);
    expect(await bench.state()).toEqual(before);
  });

  test('not where the row has been written since it was seen', async () => {
    const id = await bench.snapshot();
    await bench.sql("UPDATE visit SET note = 'mine' WHERE id = 11");
    const restore = await bench.restore(id, { conflictResolutionStrategy: 'MANUAL' });
    const [conflict] = (await bench.backups.listRestoreConflicts(restore.id)).items;
    await bench.sql("UPDATE visit SET note = 'later' WHERE id = 11");
    const input = { conflictId: conflict?.id ?? '', resolution: 'BACKUP' } as const;
    await expect(bench.backups.resolveRestoreConflict(input)).rejects.toMatchObject({
      code: 'CONFLICT_STALE',
    });
    expect(await bench.sql('SELECT note FROM visit WHERE id = 11')).toEqual([{ note: 'later' }]);
    await bench.backups.resolveRestoreConflict({ ...input, resolution: 'EXISTING', notes: 'seen' });
    const [after] = (await bench.backups.listRestoreConflicts(restore.id)).items;
    expect(after).toMatchObject({ status: 'RESOLVED', resolution: 'EXISTING', notes: 'seen' });
  });
});
