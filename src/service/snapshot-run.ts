import { randomBytes } from 'node:crypto';
import type { ArchiveIdentity } from '../archive/format.ts';
import { readHeader } from '../archive/manifest.ts';
import { createArchiveWriter } from '../archive/writer.ts';
import type { SessionLock } from '../repository/advisory-lock.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { AttemptToken } from '../repository/snapshot-end.ts';
import type { SnapshotProgressUpdate } from '../repository/snapshots.ts';
import type { BackupConfiguration, BackupSnapshot, StorageLocation } from '../types/backup.ts';
import type { WrappedKey } from '../types/encryption.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { type AttemptPlace, claimAttempt, placeOf, storeManifest, sweepAttempt } from './attempt-storage.ts';
import { endBadly, endWell, enterOutcome } from './catalog-end.ts';
import type { OpenedStorage, ServiceContext } from './context.ts';
import { codeOf, keyFailure, orAborted } from './failure.ts';
import { requireUsableKey } from './key-use.ts';
import { SnapshotProgress } from './snapshot-progress.ts';
import { snapshotResult } from './snapshot-result.ts';
import { checkStoredObjects, initialCopies } from './stored-archive.ts';

export interface SnapshotRun {
  readonly context: ServiceContext;
  /** Sees the whole organization: authorization has been checked before. */
  readonly repository: BackupRepository;
  readonly configuration: BackupConfiguration;
  readonly snapshot: BackupSnapshot;
  readonly attemptId: UUID;
  readonly opened: OpenedStorage;
  /** Held for the whole run. */
  readonly lock: SessionLock;
  readonly signal: AbortSignal;
}

/** How often a run writes its progress and asks whether it is to stop: cancellation takes effect within a second. */
const HEARTBEAT_MS = 400;
const DEFAULT_CONCURRENCY = 2;
const DATA_KEY_BYTES = 32;
/** A session holds a full buffer while it waits for the next: with no spare one, all would wait for each other. */
const SPARE_BUFFERS = 3;

/**
 * Runs one attempt at a snapshot from its first lock to its manifest. Rejects with what ended it, after everything
 * that it stored has been removed, or has been left to the next run where the storage did not answer.
 */
export async function runSnapshot(run: SnapshotRun): Promise<void> {
  const { context, repository, snapshot, attemptId, opened } = run;
  const identity: ArchiveIdentity = {
    organizationId: snapshot.organizationId,
    configurationId: snapshot.configurationId,
    snapshotId: snapshot.id,
    snapshotNumber: snapshot.snapshotNumber,
    attemptId,
  };
  const place = placeOf(opened.storage, opened.prefix, identity);
  const token: AttemptToken = { snapshotId: snapshot.id, attemptId };
  const progress = new SnapshotProgress(context.clock);
  const location: StorageLocation = {
    type: run.configuration.storageDestination.type,
    description: opened.storage.description,
    path: place.prefix,
    manifestKey: place.manifestKey,
    destination: run.configuration.storageDestination,
    replicationLocations: initialCopies(opened.storage),
  };
  const startedAt = context.clock.now().toISOString();
  const pulse = startPulse(run, token, progress);
  const signal = AbortSignal.any([run.signal, pulse.signal]);
  let manifest: 'NONE' | 'SENT' | 'STORED' = 'NONE';
  let readBack = false;
  try {
    await enterPhase({ status: 'PREPARING', startedAt, storageLocation: location });
    const archive = await writeArchive({ run, identity, place, progress, enterPhase, noteKey, signal });
    if (run.configuration.integrityCheckEnabled) {
      progress.enter('VERIFYING');
      await enterPhase({ status: 'VERIFYING' });
      const header = readHeader(archive.bytes, identity);
      readBack = (await checkStoredObjects(place.storage, place.prefix, header, signal)) === 0;
    }
    progress.enter('FINALIZING');
    await enterPhase({ status: 'FINALIZING' });
    signal.throwIfAborted();
    manifest = 'SENT';
    await storeManifest(place, archive.bytes, signal);
    manifest = 'STORED';
    await pulse.stop();
    const result = snapshotResult(archive, {
      configuration: run.configuration,
      storageLocation: location,
      startedAt,
      completedAt: context.clock.now(),
      readBack,
      progress: progress.now(),
    });
    const counts = await enterOutcome(() =>
      endWell(context, snapshot, attemptId, 'snapshot.completed', result),
    );
    if (!counts) await requireCounted(run);
  } catch (error) {
    // What fails when a run is stopped is a consequence of that.
    const reason = signal.aborted && manifest !== 'STORED' ? signal.reason : error;
    await pulse.stop();
    // A manifest makes the backup exist: the next run enters it in the catalog. Without one, nothing may remain.
    if (manifest === 'NONE') await endInCatalog(run, reason);
    if (manifest !== 'STORED') await removeRemains(run, place, identity, reason);
    throw reason;
  }

  async function enterPhase(update: Omit<SnapshotProgressUpdate, 'progress'>): Promise<void> {
    const running = await repository.updateSnapshotProgress(token, { ...update, progress: progress.now() });
    if (!running) throw attemptLost(snapshot);
  }

  /** Before anything that the key wraps can count: from then on it is not retired. */
  async function noteKey(encryptionKeyId: string): Promise<void> {
    const { organizationId } = snapshot;
    await context.db.withTransaction(async (transaction) => {
      await requireUsableKey(context, transaction, encryptionKeyId);
      const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
      if (!(await inside.updateSnapshotProgress(token, { encryptionKeyId }))) throw attemptLost(snapshot);
    });
  }
}

const attemptLost = ({ id }: BackupSnapshot): BackupError =>
  new BackupError('The attempt is no longer the snapshot’s', 'BACKUP_ATTEMPT_LOST', id);

/** The attempt may not finish the snapshot any more: fine where another run, or this one unknowingly, has finished it. */
async function requireCounted({ repository, snapshot }: SnapshotRun): Promise<void> {
  const found = await repository.findSnapshotById(snapshot.id);
  if (found?.status === 'COMPLETED' || found?.status === 'COMPLETED_WITH_WARNINGS') return;
  throw new BackupError('Another worker has declared this attempt dead', 'BACKUP_ATTEMPT_LOST', snapshot.id);
}

interface ArchiveJob {
  readonly run: SnapshotRun;
  readonly identity: ArchiveIdentity;
  readonly place: AttemptPlace;
  readonly progress: SnapshotProgress;
  readonly enterPhase: (update: Pick<SnapshotProgressUpdate, 'status'>) => Promise<void>;
  readonly noteKey: (keyId: string) => Promise<void>;
  readonly signal: AbortSignal;
}

async function writeArchive({ run, identity, place, progress, enterPhase, noteKey, ...job }: ArchiveJob) {
  const { context, configuration } = run;
  const failed = new AbortController();
  const signal = AbortSignal.any([job.signal, failed.signal]);
  const sessions = configuration.schedule[0]?.maxConcurrency ?? DEFAULT_CONCURRENCY;
  progress.enter('COLLECTING_METADATA');
  const source = await context.source.open({
    organizationId: configuration.organizationId,
    branchIds: configuration.branchIds,
    scope: configuration.scope,
    maxConcurrency: sessions,
    maxSnapshotAgeMs: context.maxSnapshotAgeMs,
    signal,
  });
  try {
    progress.expect(source.entities.length, source.estimatedBytes);
    const encryption = configuration.encryptionEnabled ? await dataKey(context, identity, signal) : undefined;
    for (const { keyId } of encryption?.wrappedKeys ?? []) await noteKey(keyId);
    const writer = createArchiveWriter({
      identity,
      createdAt: context.clock.now(),
      compression: compressionOf(configuration),
      checksum: configuration.checksumAlgorithm,
      ...(encryption === undefined ? {} : { encryption }),
      reopen: configuration.integrityCheckEnabled ? 'CHECK' : 'TRUST',
      buffers: sessions + SPARE_BUFFERS,
      store: (name, pieces) => place.storage.put(`${place.prefix}${name}`, pieces, { signal }),
      signal,
      onProgress: ({ storedBytes }) => progress.stored(storedBytes),
    });
    try {
      progress.enter('BACKING_UP_DATA');
      await enterPhase({ status: 'IN_PROGRESS' });
      const contents = await source.extract(writer, (reading) => progress.read(reading));
      progress.enter('UPLOADING');
      const finished = await writer.finish(contents as unknown as Json);
      return { ...finished, contents, keyId: encryption?.wrappedKeys[0]?.keyId ?? null };
    } catch (error) {
      // What is still being stored is not waited for: it is not wanted any more.
      failed.abort(error);
      await writer.abort(error);
      throw error;
    }
  } finally {
    await source.close();
  }
}

async function dataKey(
  context: ServiceContext,
  { organizationId, configurationId, snapshotId }: ArchiveIdentity,
  signal: AbortSignal,
): Promise<{ dataKey: Uint8Array; wrappedKeys: readonly WrappedKey[] }> {
  const { keys } = context;
  if (keys === undefined) {
    throw new DataProtectionError(
      'The configuration asks for encryption and no key provider is configured',
      'CONFIGURATION_INVALID',
    );
  }
  const key = randomBytes(DATA_KEY_BYTES);
  try {
    const wrapped = await orAborted(keys.wrap(key, { organizationId, configurationId, snapshotId }), signal);
    return { dataKey: key, wrappedKeys: [wrapped] };
  } catch (error) {
    throw keyFailure(error);
  }
}

const compressionOf = ({ compressionAlgorithm: algorithm, compressionLevel: level }: BackupConfiguration) =>
  level === null ? { algorithm } : { algorithm, level };

interface Pulse {
  /** Aborts when the attempt is to stop: cancelled, claimed by another worker, or its lock lost. */
  readonly signal: AbortSignal;
  stop(): Promise<void>;
}

function startPulse(run: SnapshotRun, token: AttemptToken, progress: SnapshotProgress): Pulse {
  const { context, repository, snapshot, lock } = run;
  const stop = new AbortController();
  const lose = (): void =>
    stop.abort(
      new BackupError('The lock of the run was lost with its connection', 'BACKUP_ATTEMPT_LOST', snapshot.id),
    );
  lock.lost.addEventListener('abort', lose, { once: true });
  if (lock.lost.aborted) lose();
  const beat = async (): Promise<void> => {
    const current = progress.now();
    context.events.emit('snapshot.progress', {
      snapshotId: snapshot.id,
      organizationId: snapshot.organizationId,
      progress: current,
    });
    const alive = await repository.heartbeat(token.attemptId);
    if (alive === undefined) {
      stop.abort(
        new BackupError('Another worker has declared this attempt dead', 'BACKUP_ATTEMPT_LOST', snapshot.id),
      );
    } else if (alive.cancelRequested) {
      stop.abort(new BackupError('The backup was cancelled', 'BACKUP_CANCELLED', snapshot.id, false));
    } else {
      await repository.updateSnapshotProgress(token, { progress: current });
    }
  };
  let beating: Promise<void> = Promise.resolve();
  let busy = false;
  const timer = setInterval(() => {
    if (busy) return;
    busy = true;
    beating = beat()
      // A missed heartbeat is not the end: the lock decides who may run.
      .catch((error: unknown) =>
        context.logger.warn({ snapshotId: snapshot.id, error: codeOf(error) }, 'A heartbeat failed'),
      )
      .finally(() => {
        busy = false;
      });
  }, HEARTBEAT_MS);
  return {
    signal: stop.signal,
    async stop() {
      clearInterval(timer);
      lock.lost.removeEventListener('abort', lose);
      await beating;
    },
  };
}

/** Ends the snapshot in the catalog. Where that fails too, the next run does it. */
async function endInCatalog({ context, snapshot, attemptId }: SnapshotRun, reason: unknown): Promise<void> {
  try {
    await endBadly(context, snapshot, attemptId, reason);
  } catch (error) {
    context.logger.error(
      { snapshotId: snapshot.id, error: codeOf(error) },
      'The end of a backup could not be recorded',
    );
  }
}

/** Makes sure that the attempt can never count and removes what it stored; what cannot be removed, the next run removes. */
async function removeRemains(
  run: SnapshotRun,
  place: AttemptPlace,
  identity: ArchiveIdentity,
  reason: unknown,
): Promise<void> {
  const { context, repository, snapshot, attemptId } = run;
  try {
    const claim = await claimAttempt(place, identity, { at: context.clock.now(), by: context.worker });
    // The answer of the put was lost and the manifest is there after all: the next run enters it in the catalog.
    if (claim.manifests.length > 0) return;
    await endInCatalog(run, reason);
    // While one of several stores is silent the manifest may lie there, and somebody may have entered it.
    const ended = await repository.findAttemptById(attemptId);
    if (claim.unclaimed.length > 0 && ended?.state !== 'CLAIMED') throw claim.unclaimed[0];
    await sweepAttempt(claim.claimed);
    if (claim.unclaimed.length > 0) throw claim.unclaimed[0];
    await repository.markSwept(attemptId);
  } catch (error) {
    context.logger.error(
      { snapshotId: snapshot.id, error: codeOf(error) },
      'The remains of a backup are left to the next run',
    );
  }
}
