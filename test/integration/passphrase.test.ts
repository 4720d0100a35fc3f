import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readHeader } from '../../src/archive/manifest.ts';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { passphraseKeyring } from '../../src/keys/passphrase-keyring.ts';
import { openArchive, readSegment } from '../../src/service/stored-archive.ts';
import { localStorage } from '../../src/storage/local.ts';
import { actorOf, createBench, filesBelow, type ServiceBench } from '../harness/service-bench.ts';
import { Told } from '../harness/service-leaks.ts';
import { PLANTED, TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const OLD = 'correct horse battery staple';
const NEW = 'other horses, better staples';
const COST = { memoryKiB: 19_456, iterations: 2, parallelism: 1 };
const named = (name: string, passphrase: string) => ({ name, credentials: () => ({ passphrase }) });

/** Before the change of the passphrase, and after it, with a higher cost. */
const before = passphraseKeyring({
  passphrases: [named('2025', OLD)],
  current: { name: '2025', salt: 'a1'.repeat(16), ...COST },
});
const after = passphraseKeyring({
  passphrases: [named('2026', NEW), named('2025', OLD)],
  current: { name: '2026', salt: 'b2'.repeat(16), ...COST, iterations: 3 },
});

const told = new Told();
let bench: ServiceBench;
beforeAll(async () => {
  bench = await createBench(tinyData, { keys: before, logger: told.logger });
});
afterAll(() => bench[Symbol.asyncDispose]());

const backupsWith = async (keys: KeyProvider) =>
  (await bench.open({ keys })).backups(actorOf(TINY_ORGANIZATION));

async function restore(keys: KeyProvider, snapshotId: string, schemaName: string) {
  const backups = await backupsWith(keys);
  const restoreDestination = { type: 'STAGING', schemaName } as const;
  return backups.createRestoreOperation({ snapshotId, restoreDestination }, { wait: true });
}

/** The manifest of a snapshot, found in the folder alone. */
async function manifestOf(snapshotNumber: string): Promise<{ prefix: string; bytes: Buffer }> {
  const files = await filesBelow(bench.folder);
  const name = files.find((path) => path.includes(`/${snapshotNumber}/`) && path.endsWith('/manifest'));
  if (name === undefined) throw new Error(`no manifest of ${snapshotNumber} in ${files.join(', ')}`);
  return { prefix: name.slice(0, -'manifest'.length), bytes: await readFile(join(bench.folder, name)) };
}

test('a backup is restored by whoever has the passphrase; a changed one opens new and old', async () => {
  const { id } = await bench.configure();
  const first = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  const changed = await backupsWith(after);
  const second = await changed.createSnapshot({ configurationId: id }, { wait: true });
  expect(first.encryptionKeyId).toBe(await before.currentKeyId());
  expect(second.encryptionKeyId).toBe(await after.currentKeyId());

  // As on a new machine: no salt and no parameters are given.
  const onlyOld = passphraseKeyring({ passphrases: [named('2025', OLD)] });
  const both = passphraseKeyring({ passphrases: [named('2026', NEW), named('2025', OLD)] });
  const runs = [
    [onlyOld, first.id, 'old_by_old'],
    [both, first.id, 'old_by_both'],
    [both, second.id, 'new_by_both'],
    [after, first.id, 'old_by_changed'],
  ] as const;
  for (const [keys, snapshotId, schema] of runs) {
    expect(await restore(keys, snapshotId, schema)).toMatchObject({ status: 'COMPLETED' });
    expect(await tinyDifferences(bench.database.pool, schema)).toBe(0);
  }

  const wrong = passphraseKeyring({ passphrases: [named('2025', NEW), named('2026', OLD)] });
  for (const [keys, snapshotId] of [
    [wrong, first.id],
    [wrong, second.id],
    [onlyOld, second.id],
  ] as const) {
    const error: unknown = await restore(keys, snapshotId, 'nothing').catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'KEY_UNAVAILABLE' });
    told.addError(error);
  }
  const { rows } = await bench.database.pool.query(
    `SELECT 1 FROM information_schema.schemata WHERE schema_name = 'nothing'`,
  );
  expect(rows).toEqual([]);
});

test('the rows come out of the folder with the passphrase, without the database', async () => {
  const { id } = await bench.configure();
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  const { prefix, bytes } = await manifestOf(snapshot.snapshotNumber);
  const { identity } = readHeader(bytes);
  const keys = passphraseKeyring({ passphrases: [named('2025', OLD)] });
  const place = { storage: localStorage({ path: bench.folder }), prefix, manifestKey: `${prefix}manifest` };
  const expected = { identity, encrypted: true, checksum: null };
  const opened = await openArchive(bytes, place, expected, keys, new AbortController().signal);
  const rows: string[] = [];
  for (const index of opened.manifest.header.segments.keys()) {
    rows.push((await readSegment({ place, ...opened }, index)).toString());
  }
  expect(rows.join('').split(PLANTED)).toHaveLength(40 + 1);
});

test('no passphrase is in the storage, the catalog or what is told', async () => {
  const files = await filesBelow(bench.folder);
  expect(files.length).toBeGreaterThan(2);
  for (const file of files) told.add(file, (await readFile(join(bench.folder, file))).toString('latin1'));
  for (const table of ['backup_configurations', 'backup_snapshots', 'restore_operations', 'audit_log']) {
    const { rows } = await bench.database.pool.query(`SELECT * FROM care_backup.${table}`);
    expect(rows).not.toEqual([]);
    told.add(table, rows);
  }
  told.expectNone([OLD, NEW, ...[OLD, NEW].map((text) => Buffer.from(text).toString('base64'))]);
});
