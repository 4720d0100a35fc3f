/*
 * Wrote `test/vectors/v1` once: `node test/vectors/generate-v1.ts`. It refuses to write again, since released bytes
 * must stay readable for ever: vectors are added under a new name or a new version, never changed.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeClaim } from '../../src/archive/claim.ts';
import { deriveSubkeys } from '../../src/archive/encrypt.ts';
import type { ManifestHeader } from '../../src/archive/format.ts';
import { encodeManifest, type ManifestBody, openManifest } from '../../src/archive/manifest.ts';
import { encodeSidecar } from '../../src/archive/sidecar.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS } from '../../src/types/encryption.ts';
import type { Json } from '../../src/types/ids.ts';
import {
  type BuildOptions,
  type BuiltArchive,
  buildArchive,
  DATA_KEY,
  IDENTITY,
  type RawPart,
  readBack,
  sampleRows,
} from './build-archive.ts';

const ROOT = join(import.meta.dirname, 'v1');
const SEGMENTS: RawPart[] = [
  { part: 1, run: 0, raw: sampleRows(4096, 11), rows: 90, continues: false },
  { part: 1, run: 0, raw: sampleRows(700, 12), rows: 15, continues: true },
  { part: 2, run: 0, raw: sampleRows(1, 13), rows: 0, continues: false },
  { part: 7, run: 5, raw: sampleRows(2500, 14), rows: 55, continues: false },
];
const CONTENTS: Json = { tables: ['visits', 'clients', 'notes — ü'], counts: [105, 0, 55], none: null };

interface BadVector {
  readonly name: string;
  readonly archive: BuiltArchive;
  readonly code: string;
  /** Whether it is found without keys. */
  readonly keyless: boolean;
}

async function good(): Promise<Map<string, BuiltArchive>> {
  const build = (options: Partial<BuildOptions>) =>
    buildArchive({ segments: SEGMENTS, contents: CONTENTS, objectSize: 3000, ...options });
  const vectors = new Map<string, BuiltArchive>();
  for (const compression of COMPRESSION_ALGORITHMS) {
    const name = compression.toLowerCase();
    vectors.set(`${name}-plain`, await build({ compression }));
    vectors.set(`${name}-encrypted`, await build({ compression, dataKey: DATA_KEY }));
  }
  for (const checksum of CHECKSUM_ALGORITHMS) {
    vectors.set(`${checksum.toLowerCase()}-encrypted`, await build({ checksum, dataKey: DATA_KEY }));
  }
  const parent = { snapshotId: '0190b2c0-0000-7000-8000-0000000000aa', digest: 'ab'.repeat(32) };
  vectors.set('with-parent', await build({ parent, dataKey: DATA_KEY }));
  vectors.set('without-segments', await build({ segments: [], dataKey: DATA_KEY }));
  return vectors;
}

async function bad(): Promise<BadVector[]> {
  const encrypted = await buildArchive({ segments: SEGMENTS, contents: CONTENTS, dataKey: DATA_KEY });
  const plain = await buildArchive({ segments: SEGMENTS, contents: CONTENTS, compression: 'NONE' });
  const corrupt = (name: string, archive: BuiltArchive, keyless = true): BadVector => {
    return { name, archive, code: 'ARCHIVE_CORRUPT', keyless };
  };
  const withManifest = (archive: BuiltArchive, manifest: Buffer): BuiltArchive => ({ ...archive, manifest });
  const withObject = (change: (bytes: Buffer) => Buffer): BuiltArchive => {
    const objects = new Map(encrypted.objects);
    objects.set('o-000001', change(Buffer.from(objects.get('o-000001') ?? Buffer.alloc(0))));
    return { ...encrypted, objects };
  };
  const { manifest } = encrypted;
  const other = { ...IDENTITY, attemptId: '0190b2c0-0000-7000-8000-0000000000bb' };
  const { identity: _, ...foreign } = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY, identity: other });
  const otherKey = await buildArchive({ segments: SEGMENTS, dataKey: Buffer.alloc(32, 9) });
  const digestAt = manifest.toString('latin1').indexOf('"segments":[[0,0,') + 30;
  const lengths = plain.objects.get('o-000001')?.length ?? 0;

  return [
    corrupt('empty-manifest', withManifest(encrypted, Buffer.alloc(0))),
    corrupt('manifest-cut', withManifest(encrypted, manifest.subarray(0, -1))),
    corrupt('manifest-longer', withManifest(encrypted, Buffer.concat([manifest, Buffer.from([0])]))),
    corrupt('manifest-flipped', withManifest(encrypted, flip(manifest, 200))),
    corrupt('manifest-digest-forged', withManifest(encrypted, redigest(flip(manifest, digestAt, 1))), true),
    corrupt('body-forged', withManifest(encrypted, redigest(flip(manifest, manifest.length - 80))), false),
    corrupt('mac-forged', withManifest(encrypted, redigest(flip(manifest, manifest.length - 40))), false),
    corrupt('other-attempt', { ...foreign, identity: IDENTITY }),
    corrupt('object-flipped', withObject((bytes) => flip(bytes, 100))),
    corrupt('object-cut', withObject((bytes) => bytes.subarray(0, -1))),
    corrupt('object-longer', withObject((bytes) => Buffer.concat([bytes, Buffer.from([0])]))),
    corrupt('object-shifted', withObject((bytes) => Buffer.concat([bytes.subarray(1), bytes.subarray(0, 1)]))),
    { name: 'object-missing', archive: { ...encrypted, objects: new Map() }, code: 'ARCHIVE_INCOMPLETE', keyless: true },
    { name: 'claimed', archive: withManifest(encrypted, claim()), code: 'ARCHIVE_INCOMPLETE', keyless: true },
    {
      name: 'next-version',
      archive: withManifest(encrypted, redigest(flip(manifest, 9, 3))),
      code: 'ARCHIVE_VERSION_UNSUPPORTED',
      keyless: true,
    },
    { name: 'wrong-key', archive: { ...otherKey, dataKey: DATA_KEY }, code: 'KEY_UNAVAILABLE', keyless: false },
    corrupt('plain-gap', await forged(plain, ({ segments }) => ({ segments: segments.toSpliced(1, 1) }))),
    corrupt('plain-overlap', await forged(plain, ({ segments }) => ({ segments: segments.toSpliced(1, 0, ...segments.slice(0, 1)) }))),
    corrupt('plain-object-name', await forged(plain, () => ({ objects: [{ name: '../manifest', size: lengths }] }))),
    corrupt('plain-ordinal-missing', await forged(plain, () => ({}), ordinals), false),
    corrupt('plain-raw-length', await forged(plain, () => ({}), rawLengths), false),
    corrupt('encrypted-runs-swapped', await forged(encrypted, () => ({}), runs), false),
    corrupt('encrypted-raw-length', await forged(encrypted, () => ({}), rawLengths), false),
  ];
}

const ordinals = (body: ManifestBody): ManifestBody => {
  return { ...body, segments: body.segments.map((segment) => ({ ...segment, ordinal: segment.ordinal + 1, continues: false })) };
};
const rawLengths = (body: ManifestBody): ManifestBody => {
  return { ...body, segments: body.segments.map((segment) => ({ ...segment, rawLength: segment.rawLength - 1 })) };
};
const runs = (body: ManifestBody): ManifestBody => {
  return { ...body, segments: body.segments.map((segment) => ({ ...segment, run: 5 - segment.run })) };
};

/** The manifest again, under its own keys, with another header or body. */
async function forged(
  archive: BuiltArchive,
  changeHeader: (header: ManifestHeader) => Partial<ManifestHeader>,
  changeBody: (body: ManifestBody) => ManifestBody = (body) => body,
): Promise<BuiltArchive> {
  const key = archive.dataKey;
  const opened = await openManifest(archive.manifest, key ? { dataKey: () => Promise.resolve(key) } : {});
  const header = { ...opened.header, ...changeHeader(opened.header) };
  const manifest = await encodeManifest(header, changeBody(opened), key && deriveSubkeys(key, IDENTITY));
  return { ...archive, manifest };
}

function claim(): Buffer {
  const { snapshotId, attemptId } = IDENTITY;
  return encodeClaim({ snapshotId, attemptId, claimedAt: '2026-01-31T03:00:00.000Z', claimedBy: 'worker-2' });
}

function flip(bytes: Buffer, at: number, bits = 0x10): Buffer {
  const changed = Buffer.from(bytes);
  changed.writeUInt8(changed.readUInt8(at) ^ bits, at);
  return changed;
}

function redigest(bytes: Buffer): Buffer {
  const undigested = bytes.subarray(0, -32);
  return Buffer.concat([undigested, createHash('sha256').update(undigested).digest()]);
}

function write(kind: string, name: string, archive: BuiltArchive): void {
  const directory = join(ROOT, kind, name);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'manifest'), archive.manifest);
  for (const [object, bytes] of archive.objects) writeFileSync(join(directory, object), bytes);
}

function sidecars(): { readonly macKey: string } {
  const { organizationId, configurationId, snapshotId } = IDENTITY;
  const key = Buffer.alloc(32, 7);
  const sidecar = {
    kind: 'lock',
    number: 3,
    context: { organizationId, configurationId, snapshotId },
    writtenAt: '2026-01-31T02:00:00.000Z',
    payload: { until: '2027-01-31T02:00:00.000Z' },
  };
  const directory = join(ROOT, 'sidecars');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'authenticated'), encodeSidecar(sidecar, { keyId: 'mac-1', key }));
  writeFileSync(join(directory, 'unauthenticated'), encodeSidecar(sidecar, undefined));
  return { macKey: key.toString('hex') };
}

async function main(): Promise<void> {
  if (existsSync(join(ROOT, 'vectors.json'))) throw new Error(`${ROOT} is there and is never written again.`);
  const goodVectors = [];
  for (const [name, archive] of await good()) {
    write('good', name, archive);
    const back = await readBack(archive);
    goodVectors.push({
      name,
      encrypted: archive.dataKey !== undefined,
      checksum: archive.checksum,
      contents: back.contents,
      segments: back.segments.map(({ raw, ...segment }) => {
        return { ...segment, length: raw.length, sha256: createHash('sha256').update(raw).digest('hex') };
      }),
    });
  }
  const badVectors = [];
  for (const { archive, ...vector } of await bad()) {
    write('bad', vector.name, archive);
    badVectors.push({ ...vector, encrypted: archive.dataKey !== undefined });
  }
  const index = {
    dataKey: DATA_KEY.toString('hex'),
    identity: IDENTITY,
    ...sidecars(),
    good: goodVectors,
    bad: badVectors,
  };
  writeFileSync(join(ROOT, 'vectors.json'), `${JSON.stringify(index, undefined, 2)}\n`);
}

await main();
