import { createSecretKey, type KeyObject, randomBytes, randomUUID } from 'node:crypto';
import { KeyError } from '../types/errors.ts';
import type { Timestamp } from '../types/ids.ts';
import { decodeBase64, fingerprint, KEY_BYTES } from './key-wrap.ts';

/** Master keys in memory. Key objects, so that no logger or inspector prints them. */
export interface Keyring {
  readonly current: string;
  readonly keys: ReadonlyMap<string, MasterKey>;
}

export interface MasterKey {
  readonly key: KeyObject;
  /** As it stands in the keyring; undefined where nobody has said. */
  readonly createdAt: string | undefined;
}

const KEY_ID = /^[A-Za-z0-9._:/-]{1,255}$/;

export function isKeyId(value: unknown): value is string {
  return typeof value === 'string' && KEY_ID.test(value);
}

/**
 * Reads the text of a keyring (see `localKeyring`). Throws `KEYRING_INVALID`; no message or cause quotes the text,
 * which is why the JSON parser's own error, which does, is dropped.
 */
export function parseKeyring(text: string, where: string): Keyring {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw malformed(where, 'is not JSON');
  }
  if (!isRecord(value)) throw malformed(where, 'is not a JSON object');
  refuseUnknown(value, ['version', 'current', 'keys'], where, 'the keyring');
  if (value.version !== 1) throw malformed(where, 'has a `version` that is not 1');
  const list: unknown = value.keys;
  if (!Array.isArray(list)) throw malformed(where, 'has no list `keys`');
  const keys = new Map<string, MasterKey>();
  list.forEach((entry: unknown, index) => {
    if (!isRecord(entry)) throw malformed(where, `has a keys[${index}] that is not an object`);
    refuseUnknown(entry, ['id', 'key', 'createdAt'], where, `keys[${index}]`);
    const { createdAt } = entry;
    if (!isTime(createdAt)) {
      throw malformed(where, `has a keys[${index}].createdAt that is not a time`);
    }
    addKey(keys, { id: entry.id, key: entry.key, createdAt }, index, where);
  });
  return { current: chosen(value.current, keys, where), keys };
}

/** A keyring of one bare key, 64 hexadecimal digits or base64 of 32 bytes; its id is its fingerprint. */
export function parseSingleKey(text: string, where: string): Keyring {
  const bytes = /^[0-9a-fA-F]{64}$/.test(text) ? Buffer.from(text, 'hex') : decodeBase64(text);
  if (bytes?.byteLength !== KEY_BYTES) {
    throw malformed(where, 'is neither a keyring nor one key (base64 or hexadecimal of 32 bytes)');
  }
  const key = createSecretKey(bytes);
  const current = `local-${fingerprint(key)}`;
  return { current, keys: new Map([[current, { key, createdAt: undefined }]]) };
}

/** A keyring from keys given in memory. Without `current` there may be only one. */
export function collectKeys(
  list: readonly {
    readonly id: string;
    readonly key: Uint8Array | string;
    readonly createdAt?: Timestamp;
  }[],
  current: string | undefined,
  where: string,
): Keyring {
  const keys = new Map<string, MasterKey>();
  list.forEach(({ id, key, createdAt }, index) => {
    if (createdAt !== undefined && !isTime(createdAt)) {
      throw malformed(where, `has a keys[${index}].createdAt that is not a time`);
    }
    addKey(keys, { id, key, createdAt }, index, where);
  });
  return { current: chosen(current ?? (list.length === 1 ? list[0]?.id : undefined), keys, where), keys };
}

/** The keyring with a fresh current key. */
export function withFreshKey(keys: ReadonlyMap<string, MasterKey>, now: Date): Keyring {
  const current = `local-${randomUUID()}`;
  const fresh = { key: createSecretKey(randomBytes(KEY_BYTES)), createdAt: now.toISOString() };
  return { current, keys: new Map([...keys, [current, fresh]]) };
}

/** The keyring without a key that is not its current one. */
export function withoutKey({ current, keys }: Keyring, id: string): Keyring {
  return { current, keys: new Map([...keys].filter(([known]) => known !== id)) };
}

/** The text of a keyring, as `parseKeyring` reads it. It holds the keys: only a keyring file may see it. */
export function serializeKeyring(keyring: Keyring): string {
  const keys = [...keyring.keys].map(([id, { key, createdAt }]) => ({
    id,
    key: key.export().toString('base64'),
    createdAt,
  }));
  return `${JSON.stringify({ version: 1, current: keyring.current, keys }, undefined, 2)}\n`;
}

function addKey(
  keys: Map<string, MasterKey>,
  entry: { readonly id: unknown; readonly key: unknown; readonly createdAt: string | undefined },
  index: number,
  where: string,
): void {
  if (!isKeyId(entry.id))
    throw malformed(where, `has a keys[${index}].id that is not 1 to 255 of [A-Za-z0-9._:/-]`);
  if (keys.has(entry.id)) throw malformed(where, `has the id of keys[${index}] twice`);
  const bytes = entry.key instanceof Uint8Array ? entry.key : decodeBase64(entry.key);
  if (bytes?.byteLength !== KEY_BYTES) {
    throw malformed(where, `has a keys[${index}].key that is not base64 of ${KEY_BYTES} bytes`);
  }
  keys.set(entry.id, { key: createSecretKey(bytes), createdAt: entry.createdAt });
}

function chosen(current: unknown, keys: ReadonlyMap<string, MasterKey>, where: string): string {
  if (typeof current !== 'string' || !keys.has(current)) {
    throw malformed(where, 'does not say with `current` which of its keys is the current one');
  }
  return current;
}

/** A rotation writes the file anew; a field that this version does not know would be lost with it. */
function refuseUnknown(value: object, known: readonly string[], where: string, what: string): void {
  if (Object.keys(value).some((field) => !known.includes(field))) {
    throw malformed(where, `has a field in ${what} that is none of ${known.join(', ')}`);
  }
}

function isTime(value: unknown): value is string {
  return typeof value === 'string' && !Number.isNaN(Date.parse(value));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function malformed(where: string, problem: string): KeyError {
  return new KeyError(`The keyring in ${where} ${problem}.`, 'KEYRING_INVALID');
}
