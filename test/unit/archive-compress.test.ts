import zlib from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { compress, decompress } from '../../src/archive/compress.ts';
import { compressedBound } from '../../src/archive/format.ts';
import { COMPRESSION_ALGORITHMS } from '../../src/types/encryption.ts';
import { sampleRows } from '../vectors/build-archive.ts';

/** Bytes that do not compress, the same every time. */
function noise(length: number): Buffer {
  let state = 1;
  return Buffer.from(
    Array.from({ length }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return state >>> 24;
    }),
  );
}

describe.each(COMPRESSION_ALGORITHMS)('%s', (algorithm) => {
  test.each([0, 1, 100, 65_536, 1_000_000])(
    'the bound holds for %i bytes that do not compress',
    async (length) => {
      const compressed = await compress(noise(length), { algorithm, level: 9 });
      expect(compressed.length).toBeLessThanOrEqual(compressedBound(length));
      expect(await decompress(compressed, algorithm, length)).toEqual(noise(length));
    },
  );

  test('a bomb is refused', async () => {
    const bomb = await compress(Buffer.alloc(20_000_000), { algorithm });
    await expect(decompress(bomb, algorithm, 1000)).rejects.toMatchObject({ code: 'ARCHIVE_CORRUPT' });
  });
});

test('the length in front of an LZ4 block is checked before anything is allocated for it', async () => {
  const block = Buffer.from(await compress(Buffer.alloc(1000), { algorithm: 'LZ4' }));
  block.writeUInt32LE(0xffff_ffff, 0);
  const cause = expect.objectContaining({ message: 'The LZ4 block declares another length.' });
  await expect(decompress(block, 'LZ4', 1000)).rejects.toMatchObject({ code: 'ARCHIVE_CORRUPT', cause });
});

test.each([
  [1, 1],
  [2, 2],
  [3, 3],
  [4, 5],
  [5, 7],
  [6, 9],
  [7, 12],
  [8, 15],
  [9, 19],
])('level %i is level %i of zstd', async (level, zstdLevel) => {
  const raw = sampleRows(300_000);
  const params = { [zlib.constants.ZSTD_c_compressionLevel]: zstdLevel };
  const frame = zlib.zstdCompressSync(raw, { params, chunkSize: 400_000 });
  const compressed = Buffer.from(await compress(raw, { algorithm: 'ZSTD', level }));
  // Ended in the first call: the same bytes as in one piece, the size of the content in the frame.
  expect(compressed.subarray(0, frame.length).equals(frame)).toBe(true);
  expect(compressed.length - frame.length).toBeLessThan(10);
});

test('the default level is 3', async () => {
  const raw = sampleRows(100_000);
  for (const algorithm of ['ZSTD', 'GZIP', 'BROTLI'] as const) {
    expect(await compress(raw, { algorithm })).toEqual(await compress(raw, { algorithm, level: 3 }));
  }
});
