import { StorageError } from '../types/errors.ts';
import { type GoogleCloudClient, lockMode, type ObjectResource, type Query } from './google-cloud-client.ts';
import type { Asked } from './google-cloud-errors.ts';
import { notFound } from './google-cloud-read.ts';
import type { ObjectRetention } from './storage.ts';

/** Object retention and temporary holds of Google Cloud Storage. `versionId` is the generation. */
export function googleCloudRetention(
  client: GoogleCloudClient,
  checkKey: (key: string) => void,
): ObjectRetention {
  async function present(asked: Asked, signal: AbortSignal | undefined): Promise<ObjectResource> {
    const found = await client.metadata(asked.key, asked, signal);
    if (found === undefined) throw notFound(asked);
    return found;
  }

  async function change(
    found: ObjectResource,
    asked: Asked,
    query: Query,
    patch: Readonly<Record<string, unknown>>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const answer = await client.object('PATCH', asked.key, {
      asked,
      signal,
      query: { generation: found.generation, ifMetagenerationMatch: found.metageneration, ...query },
      headers: { 'content-type': 'application/json' },
      body: [Buffer.from(JSON.stringify(patch))],
      accept: [404, 412],
    });
    if (answer.status === 404) throw notFound(asked);
    if (answer.status === 412) {
      throw new StorageError(
        `The protection of ${asked.key} was changed by somebody else at the same time.`,
        'STORAGE_UNAVAILABLE',
        { key: asked.key },
      );
    }
  }

  return {
    async retain(key, until, { signal } = {}) {
      checkKey(key);
      signal?.throwIfAborted();
      const asked = client.asked('retain', key);
      const found = await present(asked, signal);
      const mode = found.retention?.mode === 'Locked' ? 'Locked' : lockMode(client.options.objectLock);
      const now = found.retention;
      const longEnough = now !== undefined && Date.parse(now.retainUntilTime) >= until.getTime();
      if (longEnough && now.mode === mode) return;
      // A change of the mode needs the override; the metageneration makes sure that it does not shorten another's lock.
      const query = now !== undefined && now.mode !== mode ? { overrideUnlockedRetention: 'true' } : {};
      const retainUntilTime = longEnough ? now.retainUntilTime : until.toISOString();
      await change(found, asked, query, { retention: { mode, retainUntilTime } }, signal);
    },

    async hold(key, state, { signal } = {}) {
      checkKey(key);
      signal?.throwIfAborted();
      const asked = client.asked('hold', key);
      const found = await present(asked, signal);
      const patch =
        state === 'ON'
          ? { temporaryHold: true }
          : { temporaryHold: false, ...(found.eventBasedHold ? { eventBasedHold: false } : {}) };
      await change(found, asked, {}, patch, signal);
    },

    async state(key, { signal } = {}) {
      checkKey(key);
      signal?.throwIfAborted();
      const found = await present(client.asked('retention state', key), signal);
      const ends = [found.retention?.retainUntilTime, found.retentionExpirationTime]
        .filter((end) => end !== undefined)
        .map((end) => Date.parse(end));
      return {
        retainUntil: ends.length === 0 ? null : new Date(Math.max(...ends)),
        legalHold: found.temporaryHold === true || found.eventBasedHold === true,
        versionId: found.generation,
      };
    },
  };
}
