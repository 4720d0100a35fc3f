import { describe, expect, test } from 'vitest';
import { openManifest, readHeader } from '../../src/archive/manifest.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS } from '../../src/types/encryption.ts';
import {
  buildArchive,
  codeOf,
  DATA_KEY,
  IDENTITY,
  type RawPart,
  readBack,
  sampleRows,
} from '../vectors/build-archive.ts';

const CHUNK = 4096;
const LENGTHS = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1];

function cut(raw: Buffer): RawPart[] {
  const segments: RawPart[] = [];
  for (let at = 0; at === 0 || at < raw.length; at += CHUNK) {
    const piece = raw.subarray(at, at + CHUNK);
    segments.push({ part: 3, run: 0, raw: piece, rows: 1, continues: at > 0 });
  }
  return segments;
}

describe.each(COMPRESSION_ALGORITHMS)('%s', (compression) => {
  describe.each(CHECKSUM_ALGORITHMS)('%s', (checksum) => {
    describe.each([
      ['encrypted', DATA_KEY],
      ['plain', undefined],
    ])('%s', (_, dataKey) => {
      test.each(LENGTHS)('%i bytes come back', async (length) => {
        const segments = cut(sampleRows(length));
        const archive = await buildArchive({
          segments,
          compression,
          checksum,
          dataKey,
          contents: { rows: 1 },
        });
        const back = await readBack(archive);
        expect(back).toEqual({ segments, contents: { rows: 1 }, checksum: archive.checksum });
        expect(readHeader(archive.manifest).compression).toBe(compression);
      });
    });
  });

  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9])('level %i comes back', async (level) => {
    const segments = cut(sampleRows(CHUNK));
    const archive = await buildArchive({ segments, compression, level });
    expect((await readBack(archive)).segments).toEqual(segments);
  });

  test('random bytes, which do not compress, come back', async () => {
    const raw = Buffer.from(
      Array.from({ length: CHUNK }, (_, index) => (Math.imul(index, 2_654_435_761) >>> 13) & 255),
    );
    const segments = cut(raw);
    expect(
      (await readBack(await buildArchive({ segments, compression, dataKey: DATA_KEY }))).segments,
    ).toEqual(segments);
  });
});

test('an archive without segments', async () => {
  const archive = await buildArchive({ segments: [], dataKey: DATA_KEY, contents: [1, 'two', null] });
  expect(archive.objects.size).toBe(0);
  expect(await readBack(archive)).toMatchObject({ segments: [], contents: [1, 'two', null] });
});

test('small segments share objects and large ones are split over several', async () => {
  const segments = Array.from({ length: 40 }, (_, index): RawPart => {
    return { part: index, run: index % 3, raw: sampleRows(4000, index), rows: 1, continues: false };
  });
  const archive = await buildArchive({
    segments,
    compression: 'NONE',
    dataKey: DATA_KEY,
    objectSize: 10_000,
  });
  expect(archive.objects.size).toBe(14);
  const { segments: back } = await readBack(archive);
  expect(back).toEqual(segments.toSorted((a, b) => a.run - b.run));
});

test('nothing private is in the clear', async () => {
  const segments = [{ part: 1, run: 0, raw: Buffer.from('a secret row\n'), rows: 1, continues: false }];
  const archive = await buildArchive({
    segments,
    compression: 'NONE',
    dataKey: DATA_KEY,
    contents: { table: 'secret_table' },
  });
  const stored = Buffer.concat([archive.manifest, ...archive.objects.values()]);
  expect(stored.includes('secret')).toBe(false);
});

describe('keys', () => {
  const segments = cut(sampleRows(100));

  test('a wrong, short or missing data key is KEY_UNAVAILABLE', async () => {
    const { manifest } = await buildArchive({ segments, dataKey: DATA_KEY });
    const openWith = (key: Uint8Array) => () =>
      openManifest(manifest, { dataKey: () => Promise.resolve(key) });
    expect(await codeOf(openWith(Buffer.alloc(32)))).toBe('KEY_UNAVAILABLE');
    expect(await codeOf(openWith(Buffer.alloc(16)))).toBe('KEY_UNAVAILABLE');
    expect(await codeOf(() => openManifest(manifest))).toBe('KEY_UNAVAILABLE');
    expect(await codeOf(openWith(DATA_KEY))).toBeUndefined();
  });

  test('the key callback sees the wrapped keys and the identity, and its error is passed on', async () => {
    const { manifest } = await buildArchive({ segments, dataKey: DATA_KEY });
    const opened = await openManifest(manifest, {
      dataKey: ({ wrappedKeys, identity }) => {
        expect(identity).toEqual(IDENTITY);
        return Promise.resolve(Buffer.from(wrappedKeys[0]?.wrapped ?? '', 'base64'));
      },
    });
    expect(opened.segments).toHaveLength(1);
    const failure = new Error('the key service is down');
    await expect(openManifest(manifest, { dataKey: () => Promise.reject(failure) })).rejects.toBe(failure);
  });

  test('no key shows when a manifest is logged', async () => {
    const { manifest } = await buildArchive({ segments, dataKey: DATA_KEY });
    const opened = await openManifest(manifest, { dataKey: () => Promise.resolve(DATA_KEY) });
    expect(JSON.parse(JSON.stringify(opened)).segmentKey).toEqual({});
  });
});
