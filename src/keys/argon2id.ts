import { KeyError } from '../types/errors.ts';
import { KEY_BYTES } from './key-wrap.ts';
import { missingPackage } from './kms-material.ts';

/** What Argon2id (RFC 9106) costs. It uses `memoryKiB` KiB, `iterations` times over, in `parallelism` lanes. */
export interface Argon2idCost {
  readonly memoryKiB: number;
  readonly iterations: number;
  readonly parallelism: number;
}

export interface Argon2idParameters extends Argon2idCost {
  readonly salt: Uint8Array;
}

/** `Algorithm.Argon2id` and `Version.V0x13` (19) of the package, whose enums are gone when it runs. */
const ARGON2ID = 2;
const VERSION_19 = 1;

/**
 * 32 bytes of Argon2id, version 19, without secret and associated data. Runs in a thread of libuv's pool: the event loop
 * goes on. Throws `DEPENDENCY_MISSING` where the package has no binary for this platform, `KEY_UNAVAILABLE` when it
 * refuses the parameters.
 */
export async function argon2id(
  message: Uint8Array,
  { salt, memoryKiB, iterations, parallelism }: Argon2idParameters,
): Promise<Uint8Array> {
  const { hashRaw } = await loadArgon2();
  try {
    return await hashRaw(message, {
      algorithm: ARGON2ID,
      version: VERSION_19,
      memoryCost: memoryKiB,
      timeCost: iterations,
      parallelism,
      outputLen: KEY_BYTES,
      salt,
    });
  } catch {
    throw new KeyError('Argon2id refused its parameters.', 'KEY_UNAVAILABLE');
  }
}

/** Loaded when a passphrase is used: importing the library stays light. */
async function loadArgon2() {
  try {
    return await import('@node-rs/argon2');
  } catch {
    throw missingPackage('@node-rs/argon2');
  }
}
