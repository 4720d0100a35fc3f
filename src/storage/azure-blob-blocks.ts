import { randomBytes } from 'node:crypto';

/**
 * Ids of blocks. Uncommitted blocks of all writers of a key lie in one namespace, and Azure wants ids of one length in
 * it, so puts and uploads share this form. 60 bytes, which are 80 characters of base64 without padding:
 *
 * version (1) | kind (1) | token of the writer (16) | number (4) | time in milliseconds (6) | SHA-256 (32)
 *
 * A random token for each writer keeps their blocks apart. Number, time and digest say which part a block is, so that
 * the list of uncommitted blocks tells what an upload has.
 */
export interface BlockName {
  readonly kind: BlockKind;
  /** Hex. */
  readonly token: string;
  readonly number: number;
  /** Orders blocks of one number: the latest counts. */
  readonly time: number;
  /** SHA-256 in hex. */
  readonly digest: string;
}

const KINDS = ['PUT', 'BEGUN', 'PART', 'ABORTED'] as const;
type BlockKind = (typeof KINDS)[number];

const VERSION = 1;
const BYTES = 60;
const TOKEN_BYTES = 16;

export const NO_DIGEST = '0'.repeat(64);
export const TOKEN = /^[0-9a-f]{32}$/;

export function newToken(): string {
  return randomBytes(TOKEN_BYTES).toString('hex');
}

export function blockId({ kind, token, number, time, digest }: BlockName): string {
  const bytes = Buffer.alloc(BYTES);
  bytes.writeUInt8(VERSION, 0);
  bytes.writeUInt8(KINDS.indexOf(kind), 1);
  bytes.write(token, 2, TOKEN_BYTES, 'hex');
  bytes.writeUInt32BE(number, 18);
  bytes.writeUIntBE(time, 22, 6);
  bytes.write(digest, 28, 32, 'hex');
  return bytes.toString('base64');
}

/** undefined where it is not an id of this library. */
export function parseBlockId(id: string): BlockName | undefined {
  const bytes = Buffer.from(id, 'base64');
  if (bytes.byteLength !== BYTES || bytes[0] !== VERSION) return undefined;
  const kind = KINDS[bytes.readUInt8(1)];
  if (kind === undefined) return undefined;
  return {
    kind,
    token: bytes.toString('hex', 2, 18),
    number: bytes.readUInt32BE(18),
    time: bytes.readUIntBE(22, 6),
    digest: bytes.toString('hex', 28),
  };
}
