import { manifestChecksum } from '../archive/manifest.ts';
import { checkObject, objectPlans } from '../archive/reader.ts';
import type { PutCall, StorageCopy } from '../storage/storage.ts';
import type { ReplicationLocation } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { ArchiveError, DataProtectionError, type ErrorCode } from '../types/errors.ts';
import type { AttemptPlace } from './attempt-storage.ts';
import {
  copiesOf,
  healedKey,
  healedNumbers,
  isArchived,
  isDamage,
  isNotFound,
  isTaken,
  readChecked,
  readCopy,
} from './copies.ts';
import { inParallel } from './in-parallel.ts';
import { sidecarPlace, wholeSidecar, wholeSidecars } from './sidecars.ts';
import type { JobCount } from './storage-job.ts';
import { type StoredArchive, sizesIn } from './stored-archive.ts';

/**
 * What is done to a copy whose objects have been read and checked: nothing; what is not there is stored; whole objects
 * are stored beside damaged ones, too.
 */
export type Repair = 'NOTHING' | 'MISSING' | 'MISSING_AND_DAMAGED';

export interface CopyWork {
  /** Where whole objects are read, with the manifest that tells which are. */
  readonly archive: StoredArchive;
  /** Where they are to be: the archive's own place, or another. */
  readonly target: AttemptPlace;
  readonly repair: Repair;
  /** When the snapshot was complete, for the lag. */
  readonly completedAt: Date;
  /** What was known of the target's copies before. */
  readonly before: readonly ReplicationLocation[];
  readonly count: JobCount;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Hears of each copy when it has been seen to. */
  readonly onCopy?: (location: ReplicationLocation) => Promise<void>;
}

export interface CopyOutcome {
  /** Each store of the target; a single store has one, too. */
  readonly locations: readonly ReplicationLocation[];
  /** Objects that were stored. */
  readonly stored: number;
  /** Names of objects that no store has whole, although all answered. */
  readonly lost: readonly string[];
}

/** Objects of a copy that are read, checked and stored at once. */
const PARALLEL = 4;

/**
 * Sees to every copy at the target: reads each object, checks its digests, and repairs. What is stored is read from the
 * nearest store where it is whole, and read back. The sidecars go along, and the manifest comes last, so that a copy with
 * a manifest was a whole one. A store that fails is a copy that is UNAVAILABLE. Rejects with the signal's reason, and with
 * `STORAGE_*` where the archive's own place does not say which sidecars there are.
 */
export async function seeToCopies(work: CopyWork): Promise<CopyOutcome> {
  const { archive, target, count } = work;
  const copies = copiesOf(target.storage);
  const { objects } = archive.manifest.header;
  count.expect(
    copies.length * objects.length,
    copies.length * objects.reduce((sum, { size }) => sum + size, 0),
  );
  const sidecars = await wholeSidecars(
    sidecarPlace(archive.place, archive.manifest.header.identity),
    work.signal,
  );
  const locations: ReplicationLocation[] = [];
  const lost = new Set<string>();
  let stored = 0;
  for (const copy of copies) {
    const state = await seeToCopy(work, copy, sidecars);
    const location = locationOf(work, copy, state);
    locations.push(location);
    stored += state.stored;
    for (const name of state.lost) lost.add(name);
    await work.onCopy?.(location);
  }
  return { locations, stored, lost: [...lost] };
}

interface CopyState {
  objects: number;
  bytes: number;
  stored: number;
  damaged: number;
  /** Objects that are not there and could not be fetched. */
  missing: number;
  /** Why, or why the store itself is UNAVAILABLE. */
  error: ErrorCode | null;
  unavailable: 'YES' | 'NO';
  readonly lost: string[];
}

async function seeToCopy(work: CopyWork, copy: StorageCopy, sidecars: readonly string[]): Promise<CopyState> {
  const state: CopyState = {
    objects: 0,
    bytes: 0,
    stored: 0,
    damaged: 0,
    missing: 0,
    error: null,
    unavailable: 'NO',
    lost: [],
  };
  try {
    await seeToObjects(work, copy, state);
    await seeToSidecars(work, copy, sidecars, state);
    if (state.damaged === 0 && state.missing === 0) await seeToManifest(work, copy, state);
  } catch (error) {
    work.signal.throwIfAborted();
    if (!(error instanceof DataProtectionError)) throw error;
    state.unavailable = 'YES';
    state.error = error.code;
  }
  return state;
}

function locationOf(work: CopyWork, { storage, index }: StorageCopy, state: CopyState): ReplicationLocation {
  const now = work.clock.now();
  const known = work.before.find((location) => location.index === index);
  const status = statusOf(state);
  const lagMs = known?.lagMs ?? Math.max(0, now.getTime() - work.completedAt.getTime());
  return {
    description: storage.description,
    status,
    index,
    objects: state.objects,
    bytes: state.bytes,
    checkedAt: now.toISOString(),
    lagMs: status === 'COMPLETE' ? lagMs : null,
    error: status === 'DAMAGED' ? 'ARCHIVE_CORRUPT' : state.error,
  };
}

function statusOf({ unavailable, damaged, missing }: CopyState): ReplicationLocation['status'] {
  if (unavailable === 'YES') return 'UNAVAILABLE';
  if (damaged > 0) return 'DAMAGED';
  return missing > 0 ? 'PENDING' : 'COMPLETE';
}

async function seeToObjects(work: CopyWork, copy: StorageCopy, state: CopyState): Promise<void> {
  const { archive, target, count, signal } = work;
  const { header } = archive.manifest;
  const there = await sizesIn(copy.storage, target.prefix, signal);
  await inParallel([...objectPlans(header)], PARALLEL, signal, async (plan) => {
    const outcome = await seeToObject(work, copy, {
      ...placed(work, plan.name),
      tier: undefined,
      present: there.has(plan.name),
      check: (stored) => checkObject(header, plan, stored),
    });
    note(state, plan.name, outcome);
    count.done(plan.size);
    if (outcome.now !== 'WHOLE' && outcome.now !== 'STORED') return;
    state.objects += 1;
    state.bytes += plan.size;
  });
}

async function seeToSidecars(
  work: CopyWork,
  copy: StorageCopy,
  sidecars: readonly string[],
  state: CopyState,
): Promise<void> {
  const { archive, target } = work;
  const [from, to] = [archive.place, target].map((place) =>
    sidecarPlace(place, archive.manifest.header.identity),
  );
  if (from === undefined || to === undefined) return;
  for (const name of sidecars) {
    const outcome = await seeToObject(work, copy, {
      from: `${from.folder}${name}`,
      to: `${to.folder}${name}`,
      tier: 'HOT',
      present: true,
      check: wholeSidecar(to, name),
    });
    note(state, name, outcome);
  }
}

/** An object of the attempt, where it is and where it is to be. */
const placed = ({ archive, target }: CopyWork, name: string) => ({
  from: `${archive.place.prefix}${name}`,
  to: `${target.prefix}${name}`,
});

async function seeToManifest(work: CopyWork, copy: StorageCopy, state: CopyState): Promise<void> {
  const { archive, target, signal } = work;
  const { header, checksum } = archive.manifest;
  const name = target.manifestKey.slice(target.prefix.length);
  const outcome = await seeToObject(work, copy, {
    ...placed(work, name),
    tier: 'HOT',
    present: (await copy.storage.stat(target.manifestKey, { signal })) !== undefined,
    check: (stored) => {
      if (manifestChecksum(header, stored) !== checksum)
        throw new ArchiveError('Another manifest lies in the copy', 'ARCHIVE_CORRUPT');
    },
  });
  note(state, name, outcome);
}

function note(state: CopyState, name: string, { now, error }: ObjectOutcome): void {
  if (now === 'STORED') state.stored += 1;
  if (now === 'DAMAGED') state.damaged += 1;
  if (now === 'MISSING') state.missing += 1;
  if (error === undefined) return;
  state.error ??= error;
  if (error.startsWith('ARCHIVE_')) state.lost.push(name);
}

interface ObjectToSee {
  /** Its key at the archive's own place. */
  readonly from: string;
  /** Its key at the target. */
  readonly to: string;
  readonly tier: PutCall['tier'];
  /** Whether the copy may have it. */
  readonly present: boolean;
  /** Throws `ARCHIVE_*` for bytes that are not it. */
  readonly check: (stored: Uint8Array) => void | Promise<void>;
}

interface ObjectOutcome {
  /** STORED: it was not there, or not whole, and is now. */
  readonly now: 'WHOLE' | 'STORED' | 'MISSING' | 'DAMAGED';
  /** Why it could not be fetched: `ARCHIVE_*` where no store has it whole, else that of a store that does not answer. */
  readonly error?: ErrorCode;
}

/** Sees to one object of one copy. Rejects with `STORAGE_*` where this copy's store fails. */
async function seeToObject(work: CopyWork, copy: StorageCopy, object: ObjectToSee): Promise<ObjectOutcome> {
  const { archive, repair, signal } = work;
  const { from, to: key, tier, check } = object;
  const found = object.present ? await look(copy, object, signal) : 'MISSING';
  if (found === 'WHOLE' || repair === 'NOTHING') return { now: found };
  if (found === 'DAMAGED' && repair === 'MISSING') return { now: found };
  let whole: Uint8Array;
  try {
    whole = await readChecked(archive.place.storage, from, { signal }, async (stored) => {
      await check(stored);
      return stored;
    });
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof DataProtectionError)) throw error;
    return { now: found, error: isNotFound(error) ? 'ARCHIVE_INCOMPLETE' : error.code };
  }
  const [last = 0] = found === 'DAMAGED' ? await healedNumbers(copy.storage, key, signal) : [];
  const free = found === 'DAMAGED' ? healedKey(key, last + 1) : key;
  try {
    await copy.storage.put(free, [whole], { signal, tier });
  } catch (error) {
    // Another job, or the run itself, was faster.
    if (!isTaken(error)) throw error;
  }
  const now = await look(copy, object, signal);
  return { now: now === 'WHOLE' ? 'STORED' : now };
}

async function look(
  { storage }: StorageCopy,
  { to, check }: ObjectToSee,
  signal: AbortSignal,
): Promise<'WHOLE' | 'MISSING' | 'DAMAGED'> {
  try {
    await readCopy(storage, to, { signal }, check);
    return 'WHOLE';
  } catch (error) {
    // What lies in an archive tier was checked by the provider when it was stored, and cannot be read now.
    if (isArchived(error)) return 'WHOLE';
    if (isNotFound(error)) return 'MISSING';
    if (isDamage(error)) return 'DAMAGED';
    throw error;
  }
}
