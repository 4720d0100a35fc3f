import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { encodeClaim } from '../../src/archive/claim.ts';
import type { KeyProvider } from '../../src/keys/keys.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import { actorOf, benchKeyring, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { hiddenSchemas, schemaThere } from '../harness/service-compare.ts';
import { expectSettled, keysOf } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

let bench: ServiceBench;
let used: ObjectStorage;
let first: BackupSnapshot;
let second: BackupSnapshot;
let schemas = 0;

beforeAll(async () => {
  bench = await createBench(tinyData, { openStorage: () => used });
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

async function overwrite(key: string, bytes: Uint8Array): Promise<void> {
  await used.delete(key);
  await used.put(key, [bytes]);
}

const objectOf = (snapshot: BackupSnapshot): string => `${snapshot.storageLocation?.path}o-000001`;
const manifestOf = (snapshot: BackupSnapshot): string => snapshot.storageLocation?.manifestKey ?? '';

async function refusesRestore(backups: BackupService, snapshot: BackupSnapshot, code: RegExp): Promise<void> {
  schemas += 1;
  const schemaName = `refused_${schemas}`;
  const restore = backups.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName } },
    { wait: true },
  );
  await expect(restore).rejects.toMatchObject({ code: expect.stringMatching(code), snapshotId: snapshot.id });
  expect(await schemaThere(bench.database.pool, schemaName)).toBe(false);
  expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
}

/** Ways to damage the second of two snapshots of one configuration. */
const damages: Readonly<Record<string, () => Promise<void>>> = {
  'the object is missing': () => used.delete(objectOf(second)),
  'the object is altered': async () => {
    const bytes = await used.get(objectOf(second));
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0x10;
    await overwrite(objectOf(second), bytes);
  },
  'the object is cut': async () => {
    const bytes = await used.get(objectOf(second));
    await overwrite(objectOf(second), bytes.subarray(0, -1));
  },
  'the object is longer': async () => {
    const bytes = await used.get(objectOf(second));
    await overwrite(objectOf(second), Buffer.concat([bytes, Buffer.of(0)]));
  },
  'the object is empty': () => overwrite(objectOf(second), new Uint8Array()),
  'the object is that of another snapshot': async () =>
    overwrite(objectOf(second), await used.get(objectOf(first))),
  'the manifest is missing': () => used.delete(manifestOf(second)),
  'the manifest is altered': async () => {
    const bytes = await used.get(manifestOf(second));
    bytes[60] = (bytes[60] ?? 0) ^ 1;
    await overwrite(manifestOf(second), bytes);
  },
  'the manifest is cut': async () => {
    const bytes = await used.get(manifestOf(second));
    await overwrite(manifestOf(second), bytes.subarray(0, -7));
  },
  'the manifest is longer': async () => {
    const bytes = await used.get(manifestOf(second));
    await overwrite(manifestOf(second), Buffer.concat([bytes, Buffer.from('x')]));
  },
  'the manifest is the older, genuine one': async () =>
    overwrite(manifestOf(second), await used.get(manifestOf(first))),
  'manifest and objects are those of the older': async () => {
    await overwrite(manifestOf(second), await used.get(manifestOf(first)));
    await overwrite(objectOf(second), await used.get(objectOf(first)));
  },
  'a claim lies in the manifest’s place': async () => {
    const attemptId = second.storageLocation?.path.split('/').at(-2) ?? '';
    const claim = { snapshotId: second.id, attemptId, claimedAt: new Date().toISOString(), claimedBy: 'me' };
    await overwrite(manifestOf(second), encodeClaim(claim));
  },
};

describe.each([true, false])('encrypted: %s', (encryptionEnabled) => {
  let sound: ObjectStorage;
  let snapshots: readonly [BackupSnapshot, BackupSnapshot];

  beforeAll(async () => {
    sound = memoryStorage();
    used = sound;
    const { id } = await bench.configure({ encryptionEnabled, allowUnencryptedPHI: !encryptionEnabled });
    const older = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    // Else the two could be the same bytes, where nothing is encrypted.
    await bench.database.pool.query("UPDATE item SET secret = secret || '.' WHERE id = 1");
    snapshots = [older, await bench.backups.createSnapshot({ configurationId: id }, { wait: true })];
  });
  // Each damage is done to a copy.
  beforeEach(async () => {
    used = memoryStorage();
    for (const key of await keysOf(sound)) await used.put(key, [await sound.get(key)]);
    [first, second] = snapshots;
  });

  test.each(Object.keys(damages))('%s: verification says so and a restore refuses', async (name) => {
    expect(await bench.backups.verifySnapshot(second.id)).toMatchObject({ passed: true });
    await damages[name]?.();
    const results = await bench.backups.verifySnapshot(second.id);
    expect(results.passed).toBe(false);
    expect(results.checks.some(({ passed, details }) => !passed && (details ?? '') !== '')).toBe(true);
    expect(await bench.backups.getSnapshot(second.id)).toMatchObject({ integrityVerified: false });
    await refusesRestore(bench.backups, second, /^ARCHIVE_/);
    expect(await bench.backups.verifySnapshot(first.id)).toMatchObject({ passed: true });
  });
});

test('a manifest replaced by another one of the same attempt is not the one that was recorded', async () => {
  used = memoryStorage();
  const { id } = await bench.configure();
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  await bench.database.pool.query(
    'UPDATE care_backup.backup_snapshots SET checksum = repeat($2, 64) WHERE id = $1',
    [snapshot.id, '0'],
  );
  expect(await bench.backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: false });
  await refusesRestore(bench.backups, snapshot, /^ARCHIVE_CORRUPT$/);
});

describe('keys', () => {
  const SECRET = 'key-material-0123456789';
  const broken = (what: 'wrap' | 'unwrap' | 'currentKeyId'): KeyProvider => ({
    ...benchKeyring(),
    [what]: () => Promise.reject(new Error(`provider said ${SECRET}`)),
  });

  const withKeys = async (keys: KeyProvider | undefined): Promise<BackupService> => {
    const options = keys === undefined ? {} : { keys };
    const protection = await bench.open(options);
    return protection.backups(actorOf(TINY_ORGANIZATION));
  };

  beforeEach(async () => {
    used = memoryStorage();
    const { id } = await bench.configure();
    first = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  });

  test.each([
    ['a wrong key under the same id', benchKeyring(Buffer.alloc(32, 7))],
    ['a provider that fails', broken('unwrap')],
  ])('%s: KEY_UNAVAILABLE, and nothing is restored', async (_, keys) => {
    const backups = await withKeys(keys);
    const verifying = backups.verifySnapshot(first.id);
    await expect(verifying).rejects.toMatchObject({ code: 'KEY_UNAVAILABLE' });
    await verifying.catch((error: Error) => expect(error.message).not.toContain(SECRET));
    await refusesRestore(backups, first, /^KEY_UNAVAILABLE$/);
  });

  test('a provider that cannot wrap fails the run and leaves nothing', async () => {
    const backups = await withKeys(broken('wrap'));
    const run = backups.createSnapshot({ configurationId: first.configurationId }, { wait: true });
    await expect(run).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
      message: expect.not.stringContaining(SECRET),
    });
    const [failed] = (await backups.listSnapshots()).items;
    expect(failed).toMatchObject({ status: 'FAILED', statusReason: expect.not.stringContaining(SECRET) });
    await expectSettled(bench.backups, first.configurationId, used);
  });

  test('a provider that hangs is cancelled within a second', async () => {
    const asked = Promise.withResolvers<void>();
    const hanging = {
      ...benchKeyring(),
      wrap: () => {
        asked.resolve();
        return new Promise<never>(() => undefined);
      },
    };
    const backups = await withKeys(hanging);
    const { id } = await backups.createSnapshot({ configurationId: first.configurationId });
    await asked.promise;
    const since = Date.now();
    expect(await backups.cancelSnapshot(id)).toMatchObject({ status: 'CANCELLED' });
    expect(Date.now() - since).toBeLessThan(10_000);
  });

  test('a provider that cannot name its key creates no configuration', async () => {
    const backups = await withKeys(broken('currentKeyId'));
    const before = await backups.listConfigurations({ limit: 100 });
    const creating = backups.createConfiguration({ name: 'x' });
    await expect(creating).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
      message: expect.not.stringContaining(SECRET),
    });
    expect((await backups.listConfigurations({ limit: 100 })).items).toHaveLength(before.items.length);
  });

  test('a run that died after its manifest, whose key is lost, does not count and blocks nothing', async () => {
    await bench.database.pool.query(
      `UPDATE care_backup.backup_attempts SET state = 'RUNNING' WHERE snapshot_id = $1`,
      [first.id],
    );
    await bench.database.pool.query('ALTER TABLE care_backup.backup_snapshots DISABLE TRIGGER USER');
    await bench.database.pool.query(
      `UPDATE care_backup.backup_snapshots SET status = 'FINALIZING' WHERE id = $1`,
      [first.id],
    );
    await bench.database.pool.query('ALTER TABLE care_backup.backup_snapshots ENABLE TRIGGER USER');
    const backups = await withKeys(benchKeyring(Buffer.alloc(32, 9)));
    const next = await backups.createSnapshot({ configurationId: first.configurationId }, { wait: true });
    expect(next.status).toBe('COMPLETED');
    expect(await backups.getSnapshot(first.id)).toMatchObject({
      status: 'FAILED',
      statusReason: expect.stringContaining('KEY_UNAVAILABLE'),
    });
    expect(await keysOf(used, first.snapshotNumber)).toHaveLength(2);
  });
});
