import type { ArchiveIdentity, ParentManifest } from '../../src/archive/format.ts';
import { openManifest } from '../../src/archive/manifest.ts';
import { checkObject, objectPlans, openSegment, runPlans } from '../../src/archive/reader.ts';
import { createArchiveWriter } from '../../src/archive/writer.ts';
import type { ChecksumAlgorithm, CompressionAlgorithm } from '../../src/types/encryption.ts';
import type { Json } from '../../src/types/ids.ts';

export interface RawPart {
  readonly part: number;
  readonly run: number;
  readonly raw: Uint8Array;
  readonly rows: number;
  readonly continues: boolean;
}

export interface BuildOptions {
  readonly segments: readonly RawPart[];
  readonly contents?: Json;
  readonly identity?: ArchiveIdentity;
  readonly parent?: ParentManifest;
  readonly compression?: CompressionAlgorithm;
  readonly level?: number;
  readonly checksum?: ChecksumAlgorithm;
  /** Undefined: the archive is not encrypted. */
  readonly dataKey?: Uint8Array | undefined;
  readonly segmentSize?: number;
  readonly objectSize?: number;
  readonly reopen?: 'CHECK' | 'TRUST';
}

export interface BuiltArchive {
  readonly manifest: Buffer;
  readonly checksum: string;
  readonly objects: Map<string, Buffer>;
  readonly identity: ArchiveIdentity;
  readonly dataKey: Uint8Array | undefined;
}

export const IDENTITY: ArchiveIdentity = {
  organizationId: '0190b2c0-0000-7000-8000-000000000001',
  configurationId: '0190b2c0-0000-7000-8000-000000000002',
  snapshotId: '0190b2c0-0000-7000-8000-000000000003',
  snapshotNumber: 'BKP-2026-000123',
  attemptId: '0190b2c0-0000-7000-8000-000000000004',
};
export const CREATED_AT = new Date('2026-01-31T02:00:00.000Z');
export const DATA_KEY = Buffer.from(Array.from({ length: 32 }, (_, index) => index));
export const WRAPPED_KEYS = [{ keyId: 'test-key-1', scheme: 'none-for-tests', wrapped: DATA_KEY.toString('base64') }];

/** An archive in memory, through the public writer. */
export async function buildArchive(options: BuildOptions): Promise<BuiltArchive> {
  const objects = new Map<string, Buffer>();
  const { identity = IDENTITY, dataKey, level } = options;
  const writer = createArchiveWriter({
    identity,
    createdAt: CREATED_AT,
    compression: { algorithm: options.compression ?? 'ZSTD', level },
    checksum: options.checksum ?? 'SHA256',
    reopen: options.reopen ?? 'CHECK',
    segmentSize: options.segmentSize ?? 4096,
    objectSize: options.objectSize ?? 8192,
    ...(dataKey && { encryption: { dataKey, wrappedKeys: WRAPPED_KEYS } }),
    ...(options.parent && { parent: options.parent }),
    store: (name, pieces) => {
      if (objects.has(name)) throw new Error(`${name} was stored twice`);
      objects.set(name, Buffer.concat(pieces));
      return Promise.resolve();
    },
  });
  for (const { raw, ...segment } of options.segments) {
    const buffer = await writer.acquire();
    buffer.set(raw);
    writer.add({ ...segment, buffer, length: raw.length });
  }
  const finished = await writer.finish(options.contents === undefined ? {} : options.contents);
  return { manifest: Buffer.from(finished.bytes), checksum: finished.checksum, objects, identity, dataKey };
}

export interface ReadBack {
  readonly segments: readonly RawPart[];
  readonly contents: Json;
  readonly checksum: string;
}

/** Everything of an archive, every check made: run by run in the order in which it was added. */
export async function readBack(archive: Omit<BuiltArchive, 'checksum'>): Promise<ReadBack> {
  const key = archive.dataKey;
  const manifest = await openManifest(archive.manifest, {
    expected: archive.identity,
    ...(key && { dataKey: () => Promise.resolve(key) }),
  });
  for (const plan of objectPlans(manifest.header)) {
    checkObject(manifest.header, plan, archive.objects.get(plan.name));
  }
  const segments: RawPart[] = [];
  for (const [, run] of [...runPlans(manifest)].sort(([a], [b]) => a - b)) {
    for (const segment of run) {
      const object = archive.objects.get(manifest.header.objects[segment.object]?.name ?? '') ?? Buffer.alloc(0);
      const stored = object.subarray(segment.offset, segment.offset + segment.length);
      const raw = await openSegment(manifest, segment.index, stored);
      segments.push({ part: segment.part, run: segment.run, raw, rows: segment.rows, continues: segment.continues });
    }
  }
  return { segments, contents: manifest.contents, checksum: manifest.checksum };
}

/** Bytes like COPY text, the same for the same seed. */
export function sampleRows(length: number, seed = 1): Buffer {
  let state = seed >>> 0;
  let text = '';
  while (text.length < length) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    text += `${state.toString(16)}\tvisit ${state % 7}\t2026-01-${(state % 28) + 1}\t\\N\n`;
  }
  return Buffer.from(text.slice(0, length), 'latin1');
}

/** The code of what the promise rejects with; undefined when it resolves. */
export async function codeOf(work: () => unknown): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : `no code: ${String(error)}`;
  }
}
