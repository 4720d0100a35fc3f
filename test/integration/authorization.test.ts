import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BackupService } from '../../src/service/backup-service.ts';
import { type Actor, PERMISSIONS, type Permission } from '../../src/types/actor.ts';
import type {
  BackupConfiguration,
  BackupSnapshot,
  RestoreOperation,
  StorageJob,
} from '../../src/types/backup.ts';
import type { Logger } from '../../src/types/logger.ts';
import { actorOf, createBench, filesBelow, ownRows, type ServiceBench } from '../harness/service-bench.ts';
import {
  BRANCH_A,
  BRANCH_B,
  OTHER_ORGANIZATION,
  TINY_ORGANIZATION,
  tinyData,
  tinyDifferences,
} from '../harness/service-tiny.ts';

const lines: string[] = [];
const keep = (fields: unknown, message: string): void =>
  void lines.push(`${JSON.stringify(fields)} ${message}`);
const logger: Logger = { debug: keep, info: keep, warn: keep, error: keep };

interface Objects {
  readonly configuration: BackupConfiguration;
  readonly snapshot: BackupSnapshot;
  readonly restore: RestoreOperation;
  readonly job: StorageJob;
  readonly conflictId: string;
}
let bench: ServiceBench;
/** Of the whole organization, and of each branch. */
let whole: Objects;
let ofA: Objects;

const as = (over: Partial<Actor>, organization = TINY_ORGANIZATION): BackupService =>
  bench.protection.backups(actorOf(organization, over));

async function make(name: string, branchIds?: readonly string[]): Promise<Objects> {
  const configuration = await bench.configure({ name, ...(branchIds === undefined ? {} : { branchIds }) });
  const snapshot = await bench.backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
  const restore = await bench.backups.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: `made_${name}` } },
    { wait: true },
  );
  const { id: jobId } = await bench.backups.startVerification(snapshot.id);
  let job = await bench.backups.getJobStatus(jobId);
  while (job.status !== 'COMPLETED') {
    await sleep(20);
    job = await bench.backups.getJobStatus(jobId);
  }
  const conflictId = randomUUID();
  await bench.database.pool.query(
    `INSERT INTO care_backup.restore_conflicts (id, organization_id, restore_id, entity_type, record_id, kind, fields, columns, status, detected_at)
     VALUES ($1, $2, $3, 'ITEM', '1', 'DIFFERENT', '{}', '{}', 'PENDING', now())`,
    [conflictId, TINY_ORGANIZATION, restore.id],
  );
  return { configuration, snapshot, restore, job, conflictId };
}

beforeAll(async () => {
  bench = await createBench(tinyData, { logger });
  whole = await make('whole');
  ofA = await make('a', [BRANCH_A]);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

/** Every public method, on given objects, with the permission that it needs. */
function methods({ configuration, snapshot, restore, job, conflictId }: Objects) {
  const elsewhere = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/nowhere' } } as const;
  const target = { restoreDestination: { type: 'TEST', schemaName: 'stolen' } } as const;
  const list: readonly [string, Permission, (service: BackupService) => Promise<unknown>][] = [
    ['getConfiguration', 'backup:read', (s) => s.getConfiguration(configuration.id)],
    [
      'updateConfiguration',
      'backup:create',
      (s) => s.updateConfiguration(configuration.id, { name: 'mine' }),
    ],
    ['pauseConfiguration', 'backup:create', (s) => s.pauseConfiguration(configuration.id)],
    ['resumeConfiguration', 'backup:create', (s) => s.resumeConfiguration(configuration.id)],
    ['archiveConfiguration', 'backup:delete', (s) => s.archiveConfiguration(configuration.id)],
    ['deleteConfiguration', 'backup:delete', (s) => s.deleteConfiguration(configuration.id)],
    [
      'createSnapshot',
      'backup:create',
      (s) => s.createSnapshot({ configurationId: configuration.id }, { wait: true }),
    ],
    ['getSnapshot', 'backup:read', (s) => s.getSnapshot(snapshot.id)],
    ['cancelSnapshot', 'backup:create', (s) => s.cancelSnapshot(snapshot.id)],
    ['verifySnapshot', 'backup:read', (s) => s.verifySnapshot(snapshot.id)],
    [
      'createRestoreOperation',
      'backup:restore',
      (s) => s.createRestoreOperation({ snapshotId: snapshot.id, ...target }),
    ],
    [
      'exportSnapshot',
      'backup:restore',
      (s) => s.exportSnapshot({ snapshotId: snapshot.id, format: 'NDJSON' }),
    ],
    ['startVerification', 'backup:read', (s) => s.startVerification(snapshot.id)],
    ['startReplication', 'backup:create', (s) => s.startReplication(snapshot.id)],
    ['healSnapshot', 'backup:create', (s) => s.healSnapshot(snapshot.id)],
    ['migrateStorage', 'backup:admin', (s) => s.migrateStorage(configuration.id, elsewhere)],
    ['removeMigrated', 'backup:delete', (s) => s.removeMigrated(configuration.id)],
    ['getJobStatus', 'backup:read', (s) => s.getJobStatus(job.id)],
    ['cancelJob', 'backup:create', (s) => s.cancelJob(job.id)],
    ['previewSchedule', 'backup:read', (s) => s.previewSchedule(configuration.id)],
    [
      'getStorageUsage',
      'backup:read',
      (s) => s.getStorageUsage({ configurationId: configuration.id, measure: true }),
    ],
    [
      'getStorageAnalytics',
      'backup:read',
      (s) => s.getStorageAnalytics({ configurationId: configuration.id }),
    ],
    [
      'planRestore',
      'backup:restore',
      (s) => s.planRestore({ snapshotId: snapshot.id, restoreDestination: { type: 'PRODUCTION' } }),
    ],
    ['approveRestoreOperation', 'backup:approve', (s) => s.approveRestoreOperation(restore.id)],
    ['rejectRestoreOperation', 'backup:approve', (s) => s.rejectRestoreOperation(restore.id)],
    ['rollbackRestore', 'backup:restore', (s) => s.rollbackRestore(restore.id)],
    ['listRestoreConflicts', 'backup:restore', (s) => s.listRestoreConflicts(restore.id)],
    [
      'resolveRestoreConflict',
      'backup:restore',
      (s) => s.resolveRestoreConflict({ conflictId, resolution: 'EXISTING' }),
    ],
    ['getRestoreOperation', 'backup:read', (s) => s.getRestoreOperation(restore.id)],
    ['cancelRestoreOperation', 'backup:restore', (s) => s.cancelRestoreOperation(restore.id)],
  ];
  return list;
}

/** Methods that name no object. */
const general: readonly [string, Permission, (service: BackupService) => Promise<unknown>][] = [
  ['createConfiguration', 'backup:create', (s) => s.createConfiguration({ name: 'x' })],
  ['listConfigurations', 'backup:read', (s) => s.listConfigurations()],
  ['listSnapshots', 'backup:read', (s) => s.listSnapshots()],
];

/** Methods about what is the whole organization's. */
const organizational: readonly [string, Permission, (service: BackupService) => Promise<unknown>][] = [
  ['listAuditLog', 'backup:admin', (s) => s.listAuditLog()],
  ['verifyAuditLog', 'backup:admin', (s) => s.verifyAuditLog()],
  ['createAuditCheckpoint', 'backup:admin', (s) => s.createAuditCheckpoint()],
  ['getKeyStatus', 'backup:admin', (s) => s.getKeyStatus()],
  ['rewrapKeys', 'backup:admin', (s) => s.rewrapKeys()],
  [
    'pruneAuditLog',
    'backup:admin',
    (s) => s.pruneAuditLog({ before: '2020-01-01T00:00:00Z', retentionDays: 1 }),
  ],
];

/** Methods that the keyring in memory does not do. */
const ofKeys: typeof organizational = [
  ['rotateKey', 'backup:admin', (s) => s.rotateKey()],
  ['retireKey', 'backup:admin', (s) => s.retireKey('some-key')],
];

async function nothingHappens(action: () => Promise<unknown>, code: string): Promise<void> {
  const before = [await ownRows(bench.database.pool), ...(await filesBelow(bench.folder))];
  const logged = lines.length;
  await expect(action()).rejects.toMatchObject({ code });
  expect([await ownRows(bench.database.pool), ...(await filesBelow(bench.folder))]).toEqual(before);
  expect(lines.slice(logged)).toEqual([]);
}

describe('every method of the service is in these tests', () => {
  test('none is forgotten', () => {
    const tested = [...methods(whole), ...general, ...organizational, ...ofKeys].map(([name]) => name).sort();
    expect(tested).toEqual(
      Object.getOwnPropertyNames(BackupService.prototype)
        .filter((name) => name !== 'constructor')
        .sort(),
    );
  });
});

describe('without the permission', () => {
  test('each is FORBIDDEN with every other permission of all kinds, and does nothing', async () => {
    for (const [, needed, call] of [...methods(whole), ...general, ...organizational, ...ofKeys]) {
      const others = PERMISSIONS.filter(
        (permission) => permission !== needed && permission !== 'backup:admin',
      );
      await nothingHappens(() => call(as({ permissions: others })), 'FORBIDDEN');
      await nothingHappens(() => call(as({ permissions: [] })), 'FORBIDDEN');
    }
  });

  test('with it alone, or with backup:admin, it is let through', async () => {
    for (const [name, needed, call] of [...general, ...organizational]) {
      await expect(call(as({ permissions: [needed] })), name).resolves.toBeDefined();
      await expect(call(as({ permissions: ['backup:admin'] })), name).resolves.toBeDefined();
    }
    await expect(as({ permissions: ['backup:read'] }).getSnapshot(whole.snapshot.id)).resolves.toBeDefined();
  });
});

describe('what lies outside is not found, and nothing happens', () => {
  const outsiders: Readonly<Record<string, () => { service: BackupService; objects: Objects }>> = {
    'another organization': () => ({ service: as({}, OTHER_ORGANIZATION), objects: whole }),
    'another organization, limited to the same branch': () => ({
      service: as({ branchIds: [BRANCH_A] }, OTHER_ORGANIZATION),
      objects: ofA,
    }),
    'another branch': () => ({ service: as({ branchIds: [BRANCH_B] }), objects: ofA }),
    'a branch, and a configuration of the whole organization': () => ({
      service: as({ branchIds: [BRANCH_A, BRANCH_B] }),
      objects: whole,
    }),
    'no branch at all': () => ({ service: as({ branchIds: [] }), objects: ofA }),
  };

  test.each(Object.keys(outsiders))('%s', async (name) => {
    const outsider = outsiders[name]?.();
    if (outsider === undefined) throw new Error(name);
    for (const [, , call] of methods(outsider.objects)) {
      await nothingHappens(() => call(outsider.service), 'NOT_FOUND');
    }
    const seen = [
      ...(await outsider.service.listConfigurations()).items,
      ...(await outsider.service.listSnapshots()).items,
    ].map(({ id }) => id);
    expect(seen).not.toContain(outsider.objects.configuration.id);
    expect(seen).not.toContain(outsider.objects.snapshot.id);
    expect(
      (await outsider.service.listSnapshots({ configurationId: outsider.objects.configuration.id })).items,
    ).toEqual([]);
  });

  test('what a configuration held before it was narrowed to a branch: it is neither moved nor looked into', async () => {
    const both = await make('narrowed', [BRANCH_A, BRANCH_B]);
    await bench.backups.updateConfiguration(both.configuration.id, { branchIds: [BRANCH_A] });
    const limited = as({ branchIds: [BRANCH_A] });
    expect((await limited.getConfiguration(both.configuration.id)).branchIds).toEqual([BRANCH_A]);
    const to = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/nowhere' } } as const;
    await nothingHappens(() => limited.getSnapshot(both.snapshot.id), 'NOT_FOUND');
    await nothingHappens(() => limited.migrateStorage(both.configuration.id, to), 'FORBIDDEN');
    await nothingHappens(() => limited.removeMigrated(both.configuration.id), 'FORBIDDEN');
    await nothingHappens(() => limited.getJobStatus(both.job.id), 'NOT_FOUND');
    await nothingHappens(() => limited.cancelJob(both.job.id), 'NOT_FOUND');
  });

  test('guessed and malformed ids', async () => {
    for (const id of [
      '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e',
      '',
      "' OR 1=1 --",
      'undefined',
      '../..',
      '\0',
    ]) {
      const guess = {
        configuration: { ...whole.configuration, id },
        snapshot: { ...whole.snapshot, id },
        restore: { ...whole.restore, id },
        job: { ...whole.job, id },
        conflictId: id,
      };
      for (const [name, , call] of methods(guess)) {
        const before = await ownRows(bench.database.pool);
        const error: { code?: string } = await call(bench.backups).then(
          () => ({}),
          (reason: { code?: string }) => reason,
        );
        expect(error.code, `${name} ${JSON.stringify(id)}`).toMatch(/^(NOT_FOUND|VALIDATION_FAILED)$/);
        expect(await ownRows(bench.database.pool)).toBe(before);
      }
    }
  });
});

describe('the audit log', () => {
  test('is closed to who is limited to branches, to all of them too', async () => {
    for (const branchIds of [[BRANCH_A], [BRANCH_A, BRANCH_B], []]) {
      for (const [, , call] of [...organizational, ...ofKeys]) {
        await nothingHappens(() => call(as({ branchIds })), 'FORBIDDEN');
      }
    }
  });

  test('of another organization is not seen, signed or pruned', async () => {
    const before = await ownRows(bench.database.pool);
    const stranger = as({}, '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e');
    expect(await stranger.listAuditLog()).toEqual({ items: [], nextCursor: null });
    expect(await stranger.pruneAuditLog({ before: '2020-01-01T00:00:00Z', retentionDays: 1 })).toEqual({
      removed: 0,
      through: null,
    });
    await nothingHappens(() => stranger.createAuditCheckpoint(), 'INVALID_STATE');
    expect(await ownRows(bench.database.pool)).toEqual(before);
    const mine = await bench.backups.listAuditLog({ resourceId: whole.snapshot.id, limit: 1 });
    expect(mine.nextCursor).not.toBe(null);
    expect((await stranger.listAuditLog({ cursor: mine.nextCursor ?? '' })).items).toEqual([]);
    expect(await stranger.verifyAuditLog()).toMatchObject({ valid: true, entries: 0 });
  });
});

test('a restore is approved by a second person with the permission, and by nobody else', async () => {
  const asked = await bench.backups.createRestoreOperation({ snapshotId: whole.snapshot.id });
  expect(asked.status).toBe('PENDING_APPROVAL');
  const second = '00000000-0000-4000-8000-0000000000bb';
  const withApproval = { userId: second, permissions: ['backup:approve'] as const };
  const refused: readonly [BackupService, string][] = [
    [bench.backups, 'FORBIDDEN'],
    [as({ permissions: PERMISSIONS }), 'FORBIDDEN'],
    [as({ permissions: ['backup:approve'], userId: actorOf('').userId.toUpperCase() }), 'FORBIDDEN'],
    [as({ userId: second, permissions: ['backup:create', 'backup:restore', 'backup:read'] }), 'FORBIDDEN'],
    [as(withApproval, OTHER_ORGANIZATION), 'NOT_FOUND'],
    [as({ ...withApproval, branchIds: [BRANCH_A] }), 'NOT_FOUND'],
  ];
  for (const [service, code] of refused) {
    await nothingHappens(() => service.approveRestoreOperation(asked.id), code);
    await nothingHappens(() => service.rejectRestoreOperation(asked.id), code);
  }
  expect(await as(withApproval).rejectRestoreOperation(asked.id, 'no')).toMatchObject({ status: 'REJECTED' });
});

describe('an organization or branch in an input that is not the actor’s', () => {
  test('is FORBIDDEN', async () => {
    const asA = as({ branchIds: [BRANCH_A] });
    await nothingHappens(
      () => bench.backups.createConfiguration({ name: 'x', organizationId: OTHER_ORGANIZATION }),
      'FORBIDDEN',
    );
    await nothingHappens(() => asA.createConfiguration({ name: 'x', branchIds: [BRANCH_B] }), 'FORBIDDEN');
    await nothingHappens(
      () => asA.createConfiguration({ name: 'x', branchIds: [BRANCH_A, BRANCH_B] }),
      'FORBIDDEN',
    );
    await nothingHappens(
      () => asA.updateConfiguration(ofA.configuration.id, { branchIds: [BRANCH_B] }),
      'FORBIDDEN',
    );
    await nothingHappens(() => as({ branchIds: [] }).createConfiguration({ name: 'x' }), 'FORBIDDEN');
  });

  test('the actor’s own may be said', async () => {
    const input = { name: 'own', organizationId: TINY_ORGANIZATION.toUpperCase() };
    expect(await bench.backups.createConfiguration(input)).toMatchObject({
      organizationId: TINY_ORGANIZATION,
    });
  });
});

test('an actor who is limited to a branch backs up that branch, and others do not see it', async () => {
  const asA = as({ branchIds: [BRANCH_A], permissions: ['backup:create', 'backup:read', 'backup:restore'] });
  const { id, branchIds } = await asA.createConfiguration({ name: 'mine' });
  expect(branchIds).toEqual([BRANCH_A]);
  const snapshot = await asA.createSnapshot({ configurationId: id }, { wait: true });
  await asA.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: 'of_a' } },
    { wait: true },
  );
  const own = `organization_id = '${TINY_ORGANIZATION}' AND branch_id = '${BRANCH_A}'`;
  expect(await tinyDifferences(bench.database.pool, 'of_a', own)).toBe(0);
  await expect(as({ branchIds: [BRANCH_B] }).getSnapshot(snapshot.id)).rejects.toMatchObject({
    code: 'NOT_FOUND',
  });
  expect((await as({ branchIds: [BRANCH_A, BRANCH_B] }).getSnapshot(snapshot.id)).id).toBe(snapshot.id);
});

test('a configuration that is widened does not show its narrow past to those it excludes now, nor the other way round', async () => {
  const narrow = await make('narrow', [BRANCH_A]);
  const asA = as({ branchIds: [BRANCH_A] });
  expect((await asA.getSnapshot(narrow.snapshot.id)).id).toBe(narrow.snapshot.id);
  await bench.backups.updateConfiguration(narrow.configuration.id, { branchIds: [BRANCH_A, BRANCH_B] });
  const wide = await bench.backups.createSnapshot(
    { configurationId: narrow.configuration.id },
    { wait: true },
  );
  await expect(asA.getSnapshot(wide.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(asA.getConfiguration(narrow.configuration.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

describe('an actor that is none', () => {
  const good = actorOf(TINY_ORGANIZATION);
  const hostile = {
    ...good,
    get organizationId(): string {
      throw new Error('PLANTED');
    },
  };
  const wrong: Readonly<Record<string, unknown>> = {
    undefined: undefined,
    null: null,
    text: 'admin',
    'an empty object': {},
    'no organization': { ...good, organizationId: undefined },
    'an organization that is no UUID': { ...good, organizationId: "x' OR true" },
    'a user that is no UUID': { ...good, userId: 'me' },
    'no branches': { ...good, branchIds: undefined },
    'branches null': { ...good, branchIds: null },
    'branches of text': { ...good, branchIds: 'all' },
    'a branch that is no UUID': { ...good, branchIds: ['x'] },
    'no permissions': { ...good, permissions: undefined },
    'permissions as text': { ...good, permissions: 'backup:admin' },
    'a getter that throws': hostile,
    'a proxy that throws': new Proxy(
      {},
      {
        get: () => {
          throw new Error('PLANTED');
        },
      },
    ),
  };

  test.each(Object.keys(wrong))('%s is refused when it is bound', (name) => {
    const bind = (): unknown => bench.protection.backups(wrong[name] as Actor);
    expect(bind).toThrow(
      expect.objectContaining({ code: 'VALIDATION_FAILED', message: expect.not.stringContaining('PLANTED') }),
    );
  });

  test('what is changed after binding, or answers differently each time, gains nothing', async () => {
    const changing = {
      ...good,
      permissions: ['backup:read'] as Permission[],
      organizationId: OTHER_ORGANIZATION,
    };
    const service = bench.protection.backups(changing);
    changing.permissions.push('backup:admin');
    changing.organizationId = TINY_ORGANIZATION;
    await expect(service.createConfiguration({ name: 'x' })).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(service.getSnapshot(whole.snapshot.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    let asked = 0;
    const fickle = {
      ...good,
      get organizationId() {
        asked += 1;
        return asked === 1 ? OTHER_ORGANIZATION : TINY_ORGANIZATION;
      },
    };
    await expect(bench.protection.backups(fickle).getSnapshot(whole.snapshot.id)).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  test('permissions that the library does not know count for nothing', async () => {
    const service = as({
      permissions: ['*', 'admin', 'backup:*', 'visits:read', 'sync:admin'] as unknown as Permission[],
    });
    await nothingHappens(() => service.listConfigurations(), 'FORBIDDEN');
  });

  test('an actor with more fields, or of a class, is fine', async () => {
    class User {
      readonly roles = new Map();
      get userId(): string {
        return good.userId;
      }
      get organizationId(): string {
        return TINY_ORGANIZATION.toUpperCase();
      }
      get branchIds(): 'ALL' {
        return 'ALL';
      }
      get permissions(): Permission[] {
        return ['backup:read'];
      }
    }
    expect((await bench.protection.backups(new User()).getSnapshot(whole.snapshot.id)).id).toBe(
      whole.snapshot.id,
    );
  });
});
