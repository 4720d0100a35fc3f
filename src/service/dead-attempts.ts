import { isDeepStrictEqual } from 'node:util';
import type { ArchiveIdentity } from '../archive/format.ts';
import type { KeyProvider } from '../keys/keys.ts';
import type { BackupAttempt } from '../repository/attempts.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupConfiguration, BackupSnapshot } from '../types/backup.ts';
import { ArchiveError, BackupError, DataProtectionError, KeyError, StorageError } from '../types/errors.ts';
import { type AttemptPlace, claimAttempt, inTime, placeOf, sweepAttempt } from './attempt-storage.ts';
import { endBadly, endWell } from './catalog-end.ts';
import type { ServiceContext } from './context.ts';
import { copiesOf } from './copies.ts';
import { codeOf, orAborted } from './failure.ts';
import { snapshotResult, summarize } from './snapshot-result.ts';
import { replicateSoon } from './storage-jobs.ts';
import {
  type ExpectedArchive,
  initialCopies,
  type OpenedArchive,
  openArchive,
  requireObjects,
} from './stored-archive.ts';

/** How long what a dead attempt may still store is swept again by every later run: longer than any run lasts. */
const RESWEEP_MS = 7 * 24 * 60 * 60 * 1000;

/**
 * Ends what dead runs of a configuration left, so that nothing of theirs is half there and nothing of theirs blocks the
 * next. The caller holds the configuration's lock, so that an attempt that still counts as running is dead.
 *
 * The manifest's name decides: where it can be claimed, the snapshot is FAILED and its objects are removed; where a
 * manifest lies there, the run had finished and is entered in the catalog. What a resurrected worker stored after an
 * earlier sweep goes too. Throws `STORAGE_*` where a claim cannot be placed: until then nobody knows.
 */
export async function endDeadAttempts(
  context: ServiceContext,
  repository: BackupRepository,
  configuration: BackupConfiguration,
  reason: DataProtectionError = new BackupError(
    'The process that ran the backup ended before the backup did',
    'BACKUP_INTERRUPTED',
  ),
): Promise<void> {
  for (const attempt of await repository.findUnfinishedAttempts(configuration.id)) {
    const snapshot = await repository.findSnapshotById(attempt.snapshotId);
    if (snapshot !== undefined) await endAttempt(context, { configuration, snapshot, attempt }, reason);
  }
  const since = new Date(context.clock.now().getTime() - RESWEEP_MS).toISOString();
  for (const attempt of await repository.findClaimedAttempts(configuration.id, since)) {
    const snapshot = await repository.findSnapshotById(attempt.snapshotId);
    if (snapshot === undefined) continue;
    const dead = { configuration, snapshot, attempt };
    if (isDeepStrictEqual(destinationOf(dead), configuration.storageDestination)) {
      await resweep(context, repository, dead);
    } else {
      resweepBeside(context, repository, dead);
    }
  }
}

/** A place that the configuration has left may be silent, for good: no run waits for it. */
function resweepBeside(context: ServiceContext, repository: BackupRepository, dead: DeadAttempt): void {
  const { id } = dead.attempt;
  if (context.work.has(id)) return;
  context.work
    .start(id, (stopped) => orAborted(resweep(context, repository, dead), stopped), 'STOP')
    .catch(() => undefined);
}

interface DeadAttempt {
  readonly configuration: BackupConfiguration;
  readonly snapshot: BackupSnapshot;
  readonly attempt: BackupAttempt;
}

async function endAttempt(
  context: ServiceContext,
  dead: DeadAttempt,
  reason: DataProtectionError,
): Promise<void> {
  const { snapshot, attempt } = dead;
  const about = { snapshotId: snapshot.id };
  let place: AttemptPlace;
  let identity: ArchiveIdentity;
  let manifests: readonly Uint8Array[];
  try {
    ({ place, identity } = whereabouts(context, dead));
    ({ manifests } = await claimAttempt(place, identity, { at: context.clock.now(), by: context.worker }));
  } catch (error) {
    if (isDeepStrictEqual(destinationOf(dead), dead.configuration.storageDestination)) throw error;
    // The configuration stores elsewhere by now: a place that is gone for good must not keep it from its backups.
    await endBadly(context, snapshot, attempt.id, reason);
    context.logger.error(
      { ...about, error: codeOf(error) },
      'A backup whose process had died was ended; the former destination does not say what is left there',
    );
    return;
  }
  if (manifests.length === 0) {
    // Its objects go with those of the other attempts that were given up.
    await endBadly(context, snapshot, attempt.id, reason);
    context.logger.warn(about, 'A backup whose process had died was ended');
    return;
  }
  try {
    const expected = { identity, encrypted: snapshot.encrypted, checksum: null };
    await adopt(context, dead, place, await openOneOf(manifests, place, expected, context.keys));
  } catch (error) {
    if (!(error instanceof DataProtectionError)) throw error;
    // Of several stores the one that does not answer may be gone for good: it must not keep the others from new backups.
    const silent = error instanceof StorageError && copiesOf(place.storage).length > 1;
    if (!silent && (error.retryable || !(error instanceof ArchiveError || error instanceof KeyError)))
      throw error;
    // What lies there stays, for people to look at; it does not count, and does not block what comes.
    await endBadly(context, snapshot, attempt.id, error);
    context.logger.error(
      { ...about, error: error.code },
      'A backup whose process had died cannot be seen whole; its objects stay',
    );
  }
}

/** Opens the first that is whole; rejects with what the last one says where none is. */
async function openOneOf(
  manifests: readonly Uint8Array[],
  place: AttemptPlace,
  expected: ExpectedArchive,
  keys: KeyProvider | undefined,
): Promise<OpenedArchive> {
  let failure: unknown;
  for (const manifest of manifests) {
    try {
      return await inTime((signal) => openArchive(manifest, place, expected, keys, signal));
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

async function adopt(
  context: ServiceContext,
  { configuration, snapshot, attempt }: DeadAttempt,
  place: AttemptPlace,
  archive: OpenedArchive,
): Promise<void> {
  await inTime((signal) => requireObjects({ ...archive, place }, signal));
  const result = snapshotResult(summarize(archive.manifest, archive.contents), {
    configuration,
    storageLocation: snapshot.storageLocation ?? locationOf(configuration, place),
    startedAt: snapshot.startedAt ?? attempt.createdAt,
    completedAt: new Date(archive.manifest.header.createdAt),
    readBack: false,
    progress: snapshot.progress,
  });
  if (!(await endWell(context, snapshot, attempt.id, 'snapshot.adopted', result))) return;
  context.logger.warn(
    { snapshotId: snapshot.id },
    'A backup whose process had died after its manifest was stored was entered in the catalog',
  );
  await replicateSoon(context, { ...snapshot, ...result });
}

/** What a resurrected worker has stored since. Nothing of it can count, so no failure here is a reason not to go on. */
async function resweep(
  context: ServiceContext,
  repository: BackupRepository,
  dead: DeadAttempt,
): Promise<void> {
  const about = { snapshotId: dead.snapshot.id };
  try {
    const { place, identity } = whereabouts(context, dead);
    const claim = await claimAttempt(place, identity, { at: context.clock.now(), by: context.worker });
    if (claim.manifests.length > 0) {
      context.logger.error(about, 'A backup that was given up has a manifest; its objects stay');
      return;
    }
    await sweepAttempt(claim.claimed);
    if (claim.unclaimed.length > 0) throw claim.unclaimed[0];
    await repository.markSwept(dead.attempt.id);
  } catch (error) {
    context.logger.warn(
      { ...about, error: codeOf(error) },
      'The remains of an earlier backup could not be removed',
    );
  }
}

const destinationOf = ({ configuration, snapshot, attempt }: DeadAttempt) =>
  attempt.destination ?? snapshot.storageLocation?.destination ?? configuration.storageDestination;

function whereabouts(context: ServiceContext, dead: DeadAttempt) {
  const { snapshot, attempt } = dead;
  const { storage, prefix } = context.openStorage(destinationOf(dead));
  const identity: ArchiveIdentity = {
    organizationId: snapshot.organizationId,
    configurationId: snapshot.configurationId,
    snapshotId: snapshot.id,
    snapshotNumber: snapshot.snapshotNumber,
    attemptId: attempt.id,
  };
  return { identity, place: placeOf(storage, prefix, identity) };
}

const locationOf = (configuration: BackupConfiguration, place: ReturnType<typeof placeOf>) => ({
  type: configuration.storageDestination.type,
  description: place.storage.description,
  path: place.prefix,
  manifestKey: place.manifestKey,
  destination: configuration.storageDestination,
  replicationLocations: initialCopies(place.storage),
});
