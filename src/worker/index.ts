import type { Worker, WorkerOptions } from './worker.ts';

export type { Worker, WorkerOptions } from './worker.ts';

/** What `runWorker` needs of the library. */
interface Protection {
  startWorker(options?: WorkerOptions): Promise<Worker>;
  close(): Promise<void>;
}

/**
 * The main program of a worker process: works until the process is told to end (SIGTERM, SIGINT), lets what runs
 * finish within `graceMs` (30 s), and closes. A second signal ends the process at once, as it would without this.
 *
 * @example
 * await runWorker(await createDataProtection({ ... }), { concurrency: { backups: 4 } });
 */
export async function runWorker(
  protection: Protection,
  options: WorkerOptions & { readonly graceMs?: number } = {},
): Promise<void> {
  const { graceMs, ...rest } = options;
  const told = Promise.withResolvers<void>();
  const ends = (): void => {
    for (const signal of SIGNALS) process.removeListener(signal, ends);
    told.resolve();
  };
  // Before anything runs: a process that is told to end while it starts is to end in order, too.
  for (const signal of SIGNALS) process.on(signal, ends);
  try {
    const worker = await protection.startWorker(rest);
    await told.promise;
    await worker.stop(graceMs === undefined ? {} : { graceMs });
    await protection.close();
  } finally {
    ends();
  }
}

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;
