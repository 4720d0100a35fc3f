import { type ArchiveIdentity, snapshotFolder } from '../archive/format.ts';
import { decodeSidecar, parseSidecarName, type SidecarContext } from '../archive/sidecar.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import { type AttemptPlace, sidecarsOf } from './attempt-storage.ts';
import { copiesOf, healedName, isDamage, isNotFound, readChecked } from './copies.ts';

/** Where the sidecars of a snapshot lie, and what they must be about. */
export interface SidecarPlace {
  readonly storage: ObjectStorage;
  readonly folder: string;
  readonly context: SidecarContext;
}

export function sidecarPlace(
  { storage, prefix }: Pick<AttemptPlace, 'storage' | 'prefix'>,
  { organizationId, configurationId, snapshotId }: ArchiveIdentity,
): SidecarPlace {
  return {
    storage,
    folder: snapshotFolder(prefix),
    context: { organizationId, configurationId, snapshotId },
  };
}

export interface SidecarNames {
  /** In any store, each once, the highest number first. */
  readonly names: readonly string[];
  /** What each store failed with that did not answer: it may have more. */
  readonly silent: readonly unknown[];
}

/** The names of a snapshot's sidecars, of one kind or of all. Rejects with the signal's reason only. */
export async function sidecarNames(
  { storage, folder }: SidecarPlace,
  kind: string | undefined,
  signal: AbortSignal,
): Promise<SidecarNames> {
  const listings = await Promise.allSettled(
    copiesOf(storage).map((copy) => namesIn(copy.storage, folder, kind, signal)),
  );
  signal.throwIfAborted();
  const names = new Set(listings.flatMap((listing) => (listing.status === 'fulfilled' ? listing.value : [])));
  const numberOf = (name: string): number => parseSidecarName(name)?.number ?? 0;
  return {
    names: [...names].sort((one, other) => numberOf(other) - numberOf(one)),
    silent: listings.flatMap((listing) => (listing.status === 'rejected' ? [listing.reason] : [])),
  };
}

async function namesIn(
  storage: ObjectStorage,
  folder: string,
  kind: string | undefined,
  signal: AbortSignal,
): Promise<string[]> {
  const found: string[] = [];
  const prefix = kind === undefined ? sidecarsOf(folder) : `${sidecarsOf(folder)}${kind}-`;
  for await (const { key } of storage.list(prefix, { signal })) {
    const name = healedName(key.slice(folder.length));
    const sidecar = parseSidecarName(name);
    if (sidecar !== undefined && (kind === undefined || sidecar.kind === kind)) found.push(name);
  }
  return found;
}

/**
 * The names of the sidecars that are whole in some store: what a copy of the snapshot must have too. Whoever can write
 * to a store can put anything under such a name, and that must be in nobody's way. Throws `STORAGE_*` where a store does
 * not say, unless another one does.
 */
export async function wholeSidecars(place: SidecarPlace, signal: AbortSignal): Promise<readonly string[]> {
  const { names, silent } = await sidecarNames(place, undefined, signal);
  if (silent.length === copiesOf(place.storage).length) throw silent[0];
  const whole: string[] = [];
  for (const name of names) {
    try {
      await readChecked(place.storage, `${place.folder}${name}`, { signal }, wholeSidecar(place, name));
      whole.push(name);
    } catch (error) {
      signal.throwIfAborted();
      if (!isDamage(error) && !isNotFound(error)) throw error;
    }
  }
  return whole;
}

/** Throws `ARCHIVE_*` for bytes that are no sidecar of this name and snapshot. Who wrote it is not asked. */
export const wholeSidecar =
  ({ context }: Pick<SidecarPlace, 'context'>, name: string) =>
  async (bytes: Uint8Array): Promise<void> => {
    await decodeSidecar(bytes, { name, context });
  };
