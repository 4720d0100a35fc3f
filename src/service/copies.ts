import type { ByteRange, ObjectStorage, StorageCall, StorageCopy } from '../storage/storage.ts';
import { DataProtectionError } from '../types/errors.ts';

type ReadCall = StorageCall & { readonly range?: ByteRange };

/** The stores behind a storage, each with its place; one where it is a single store. */
export function copiesOf(storage: ObjectStorage): readonly StorageCopy[] {
  return storage.copies ?? [{ storage, index: 0, distance: () => 0 }];
}

/** A damaged object cannot be replaced, since objects are written once: a whole one is stored beside it under this name. */
export const healedKey = (key: string, number: number): string => `${key}.healed-${number}`;
const HEALED = /\.healed-([1-9]\d{0,5})$/;

/**
 * Reads an object, or a range of it, from the nearest store where it is whole: `check` throws `ARCHIVE_*` for bytes that
 * are not. In each store an object that was healed stands in for the damaged one. Rejects, where it is whole nowhere, with
 * the failure of a store that did not answer, since it may have it whole; else with what `check` threw, and
 * `STORAGE_NOT_FOUND` where no store has it. `onDamage` hears of every copy that was passed over as damaged.
 */
export function readChecked<T>(
  storage: ObjectStorage,
  key: string,
  call: ReadCall,
  check: (bytes: Uint8Array) => T | Promise<T>,
  onDamage?: (copy: StorageCopy) => void,
): Promise<T> {
  return readFrom(copiesOf(storage), key, call, check, onDamage);
}

/** As `readChecked`, of these stores. */
async function readFrom<T>(
  copies: readonly StorageCopy[],
  key: string,
  call: ReadCall,
  check: (bytes: Uint8Array) => T | Promise<T>,
  onDamage?: (copy: StorageCopy) => void,
): Promise<T> {
  let missing: unknown;
  let damage: unknown;
  let failure: unknown;
  for (const copy of byDistance(copies)) {
    try {
      return await readCopy(copy.storage, key, call, check);
    } catch (error) {
      call.signal?.throwIfAborted();
      if (isNotFound(error)) missing ??= error;
      else if (isDamage(error)) {
        onDamage?.(copy);
        damage ??= error;
      } else failure ??= error;
    }
  }
  throw failure ?? damage ?? missing;
}

/** As `readChecked`, of one store. */
export async function readCopy<T>(
  storage: ObjectStorage,
  key: string,
  call: ReadCall,
  check: (bytes: Uint8Array) => T | Promise<T>,
): Promise<T> {
  try {
    return await check(await storage.get(key, call));
  } catch (error) {
    if (!isNotFound(error) && !isDamage(error)) throw error;
    for (const number of await healedNumbers(storage, key, call.signal)) {
      try {
        return await check(await storage.get(healedKey(key, number), call));
      } catch (other) {
        if (!isNotFound(other) && !isDamage(other)) throw other;
      }
    }
    throw error;
  }
}

/** The numbers of the healed copies of an object in a store, the newest first. */
export async function healedNumbers(
  storage: ObjectStorage,
  key: string,
  signal: AbortSignal | undefined,
): Promise<readonly number[]> {
  const numbers: number[] = [];
  for await (const info of storage.list(`${key}.healed-`, { signal })) {
    const number = HEALED.exec(info.key)?.[1];
    if (number !== undefined && info.key === healedKey(key, Number(number))) numbers.push(Number(number));
  }
  return numbers.sort((one, other) => other - one);
}

/** The name of the object that a key is, or that it stands in for. */
export const healedName = (key: string): string => key.replace(HEALED, '');

/** The nearest first; at the same distance in the order of the list. */
const byDistance = (copies: readonly StorageCopy[]): readonly StorageCopy[] =>
  copies
    .map((copy) => ({ copy, distance: copy.distance() }))
    // Infinity minus Infinity is no order.
    .sort((one, other) => (one.distance === other.distance ? 0 : one.distance - other.distance))
    .map(({ copy }) => copy);

export const isNotFound = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'STORAGE_NOT_FOUND';
export const isArchived = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'OBJECT_ARCHIVED';
export const isDamage = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code.startsWith('ARCHIVE_');
export const isTaken = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'STORAGE_ALREADY_EXISTS';
