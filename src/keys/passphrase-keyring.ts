import { createSecretKey, type KeyObject } from 'node:crypto';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import { toTimestamp } from '../utils/timestamp.ts';
import { argon2id } from './argon2id.ts';
import { type DerivedKey, derivedKeys, oneAtATime } from './derived-keys.ts';
import { deriveMacKey, PASSPHRASE, unwrapDataKey, wrapDataKey } from './key-wrap.ts';
import type { KeyProvider } from './keys.ts';
import { askCredential, foreignKey, requireDataKey } from './kms-material.ts';
import { notRetired } from './not-retired.ts';
import { passphraseBytes } from './passphrase.ts';
import {
  costProblem,
  decodeKeyId,
  decodeSalt,
  encodeKeyId,
  isMemoryLimit,
  isPassphraseName,
  type PassphraseKeyId,
  RECOMMENDED,
} from './passphrase-key-id.ts';

export interface PassphraseKeyringOptions {
  /** All passphrases that stored snapshots may need: the current one and older ones. */
  readonly passphrases: readonly NamedPassphrase[];
  /** What new data keys are wrapped with. Without it the keyring only opens, which is all that a restore needs. */
  readonly current?: CurrentPassphraseKey;
  /**
   * The most memory of one derivation, in KiB: 19,456 to 4,194,304, by default 262,144 (256 MiB). A stored key that
   * asks for more is refused, so keep it at the highest that was ever current.
   */
  readonly maxMemoryKiB?: number;
}

export interface NamedPassphrase {
  /** 1 to 64 of `[A-Za-z0-9._-]`; stands in every archive, readable by all. Another passphrase needs another name. */
  readonly name: string;
  /**
   * Gives `passphrase`: at least 15 characters, without white space at its ends and without control characters;
   * compared in Unicode's NFKC. Asked at each derivation; the text is not kept.
   */
  readonly credentials: () => Promise<Credential> | Credential;
}

export interface CurrentPassphraseKey {
  /** The name of one of the passphrases. */
  readonly name: string;
  /**
   * 16 to 32 random bytes in lower-case hexadecimal, such as `openssl rand -hex 16` prints: the same in all processes
   * of an installation, another one in every installation and for every passphrase. Not secret, and not needed for a restore.
   */
  readonly salt: string;
  /** By default 65,536 (64 MiB); at least 19,456. */
  readonly memoryKiB?: number;
  /** By default 3. */
  readonly iterations?: number;
  /** By default 4; at most 16. */
  readonly parallelism?: number;
  /** When the passphrase was chosen, ISO 8601; without it, the key's age counts from its first backup. */
  readonly createdAt?: Timestamp;
}

const DEFAULT_MAX_MEMORY_KIB = 256 * 1024;
const MOST_KEPT = 32;
/** How many keys that nothing vouches for `macKey` derives in a minute. */
const MOST_STRANGERS = 5;
const MINUTE_MS = 60_000;
const ANSWER_MS = 10_000;

/**
 * Master keys derived from passphrases with Argon2id (RFC 9106, version 19), by default with 64 MiB, 3 iterations and
 * 4 lanes, its second recommended option. The scheme of wrapping is in `key-wrap.ts`.
 *
 * A key's id holds the passphrase's name, the parameters and the salt, and stands beside every key that it wrapped: a
 * restore on another machine needs the storage and the passphrase, nothing else. Whoever can read the storage can try
 * passphrases, at the cost of one derivation each: choose one that cannot be guessed (six random words or more).
 *
 * To change the passphrase, add it under a new name and with a new salt, make it `current`, and keep the old one in the
 * list as long as snapshots need it. To raise the parameters, change them in `current`. Both give a new key id, and what
 * older ids wrapped goes on opening. `rotate` rejects with `CONFIGURATION_INVALID`, `retire` with `NOT_SUPPORTED`: a
 * passphrase comes from the host.
 *
 * Derivations run one at a time, off the event loop. The current key and the 32 others used last are kept, in memory
 * only. A key that has opened nothing yet is dropped when it fails, so that a corrected passphrase is asked for again.
 *
 * Ids come out of the storage and from devices. What takes more than `maxMemoryKiB`, more than 16 passes over that, more
 * than 16 lanes, or less than two passes over 19,456 KiB is refused without a derivation. `macKey` derives at most five
 * keys a minute that are neither the current one nor known already; for more, it says `retryable`.
 *
 * Throws `CONFIGURATION_INVALID` (here, for the options; at a derivation, for a passphrase that is refused; without
 * `current`, from `currentKeyId`, `wrap` and `macKey` of the current key), `KEY_UNAVAILABLE` (another passphrase under
 * this name, a name that is not in the list, altered bytes, a cost out of bounds; `retryable` where too many keys were
 * asked for, or the host did not answer within 10 s), `CREDENTIALS_UNAVAILABLE`, `DEPENDENCY_MISSING`.
 *
 * ```ts
 * const keys = passphraseKeyring({
 *   passphrases: [{ name: '2026', credentials: () => ({ passphrase: process.env.CARE_BACKUP_PASSPHRASE ?? '' }) }],
 *   current: { name: '2026', salt: process.env.CARE_BACKUP_SALT ?? '' },
 * });
 * ```
 */
export function passphraseKeyring(options: PassphraseKeyringOptions): KeyProvider {
  const maxMemoryKiB = options.maxMemoryKiB ?? DEFAULT_MAX_MEMORY_KIB;
  if (!isMemoryLimit(maxMemoryKiB)) throw invalid('`maxMemoryKiB` is no whole number from 19456 to 4194304');
  const passphrases = collect(options.passphrases);
  const current =
    options.current === undefined ? undefined : currentKey(options.current, passphrases, maxMemoryKiB);
  const currentId = current === undefined ? undefined : encodeKeyId(current);
  const createdAt = timeOf(options.current?.createdAt);
  const description = `passphrase keyring of ${[...passphrases.keys()].join(', ')}`;
  const derived = derivedKeys(MOST_KEPT, currentId);
  const inTurn = oneAtATime();
  const strangers: number[] = [];

  async function derive(id: PassphraseKeyId, credentials: Ask): Promise<KeyObject> {
    const what = `the passphrase "${id.name}"`;
    const { passphrase } = await inTime(askCredential(credentials, ['passphrase'], what), what);
    const bytes = passphraseBytes(passphrase, id.name);
    try {
      const key = await inTurn(() => argon2id(bytes, id));
      const held = createSecretKey(key);
      key.fill(0);
      return held;
    } finally {
      bytes.fill(0);
    }
  }

  /** Throws unless it is the id of a key that may be derived here. */
  function requireOwn(keyId: string): { id: PassphraseKeyId; credentials: Ask } {
    const id = decodeKeyId(keyId);
    if (id === undefined) throw foreignKey(keyId, description);
    const credentials = passphrases.get(id.name);
    if (credentials === undefined) {
      const message = `There is no passphrase "${id.name}", which the key ${keyId} is derived from.`;
      throw new KeyError(message, 'KEY_UNAVAILABLE');
    }
    const problem = costProblem(id, maxMemoryKiB);
    if (problem !== undefined) throw new KeyError(`The key ${keyId} ${problem}.`, 'KEY_UNAVAILABLE');
    return { id, credentials };
  }

  function keyOf(keyId: string): DerivedKey {
    const { id, credentials } = requireOwn(keyId);
    return derived.get(keyId, () => derive(id, credentials));
  }

  function requireCurrent(): string {
    if (currentId !== undefined) return currentId;
    throw new DataProtectionError(
      'This passphraseKeyring only opens: it needs the option `current` to wrap or sign.',
      'CONFIGURATION_INVALID',
    );
  }

  /** A device may name any id: without a bound it could keep the machine deriving. */
  function admitStranger(keyId: string): void {
    if (keyId === currentId || derived.has(keyId)) return;
    requireOwn(keyId);
    const now = performance.now();
    while (strangers[0] !== undefined && strangers[0] <= now - MINUTE_MS) strangers.shift();
    if (strangers.length >= MOST_STRANGERS) {
      const message = `Too many keys were asked for that are not known here; ${keyId} was not derived.`;
      throw new KeyError(message, 'KEY_UNAVAILABLE', { retryable: true });
    }
    strangers.push(now);
  }

  return {
    description,

    async currentKeyId() {
      return requireCurrent();
    },

    async wrap(dataKey, context) {
      requireDataKey(dataKey);
      const keyId = requireCurrent();
      const plaintext = Buffer.from(dataKey);
      try {
        return wrapDataKey(await keyOf(keyId).key, keyId, plaintext, context, PASSPHRASE);
      } finally {
        plaintext.fill(0);
      }
    },

    async unwrap(wrapped, context) {
      const master = keyOf(wrapped.keyId);
      const key = await master.key;
      try {
        const dataKey = unwrapDataKey(key, wrapped, context, PASSPHRASE);
        master.proven = true;
        return dataKey;
      } catch (error) {
        derived.doubt(wrapped.keyId, master);
        throw error;
      }
    },

    async macKey(context, keyId = requireCurrent()) {
      admitStranger(keyId);
      return { keyId, key: deriveMacKey(await keyOf(keyId).key, keyId, context, PASSPHRASE) };
    },

    async rotate() {
      throw new DataProtectionError(
        'A passphrase comes from the host: add one under a new name, make it `current` and restart.',
        'CONFIGURATION_INVALID',
      );
    },

    async keyInfo(keyId) {
      requireOwn(keyId);
      return keyId === currentId && createdAt !== undefined ? { createdAt } : undefined;
    },

    async retire(keyId) {
      requireOwn(keyId);
      throw notRetired(
        keyId,
        'take the passphrase out of `passphrases`, once no other key is derived from it',
      );
    },
  };
}

type Ask = NamedPassphrase['credentials'];
type Passphrases = ReadonlyMap<string, Ask>;

function collect(list: readonly NamedPassphrase[]): Passphrases {
  if (!Array.isArray(list) || list.length === 0) throw invalid('it has no `passphrases`');
  const found = new Map<string, Ask>();
  list.forEach(({ name, credentials }: NamedPassphrase, index) => {
    const at = `passphrases[${index}]`;
    if (!isPassphraseName(name)) throw invalid(`${at}.name is not 1 to 64 of [A-Za-z0-9._-]`);
    if (found.has(name)) throw invalid(`${at}.name is there twice`);
    if (typeof credentials !== 'function') throw invalid(`${at}.credentials is no function`);
    found.set(name, credentials);
  });
  return found;
}

function currentKey(
  { name, salt: hex, ...cost }: CurrentPassphraseKey,
  passphrases: Passphrases,
  maxMemoryKiB: number,
): PassphraseKeyId {
  if (!passphrases.has(name)) throw invalid('`current.name` is the name of none of its passphrases');
  const salt = decodeSalt(hex);
  if (salt === undefined) throw invalid('`current.salt` is not 16 to 32 bytes in lower-case hexadecimal');
  const {
    memoryKiB = RECOMMENDED.memoryKiB,
    iterations = RECOMMENDED.iterations,
    parallelism = RECOMMENDED.parallelism,
  } = cost;
  const id = { name, salt, memoryKiB, iterations, parallelism };
  const problem = costProblem(id, maxMemoryKiB);
  if (problem !== undefined) throw invalid(`its \`current\` ${problem}`);
  return id;
}

function timeOf(text: Timestamp | undefined): Timestamp | undefined {
  if (text === undefined) return undefined;
  const time = toTimestamp(text);
  if (time === undefined) throw invalid('`current.createdAt` is not a point in time with an offset');
  return time;
}

/** A host that never answers must not stand in the way of later calls. */
async function inTime<T>(answer: Promise<T>, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const message = `The host did not give ${what} within ${ANSWER_MS / 1000} s.`;
    late.reject(new KeyError(message, 'KEY_UNAVAILABLE', { retryable: true }));
  }, ANSWER_MS);
  try {
    return await Promise.race([answer, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function invalid(problem: string): DataProtectionError {
  return new DataProtectionError(
    `The options of passphraseKeyring are invalid: ${problem}.`,
    'CONFIGURATION_INVALID',
  );
}
