import {
  type BackupProgress,
  type BackupSnapshot,
  formatDuration,
  type RestoreProgress,
} from '../../src/index.ts';
import { rowOf, withClient } from './database.ts';
import { Moment } from './oracle.ts';
import { type BarState, count, megabytes, seconds } from './screen.ts';
import type { Stage } from './stage.ts';
import { startWriting, waitForChanges } from './writers.ts';

export interface TakenBackup {
  readonly snapshot: BackupSnapshot;
  /** A session that sees the database as it was at the backup's moment. */
  readonly moment: Moment;
  /** How long the run took without the time that the demo held it up, in milliseconds. */
  readonly milliseconds: number;
  readonly statements: number;
}

/** Called when a backup has locked its tables and opened its database snapshot. */
export type OnSnapshotOpen = (exportedId: string) => Promise<void>;

/** Backs organization A up while a writer changes both, and imports the moment that the backup sees. */
export async function backUp(
  stage: Stage,
  onOpen: { use(listener: OnSnapshotOpen | undefined): void },
): Promise<TakenBackup> {
  const { backups, options, organizations, protection, proofs, screen, url } = stage;
  const configuration = await backups.createConfiguration({ name: 'Nightly' });
  const writer = options.sabotage.has('no-writer') ? undefined : await startWriting(url, 1);
  const seen: { moment?: Moment; changes: number[]; heldUp: number } = { changes: [], heldUp: 0 };
  onOpen.use(async (exportedId) => {
    const started = performance.now();
    const now = await withClient(url, async (client) => {
      seen.moment = await Moment.import(url, exportedId, organizations[0]);
      return (await rowOf<{ now: string }>(client, 'SELECT clock_timestamp()::text AS now')).now;
    });
    // Not one row has been read yet: whatever changes now must not be in the backup.
    seen.changes = await waitForChanges(url, now, organizations);
    seen.heldUp = performance.now() - started;
  });
  const bar = screen.bar();
  const unsubscribe = protection.on('snapshot.progress', ({ progress }) =>
    bar.update(barOf(progress, progress.recordsProcessed)),
  );
  let snapshot: BackupSnapshot;
  let statements: number;
  try {
    snapshot = await backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
  } finally {
    unsubscribe();
    onOpen.use(undefined);
    statements = (await writer?.stop())?.statements ?? 0;
  }
  if (seen.moment === undefined) throw new Error('The backup did not show its database snapshot');
  const milliseconds = Math.max(1, (snapshot.duration ?? 0) - seen.heldUp);
  bar.done([
    `${count(snapshot.dataMetrics?.totalRecords ?? 0)} rows`,
    `${megabytes(snapshot.dataMetrics?.totalSizeBytes ?? 0)} MB`,
    `${seconds(milliseconds)} s`,
  ]);
  const [a = 0, b = 0] = seen.changes;
  proofs.note(
    'written',
    a > 0 && b > 0,
    `${statements} statements; between the backup's moment and its first row ${a} changes of A, ${b} of B`,
  );
  return { snapshot, moment: seen.moment, milliseconds, statements };
}

/** A progress event of a backup or a restore as a bar. */
export function barOf(progress: BackupProgress | RestoreProgress, rows: number): BarState {
  const { phase, percentage, currentEntity, bytesPerSecond, estimatedTimeRemainingMs: left } = progress;
  return {
    label: phase.toLowerCase().replaceAll('_', ' '),
    percentage,
    details: [
      currentEntity ?? '',
      `${count(rows)} rows`,
      `${megabytes(bytesPerSecond)} MB/s`,
      left === null ? '' : `${formatDuration(left)} left`,
    ],
  };
}

/** The snapshot as the catalog has it. */
export function showSnapshot({ screen }: Stage, snapshot: BackupSnapshot): void {
  const { dataMetrics: data, storageLocation } = snapshot;
  screen.table(
    ['', ''],
    [
      ['number', snapshot.snapshotNumber],
      ['status', snapshot.status],
      ['rows', `${count(data?.totalRecords ?? 0)} (${count(data?.phiRecords ?? 0)} in entities with PHI)`],
      ['raw', `${megabytes(data?.totalSizeBytes ?? 0)} MB`],
      [
        'stored',
        `${megabytes(data?.storedSizeBytes ?? 0)} MB in ${data?.objects} objects of ${data?.segments} segments`,
      ],
      ['compression', `${snapshot.compressionAlgorithm}, ${snapshot.compressionRatio?.toFixed(2)} to 1`],
      ['encryption', `${snapshot.encryptionAlgorithm}, data key wrapped by ${snapshot.encryptionKeyId}`],
      [snapshot.checksumAlgorithm, snapshot.checksum ?? ''],
      ['manifest', storageLocation?.manifestKey.split('/').slice(-3).join('/') ?? ''],
    ],
  );
  screen.line();
  screen.table(
    ['entity', 'rows', 'raw MB'],
    Object.entries(data?.recordsByEntity ?? {})
      .toSorted(([, a], [, b]) => b - a)
      .map(([type, rows]) => [type, count(rows), megabytes(data?.sizeByEntity[type] ?? 0)]),
  );
}
