import { expect } from 'vitest';
import { isClaim } from '../../src/archive/claim.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';

export const isGood = ({ status }: BackupSnapshot): boolean => status.startsWith('COMPLETED');

export async function keysOf(storage: ObjectStorage, part = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('')) if (key.includes(part)) keys.push(key);
  return keys.sort();
}

/**
 * After whatever went wrong in the runs of a configuration: the next works at once; what counts verifies; what does not
 * count has left nothing but its claim; nothing seems to be running. Gives the earlier snapshots, newest first.
 */
export async function expectSettled(
  backups: BackupService,
  configurationId: string,
  storage: ObjectStorage,
): Promise<readonly BackupSnapshot[]> {
  const next = await backups.createSnapshot({ configurationId }, { wait: true });
  expect(next.status).toBe('COMPLETED');
  const { items } = await backups.listSnapshots({ configurationId, limit: 100 });
  for (const snapshot of items) {
    const keys = await keysOf(storage, `/${configurationId}/${snapshot.snapshotNumber}/`);
    if (isGood(snapshot)) {
      expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    } else {
      expect(snapshot.status).toMatch(/^(FAILED|CANCELLED)$/);
      for (const key of keys) {
        expect(key).toMatch(/\/manifest$/);
        expect(isClaim(await storage.get(key))).toBe(true);
      }
    }
  }
  const { totalBackupsCreated } = await backups.getConfiguration(configurationId);
  expect(totalBackupsCreated).toBe(items.filter(isGood).length);
  return items.filter(({ id }) => id !== next.id);
}
