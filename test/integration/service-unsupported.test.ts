import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type {
  BackupSnapshot,
  CreateBackupConfigInput,
  CreateRestoreOperationInput,
} from '../../src/types/backup.ts';
import { createBench, filesBelow, ownRows, type ServiceBench } from '../harness/service-bench.ts';
import { tinyData } from '../harness/service-tiny.ts';

let bench: ServiceBench;
let snapshot: BackupSnapshot;
beforeAll(async () => {
  bench = await createBench(tinyData);
  const { id } = await bench.configure();
  snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

async function refused(action: () => Promise<unknown>, code: RegExp): Promise<void> {
  const before = [await ownRows(bench.database.pool), ...(await filesBelow(bench.folder))];
  await expect(action()).rejects.toMatchObject({ code: expect.stringMatching(code) });
  expect([await ownRows(bench.database.pool), ...(await filesBelow(bench.folder))]).toEqual(before);
}

const configurations: Readonly<Record<string, Partial<CreateBackupConfigInput>>> = {
  INCREMENTAL: { configType: 'INCREMENTAL' },
  DIFFERENTIAL: { configType: 'DIFFERENTIAL' },
  CONTINUOUS: { configType: 'CONTINUOUS' },
  'SFTP without the key of its host': {
    storageDestination: {
      type: 'SFTP',
      sftp: { host: 'backup.example.com', path: 'b', credentialsRef: 'x' },
    },
  },
  attachments: { scope: { includeAttachments: true } },
  documents: { scope: { includeDocuments: true } },
  'an unknown entity': { scope: { includeEntities: ['SPACESHIP'] } },
  'PHI in the clear': { encryptionEnabled: false },
};

describe('a configuration with', () => {
  test.each(Object.keys(configurations))('%s is refused', async (name) => {
    await refused(
      () => bench.configure(configurations[name]),
      /^(NOT_SUPPORTED|ENTITY_UNKNOWN|VALIDATION_FAILED|CONFIGURATION_INVALID)$/,
    );
    await refused(
      () => bench.backups.updateConfiguration(snapshot.configurationId, configurations[name] ?? {}),
      /^(NOT_SUPPORTED|ENTITY_UNKNOWN|VALIDATION_FAILED|CONFIGURATION_INVALID)$/,
    );
  });
});

describe('a snapshot', () => {
  test.each(['INCREMENTAL', 'DIFFERENTIAL', 'CONTINUOUS'] as const)('%s is refused', async (snapshotType) => {
    const input = { configurationId: snapshot.configurationId, snapshotType };
    await refused(() => bench.backups.createSnapshot(input), /^NOT_SUPPORTED$/);
  });

  test('with a parent is refused', async () => {
    const input = { configurationId: snapshot.configurationId, parentSnapshotId: snapshot.id };
    await refused(() => bench.backups.createSnapshot(input), /^NOT_SUPPORTED$/);
  });
});

const staging = { type: 'STAGING', schemaName: 'never' } as const;
const restores: Readonly<Record<string, Partial<CreateRestoreOperationInput>>> = {
  TEMPORARY: { restoreDestination: { type: 'TEMPORARY' } },
  'a table prefix': { restoreDestination: { type: 'TEST', tablePrefix: 'old_' } },
  'another database': { restoreDestination: { type: 'TEST', databaseConnection: 'elsewhere' } },
  SELECTIVE: { restoreDestination: staging, restoreType: 'SELECTIVE' },
  FILE_LEVEL: { restoreDestination: staging, restoreType: 'FILE_LEVEL' },
  POINT_IN_TIME: {
    restoreDestination: staging,
    restoreType: 'POINT_IN_TIME',
    scope: { restoreToTimestamp: '2026-01-31T02:00:00Z' },
  },
  'a scope': { restoreDestination: staging, scope: { includeEntities: ['ITEM'] } },
  'attachments in its scope': { scope: { includeAttachments: true } },
};

describe('a restore with', () => {
  test.each(Object.keys(restores))('%s is refused', async (name) => {
    const input = { snapshotId: snapshot.id, ...restores[name] };
    await refused(() => bench.backups.createRestoreOperation(input), /^NOT_SUPPORTED$/);
  });
});

test('what the entities hide in a scope of branches that PART has no column for is told', async () => {
  await refused(() => bench.configure({ scope: { clientIds: [snapshot.id] } }), /^ENTITY_SCOPE_UNSUPPORTED$/);
});
