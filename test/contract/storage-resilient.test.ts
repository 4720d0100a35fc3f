import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { faultyStorage } from '../../src/storage/faulty.ts';
import { localStorage } from '../../src/storage/local.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { resilientStorage } from '../../src/storage/resilient.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import { storageContract } from './storage.ts';
import { uploadsContract } from './uploads.ts';

/** Fast enough that the suite is not slowed down, slow enough that the buckets are used. */
const RATES = { requestsPerSecond: 50_000, bytesPerSecond: 4e9 };

/** What the suite provokes is retried without the pauses. */
const PATIENT = { timing: { ...systemTiming, sleep: async () => undefined } };

const DECORATED: Record<string, () => ObjectStorage> = {
  'resilient over memory': () => resilientStorage(memoryStorage(), PATIENT),
  'resilient over faulty without faults over memory': () =>
    resilientStorage(faultyStorage(memoryStorage(), []), PATIENT),
  'resilient with rates over memory': () => resilientStorage(memoryStorage(), { ...PATIENT, ...RATES }),
};

for (const [name, make] of Object.entries(DECORATED)) {
  storageContract(name, async () => ({ storage: make() }));
  uploadsContract(name, async () => {
    const storage = make();
    return { storage, reopen: async () => storage };
  });
}

storageContract(
  'resilient over local',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'care-storage-resilient-'));
    return {
      storage: resilientStorage(localStorage({ path: folder }), PATIENT),
      close: () => rm(folder, { recursive: true, force: true }),
    };
  },
  { keyMayBeFolder: false, extent: 'SMALL' },
);
