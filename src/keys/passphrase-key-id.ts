import type { Argon2idCost, Argon2idParameters } from './argon2id.ts';

/** A key that is derived from a named passphrase: everything that deriving it again takes, except the passphrase. */
export interface PassphraseKeyId extends Argon2idParameters {
  /** The name of the passphrase. */
  readonly name: string;
}

/**
 * RFC 9106, section 4, second recommended option: the one for when 2 GiB per derivation (the first) are too much, as
 * they are beside the processes that a backup runs in. 84 ms on two cores (median of 11).
 */
export const RECOMMENDED: Argon2idCost = { memoryKiB: 65_536, iterations: 3, parallelism: 4 };

/**
 * The least that OWASP's Password Storage Cheat Sheet accepts (19 MiB, two passes). Stored ids are held to it too: who
 * can write ids must not get a cheap function of the passphrase computed.
 */
const LEAST_MEMORY_KIB = 19_456;
const LEAST_WORK_KIB = 2 * LEAST_MEMORY_KIB;
const MOST_PARALLELISM = 16;
/** Passes over the largest permitted memory: 1.8 s with 256 MiB and 4 lanes on two cores, 3.3 s with one lane. */
const MOST_PASSES = 16;
/** Argon2 addresses more, the package and machines do not. */
const MOST_MEMORY_KIB = 4 * 1024 * 1024;

const NAME = /^[A-Za-z0-9._-]{1,64}$/;
const SALT = /^(?:[0-9a-f]{2}){16,32}$/;
const KEY_ID =
  /^passphrase:([A-Za-z0-9._-]{1,64}):argon2id:v19:m([1-9]\d{0,9}):t([1-9]\d{0,9}):p([1-9]\d{0,9}):((?:[0-9a-f]{2}){16,32})$/;

export function isPassphraseName(value: unknown): value is string {
  return typeof value === 'string' && NAME.test(value);
}

/** 16 to 32 bytes (RFC 9106, section 3.1, recommends 16) from lower-case hexadecimal; undefined for anything else. */
export function decodeSalt(value: unknown): Uint8Array | undefined {
  return typeof value === 'string' && SALT.test(value)
    ? new Uint8Array(Buffer.from(value, 'hex'))
    : undefined;
}

/**
 * The id under which the key stands in archives, so that storage and passphrase are all that a restore needs:
 *
 * ```
 * passphrase:<name>:argon2id:v19:m<KiB>:t<iterations>:p<lanes>:<salt, hexadecimal>
 * ```
 *
 * It holds nothing of the passphrase but its name. A key has one id, and every part of it is an input of the derivation;
 * the whole is bound into what the key wraps.
 */
export function encodeKeyId({ name, memoryKiB, iterations, parallelism, salt }: PassphraseKeyId): string {
  const cost = `m${memoryKiB}:t${iterations}:p${parallelism}`;
  return `passphrase:${name}:argon2id:v19:${cost}:${Buffer.from(salt).toString('hex')}`;
}

/** What the id says; undefined unless it is one. The cost may be anything: see `costProblem`. */
export function decodeKeyId(text: string): PassphraseKeyId | undefined {
  const [, name, memory, iterations, parallelism, hex] = KEY_ID.exec(text) ?? [];
  const salt = decodeSalt(hex);
  if (name === undefined || salt === undefined) return undefined;
  return {
    name,
    memoryKiB: Number(memory),
    iterations: Number(iterations),
    parallelism: Number(parallelism),
    salt,
  };
}

/** Why a derivation of this cost is not done; undefined when it may be. Ends a sentence. */
export function costProblem(
  { memoryKiB, iterations, parallelism }: Argon2idCost,
  maxMemoryKiB: number,
): string | undefined {
  if (![memoryKiB, iterations, parallelism].every((n) => Number.isSafeInteger(n) && n > 0)) {
    return 'must have whole numbers above 0 as its cost';
  }
  if (memoryKiB > maxMemoryKiB) {
    return `takes ${memoryKiB} KiB of memory, and \`maxMemoryKiB\` allows ${maxMemoryKiB}`;
  }
  const most = MOST_PASSES * maxMemoryKiB;
  if (memoryKiB * iterations > most) {
    return `takes ${iterations} passes over ${memoryKiB} KiB, and no more than ${most} KiB in all are allowed (${MOST_PASSES} × \`maxMemoryKiB\`)`;
  }
  if (parallelism > MOST_PARALLELISM) {
    return `has ${parallelism} lanes, and at most ${MOST_PARALLELISM} are allowed`;
  }
  if (memoryKiB < LEAST_MEMORY_KIB || memoryKiB * iterations < LEAST_WORK_KIB) {
    return `is too cheap: at least ${LEAST_MEMORY_KIB} KiB and ${LEAST_WORK_KIB} KiB over all passes`;
  }
  return undefined;
}

export function isMemoryLimit(value: unknown): value is number {
  return (
    typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    value >= LEAST_MEMORY_KIB &&
    value <= MOST_MEMORY_KIB
  );
}
