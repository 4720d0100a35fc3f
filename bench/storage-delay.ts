import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStorage } from '../src/storage/storage.ts';

/** A storage whose every call waits first: what a far one costs that is as fast as the near one otherwise. */
export function delayed(inner: ObjectStorage, milliseconds: number): ObjectStorage {
  const wait = () => (milliseconds === 0 ? Promise.resolve() : sleep(milliseconds));
  return {
    description: inner.description,
    async put(key, body, options) {
      await wait();
      await inner.put(key, body, options);
    },
    async get(key, options) {
      await wait();
      return inner.get(key, options);
    },
    async stat(key, options) {
      await wait();
      return inner.stat(key, options);
    },
    async *list(prefix, options) {
      await wait();
      yield* inner.list(prefix, options);
    },
    async delete(key, options) {
      await wait();
      await inner.delete(key, options);
    },
  };
}
