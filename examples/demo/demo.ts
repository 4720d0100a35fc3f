import { join } from 'node:path';
import { type Actor, createKeyringFile, localKeyring } from '../../src/index.ts';
import { platformId } from '../care-platform/generate.ts';
import { backUp, type OnSnapshotOpen, showSnapshot, type TakenBackup } from './backup.ts';
import { damageCopy } from './damage.ts';
import { takeInShift } from './offline.ts';
import type { DemoOptions } from './options.ts';
import { fillDatabase, SEED } from './platform.ts';
import { Proofs } from './proofs.ts';
import { protect } from './protection.ts';
import { copyMoment, proveEqual, proveSchema } from './prove.ts';
import { RESTORED, restore, spoil } from './restore.ts';
import { count, megabytes, type Screen, seconds } from './screen.ts';
import { proveSecrecy } from './secrecy.ts';
import type { Stage } from './stage.ts';
import type { Workspace } from './workspace.ts';
import { startWriting } from './writers.ts';

/** Runs the main job from an empty machine to a restored schema. True only if every proof held. */
export async function runDemo(options: DemoOptions, workspace: Workspace, screen: Screen): Promise<boolean> {
  const started = performance.now();
  screen.heading('Starting an embedded PostgreSQL for this run');
  const url = await workspace.startPostgres(screen);

  screen.heading(`Generating a care platform: two organizations with ${count(options.visits)} visits each`);
  const organizations = await fillDatabase(url, options.visits, screen);

  screen.heading('Setting up the library');
  const onOpen = listenerSlot();
  const settings = await settingsFor(url, workspace.folder, onOpen.call);
  await using protection = await protect(settings);
  await protection.migrate();
  screen.line(
    `   files in ${workspace.folder}: storage/ and keyring.json, which only this user can read (0600)`,
  );
  screen.line('   schema care_backup: the library’s own tables');
  const proofs = new Proofs(screen);
  const actor: Actor = {
    userId: platformId(SEED, 'user', 1, 1),
    organizationId: organizations[0],
    branchIds: 'ALL',
    permissions: ['backup:create', 'backup:read', 'backup:restore'],
  };
  const stage: Stage = {
    ...{ options, screen, proofs, url, organizations, actor, settings, protection },
    folder: workspace.folder,
    storageFolder: storageFolder(workspace.folder),
    backups: protection.backups(actor),
  };

  screen.heading('Backing up organization A, encrypted, while a writer changes both');
  const taken = await backUp(stage, onOpen);

  screen.heading(`The snapshot ${taken.snapshot.snapshotNumber}`);
  showSnapshot(stage, taken.snapshot);

  screen.heading('Verifying it: every stored byte is read, decrypted and counted');
  const verifyMs = await verify(stage, taken);

  screen.heading('Damaging a copy of it');
  await damageCopy(stage, taken.snapshot);
  await verify(stage, taken);

  screen.heading(`Restoring it into the schema ${RESTORED}, while the writer goes on`);
  const writer = await startWriting(url, 2);
  const restored = await restore(stage, taken.snapshot).finally(() => writer.stop());
  await spoil(stage);

  screen.heading('Comparing the restored rows with the moment of the backup');
  screen.line('   A session that imported the backup’s database snapshot still sees that moment.');
  const tables = await copyMoment(stage, taken.moment);
  await proveEqual(stage, tables, taken.snapshot.dataMetrics?.totalRecords ?? -1);

  screen.heading('Looking at the restored schema');
  await proveSchema(stage);

  screen.heading('Searching the stored bytes for what the clients’ rows say');
  await proveSecrecy(stage);

  screen.heading('Taking in an offline shift');
  await takeInShift(stage);

  screen.heading('Figures');
  showFigures(screen, taken, { verifyMs, restoreMs: restored.duration ?? 0, started });
  return proofs.conclude();
}

const storageFolder = (folder: string): string => join(folder, 'storage');

async function settingsFor(
  url: string,
  folder: string,
  onSnapshotOpen: OnSnapshotOpen,
): Promise<Stage['settings']> {
  const keyring = join(folder, 'keyring.json');
  await createKeyringFile(keyring);
  return {
    database: url,
    keys: localKeyring({ file: keyring }),
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: storageFolder(folder) } },
    hooks: { onSnapshotOpen },
  };
}

/** The hook is given once to the library; who listens changes. */
function listenerSlot() {
  let listener: OnSnapshotOpen | undefined;
  return {
    use: (next: OnSnapshotOpen | undefined): void => {
      listener = next;
    },
    call: async (exportedId: string): Promise<void> => listener?.(exportedId),
  };
}

/** Gives the milliseconds that it took. */
async function verify({ backups, proofs, screen }: Stage, { snapshot }: TakenBackup): Promise<number> {
  const started = performance.now();
  const results = await backups.verifySnapshot(snapshot.id);
  const took = performance.now() - started;
  for (const { name, passed, details } of results.checks) {
    screen.line(`   ${passed ? 'ok    ' : 'FAILED'} ${name}: ${details}`);
  }
  proofs.note('verified', results.passed, `${count(results.recordsFound)} rows, ${seconds(took)} s`);
  return took;
}

function showFigures(
  screen: Screen,
  { snapshot, milliseconds, statements }: TakenBackup,
  other: { readonly verifyMs: number; readonly restoreMs: number; readonly started: number },
): void {
  const raw = snapshot.dataMetrics?.totalSizeBytes ?? 0;
  const perSecond = (ms: number): string => `${megabytes((raw * 1000) / Math.max(1, ms))} MB/s`;
  screen.table(
    ['', ''],
    [
      ['rows', count(snapshot.dataMetrics?.totalRecords ?? 0)],
      ['raw', `${megabytes(raw)} MB`],
      ['stored', `${megabytes(snapshot.dataMetrics?.storedSizeBytes ?? 0)} MB`],
      ['ratio', `${snapshot.compressionRatio?.toFixed(2)} to 1`],
      ['backup', `${seconds(milliseconds)} s, ${perSecond(milliseconds)}`],
      ['verification', `${seconds(other.verifyMs)} s, ${perSecond(other.verifyMs)}`],
      ['restore', `${seconds(other.restoreMs)} s, ${perSecond(other.restoreMs)}`],
      ['writer during the backup', `${count(statements)} statements`],
      ['peak memory of this process', `${megabytes(process.resourceUsage().maxRSS * 1024)} MB`],
      ['the whole demo', `${seconds(performance.now() - other.started)} s`],
    ],
  );
}
