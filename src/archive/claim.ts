import type { Timestamp, UUID } from '../types/ids.ts';
import { fields, text, timestamp, uuid } from './decode.ts';
import { CLAIM_MAGIC } from './format.ts';
import { decodeFrame, encodeFrame } from './frame.ts';

/** Whoever puts this at a manifest’s name has declared the attempt dead: the attempt can no longer finish. */
export interface Claim {
  readonly snapshotId: UUID;
  readonly attemptId: UUID;
  readonly claimedAt: Timestamp;
  /** The worker that claimed it; 1 to 255 printable characters. */
  readonly claimedBy: string;
}

const VERSION = 1;

/** The bytes to put, create-only, at the name of the attempt’s manifest. */
export function encodeClaim(claim: Claim): Buffer {
  const { snapshotId, attemptId, claimedAt, claimedBy } = claim;
  const json = { snapshotId, attemptId, claimedAt, claimedBy };
  const bytes = encodeFrame(CLAIM_MAGIC, VERSION, json, undefined);
  decodeClaim(bytes);
  return bytes;
}

/** Whether what lies at a manifest’s name is a claim, whole or damaged, and so no manifest. */
export function isClaim(bytes: Uint8Array): boolean {
  return CLAIM_MAGIC.equals(bytes.subarray(0, CLAIM_MAGIC.length));
}

/** The claim. ARCHIVE_CORRUPT unless it is one and whole; ARCHIVE_VERSION_UNSUPPORTED when it is a newer one. */
export function decodeClaim(bytes: Uint8Array): Claim {
  const frame = decodeFrame(CLAIM_MAGIC, VERSION, bytes, 'The claim');
  const found = fields(frame.json, 'The claim', ['snapshotId', 'attemptId', 'claimedAt', 'claimedBy']);
  return {
    snapshotId: uuid(found.snapshotId, 'The claim’s snapshot id'),
    attemptId: uuid(found.attemptId, 'The claim’s attempt id'),
    claimedAt: timestamp(found.claimedAt, 'The time of the claim'),
    claimedBy: text(found.claimedBy, 'The claimant', /^[\x20-\x7e]{1,255}$/),
  };
}
