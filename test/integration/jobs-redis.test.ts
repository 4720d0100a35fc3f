import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { describe, expect, it, vi } from 'vitest';
import { createRedisQueue } from '../../src/jobs/redis-queue.ts';
import { backupJob, type LogLine, loggerInto, TEST_TIMING, taking, until } from '../contract/jobs.ts';
import { startRedis } from '../harness/redis.ts';

describe('the job queue on Redis', () => {
  it('warns of a Redis that may drop jobs', async () => {
    // BullMQ says it too, on the console.
    const console_ = vi.spyOn(console, 'warn').mockImplementation(() => {});
    await using redis = await startRedis({
      control: 'needed',
      settings: { 'maxmemory-policy': 'allkeys-lru' },
    });
    const lines: LogLine[] = [];
    await using queue = createRedisQueue({
      connection: redis.url,
      logger: loggerInto(lines),
      timing: TEST_TIMING,
    });
    await queue.work(taking(() => {}));
    await until('the warning', () => lines.some(({ fields }) => fields.policy === 'allkeys-lru'));
    console_.mockRestore();
  });

  it('keeps to its prefix in one slot, takes few connections, and leaves none', async () => {
    await using redis = await startRedis({ control: 'needed' });
    const lines: LogLine[] = [];
    const queue = createRedisQueue({
      connection: redis.url,
      logger: loggerInto(lines),
      timing: TEST_TIMING,
    });
    const client = new Redis(redis.url);
    try {
      const handler = { concurrency: 4, handle: async () => {} };
      await queue.work({ BACKUP: handler, VERIFICATION: handler, REPLICATION: handler });
      await queue.add(backupJob());
      const connections = async (): Promise<number> =>
        `${await client.call('CLIENT', 'LIST')}`.trim().split('\n').length - 1;
      expect(await connections()).toBe(5);
      const keys = await client.keys('*');
      expect(keys.length).toBeGreaterThan(0);
      expect(keys.filter((key) => !key.startsWith('{care-backup}:'))).toEqual([]);
      await queue.close();
      for (let tries = 0; tries < 100 && (await connections()) > 0; tries += 1) await sleep(20);
      expect(await connections()).toBe(0);
      expect(lines).toEqual([]);
    } finally {
      client.disconnect();
      await queue.close();
    }
  });

  it('does not spin while Redis refuses every command, and logs it once', async () => {
    await using redis = await startRedis({ control: 'needed' });
    const lines: LogLine[] = [];
    await using queue = createRedisQueue({
      connection: redis.url,
      logger: loggerInto(lines),
      timing: TEST_TIMING,
    });
    const client = new Redis(redis.url);
    try {
      const got: string[] = [];
      const gate = Promise.withResolvers<void>();
      await queue.work(
        taking(async ({ snapshotId }) => {
          got.push(snapshotId);
          await gate.promise;
        }),
      );
      await queue.add(backupJob());
      await until('the first job', () => got.length === 1);
      // The worker knows of nothing to wait for: it asks again at once.
      const waiting = '{care-backup}:BACKUP:wait';
      await client.set(waiting, 'not a list');
      gate.resolve();
      await expect(queue.add(backupJob())).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
      await until('a report', () => lines.length > 0);
      await client.config('RESETSTAT');
      await sleep(1_500);
      const stats = await client.info('commandstats');
      const calls = [...stats.matchAll(/^cmdstat_evalsha:calls=(\d+)/gm)].map(([, count]) => Number(count));
      expect(calls.reduce((sum, count) => sum + count, 0)).toBeLessThan(100);
      await client.del(waiting);
      const job = backupJob();
      await queue.add(job);
      await until('a job after it', () => got.includes(job.data.snapshotId));
      const codes = lines.map(({ fields }) => fields.code);
      expect(codes).toEqual([...new Set(codes)]);
    } finally {
      client.disconnect();
    }
  });

  it('names its place without the credentials', () => {
    const logger = loggerInto([]);
    const names = [
      createRedisQueue({ connection: 'rediss://user:geheim@cache.example:6390/2', logger }),
      createRedisQueue({ connection: 'redis://:geheim@cache.example', logger }),
      createRedisQueue({ connection: { host: 'cache.example', password: 'geheim', tls: {} }, logger }),
      createRedisQueue({ connection: { path: '/run/redis.sock' }, logger }),
    ].map(({ description }) => description);
    expect(names).toEqual([
      'redis cache.example:6390/2',
      'redis cache.example:6379/0',
      'redis cache.example:6379/0',
      'redis /run/redis.sock',
    ]);
  });

  it('refuses what is no URL of Redis', () => {
    for (const connection of ['', 'localhost:6379', 'http://localhost', 'redis']) {
      expect(() => createRedisQueue({ connection, logger: loggerInto([]) })).toThrow(
        expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
      );
    }
  });
});
