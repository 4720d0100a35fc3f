import { DataProtectionError, KeyError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import { deriveMacKey, unwrapDataKey, wrapDataKey } from './key-wrap.ts';
import {
  collectKeys,
  isKeyId,
  type Keyring,
  type MasterKey,
  parseKeyring,
  parseSingleKey,
} from './keyring.ts';
import {
  keyringFileVersion,
  type LoadedKeyring,
  readKeyringFile,
  retireFromKeyringFile,
  rotateKeyringFile,
} from './keyring-file.ts';
import type { KeyProvider } from './keys.ts';
import { notRetired } from './not-retired.ts';

export { createKeyringFile } from './keyring-file.ts';

export type LocalKeyringOptions =
  /** A keyring file of this user or root, 0600. */
  | { readonly file: string }
  /** The name of an environment variable with a keyring, or with one key: base64 or hexadecimal of 32 bytes. */
  | { readonly env: string }
  /**
   * Keys in memory, for tests and for hosts that get them from elsewhere; `current` is needed when there are several.
   */
  | {
      readonly keys: readonly {
        readonly id: string;
        /** 32 bytes, or their base64. */
        readonly key: Uint8Array | string;
        /** When it was made, ISO 8601; without it, its age counts from its first backup. */
        readonly createdAt?: Timestamp;
      }[];
      readonly current?: string;
    };

/** Where the keys come from. */
interface KeySource {
  readonly description: string;
  current(): Promise<Keyring>;
  /** As `current`, but not from memory. */
  reread(): Promise<Keyring>;
  rotate(): Promise<string>;
  retire(keyId: string): Promise<void>;
}

/**
 * Master keys in a file, in the environment or in memory; the scheme is in `key-wrap.ts`.
 *
 * The file (and the environment variable, if it is not a single key) holds
 *
 * ```json
 * { "version": 1, "current": "<id>", "keys": [{ "id": "<id>", "key": "<base64 of 32 bytes>", "createdAt": "<ISO 8601>" }] }
 * ```
 *
 * and nothing else. The file must be regular, owned by the process's effective user or root, and without any right
 * for group and others. It is read at the first use and again when it has changed, so that another process's rotation
 * is picked up; while it cannot be read, every call fails: nothing is wrapped by a key that may be gone. An
 * environment variable is read once, here. Losing the keys is losing the backups: keep a copy elsewhere.
 *
 * `rotate` adds a key to the file, `retire` removes one; both write the file anew, and no two processes at once. With
 * `env` and `keys` they are `CONFIGURATION_INVALID` and `NOT_SUPPORTED`: a key that lives only in this process loses what
 * it wrapped.
 *
 * Throws `KEYRING_INVALID` (here for `env` and `keys`, at the first use for `file`), `CONFIGURATION_INVALID` when
 * there is none or more than one of the three options. Keys are in no message, cause, property or inspection.
 */
export function localKeyring(options: LocalKeyringOptions): KeyProvider {
  const source = sourceOf(options);

  async function keyOf(keyId: string): Promise<MasterKey> {
    const known = (await source.current()).keys.get(keyId) ?? (await source.reread()).keys.get(keyId);
    if (known !== undefined) return known;
    const shown = isKeyId(keyId) ? keyId : '(malformed id)';
    throw new KeyError(`The key ${shown} is not in ${source.description}.`, 'KEY_UNAVAILABLE');
  }

  return {
    description: source.description,

    async currentKeyId() {
      return (await source.current()).current;
    },

    async wrap(dataKey, context) {
      const { current } = await source.current();
      const { key } = await keyOf(current);
      return wrapDataKey(key, current, dataKey, context);
    },

    async unwrap(wrapped, context) {
      const { key } = await keyOf(wrapped.keyId);
      return unwrapDataKey(key, wrapped, context);
    },

    async macKey(context, keyId) {
      const id = keyId ?? (await source.current()).current;
      const { key } = await keyOf(id);
      return { keyId: id, key: deriveMacKey(key, id, context) };
    },

    async keyInfo(keyId) {
      const { createdAt } = await keyOf(keyId);
      return createdAt === undefined ? undefined : { createdAt: new Date(createdAt).toISOString() };
    },

    rotate: () => source.rotate(),
    retire: (keyId) => source.retire(keyId),
  };
}

function sourceOf(options: LocalKeyringOptions): KeySource {
  const given = (['file', 'env', 'keys'] as const).filter((name) => name in options);
  if (given.length !== 1) {
    throw new DataProtectionError(
      'localKeyring needs one of `file`, `env` and `keys`.',
      'CONFIGURATION_INVALID',
    );
  }
  if ('file' in options) return fileSource(options.file);
  if ('env' in options) return environmentSource(options.env);
  return fixedSource(collectKeys(options.keys, options.current, '`keys`'), 'memory');
}

function fileSource(file: string): KeySource {
  let loaded: LoadedKeyring | undefined;

  async function reread(): Promise<Keyring> {
    loaded = await readKeyringFile(file);
    return loaded.keyring;
  }

  return {
    description: `local keyring ${file}`,
    async current() {
      const known = loaded;
      return known !== undefined && known.version === (await keyringFileVersion(file))
        ? known.keyring
        : reread();
    },
    reread,
    rotate: () => rotateKeyringFile(file),
    retire: (keyId) => retireFromKeyringFile(file, keyId),
  };
}

function environmentSource(name: string): KeySource {
  const where = `the environment variable ${name}`;
  const text = process.env[name]?.trim();
  if (text === undefined || text === '')
    throw new KeyError(`There is no keyring in ${where}.`, 'KEYRING_INVALID');
  return fixedSource(text.startsWith('{') ? parseKeyring(text, where) : parseSingleKey(text, where), where);
}

/** A key that a rotation made here would be gone with the process, and every backup that it wrapped. */
function fixedSource(keyring: Keyring, where: string): KeySource {
  return {
    description: `local keyring in ${where}`,
    current: async () => keyring,
    reread: async () => keyring,
    async rotate() {
      throw new DataProtectionError(
        `A keyring in ${where} cannot rotate itself: add a key where it comes from, make it \`current\` and restart.`,
        'CONFIGURATION_INVALID',
      );
    },
    async retire(keyId) {
      throw notRetired(keyId, `take it out of the keyring in ${where}, where it comes from, and restart`);
    },
  };
}
