import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { localStorage } from '../../src/storage/local.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { multiStorage } from '../../src/storage/multi.ts';
import { prefixed } from '../../src/storage/prefixed.ts';
import { resilientStorage } from '../../src/storage/resilient.ts';
import type { ObjectInfo, ObjectStorage } from '../../src/storage/storage.ts';
import { systemTiming } from '../../src/storage/timing.ts';
import { storageContract } from './storage.ts';
import { uploadsContract } from './uploads.ts';

/** What the suite provokes is retried without the pauses. */
const PATIENT = { timing: { ...systemTiming, sleep: async () => undefined } };

const STORES: Record<string, () => ObjectStorage> = {
  memory: memoryStorage,
  'resilient memory': () => resilientStorage(memoryStorage(), PATIENT),
  'prefixed memory': () => prefixed(behindGate('some/where'), 'some/where'),
};

for (const minimumConfirmations of [1, 2]) {
  for (const [name, make] of Object.entries(STORES)) {
    storageContract(`multi over ${name}, ${minimumConfirmations} confirmations`, async () => ({
      storage: multiStorage({ copies: [make(), make()], minimumConfirmations }),
    }));
  }
  storageContract(
    `multi over local and memory, ${minimumConfirmations} confirmations`,
    async () => {
      const folder = await mkdtemp(join(tmpdir(), 'care-storage-multi-'));
      return {
        storage: multiStorage({
          copies: [localStorage({ path: folder }), memoryStorage()],
          minimumConfirmations,
        }),
        close: () => rm(folder, { recursive: true, force: true }),
      };
    },
    { keyMayBeFolder: false, listedObjects: 300 },
  );
}

storageContract('prefixed over memory', async () => ({ storage: prefixed(behindGate('p'), 'p') }));
uploadsContract('prefixed over memory', async () => {
  const storage = prefixed(behindGate('p'), 'p');
  return { storage, reopen: async () => storage };
});

/** Memory that is reached below a prefix only, and gives the longest key of the suite to whoever is behind it. */
function behindGate(prefix: string): ObjectStorage {
  const inner = memoryStorage();
  const strip = (key: string): string => {
    if (!key.startsWith(`${prefix}/`)) throw new Error(`${key} is not below ${prefix}`);
    return key.slice(prefix.length + 1);
  };
  const at = (info: ObjectInfo): ObjectInfo => ({ ...info, key: `${prefix}/${info.key}` });
  const { uploads } = inner;
  return {
    description: inner.description,
    put: async (key, body, options) => inner.put(strip(key), body, options),
    get: async (key, options) => inner.get(strip(key), options),
    stat: async (key, options) => {
      const info = await inner.stat(strip(key), options);
      return info && at(info);
    },
    async *list(start, options) {
      for await (const info of inner.list(strip(start), options)) yield at(info);
    },
    delete: async (key, options) => inner.delete(strip(key), options),
    ...(uploads && {
      uploads: { ...uploads, begin: async (key, options) => uploads.begin(strip(key), options) },
    }),
  };
}
