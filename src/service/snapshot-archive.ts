import type { ArchiveIdentity } from '../archive/format.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { BackupError } from '../types/errors.ts';
import type { ServiceContext } from './context.ts';
import { openStoredArchive, type StoredArchive } from './stored-archive.ts';

export const counts = ({ status }: BackupSnapshot): boolean =>
  status === 'COMPLETED' || status === 'COMPLETED_WITH_WARNINGS';

/** Which attempt's archive a snapshot that counts is. Throws `INVALID_STATE` for one that does not count. */
export function identityOf(snapshot: BackupSnapshot): ArchiveIdentity {
  const { storageLocation: location, status } = snapshot;
  // `<prefix>/<organization>/<configuration>/<number>/<attempt>/`, see docs/archive-format.md.
  const attemptId = location?.path.split('/').at(-2);
  if (!counts(snapshot) || attemptId === undefined) {
    throw new BackupError(
      `Snapshot ${snapshot.snapshotNumber} is ${status}; only COMPLETED and COMPLETED_WITH_WARNINGS snapshots can be read`,
      'INVALID_STATE',
      snapshot.id,
      false,
    );
  }
  return {
    organizationId: snapshot.organizationId,
    configurationId: snapshot.configurationId,
    snapshotId: snapshot.id,
    snapshotNumber: snapshot.snapshotNumber,
    attemptId,
  };
}

/**
 * Opens the archive of a snapshot that counts, from where it is stored. Throws `INVALID_STATE` for one that does not
 * count, `ARCHIVE_*`, `KEY_UNAVAILABLE`, `STORAGE_*`.
 */
export async function openSnapshotArchive(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  signal: AbortSignal,
): Promise<StoredArchive> {
  const identity = identityOf(snapshot);
  const { storageLocation: location, checksum } = snapshot;
  if (location === null) throw new BackupError('The snapshot has no place', 'INTERNAL', snapshot.id, false);
  const { storage } = context.openStorage(location.destination);
  return openStoredArchive(
    { storage, prefix: location.path, manifestKey: location.manifestKey },
    { identity, encrypted: snapshot.encrypted, checksum },
    context.keys,
    signal,
  );
}
