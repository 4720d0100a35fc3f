import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { KeyError } from '../types/errors.ts';
import { sameBytes } from './digest.ts';
import { type ArchiveIdentity, corrupt, NONCE_SIZE, SEAL_OVERHEAD, TAG_SIZE, uuidBytes } from './format.ts';

/** What is derived from a data key. Key objects, so that no log or JSON ever shows their bytes. */
export interface Subkeys {
  readonly segment: KeyObject;
  readonly body: KeyObject;
  readonly manifestMac: KeyObject;
  /** Public: what the data key must give. */
  readonly commitment: Buffer;
}

/** Bytes of a data key. */
const DATA_KEY_SIZE = 32;

/** The subkeys of one attempt. KEY_UNAVAILABLE unless the data key has 32 bytes. */
export function deriveSubkeys(dataKey: Uint8Array, identity: ArchiveIdentity): Subkeys {
  if (dataKey.length !== DATA_KEY_SIZE) {
    throw new KeyError(`A data key has ${DATA_KEY_SIZE} bytes, not ${dataKey.length}.`, 'KEY_UNAVAILABLE');
  }
  const derive = (purpose: string): Buffer => {
    const info = Buffer.concat([
      Buffer.from(`care-commons-backup/v1/${purpose}`, 'latin1'),
      uuidBytes(identity.snapshotId),
      uuidBytes(identity.attemptId),
    ]);
    return Buffer.from(hkdfSync('sha256', dataKey, Buffer.alloc(0), info, 32));
  };
  return {
    segment: createSecretKey(derive('segment')),
    body: createSecretKey(derive('body')),
    manifestMac: createSecretKey(derive('manifest-mac')),
    commitment: derive('commitment'),
  };
}

/** Throws KEY_UNAVAILABLE unless the key is the one that the archive was written with. Constant time. */
export function checkCommitment(subkeys: Subkeys, commitment: string): void {
  if (!sameBytes(subkeys.commitment, Buffer.from(commitment, 'hex'))) {
    throw new KeyError('The data key is not the one that the archive was encrypted with.', 'KEY_UNAVAILABLE');
  }
}

/** AES-256-GCM under a random nonce: nonce, ciphertext and tag as pieces, in the order in which they are stored. */
export function seal(key: KeyObject, plain: Uint8Array, aad: Uint8Array): [Buffer, Buffer, Buffer] {
  const nonce = randomBytes(NONCE_SIZE);
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_SIZE });
  cipher.setAAD(aad);
  const ciphertext = cipher.update(plain);
  cipher.final();
  return [nonce, ciphertext, cipher.getAuthTag()];
}

/** What was sealed. ARCHIVE_CORRUPT when a byte of it or of the associated data is another. */
export function open(key: KeyObject, sealed: Uint8Array, aad: Uint8Array): Buffer {
  if (sealed.length < SEAL_OVERHEAD) throw corrupt('The encrypted bytes are too short.');
  const end = sealed.length - TAG_SIZE;
  return openPieces(
    key,
    [sealed.subarray(0, NONCE_SIZE), sealed.subarray(NONCE_SIZE, end), sealed.subarray(end)],
    aad,
  );
}

/** As `open`, from the pieces that `seal` gave. */
export function openPieces(
  key: KeyObject,
  [nonce, ciphertext, tag]: readonly [Uint8Array, Uint8Array, Uint8Array],
  aad: Uint8Array,
): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_SIZE });
  decipher.setAAD(aad);
  decipher.setAuthTag(tag);
  const plain = decipher.update(ciphertext);
  try {
    decipher.final();
  } catch (cause) {
    throw corrupt('The encrypted bytes are not the ones that were written here.', cause);
  }
  return plain;
}

/** HMAC-SHA256 of the bytes. */
export function hmac(key: KeyObject | Uint8Array, bytes: Uint8Array): Buffer {
  return createHmac('sha256', key).update(bytes).digest();
}
