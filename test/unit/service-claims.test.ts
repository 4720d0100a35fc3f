import { describe, expect, test } from 'vitest';
import { isClaim } from '../../src/archive/claim.ts';
import {
  type AttemptPlace,
  claimAttempt,
  placeOf,
  storeManifest,
  sweepAttempt,
} from '../../src/service/attempt-storage.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { multiStorage } from '../../src/storage/multi.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { StorageError } from '../../src/types/errors.ts';

const ID = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e';
const identity = {
  organizationId: ID,
  configurationId: ID,
  snapshotId: ID,
  snapshotNumber: 'BKP-2026-000001',
  attemptId: ID,
};
const MANIFEST = Buffer.from('a manifest');
const OBJECT = Buffer.from('an object');

/** Numbers from a seed, so that what fails can be seen again. */
function random(seed: number): () => number {
  let state = seed * 2_654_435_761;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    const mixed = Math.imul(state ^ (state >>> 13), 0x297a2d39);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** A store that one of the two sees and the other does not, for a while, and that loses answers. */
function unsteady(inner: ObjectStorage, next: () => number, calm: () => boolean): ObjectStorage {
  let away = next() < 0.3;
  const gate = async (): Promise<void> => {
    for (let turns = Math.floor(next() * 6); turns > 0; turns -= 1) await Promise.resolve();
    if (calm()) return;
    if (next() < 0.25) away = !away;
    if (away) throw new StorageError('away', 'STORAGE_UNAVAILABLE');
  };
  const call = async <T>(effect: () => Promise<T>): Promise<T> => {
    await gate();
    const answer = await effect();
    if (!calm() && next() < 0.15) throw new StorageError('the answer was lost', 'STORAGE_UNAVAILABLE');
    return answer;
  };
  return {
    description: inner.description,
    put: (...args) => call(() => inner.put(...args)),
    get: (...args) => call(() => inner.get(...args)),
    stat: (...args) => call(() => inner.stat(...args)),
    async *list(...args) {
      await gate();
      yield* inner.list(...args);
    },
    delete: (...args) => call(() => inner.delete(...args)),
  };
}

/** What the database decides: the first who asks. */
class Catalog {
  state: 'RUNNING' | 'SEALED' | 'CLAIMED' = 'RUNNING';
  end(state: 'SEALED' | 'CLAIMED'): void {
    if (this.state === 'RUNNING') this.state = state;
  }
}

const claim = { at: new Date(0), by: 'sweeper' };

/** As a run ends: manifest, catalog; or, where that fails, its own claim and sweep. */
async function write(place: AttemptPlace, catalog: Catalog): Promise<void> {
  try {
    await place.storage.put(`${place.prefix}o-000001`, [OBJECT]);
    await storeManifest(place, MANIFEST, new AbortController().signal);
  } catch {
    await giveUp(place, catalog);
    return;
  }
  catalog.end('SEALED');
}

/** As a run gives up, and as the next run ends one that died. */
async function giveUp(place: AttemptPlace, catalog: Catalog): Promise<void> {
  try {
    const outcome = await claimAttempt(place, identity, claim);
    catalog.end(outcome.manifests.length > 0 ? 'SEALED' : 'CLAIMED');
    if (catalog.state === 'CLAIMED' && outcome.manifests.length === 0) await sweepAttempt(outcome.claimed);
  } catch (error) {
    expect(error).toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  }
}

const ROUNDS = process.env.CARE_SOAK === '1' ? 20_000 : 400;

describe.each([
  { stores: 1, confirmations: 1 },
  { stores: 2, confirmations: 1 },
  { stores: 2, confirmations: 2 },
  { stores: 3, confirmations: 2 },
])('$stores stores, $confirmations confirmations', ({ stores, confirmations }) => {
  test('whoever wins, what counts is whole and what does not is never finished', async () => {
    const ends = { SEALED: 0, CLAIMED: 0, RUNNING: 0 };
    let away = 0;
    for (let seed = 1; seed <= ROUNDS; seed += 1) {
      const next = random(seed);
      let calm = false;
      const sound = Array.from({ length: stores }, () => memoryStorage());
      const seen = (): AttemptPlace => {
        const copies = sound.map((store) => unsteady(store, next, () => calm));
        const [only] = copies;
        const storage =
          copies.length === 1 && only !== undefined
            ? only
            : multiStorage({ copies, minimumConfirmations: confirmations });
        return placeOf(storage, '', identity);
      };
      const catalog = new Catalog();
      const writer = seen();
      await Promise.all([write(writer, catalog), giveUp(seen(), catalog)]);
      const decided = catalog.state;
      const name = `seed ${seed}`;
      calm = true;
      // The next run, with every store back.
      const claimed = await claimAttempt(seen(), identity, claim);
      if (decided === 'RUNNING') catalog.end(claimed.manifests.length > 0 ? 'SEALED' : 'CLAIMED');
      expect(claimed.unclaimed, name).toEqual([]);
      ends[catalog.state] += 1;
      const manifest = `${writer.prefix}manifest`;
      const object = `${writer.prefix}o-000001`;
      if (catalog.state === 'SEALED') {
        const manifests = await Promise.all(sound.map((store) => store.get(manifest).catch(() => undefined)));
        expect(manifests.filter((found) => found && MANIFEST.equals(found)).length, name).toBeGreaterThan(0);
        const objects = await Promise.all(sound.map((store) => store.stat(object)));
        expect(objects.filter((found) => found?.size === OBJECT.length).length, name).toBeGreaterThanOrEqual(
          confirmations,
        );
      } else if (claimed.manifests.length === 0) {
        await sweepAttempt(claimed.claimed);
        // Resurrected, the writer cannot finish any more, in whichever store.
        await expect(
          storeManifest(writer, MANIFEST, new AbortController().signal),
          name,
        ).rejects.toMatchObject({
          code: 'BACKUP_ATTEMPT_LOST',
        });
        for (const store of sound) {
          const keys: string[] = [];
          for await (const { key } of store.list('')) keys.push(key);
          expect(keys, name).toEqual([manifest]);
          expect(isClaim(await store.get(manifest)), name).toBe(true);
        }
      } else {
        away += 1;
      }
    }
    // Each way it can go has been gone, or the plan was no plan.
    expect(ends.SEALED).toBeGreaterThan(ROUNDS / 20);
    expect(ends.CLAIMED).toBeGreaterThan(ROUNDS / 20);
    // A manifest that was stored where the claim could not be placed: only of several stores, and it does not count.
    if (stores === 1) expect(away).toBe(0);
    else expect(away).toBeGreaterThan(0);
  });
});
