import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createBackupRepository } from '../../src/repository/backup-repository.ts';
import type { Database } from '../../src/repository/database.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  manualClock,
  ofOrganization,
  START,
} from './repository-fixtures.ts';

let database: TestDatabase;
let db: Database;
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool);
});
afterAll(() => database[Symbol.asyncDispose]());

describe('a configuration', () => {
  test('comes back as it was inserted', async () => {
    const organizationId = randomUUID();
    const repository = ofOrganization(db, organizationId);
    const branch = randomUUID();
    const given = aConfiguration({
      branchIds: [branch],
      description: 'Umlauts äöü, quotes \' " \\ and 💾',
      schedule: [
        { frequency: 'WEEKLY', daysOfWeek: ['MONDAY'] },
        { frequency: 'MINUTES', intervalMinutes: 5 },
      ],
      scope: { includePHI: true, customFilters: [] },
      customFields: { nested: { list: [1, 2.5, null, 'x'] } },
      nextScheduledBackupAt: '2026-03-02T08:00:00.000Z',
    });
    const inserted = await repository.insertConfig(given);
    expect(inserted).toEqual({
      ...given,
      organizationId,
      lastBackupAt: null,
      lastSuccessfulBackupAt: null,
      totalBackupsCreated: 0,
      totalStorageUsed: 0,
      createdAt: START,
      updatedAt: START,
    });
    expect(await repository.findConfigById(given.id)).toEqual(inserted);
    expect(await repository.findConfigById(given.id.toUpperCase())).toEqual(inserted);
  });

  test('that is not there, or whose id is no UUID, is undefined', async () => {
    const repository = ofOrganization(db, randomUUID());
    expect(await repository.findConfigById(randomUUID())).toBeUndefined();
    expect(await repository.findConfigById("' OR true --")).toBeUndefined();
  });

  test('is not written where it could not be read again', async () => {
    const repository = ofOrganization(db, randomUUID());
    const wrong = aConfiguration({ compressionLevel: Number.NaN });
    await expect(repository.insertConfig(wrong)).rejects.toMatchObject({
      code: 'INTERNAL',
      message: /compressionLevel/,
    });
    const none = aConfiguration({ branchIds: [] });
    await expect(repository.insertConfig(none)).rejects.toMatchObject({
      code: 'DATABASE_FAILED',
      message: /23514/,
    });
    expect((await repository.listConfigs()).items).toEqual([]);
  });

  test('is hidden by softDeleteConfig, with its snapshots still there', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    const snapshot = await aCompletedSnapshot(repository, id);
    expect(await repository.softDeleteConfig(id, randomUUID())).toBe(true);
    expect(await repository.softDeleteConfig(id, randomUUID())).toBe(false);
    expect(await repository.findConfigById(id)).toBeUndefined();
    expect((await repository.listConfigs()).items).toEqual([]);
    expect(await repository.findSnapshotById(snapshot.id)).toEqual(snapshot);
    expect(await repository.findConfigOfSnapshot(snapshot.id)).toMatchObject({ id });
    expect(await repository.setNextScheduledBackup(id, START)).toBe(false);
  });
});

describe('updateConfig', () => {
  test('changes what it is given and nothing else', async () => {
    const repository = ofOrganization(db, randomUUID());
    const before = await repository.insertConfig(aConfiguration());
    const changes = {
      name: 'Hourly',
      status: 'PAUSED',
      statusReason: 'a\0b\uD800',
      retention: { retentionDays: 0 },
    } as const;
    const after = await repository.updateConfig(before.id, changes, { expectedUpdatedAt: before.updatedAt });
    expect(after).toEqual({
      ...before,
      ...changes,
      statusReason: 'a\uFFFDb\uFFFD',
      updatedAt: '2026-03-01T10:00:00.001Z',
    });
  });

  test('of several at the same time, in the same millisecond, one wins', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id, updatedAt } = await repository.insertConfig(aConfiguration());
    const names = Array.from({ length: 10 }, (_, index) => `name ${index}`);
    const results = await Promise.all(
      names.map((name) => repository.updateConfig(id, { name }, { expectedUpdatedAt: updatedAt })),
    );
    const winners = results.filter((result) => result !== undefined);
    expect(winners).toHaveLength(1);
    expect(await repository.findConfigById(id)).toEqual(winners[0]);
  });

  test('is not disturbed by what the system writes', async () => {
    const repository = ofOrganization(db, randomUUID());
    const before = await repository.insertConfig(aConfiguration());
    await aCompletedSnapshot(repository, before.id);
    expect(await repository.setNextScheduledBackup(before.id, '2026-03-03T00:00:00.000Z')).toBe(true);
    const after = await repository.updateConfig(
      before.id,
      { name: 'x' },
      { expectedUpdatedAt: before.updatedAt },
    );
    expect(after).toMatchObject({
      name: 'x',
      totalBackupsCreated: 1,
      nextScheduledBackupAt: '2026-03-03T00:00:00.000Z',
    });
  });
});

describe('an actor limited to branches', () => {
  test('may not write a configuration that reaches beyond them', async () => {
    const [mine, other] = [randomUUID(), randomUUID()];
    const repository = createBackupRepository(db, { organizationId: randomUUID(), branchIds: [mine] });
    const forbidden = { code: 'FORBIDDEN' };
    await expect(repository.insertConfig(aConfiguration({ branchIds: null }))).rejects.toMatchObject(
      forbidden,
    );
    await expect(repository.insertConfig(aConfiguration({ branchIds: [mine, other] }))).rejects.toMatchObject(
      forbidden,
    );
    const { id, updatedAt } = await repository.insertConfig(aConfiguration({ branchIds: [mine] }));
    for (const branchIds of [null, [other]]) {
      const update = repository.updateConfig(id, { branchIds }, { expectedUpdatedAt: updatedAt });
      await expect(update).rejects.toMatchObject(forbidden);
    }
  });
});

test('a scope that is not made of UUIDs is refused when it is bound', () => {
  expect(() => createBackupRepository(db, { organizationId: 'org-123', branchIds: 'ALL' })).toThrow(
    expect.objectContaining({ code: 'VALIDATION_FAILED' }),
  );
  expect(() => createBackupRepository(db, { organizationId: randomUUID(), branchIds: ['x'] })).toThrow(
    expect.objectContaining({ code: 'VALIDATION_FAILED', message: expect.stringContaining('branchIds.0') }),
  );
});

test('the repository takes the time from its clock', async () => {
  const clock = manualClock('2031-12-31T23:59:59.999Z');
  const repository = ofOrganization(aDatabase(database.pool, clock), randomUUID());
  expect((await repository.insertConfig(aConfiguration())).createdAt).toBe('2031-12-31T23:59:59.999Z');
});
