import { promisify } from 'node:util';
import zlib from 'node:zlib';
import { compress as lz4Compress, uncompress as lz4Decompress } from 'lz4-napi';
import type { CompressionAlgorithm } from '../types/encryption.ts';
import { DataProtectionError } from '../types/errors.ts';
import { compressedBound, corrupt } from './format.ts';

export interface CompressionChoice {
  readonly algorithm: CompressionAlgorithm;
  /** 1 (fast) to 9 (small); 3 when left out. */
  readonly level?: number | undefined;
}

const DEFAULT_LEVEL = 3;
/** The zstd level of each contract level, 1 to 9. */
const ZSTD_LEVELS = [1, 2, 3, 5, 7, 9, 12, 15, 19] as const;

const zstdCompress = promisify<Uint8Array, zlib.ZstdOptions, Buffer>(zlib.zstdCompress);
const zstdDecompress = promisify<Uint8Array, zlib.ZstdOptions, Buffer>(zlib.zstdDecompress);
const gzip = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.gzip);
const gunzip = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.gunzip);
const brotliCompress = promisify<Uint8Array, zlib.BrotliOptions, Buffer>(zlib.brotliCompress);
const brotliDecompress = promisify<Uint8Array, zlib.BrotliOptions, Buffer>(zlib.brotliDecompress);

/** Throws CONFIGURATION_INVALID unless the level is one of 1 to 9. */
export function checkCompression(choice: CompressionChoice): void {
  const level = choice.level ?? DEFAULT_LEVEL;
  if (!Number.isInteger(level) || level < 1 || level > 9) {
    throw new DataProtectionError(
      'The compression level must be an integer from 1 to 9.',
      'CONFIGURATION_INVALID',
    );
  }
}

/**
 * Compresses off the main thread, in one hop: the output buffer holds the worst case. The result may be `raw` itself
 * (NONE) or a view of a larger buffer: copy what is kept.
 */
export async function compress(raw: Uint8Array, choice: CompressionChoice): Promise<Uint8Array> {
  const level = choice.level ?? DEFAULT_LEVEL;
  const chunkSize = compressedBound(raw.length);
  switch (choice.algorithm) {
    case 'ZSTD':
      return zstdCompress(raw, {
        chunkSize,
        // Node would pass the bytes as the start of a stream and end it in a second call, which makes zstd copy them
        // through its own buffers without knowing the size: about a quarter more CPU. Ended at once, the frame is whole
        // after the first call; the second adds an empty frame of 9 bytes.
        flush: zlib.constants.ZSTD_e_end,
        params: zstdParams(level),
      });
    case 'GZIP':
      return gzip(raw, { chunkSize, level });
    case 'BROTLI':
      return brotliCompress(raw, {
        chunkSize,
        params: {
          [zlib.constants.BROTLI_PARAM_QUALITY]: level,
          [zlib.constants.BROTLI_PARAM_SIZE_HINT]: raw.length,
        },
      });
    case 'LZ4':
      return lz4Compress(raw);
    case 'NONE':
      return raw;
  }
}

/** Compresses segments of one archive, several at the same time. */
export interface Compressor {
  readonly algorithm: CompressionAlgorithm;
  /** As `compress`. The result may be a view of a larger buffer: copy what is kept. */
  compress(raw: Uint8Array): Promise<Uint8Array>;
  /** Frees the contexts. Nothing may be compressing. */
  close(): void;
}

/**
 * For ZSTD it keeps one context per concurrent call. A context and a worst-case output buffer per segment cost 1.8 s of
 * CPU in V8's collector for 1.2 GB of rows, a fifth of the whole; kept, their cost is not measurable.
 */
export function createCompressor(choice: CompressionChoice): Compressor {
  const { algorithm } = choice;
  const all: zlib.ZstdCompress[] = [];
  const idle: zlib.ZstdCompress[] = [];
  return {
    algorithm,
    async compress(raw) {
      if (algorithm !== 'ZSTD' || raw.length === 0) return compress(raw, choice);
      const context = idle.pop() ?? openContext(choice, all);
      const compressed = await compressFrame(context, raw);
      idle.push(context);
      return compressed;
    },
    close() {
      for (const context of all) context.destroy();
    },
  };
}

/** 4 MiB, a whole segment: with less, zstd wraps its buffer inside the segment and takes a path that is 15 % slower. */
const CONTEXT_WINDOW_LOG = 22;
const CONTEXT_OUTPUT_BYTES = 1024 * 1024;
/** More than any segment compresses to, so that the output of one is never held back. */
const CONTEXT_HIGH_WATER_MARK = 256 * 1024 * 1024;

function openContext(choice: CompressionChoice, all: zlib.ZstdCompress[]): zlib.ZstdCompress {
  const context = zlib.createZstdCompress({
    chunkSize: CONTEXT_OUTPUT_BYTES,
    highWaterMark: CONTEXT_HIGH_WATER_MARK,
    // Every write becomes a frame of its own.
    flush: zlib.constants.ZSTD_e_end,
    params: {
      ...zstdParams(choice.level ?? DEFAULT_LEVEL),
      [zlib.constants.ZSTD_c_windowLog]: CONTEXT_WINDOW_LOG,
    },
  } as zlib.ZstdOptions);
  all.push(context);
  return context;
}

function compressFrame(context: zlib.ZstdCompress, raw: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    context.once('error', reject);
    context.write(raw, (error) => {
      context.removeListener('error', reject);
      const frame: unknown = context.read();
      if (error != null) reject(error);
      else if (frame instanceof Uint8Array) resolve(frame);
      else reject(corrupt('zstd gave no frame.'));
    });
  });
}

const zstdParams = (level: number) => ({
  [zlib.constants.ZSTD_c_compressionLevel]: ZSTD_LEVELS[level - 1] ?? DEFAULT_LEVEL,
});

/**
 * The `rawLength` bytes that were compressed. Never allocates more than that for the output. ARCHIVE_CORRUPT when the
 * bytes do not decompress, or to another length. With NONE the result is `compressed` itself.
 */
export async function decompress(
  compressed: Uint8Array,
  algorithm: CompressionAlgorithm,
  rawLength: number,
): Promise<Buffer> {
  const raw = await inflate(compressed, algorithm, rawLength).catch((cause: unknown) => {
    throw corrupt(`The bytes do not decompress (${algorithm}).`, cause);
  });
  if (raw.length !== rawLength)
    throw corrupt(`The bytes decompress to ${raw.length} bytes instead of ${rawLength}.`);
  return raw;
}

async function inflate(
  compressed: Uint8Array,
  algorithm: CompressionAlgorithm,
  rawLength: number,
): Promise<Buffer> {
  // One byte more than needed saves zlib a second call that only finds the end; 64 is the least it takes.
  const limits = { chunkSize: Math.max(64, rawLength + 1), maxOutputLength: Math.max(1, rawLength) };
  switch (algorithm) {
    case 'ZSTD':
      return zstdDecompress(compressed, limits);
    case 'GZIP':
      return gunzip(compressed, limits);
    case 'BROTLI':
      return brotliDecompress(compressed, limits);
    case 'LZ4':
      return inflateLz4(compressed, rawLength);
    case 'NONE':
      return Buffer.from(compressed.buffer, compressed.byteOffset, compressed.byteLength);
  }
}

/** The library allocates what the length in front says: it must be the expected one. */
async function inflateLz4(compressed: Uint8Array, rawLength: number): Promise<Buffer> {
  if (compressed.length < 5) throw corrupt('The LZ4 block is too short.');
  const view = new DataView(compressed.buffer, compressed.byteOffset, compressed.byteLength);
  if (view.getUint32(0, true) !== rawLength) throw corrupt('The LZ4 block declares another length.');
  return lz4Decompress(compressed);
}
