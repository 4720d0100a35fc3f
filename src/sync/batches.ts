import { ValidationError } from '../types/errors.ts';
import { atomicBatchOf, type DependentOperation } from './dependencies.ts';

/**
 * Cuts a list into slices of at most `size`, in order. An atomic batch (`batchId` with `batchSize`) is never cut: it
 * stands where its first operation does, and by itself where it is larger than a slice. Throws `VALIDATION_FAILED`.
 *
 * @example
 * for (const batch of batchOperations(operations, 50)) await api.queueOperations(batch);
 */
export function batchOperations<T extends Pick<DependentOperation, 'batchId' | 'batchSize' | 'streamId'>>(
  operations: readonly T[],
  size: number,
): T[][] {
  if (!Number.isSafeInteger(size) || size < 1) {
    throw new ValidationError('The size of the slices', [
      { path: 'size', message: 'Is not a whole number of at least 1.', remedy: 'Give one, such as 50.' },
    ]);
  }
  const slices: T[][] = [];
  let last: T[] = [];
  for (const inseparable of inseparables(operations)) {
    if (last.length === 0 || last.length + inseparable.length > size) {
      last = [];
      slices.push(last);
    }
    for (const operation of inseparable) last.push(operation);
  }
  return slices;
}

/** Atomic batches and, each for itself, all others, in the order in which they first appear. */
function inseparables<T extends DependentOperation>(operations: readonly T[]): Iterable<readonly T[]> {
  const found = new Map<string | symbol, T[]>();
  for (const operation of operations) {
    const key = atomicBatchOf(operation) ?? Symbol();
    const members = found.get(key);
    if (members === undefined) found.set(key, [operation]);
    else members.push(operation);
  }
  return found.values();
}
