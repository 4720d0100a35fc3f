import type { ArchiveIdentity } from '../archive/format.ts';
import { type Manifest, openManifest } from '../archive/manifest.ts';
import { checkObject, locate, objectPlans, openSegment } from '../archive/reader.ts';
import type { KeyProvider } from '../keys/keys.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import type { ReplicationLocation } from '../types/backup.ts';
import type { SnapshotContents } from '../types/contents.ts';
import { ArchiveError, KeyError, StorageError } from '../types/errors.ts';
import type { AttemptPlace } from './attempt-storage.ts';
import { copiesOf, healedName, isArchived, readChecked } from './copies.ts';
import { findDataKey, type WrappedBy } from './data-keys.ts';
import { orAborted } from './failure.ts';
import { sidecarPlace } from './sidecars.ts';

/** A snapshot in storage whose manifest has been opened and authenticated. */
export interface StoredArchive {
  readonly place: AttemptPlace;
  readonly manifest: Manifest;
  readonly contents: SnapshotContents;
  /** null: it is not encrypted. */
  readonly wrappedBy: WrappedBy | null;
}

export type OpenedArchive = Omit<StoredArchive, 'place'>;

/** What the catalog knows of an archive. */
export interface ExpectedArchive {
  readonly identity: ArchiveIdentity;
  /**
   * Whether it was to be encrypted. Who can write to the storage but has no key could otherwise put an archive of his
   * own, in the clear, in its place.
   */
  readonly encrypted: boolean;
  /** null: the run died before the catalog learnt it. */
  readonly checksum: string | null;
}

/**
 * Opens the manifest of an attempt. Another manifest than the expected one, even a genuine one of the same snapshot, is
 * `ARCHIVE_CORRUPT`. Throws `ARCHIVE_*`, `KEY_UNAVAILABLE`, `STORAGE_*`.
 */
export async function openStoredArchive(
  place: AttemptPlace,
  expected: ExpectedArchive,
  keys: KeyProvider | undefined,
  signal: AbortSignal,
): Promise<StoredArchive> {
  const open = (bytes: Uint8Array) => orAborted(openArchive(bytes, place, expected, keys, signal), signal);
  const opened = await missingAsIncomplete(readChecked(place.storage, place.manifestKey, { signal }, open));
  return { place, ...opened };
}

/** As `openStoredArchive`, for a manifest that has been read already. */
export async function openArchive(
  bytes: Uint8Array,
  place: Pick<AttemptPlace, 'storage' | 'prefix'>,
  expected: ExpectedArchive,
  keys: KeyProvider | undefined,
  signal: AbortSignal,
): Promise<OpenedArchive> {
  let wrappedBy: WrappedBy | null = null;
  const manifest = await openManifest(bytes, {
    expected: expected.identity,
    dataKey: async (sealed) => {
      if (keys === undefined)
        throw new KeyError('The snapshot is encrypted and no key provider is configured', 'KEY_UNAVAILABLE');
      const sidecars = sidecarPlace(place, expected.identity);
      const { dataKey, ...by } = await findDataKey(keys, sealed, sidecars, signal);
      wrappedBy = by;
      return dataKey;
    },
  });
  if (expected.encrypted && manifest.header.encryption === null) {
    throw new ArchiveError('The archive is in the clear although it was to be encrypted', 'ARCHIVE_CORRUPT');
  }
  if (expected.checksum !== null && manifest.checksum !== expected.checksum) {
    throw new ArchiveError('The manifest is not the one that the catalog recorded', 'ARCHIVE_CORRUPT');
  }
  return { manifest, contents: decodeContents(manifest), wrappedBy };
}

/** Reads one segment and gives its raw rows. Throws `ARCHIVE_*`, `STORAGE_*`. */
export async function readSegment(
  archive: StoredArchive,
  index: number,
  signal?: AbortSignal,
): Promise<Buffer> {
  const { name, ...range } = locate(archive.manifest.header, index);
  const key = `${archive.place.prefix}${name}`;
  return missingAsIncomplete(
    readChecked(archive.place.storage, key, { range, signal }, (stored) =>
      openSegment(archive.manifest, index, stored),
    ),
  );
}

/**
 * Throws `ARCHIVE_INCOMPLETE` or `ARCHIVE_CORRUPT` unless every object is there with its size, in one of the stores; and
 * `STORAGE_*` where one that does not answer may have what the others lack. Reads no object.
 */
export async function requireObjects(archive: StoredArchive, signal?: AbortSignal): Promise<void> {
  const { storage, prefix } = archive.place;
  const listings = await Promise.allSettled(
    copiesOf(storage).map((copy) => sizesIn(copy.storage, prefix, signal)),
  );
  const sizes = listings.flatMap((listing) => (listing.status === 'fulfilled' ? [listing.value] : []));
  for (const { name, size } of archive.manifest.header.objects) {
    const found = sizes.flatMap((listing) => listing.get(name) ?? []);
    if (found.includes(size)) continue;
    for (const listing of listings) if (listing.status === 'rejected') throw listing.reason;
    if (found.length === 0) throw new ArchiveError(`Object ${name} is missing`, 'ARCHIVE_INCOMPLETE');
    throw new ArchiveError(`Object ${name} has ${found[0]} bytes instead of ${size}`, 'ARCHIVE_CORRUPT');
  }
}

/** What is known of the copies of a new snapshot, before a replication has looked; none where there is one store. */
export const initialCopies = (storage: ObjectStorage): readonly ReplicationLocation[] =>
  (storage.copies ?? []).map((copy) => ({
    description: copy.storage.description,
    status: 'PENDING',
    index: copy.index,
    objects: 0,
    bytes: 0,
    checkedAt: null,
    lagMs: null,
    error: null,
  }));

/** The sizes that a store has of each object below a prefix; more than one where the object was healed. */
export async function sizesIn(
  storage: ObjectStorage,
  prefix: string,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const sizes = new Map<string, number[]>();
  for await (const { key, size } of storage.list(prefix, { signal })) {
    const name = healedName(key.slice(prefix.length));
    sizes.set(name, [...(sizes.get(name) ?? []), size]);
  }
  return sizes;
}

/**
 * Reads every object back and compares the stored bytes with the digests, two objects at a time. Gives the number of
 * those that lie in an archive tier already and cannot be read. Throws the first `ARCHIVE_*` or `STORAGE_*`.
 */
export async function checkStoredObjects(
  storage: ObjectStorage,
  prefix: string,
  header: Manifest['header'],
  signal: AbortSignal,
): Promise<number> {
  let archived = 0;
  const plans = [...objectPlans(header)];
  const work = async (): Promise<void> => {
    for (let plan = plans.shift(); plan !== undefined; plan = plans.shift()) {
      signal.throwIfAborted();
      const check = (stored: Uint8Array): void => checkObject(header, plan, stored);
      try {
        await missingAsIncomplete(readChecked(storage, `${prefix}${plan.name}`, { signal }, check));
      } catch (error) {
        if (!isArchived(error)) throw error;
        archived += 1;
      }
    }
  };
  const stopped = (error: unknown): never => {
    plans.length = 0;
    throw error;
  };
  // Both have ended when this rejects: nothing is read in the name of a run that is over.
  const ended = await Promise.allSettled([work().catch(stopped), work().catch(stopped)]);
  for (const end of ended) if (end.status === 'rejected') throw end.reason;
  return archived;
}

export async function missingAsIncomplete<T>(reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof StorageError && error.code === 'STORAGE_NOT_FOUND') {
      throw new ArchiveError(`${error.key ?? 'An object'} is missing`, 'ARCHIVE_INCOMPLETE', {
        cause: error,
      });
    }
    throw error;
  }
}

function decodeContents(manifest: Manifest): SnapshotContents {
  const contents = manifest.contents as unknown as SnapshotContents;
  if (contents?.contentsVersion !== 1) {
    throw new ArchiveError(
      'The contents of the snapshot are of a version that this library does not know',
      'ARCHIVE_VERSION_UNSUPPORTED',
    );
  }
  const last = contents.relations.length;
  if (manifest.segments.some(({ part }) => part >= last)) {
    throw new ArchiveError('A segment belongs to a table that the manifest does not hold', 'ARCHIVE_CORRUPT');
  }
  return contents;
}
