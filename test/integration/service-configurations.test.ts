import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BackupConfiguration } from '../../src/types/backup.ts';
import { auditActions, createBench, ownRows, type ServiceBench } from '../harness/service-bench.ts';
import { tinyData } from '../harness/service-tiny.ts';

let bench: ServiceBench;
beforeAll(async () => {
  bench = await createBench(tinyData);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

test('a configuration with a name alone has every default', async () => {
  const created = await bench.backups.createConfiguration({ name: 'Nightly' });
  expect(created).toMatchObject({
    organizationId: bench.organizations[0],
    branchIds: null,
    name: 'Nightly',
    description: null,
    configType: 'FULL',
    schedule: [],
    timezone: 'UTC',
    scope: {
      includeSoftDeleted: false,
      includeAuditLogs: true,
      includePHI: true,
      includeFinancialData: true,
    },
    retention: { retentionDays: 30, autoDeleteExpired: true },
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: bench.folder } },
    encryptionEnabled: true,
    encryptionKeyId: 'bench-key',
    allowUnencryptedPHI: false,
    compressionEnabled: true,
    compressionAlgorithm: 'ZSTD',
    compressionLevel: 3,
    integrityCheckEnabled: true,
    checksumAlgorithm: 'SHA256',
    status: 'ACTIVE',
    totalBackupsCreated: 0,
    lastBackupAt: null,
    createdBy: '00000000-0000-4000-8000-0000000000aa',
  });
  expect(await bench.backups.getConfiguration(created.id)).toEqual(created);
  expect(await bench.backups.getConfiguration(created.id.toUpperCase())).toEqual(created);
});

test('configurations are listed newest first, page by page', async () => {
  const made: string[] = [];
  for (let count = 0; count < 5; count += 1) made.unshift((await bench.configure()).id);
  const listed: string[] = [];
  for (let cursor: string | undefined; listed.length < 5; ) {
    const page = await bench.backups.listConfigurations({
      limit: 2,
      ...(cursor === undefined ? {} : { cursor }),
    });
    listed.push(...page.items.map(({ id }) => id));
    cursor = page.nextCursor ?? undefined;
  }
  expect(listed.slice(0, 5)).toEqual(made);
});

test('its life is in the audit log', async () => {
  const { id } = await bench.configure({ description: 'before' });
  expect(
    await bench.backups.updateConfiguration(id, { description: 'after', compressionLevel: 9 }),
  ).toMatchObject({
    description: 'after',
    compressionLevel: 9,
    encryptionKeyId: 'bench-key',
  });
  expect(await bench.backups.pauseConfiguration(id, 'holiday')).toMatchObject({
    status: 'PAUSED',
    statusReason: 'holiday',
  });
  await expect(bench.backups.createSnapshot({ configurationId: id })).rejects.toMatchObject({
    code: 'INVALID_STATE',
  });
  await expect(bench.backups.pauseConfiguration(id)).rejects.toMatchObject({ code: 'INVALID_STATE' });
  expect(await bench.backups.resumeConfiguration(id)).toMatchObject({ status: 'ACTIVE', statusReason: null });
  expect(await bench.backups.archiveConfiguration(id, 'done')).toMatchObject({ status: 'ARCHIVED' });
  await expect(bench.backups.updateConfiguration(id, { name: 'x' })).rejects.toMatchObject({
    code: 'INVALID_STATE',
  });
  await expect(bench.backups.resumeConfiguration(id)).rejects.toMatchObject({ code: 'INVALID_STATE' });
  await bench.backups.deleteConfiguration(id);
  await expect(bench.backups.getConfiguration(id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(bench.backups.deleteConfiguration(id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(await auditActions(bench.database.pool, id)).toEqual([
    'configuration.created',
    'configuration.updated',
    'configuration.paused',
    'configuration.active',
    'configuration.archived',
    'configuration.deleted',
  ]);
});

test('two changes at once: one is told to read again', async () => {
  const { id } = await bench.configure();
  const outcomes = await Promise.allSettled([
    bench.backups.updateConfiguration(id, { description: 'a' }),
    bench.backups.updateConfiguration(id, { description: 'b' }),
    bench.backups.pauseConfiguration(id),
  ]);
  const lost = outcomes.filter((outcome) => outcome.status === 'rejected');
  for (const { reason } of lost) expect(reason).toMatchObject({ code: 'INVALID_STATE' });
  expect((await auditActions(bench.database.pool, id)).length).toBe(1 + outcomes.length - lost.length);
});

test('encryption that is switched off and on again has a key again, and needs a provider', async () => {
  const { id } = await bench.configure();
  const off = await bench.backups.updateConfiguration(id, {
    encryptionEnabled: false,
    allowUnencryptedPHI: true,
  });
  expect(off).toMatchObject({ encryptionEnabled: false, encryptionKeyId: null });
  expect(await bench.backups.updateConfiguration(id, { encryptionEnabled: true })).toMatchObject({
    encryptionKeyId: 'bench-key',
  });
  await expect(
    bench.backups.updateConfiguration(id, { encryptionEnabled: false, allowUnencryptedPHI: false }),
  ).rejects.toMatchObject({
    code: 'VALIDATION_FAILED',
  });
});

describe('where the audit entry cannot be written, nothing happens', () => {
  let configuration: BackupConfiguration;
  let snapshotId: string;

  beforeAll(async () => {
    configuration = await bench.configure();
    snapshotId = (await bench.backups.createSnapshot({ configurationId: configuration.id }, { wait: true }))
      .id;
    await bench.database.pool.query(`
      CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
      CREATE TRIGGER refuse BEFORE INSERT ON care_backup.audit_log FOR EACH ROW EXECUTE FUNCTION refuse()`);
  });
  afterAll(async () => {
    await bench.database.pool.query('DROP TRIGGER refuse ON care_backup.audit_log');
  });

  const actions: Readonly<Record<string, () => Promise<unknown>>> = {
    createConfiguration: () => bench.configure(),
    updateConfiguration: () => bench.backups.updateConfiguration(configuration.id, { name: 'other' }),
    pauseConfiguration: () => bench.backups.pauseConfiguration(configuration.id),
    archiveConfiguration: () => bench.backups.archiveConfiguration(configuration.id),
    deleteConfiguration: () => bench.backups.deleteConfiguration(configuration.id),
    createSnapshot: () => bench.backups.createSnapshot({ configurationId: configuration.id }),
    verifySnapshot: () => bench.backups.verifySnapshot(snapshotId),
    createRestoreOperation: () =>
      bench.backups.createRestoreOperation({
        snapshotId,
        restoreDestination: { type: 'TEST', schemaName: 'nothing' },
      }),
  };

  test.each(Object.keys(actions))('%s', async (name) => {
    const before = await ownRows(bench.database.pool);
    await expect(actions[name]?.()).rejects.toMatchObject({ code: 'DATABASE_FAILED' });
    expect(await ownRows(bench.database.pool)).toBe(before);
  });
});
