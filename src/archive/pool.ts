import { DataProtectionError } from '../types/errors.ts';

/** A fixed number of equal buffers, lent out and taken back. Whoever waits longest is served first. */
export interface BufferPool {
  /** Waits while every buffer is lent or `mayLend` says no; rejects once `fail` was called. */
  acquire(): Promise<Buffer>;
  /** Takes from the borrower what `give` gives back later. INTERNAL unless the buffer is lent. */
  take(buffer: Buffer): void;
  /** A buffer that was taken is free again. */
  give(buffer: Buffer): void;
  /** Serves who waits, as far as it can: call it when the answer of `mayLend` may have changed. */
  serve(): void;
  /** Rejects everybody who waits or comes later. */
  fail(reason: unknown): void;
  /** Buffers that are with a borrower. */
  readonly lent: number;
}

export function createBufferPool(count: number, size: number, mayLend: () => boolean): BufferPool {
  const free: Buffer[] = [];
  const lent = new Set<Buffer>();
  const waiting: PromiseWithResolvers<Buffer>[] = [];
  let allocated = 0;
  let failure: { readonly reason: unknown } | undefined;

  const next = (): Buffer | undefined => {
    const buffer = free.pop();
    if (buffer !== undefined || allocated === count) return buffer;
    allocated += 1;
    return Buffer.allocUnsafeSlow(size);
  };

  const serve = (): void => {
    while (waiting.length > 0 && failure === undefined && mayLend()) {
      const buffer = next();
      if (buffer === undefined) return;
      lent.add(buffer);
      waiting.shift()?.resolve(buffer);
    }
  };

  return {
    acquire() {
      if (failure !== undefined) return Promise.reject(failure.reason);
      const waiter = Promise.withResolvers<Buffer>();
      waiting.push(waiter);
      serve();
      return waiter.promise;
    },
    take(buffer) {
      if (!lent.delete(buffer)) {
        throw new DataProtectionError(
          'A buffer was given to the archive that is not lent by it.',
          'INTERNAL',
        );
      }
    },
    give(buffer) {
      free.push(buffer);
      serve();
    },
    serve,
    fail(reason) {
      failure ??= { reason };
      for (const waiter of waiting.splice(0)) waiter.reject(failure.reason);
    },
    get lent() {
      return lent.size;
    },
  };
}
