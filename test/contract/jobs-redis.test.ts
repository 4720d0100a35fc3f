import { startRedis } from '../harness/redis.ts';
import { jobsContract } from './jobs.ts';

let made = 0;

jobsContract('redis', async () => {
  const redis = await startRedis({ control: 'needed' });
  return {
    place: () => {
      made += 1;
      return { kind: 'redis', url: redis.url, prefix: `{test-${made}}` };
    },
    hang: () => redis.pause(),
    resume: () => redis.resume(),
    down: () => redis.kill(),
    up: () => redis.restart(),
    wipe: () => redis.flush(),
    [Symbol.asyncDispose]: () => redis.stop(),
  };
});
