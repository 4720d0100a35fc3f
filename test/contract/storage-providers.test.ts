import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { faultyStorage } from '../../src/storage/faulty.ts';
import { localStorage } from '../../src/storage/local.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { storageContract } from './storage.ts';

async function temporaryFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'care-backup-storage-'));
  return { folder, close: () => rm(folder, { recursive: true, force: true }) };
}

storageContract('memory', async () => ({ storage: memoryStorage() }));

storageContract('faulty without faults, over memory', async () => ({
  storage: faultyStorage(memoryStorage(), []),
}));

storageContract(
  'local',
  async () => {
    const { folder, close } = await temporaryFolder();
    return { storage: localStorage({ path: join(folder, 'not/made/yet') }), close };
  },
  { keyMayBeFolder: false },
);

storageContract(
  'faulty without faults, over local',
  async () => {
    const { folder, close } = await temporaryFolder();
    return { storage: faultyStorage(localStorage({ path: folder }), []), close };
  },
  { keyMayBeFolder: false, extent: 'SMALL' },
);
