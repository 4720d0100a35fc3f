import { setTimeout as sleep } from 'node:timers/promises';
import type { ArchiveTiers } from '../storage/storage.ts';
import { copiesOf } from './copies.ts';
import { inParallel } from './in-parallel.ts';
import type { StoredArchive } from './stored-archive.ts';

export interface ThawOptions {
  readonly signal: AbortSignal;
  /** How long what was thawed stays readable. */
  readonly days: number;
  /** Between two looks at what is not readable yet. */
  readonly pollMs: number;
  readonly onProgress: (progress: { readonly readable: number; readonly total: number }) => void;
}

/** Objects that are asked about at once. */
const PARALLEL = 8;

/**
 * Resolves when every object of a snapshot can be read: asks for the thaw of those that lie in an archive tier, and
 * waits, hours where the provider takes hours. Nothing where one of the stores has no such tiers. Rejects with the
 * signal's reason, and `STORAGE_*`.
 */
export async function thawArchive(archive: StoredArchive, options: ThawOptions): Promise<void> {
  const { place, manifest } = archive;
  const stores = copiesOf(place.storage).map(({ storage }) => storage.tiers);
  const tiers = stores[0];
  if (tiers === undefined || stores.includes(undefined)) return;
  let waiting = manifest.header.objects.map(({ name }) => `${place.prefix}${name}`);
  const total = waiting.length;
  const asked = new Set<string>();
  for (;;) {
    waiting = await stillFrozen(tiers, waiting, asked, options);
    options.onProgress({ readable: total - waiting.length, total });
    if (waiting.length === 0) return;
    await pause(options);
  }
}

async function stillFrozen(
  tiers: ArchiveTiers,
  keys: readonly string[],
  asked: Set<string>,
  { signal, days }: ThawOptions,
): Promise<string[]> {
  const frozen: string[] = [];
  await inParallel(keys, PARALLEL, signal, async (key) => {
    const state = await tiers.state(key, { signal });
    if (state === 'READABLE') return;
    frozen.push(key);
    if (state === 'THAWING' || asked.has(key)) return;
    await tiers.thaw(key, { signal, days });
    asked.add(key);
  });
  return frozen;
}

async function pause({ signal, pollMs }: ThawOptions): Promise<void> {
  try {
    await sleep(pollMs, undefined, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
