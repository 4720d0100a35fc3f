import type { Timing } from './timing.ts';

export interface LargeUploadProgress {
  /** Bytes that are stored, those of earlier runs among them. */
  readonly uploadedBytes: number;
  readonly totalBytes: number;
  readonly parts: number;
  readonly partsTotal: number;
  /** Average of what this run sent; 0 before its first part. */
  readonly bytesPerSecond: number;
  /** Milliseconds; null before anything was sent. */
  readonly estimatedTimeRemainingMs: number | null;
}

export interface ProgressCounter {
  sent(bytes: number): void;
  /** Stored by an earlier run. */
  found(bytes: number): void;
}

export function progressCounter(
  totalBytes: number,
  partsTotal: number,
  timing: Pick<Timing, 'now'>,
  tell: (progress: LargeUploadProgress) => void,
): ProgressCounter {
  const start = timing.now();
  let uploadedBytes = 0;
  let sentBytes = 0;
  let parts = 0;

  function add(bytes: number): void {
    uploadedBytes += bytes;
    parts += 1;
    const seconds = (timing.now() - start) / 1_000;
    const bytesPerSecond = seconds > 0 ? sentBytes / seconds : 0;
    const estimatedTimeRemainingMs =
      bytesPerSecond > 0 ? ((totalBytes - uploadedBytes) / bytesPerSecond) * 1_000 : null;
    tell({ uploadedBytes, totalBytes, parts, partsTotal, bytesPerSecond, estimatedTimeRemainingMs });
  }

  return {
    sent(bytes) {
      sentBytes += bytes;
      add(bytes);
    },
    found: add,
  };
}
