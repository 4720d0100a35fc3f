import { cp, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type BackupSnapshot, DataProtectionError, localStorage } from '../../src/index.ts';
import { rowsOf, withClient } from './database.ts';
import { protect } from './protection.ts';
import type { Stage } from './stage.ts';

const SCHEMA = 'from_damaged_copy';

/** Flips a bit in a copy of the storage: verification must find it, and a restore from the copy must come to nothing. */
export async function damageCopy(stage: Stage, snapshot: BackupSnapshot): Promise<void> {
  const { actor, folder, options, proofs, screen, settings, storageFolder, url } = stage;
  const copy = join(folder, 'damaged-copy');
  await cp(storageFolder, copy, { recursive: true });
  if (!options.sabotage.has('no-damage')) {
    const { file, offset } = await flipBit(join(copy, snapshot.storageLocation?.path ?? ''));
    screen.line(`   flipped one bit of byte ${offset} of object ${file} in a copy of the storage`);
  }
  await using protection = await protect({ ...settings, openStorage: () => localStorage({ path: copy }) });
  const backups = protection.backups(actor);

  const results = await backups.verifySnapshot(snapshot.id);
  const failed = results.checks.filter(({ passed }) => !passed);
  for (const { name, details } of failed)
    screen.line(`   verification of the copy: ${name}: ${details.slice(0, 100)}`);
  proofs.note(
    'damageFound',
    !results.passed,
    results.passed ? 'it passed' : `${failed.length} of ${results.checks.length} checks failed`,
  );

  const refusal = await backups
    .createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: { type: 'STAGING', schemaName: SCHEMA } },
      { wait: true },
    )
    .then(
      () => 'it was restored',
      (error: unknown) => {
        if (error instanceof DataProtectionError && error.code === 'ARCHIVE_CORRUPT') return error;
        throw error;
      },
    );
  const left = await schemasLeft(url);
  if (typeof refusal !== 'string')
    screen.line(`   restore from the copy: ${refusal.code}: ${refusal.message}`);
  proofs.note(
    'damageRefused',
    typeof refusal !== 'string' && left.length === 0,
    typeof refusal === 'string' ? refusal : `schemas left behind: ${left.join(', ') || 'none'}`,
  );
}

/** Flips a bit in the middle of the largest object below a folder. */
async function flipBit(path: string): Promise<{ file: string; offset: number }> {
  const names = (await readdir(path)).filter((name) => name.startsWith('o-'));
  const sizes = await Promise.all(
    names.map(async (file) => ({ file, size: (await stat(join(path, file))).size })),
  );
  const [largest] = sizes.toSorted((a, b) => b.size - a.size);
  if (largest === undefined) throw new Error(`There is no object in ${path}`);
  const offset = Math.floor(largest.size / 2);
  await using handle = await open(join(path, largest.file), 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, offset);
  byte.writeUInt8(byte.readUInt8(0) ^ 0x10);
  await handle.write(byte, 0, 1, offset);
  return { file: largest.file, offset };
}

/** What a restore that failed might have left: its schema, or the hidden one that it loads into. */
async function schemasLeft(url: string): Promise<string[]> {
  return withClient(url, async (client) => {
    const rows = await rowsOf<{ name: string }>(
      client,
      "SELECT nspname AS name FROM pg_namespace WHERE nspname = $1 OR nspname LIKE 'care\\_backup\\_restoring%' ORDER BY 1",
      [SCHEMA],
    );
    return rows.map(({ name }) => name);
  });
}
