import type { ObjectStorage } from '../storage/storage.ts';
import type { UUID } from '../types/ids.ts';
import { inTime } from './attempt-storage.ts';
import type { ServiceContext } from './context.ts';
import { isTaken, readChecked } from './copies.ts';

/** Where the checkpoints of an organization lie in the default storage: out of reach of whoever has the database. */
export interface AuditStorage {
  keyOf(sequence: number): string;
  /** Stores a checkpoint, create-only. Gives what lies there already. Throws `STORAGE_*`. */
  put(sequence: number, bytes: Uint8Array): Promise<Uint8Array | undefined>;
  /** The sequences of all checkpoints that are stored. Throws `STORAGE_*`. */
  list(signal: AbortSignal): Promise<readonly number[]>;
  /** Reads a checkpoint from a store where `check` does not throw `ARCHIVE_*`. Throws `STORAGE_*` and what `check` throws. */
  read<T>(sequence: number, signal: AbortSignal, check: (bytes: Uint8Array) => Promise<T>): Promise<T>;
}

/** `<organization>/audit/`, below a destination's prefix. */
export const auditFolder = (organizationId: UUID): string => `${organizationId}/audit/`;

const NAME = 'checkpoint-';

/** undefined: there is no default destination. */
export function auditStorage(context: ServiceContext, organizationId: UUID): AuditStorage | undefined {
  if (context.defaultDestination === undefined) return undefined;
  const { storage, prefix } = context.openStorage(context.defaultDestination);
  const start = `${prefix === '' ? '' : `${prefix}/`}${auditFolder(organizationId)}${NAME}`;
  const keyOf = (sequence: number): string => `${start}${String(sequence).padStart(12, '0')}`;
  return {
    keyOf,
    put: (sequence, bytes) => putOnce(storage, keyOf(sequence), bytes),
    async list(signal) {
      const sequences: number[] = [];
      for await (const { key } of storage.list(start, { signal })) {
        const sequence = Number(key.slice(start.length));
        // Beside checkpoints lie what heals them.
        if (Number.isSafeInteger(sequence) && key === keyOf(sequence)) sequences.push(sequence);
      }
      return sequences;
    },
    read: (sequence, signal, check) => readChecked(storage, keyOf(sequence), { signal }, check),
  };
}

async function putOnce(
  storage: ObjectStorage,
  key: string,
  bytes: Uint8Array,
): Promise<Uint8Array | undefined> {
  try {
    await inTime((signal) => storage.put(key, [bytes], { signal, tier: 'HOT' }));
    return undefined;
  } catch (error) {
    if (!isTaken(error)) throw error;
    return inTime((signal) => storage.get(key, { signal }));
  }
}
