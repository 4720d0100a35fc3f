import type { ArchiveIdentity } from '../archive/format.ts';
import { type Manifest, openManifest } from '../archive/manifest.ts';
import { checkSegment, locate, objectPlans, openSegment } from '../archive/reader.ts';
import type { KeyProvider } from '../keys/keys.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import type { SnapshotContents } from '../types/contents.ts';
import { ArchiveError, KeyError, StorageError } from '../types/errors.ts';
import type { AttemptPlace } from './attempt-storage.ts';
import { keyFailure, orAborted } from './failure.ts';

/** A snapshot in storage whose manifest has been opened and authenticated. */
export interface StoredArchive {
  readonly place: AttemptPlace;
  readonly manifest: Manifest;
  readonly contents: SnapshotContents;
}

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
  const bytes = await missingAsIncomplete(place.storage.get(place.manifestKey, { signal }));
  return { place, ...(await orAborted(openArchive(bytes, expected, keys), signal)) };
}

/** As `openStoredArchive`, for a manifest that has been read already. */
export async function openArchive(
  bytes: Uint8Array,
  expected: ExpectedArchive,
  keys: KeyProvider | undefined,
): Promise<Pick<StoredArchive, 'manifest' | 'contents'>> {
  const manifest = await openManifest(bytes, {
    expected: expected.identity,
    dataKey: async (wrapped, { organizationId, configurationId, snapshotId }) => {
      if (keys === undefined)
        throw new KeyError('The snapshot is encrypted and no key provider is configured', 'KEY_UNAVAILABLE');
      let failure: unknown;
      for (const key of wrapped) {
        try {
          return await keys.unwrap(key, { organizationId, configurationId, snapshotId });
        } catch (error) {
          failure = keyFailure(error);
        }
      }
      throw failure ?? new KeyError('The manifest holds no wrapped key', 'KEY_UNAVAILABLE');
    },
  });
  if (expected.encrypted && manifest.header.encryption === null) {
    throw new ArchiveError('The archive is in the clear although it was to be encrypted', 'ARCHIVE_CORRUPT');
  }
  if (expected.checksum !== null && manifest.checksum !== expected.checksum) {
    throw new ArchiveError('The manifest is not the one that the catalog recorded', 'ARCHIVE_CORRUPT');
  }
  return { manifest, contents: decodeContents(manifest) };
}

/** Reads one segment and gives its raw rows. Throws `ARCHIVE_*`, `STORAGE_*`. */
export async function readSegment(
  archive: StoredArchive,
  index: number,
  signal?: AbortSignal,
): Promise<Buffer> {
  const { name, offset, length } = locate(archive.manifest.header, index);
  const stored = await missingAsIncomplete(
    archive.place.storage.get(`${archive.place.prefix}${name}`, { range: { offset, length }, signal }),
  );
  return openSegment(archive.manifest, index, stored);
}

/** Throws `ARCHIVE_INCOMPLETE` or `ARCHIVE_CORRUPT` unless every object is there with its size. Reads no object. */
export async function requireObjects(archive: StoredArchive, signal?: AbortSignal): Promise<void> {
  const sizes = new Map<string, number>();
  for await (const { key, size } of archive.place.storage.list(archive.place.prefix, { signal }))
    sizes.set(key, size);
  for (const { name, size } of archive.manifest.header.objects) {
    const found = sizes.get(`${archive.place.prefix}${name}`);
    if (found === undefined) throw new ArchiveError(`Object ${name} is missing`, 'ARCHIVE_INCOMPLETE');
    if (found !== size)
      throw new ArchiveError(`Object ${name} has ${found} bytes instead of ${size}`, 'ARCHIVE_CORRUPT');
  }
}

/**
 * Reads every object back and compares the stored bytes with the digests, two objects at a time.
 * Throws the first `ARCHIVE_*` or `STORAGE_*`.
 */
export async function checkStoredObjects(
  storage: ObjectStorage,
  prefix: string,
  header: Manifest['header'],
  signal: AbortSignal,
): Promise<void> {
  const plans = [...objectPlans(header)];
  const work = async (): Promise<void> => {
    for (let plan = plans.shift(); plan !== undefined; plan = plans.shift()) {
      signal.throwIfAborted();
      const stored = await missingAsIncomplete(storage.get(`${prefix}${plan.name}`, { signal }));
      if (stored.length !== plan.size) {
        const text = `Object ${plan.name} has ${stored.length} bytes instead of ${plan.size}`;
        throw new ArchiveError(text, 'ARCHIVE_CORRUPT');
      }
      for (const { index, offset, length } of plan.segments) {
        checkSegment(header, index, stored.subarray(offset, offset + length));
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
