import type { ArchiveIdentity } from '../archive/format.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { BackupError } from '../types/errors.ts';
import type { ServiceContext } from './context.ts';
import { openStoredArchive, type StoredArchive } from './stored-archive.ts';

/**
 * Opens the archive of a snapshot that counts, from where it was stored. Throws `INVALID_STATE` for one that does not
 * count, `ARCHIVE_*`, `KEY_UNAVAILABLE`, `STORAGE_*`.
 */
export async function openSnapshotArchive(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  signal: AbortSignal,
): Promise<StoredArchive> {
  const { storageLocation: location, checksum, status } = snapshot;
  // `<prefix>/<organization>/<configuration>/<number>/<attempt>/`, see docs/archive-format.md.
  const attemptId = location?.path.split('/').at(-2);
  if (
    (status !== 'COMPLETED' && status !== 'COMPLETED_WITH_WARNINGS') ||
    location === null ||
    attemptId === undefined
  ) {
    throw new BackupError(
      `Snapshot ${snapshot.snapshotNumber} is ${status}; only COMPLETED and COMPLETED_WITH_WARNINGS snapshots can be read`,
      'INVALID_STATE',
      snapshot.id,
      false,
    );
  }
  const { storage } = context.openStorage(location.destination);
  const identity: ArchiveIdentity = {
    organizationId: snapshot.organizationId,
    configurationId: snapshot.configurationId,
    snapshotId: snapshot.id,
    snapshotNumber: snapshot.snapshotNumber,
    attemptId,
  };
  return openStoredArchive(
    { storage, prefix: location.path, manifestKey: location.manifestKey },
    { identity, encrypted: snapshot.encrypted, checksum },
    context.keys,
    signal,
  );
}
