import { createHash, randomUUID } from 'node:crypto';
import { z } from 'zod';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { combineCrc32c, crc32c } from '../utils/crc32c.ts';
import { decode, type GoogleCloudClient, ObjectResource, plainObject } from './google-cloud-client.ts';
import { crc32cText } from './google-cloud-crc32c.ts';
import { type Asked, corrupt } from './google-cloud-errors.ts';
import { assertLocked, uploadObject, withdraw } from './google-cloud-upload.ts';
import type { PutCall, ResumableUploads, StorageCall, UploadPart } from './storage.ts';

const LIMITS = { minPartBytes: 1, maxPartBytes: 1024 ** 3, maxParts: 10_000 } as const;
/** Of one compose call. */
const MAX_SOURCES = 32;
const CALLS_AT_ONCE = 16;
const CLEANUP_MS = 30_000;

const Handle = z.strictObject({
  v: z.literal(1),
  id: z.uuid(),
  key: z.string().max(900),
  storageClass: z.string().max(50).optional(),
});
type Handle = z.output<typeof Handle>;

const PART_NAME = /\/(\d{5})-([0-9a-f]{64})-([0-9a-f]{8})-[0-9a-f-]{36}$/;

interface StoredPart {
  readonly part: UploadPart;
  readonly crc32c: number;
  readonly object: ObjectResource;
}

interface Sum {
  readonly size: number;
  readonly crc32c: number;
}

/** What a compose call joins. */
interface Source extends Sum {
  readonly name: string;
  readonly generation: string;
}

interface ComposeCall {
  readonly asked: Asked;
  readonly signal: AbortSignal | undefined;
  readonly effect?: 'PUBLISHES';
}

/**
 * Uploads in parts: each part is an object `.uploads/<id>/<number>-<SHA-256>-<CRC-32C>-<random>`, which is no valid key, so that
 * no other operation shows it; of several of one number the latest is the part. (The CRC-32C
 * is in the name because listings do not tell it of objects with a customer's key.) `complete` composes them, 32 at a
 * time, level by level, into `joined-<SHA-256 of what it joins>`: a `complete` that is repeated takes what is there.
 * `.uploads/<id>/open` exists as long as the upload does. Remains of uploads that nobody ended cost space only: a
 * lifecycle rule of the bucket on the prefix `.uploads/` with an age of some days removes them.
 *
 * Google composes only objects of one class, into that class. So parts and `joined-*` have the class that the object
 * will have (never its lock), and where that class has a minimum storage duration (NEARLINE 30 days, COLDLINE 90,
 * ARCHIVE 365), Google bills their removal as early deletion: about one more copy, or two above 32 parts, for that long.
 */
export function googleCloudUploads(
  client: GoogleCloudClient,
  checkKey: (key: string) => void,
): ResumableUploads {
  function open(handle: string): Handle {
    try {
      const upload = Handle.parse(JSON.parse(handle));
      checkKey(upload.key);
      return upload;
    } catch {
      throw new StorageError(`There is no such upload in ${client.description}.`, 'STORAGE_NOT_FOUND');
    }
  }

  function ended({ key }: Handle): StorageError {
    return new StorageError(
      `The upload of ${key} was completed or aborted, or never was, in ${client.description}.`,
      'STORAGE_NOT_FOUND',
      { key },
    );
  }

  async function assertOpen(upload: Handle, asked: Asked, signal: AbortSignal | undefined): Promise<void> {
    if ((await client.metadata(markerOf(upload), asked, signal)) === undefined) throw ended(upload);
  }

  async function stored(
    upload: Handle,
    asked: Asked,
    signal: AbortSignal | undefined,
  ): Promise<Map<number, StoredPart>> {
    const latest = new Map<number, StoredPart>();
    let isOpen = false;
    // The listing leaves out nothing that was stored before it: Google Cloud Storage lists consistently.
    for await (const object of client.objects(folderOf(upload), asked, { signal })) {
      if (object.name === markerOf(upload)) isOpen = true;
      const [, number, digest, crc] = PART_NAME.exec(object.name) ?? [];
      if (number === undefined || digest === undefined || crc === undefined) continue;
      const before = latest.get(Number(number));
      if (before !== undefined && BigInt(before.object.generation) > BigInt(object.generation)) continue;
      latest.set(Number(number), {
        part: { number: Number(number), size: object.size, digest },
        crc32c: Number.parseInt(crc, 16),
        object,
      });
    }
    if (!isOpen) throw ended(upload);
    return latest;
  }

  /** Removes what is stored of an upload, the marker first: the upload has ended from then on. */
  async function sweep(upload: Handle, asked: Asked, signal: AbortSignal | undefined): Promise<void> {
    const objects: ObjectResource[] = [];
    const query = { versions: 'true' };
    for await (const object of client.objects(folderOf(upload), asked, { signal, query }))
      objects.push(object);
    for (const object of objects.filter(({ name }) => name === markerOf(upload))) {
      await client.remove(object.name, object.generation, asked, signal);
    }
    const parts = objects.filter(({ name }) => name !== markerOf(upload));
    await inBatches(parts, ({ name, generation }) => client.remove(name, generation, asked, signal));
  }

  async function compose(
    name: string,
    sources: readonly Source[],
    destination: Readonly<Record<string, unknown>>,
    { asked, signal, effect }: ComposeCall,
  ): Promise<Source> {
    const expected = sumOf(sources);
    const answer = await client.object(
      'POST',
      name,
      {
        asked,
        signal,
        query: client.createOnly(),
        headers: { 'content-type': 'application/json' },
        body: [
          Buffer.from(
            JSON.stringify({
              sourceObjects: sources.map(({ name, generation }) => ({ name, generation })),
              destination,
            }),
          ),
        ],
        effect,
        accept: [404],
      },
      '/compose',
    );
    if (answer.status === 404) throw gone(asked);
    const made = decode(answer, ObjectResource, asked);
    await assertSum(name, made, expected, asked);
    await assertLocked(client, name, made, { metadata: destination, asked });
    return { name, generation: made.generation, ...expected };
  }

  async function assertSum(name: string, made: ObjectResource, expected: Sum, asked: Asked): Promise<void> {
    if (made.size === expected.size && made.crc32c === crc32cText(expected.crc32c)) return;
    const remains = await withdraw(client, name, made, asked);
    throw corrupt('The checksum of what was composed', asked, remains);
  }

  /** What joins these sources; an earlier attempt may have made it. */
  async function join(upload: Handle, sources: readonly Source[], call: ComposeCall): Promise<Source> {
    const { asked, signal } = call;
    const content = JSON.stringify(sources.map(({ name, generation }) => [name, generation]));
    const name = `${folderOf(upload)}joined-${createHash('sha256').update(content).digest('hex')}`;
    try {
      return await compose(name, sources, plainObject(upload.storageClass), call);
    } catch (error) {
      if (!(error instanceof StorageError && error.code === 'STORAGE_ALREADY_EXISTS')) throw error;
    }
    const made = await client.metadata(name, asked, signal);
    if (made === undefined) throw gone(asked);
    const expected = sumOf(sources);
    await assertSum(name, made, expected, asked);
    return { name, generation: made.generation, ...expected };
  }

  /** Somebody removed a part: another process aborted or completed the upload. */
  function gone({ key }: Asked): StorageError {
    return new StorageError(
      `A part of the upload of ${key} is gone in ${client.description}.`,
      'STORAGE_NOT_FOUND',
      { key },
    );
  }

  return {
    limits: LIMITS,

    async begin(key, { signal, tier }: PutCall = {}) {
      checkKey(key);
      signal?.throwIfAborted();
      const asked = client.asked('begin of an upload', key);
      if ((await client.metadata(key, asked, signal)) !== undefined) {
        throw new StorageError(`The object ${key} exists already.`, 'STORAGE_ALREADY_EXISTS', { key });
      }
      const storageClass = client.storageClassOf(tier);
      const upload: Handle = {
        v: 1,
        id: randomUUID(),
        key,
        ...(storageClass === undefined ? {} : { storageClass }),
      };
      await uploadObject(client, {
        name: markerOf(upload),
        body: [],
        metadata: plainObject(),
        asked,
        signal,
      });
      return JSON.stringify(upload);
    },

    async putPart(handle, part, body, { signal }: StorageCall = {}) {
      signal?.throwIfAborted();
      const upload = open(handle);
      assertPart(part);
      const asked = client.asked(`part ${part.number}`, upload.key);
      const { number, size, digest } = part;
      if (body.byteLength !== size || createHash('sha256').update(body).digest('hex') !== digest) {
        throw corrupt(`The size or digest of part ${number}`, asked);
      }
      await assertOpen(upload, asked, signal);
      const prefix = `${folderOf(upload)}${String(number).padStart(5, '0')}-`;
      const crc = crc32c(body).toString(16).padStart(8, '0');
      const name = `${prefix}${digest}-${crc}-${randomUUID()}`;
      const metadata = plainObject(upload.storageClass);
      const mine = await uploadObject(client, { name, body: [body], metadata, asked, signal });
      try {
        // Earlier parts of this number. `parts` takes the latest in any case; this frees their space.
        for await (const other of client.objects(prefix, asked, { signal })) {
          if (BigInt(other.generation) < BigInt(mine.generation)) {
            await client.remove(other.name, other.generation, asked, signal);
          }
        }
      } catch (error) {
        // The part is stored; the bucket may forbid to remove anything.
        if (!(error instanceof DataProtectionError)) throw error;
      }
    },

    async parts(handle, { signal }: StorageCall = {}) {
      signal?.throwIfAborted();
      const upload = open(handle);
      const found = await stored(upload, client.asked('listing of the parts', upload.key), signal);
      return [...found.values()].map(({ part }) => part).sort((a, b) => a.number - b.number);
    },

    async complete(handle, parts, { signal }: StorageCall = {}) {
      signal?.throwIfAborted();
      const upload = open(handle);
      const asked = client.asked('completion of the upload', upload.key);
      assertSequence(parts);
      const found = await stored(upload, asked, signal);
      let sources = parts.map((part): Source => {
        const kept = found.get(part.number);
        if (kept?.part.size !== part.size || kept.part.digest !== part.digest) {
          throw corrupt(`Part ${part.number}`, asked);
        }
        const { name, generation, size } = kept.object;
        return { name, generation, size, crc32c: kept.crc32c };
      });
      while (sources.length > MAX_SOURCES) {
        sources = await inBatches(groupsOf(sources), (group) => join(upload, group, { asked, signal }));
      }
      const destination = client.newObject(upload.storageClass);
      await compose(upload.key, sources, destination, { asked, signal, effect: 'PUBLISHES' });
      try {
        await sweep(upload, asked, AbortSignal.timeout(CLEANUP_MS));
      } catch (error) {
        // The object is published; what remains of the parts costs space, not correctness.
        if (!(error instanceof DataProtectionError || error instanceof DOMException)) throw error;
      }
    },

    async abort(handle, { signal }: StorageCall = {}) {
      signal?.throwIfAborted();
      const upload = open(handle);
      await sweep(upload, client.asked('abort of the upload', upload.key), signal);
    },
  };
}

function folderOf({ id }: Handle): string {
  return `.uploads/${id}/`;
}

function markerOf(upload: Handle): string {
  return `${folderOf(upload)}open`;
}

function sumOf(sources: readonly Source[]): Sum {
  return sources.reduce<Sum>(
    (sum, { crc32c, size }) => ({
      crc32c: combineCrc32c(sum.crc32c, crc32c, size),
      size: sum.size + size,
    }),
    { crc32c: 0, size: 0 },
  );
}

function groupsOf(sources: readonly Source[]): Source[][] {
  const groups: Source[][] = [];
  for (let start = 0; start < sources.length; start += MAX_SOURCES) {
    groups.push(sources.slice(start, start + MAX_SOURCES));
  }
  return groups;
}

/** The outcomes in the order of the items, some at a time. After a failure nothing is begun, and nothing runs on. */
async function inBatches<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let start = 0; start < items.length; start += CALLS_AT_ONCE) {
    const outcomes = await Promise.allSettled(items.slice(start, start + CALLS_AT_ONCE).map(work));
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') throw outcome.reason;
      results.push(outcome.value);
    }
  }
  return results;
}

function assertPart({ number, size, digest }: UploadPart): void {
  if (!Number.isSafeInteger(number) || number < 1 || number > LIMITS.maxParts) {
    throw invalid(`Parts have numbers from 1 to ${LIMITS.maxParts}.`);
  }
  if (!Number.isSafeInteger(size) || size < 0 || size > LIMITS.maxPartBytes) {
    throw invalid(`A part has at most ${LIMITS.maxPartBytes} bytes.`);
  }
  if (!/^[0-9a-f]{64}$/.test(digest)) throw invalid('The digest of a part is a SHA-256 in hex.');
}

function assertSequence(parts: readonly UploadPart[]): void {
  if (parts.length === 0) throw invalid('An upload needs at least one part.');
  for (const [index, part] of parts.entries()) {
    assertPart(part);
    if (part.number !== index + 1) throw invalid('Numbers of parts start at 1 and have no gaps.');
    if (index < parts.length - 1 && part.size < LIMITS.minPartBytes) {
      throw invalid(`Every part but the last has at least ${LIMITS.minPartBytes} bytes.`);
    }
  }
}

function invalid(message: string): DataProtectionError {
  return new DataProtectionError(message, 'VALIDATION_FAILED');
}
