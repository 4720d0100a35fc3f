import { ArchiveError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { parseJson } from './decode.ts';
import { sha256 } from './digest.ts';
import { hmac } from './encrypt.ts';
import { corrupt } from './format.ts';

/** One JSON value between magic and digest: what claims and sidecars are made of. */
export interface Frame {
  readonly json: Json;
  /** What the MAC covers. */
  readonly unsigned: Uint8Array;
  /** Empty when there is none. */
  readonly mac: Uint8Array;
}

const MAC_SIZE = 32;
const DIGEST_SIZE = 32;
const JSON_AT = 14;

/** magic 8 | version u16 | length u32 | JSON | MAC length u8 | MAC | SHA-256: section 8 of `docs/archive-format.md`. */
export function encodeFrame(
  magic: Buffer,
  version: number,
  json: Json,
  macKey: Uint8Array | undefined,
): Buffer {
  const payload = Buffer.from(JSON.stringify(json));
  const front = Buffer.alloc(JSON_AT);
  magic.copy(front);
  front.writeUInt16BE(version, 8);
  front.writeUInt32BE(payload.length, 10);
  const unsigned = Buffer.concat([front, payload, Buffer.from([macKey === undefined ? 0 : MAC_SIZE])]);
  const mac = macKey === undefined ? Buffer.alloc(0) : hmac(macKey, unsigned);
  const undigested = Buffer.concat([unsigned, mac]);
  return Buffer.concat([undigested, sha256(undigested)]);
}

/**
 * The frame again; its MAC is not checked. ARCHIVE_CORRUPT unless it is whole, ARCHIVE_VERSION_UNSUPPORTED when its
 * version is another one.
 */
export function decodeFrame(magic: Buffer, version: number, bytes: Uint8Array, what: string): Frame {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (all.length < 10 || !all.subarray(0, 8).equals(magic)) throw corrupt(`${what} does not begin as one.`);
  if (all.readUInt16BE(8) !== version) {
    throw new ArchiveError(`${what} has version ${all.readUInt16BE(8)}.`, 'ARCHIVE_VERSION_UNSUPPORTED');
  }
  const digestAt = all.length - DIGEST_SIZE;
  if (digestAt <= JSON_AT) throw corrupt(`${what} is cut off.`);
  if (!sha256(all.subarray(0, digestAt)).equals(all.subarray(digestAt))) throw corrupt(`${what} is damaged.`);
  const jsonEnd = JSON_AT + all.readUInt32BE(10);
  if (jsonEnd >= digestAt) throw corrupt(`${what} does not end in it.`);
  const macSize = all.readUInt8(jsonEnd);
  if ((macSize !== 0 && macSize !== MAC_SIZE) || jsonEnd + 1 + macSize !== digestAt) {
    throw corrupt(`${what} does not end where it says.`);
  }
  return {
    json: parseJson(all.subarray(JSON_AT, jsonEnd), what),
    unsigned: all.subarray(0, jsonEnd + 1),
    mac: all.subarray(jsonEnd + 1, digestAt),
  };
}
