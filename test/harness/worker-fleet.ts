import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { expect } from 'vitest';
import { isClaim } from '../../src/archive/claim.ts';
import { createAuditLog } from '../../src/repository/audit-log.ts';
import { createDatabase } from '../../src/repository/database.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { filesBelow, MASTER_KEY } from './service-bench.ts';

/** What a worker process is given. */
export interface WorkerOrder {
  readonly url: string;
  readonly folder: string;
  readonly key: string;
  /** Left out: the queue is in PostgreSQL. */
  readonly redis?: string;
  readonly pollMs: number;
  readonly graceMs?: number;
  /** How far its clock is ahead. */
  readonly skewMs?: number;
  /** What every object, but manifests and claims, waits before it is stored. */
  readonly slowMs?: number;
  /** Storing an object whose key holds this, but no manifest or claim, kills the process. */
  readonly poison?: string;
}

export type WorkerSettings = Partial<Omit<WorkerOrder, 'url' | 'folder' | 'key'>>;

export interface WorkerProcess {
  readonly process: ChildProcess;
  readonly output: () => string;
  readonly end: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** Resolves when it has said this; rejects when it ended before. */
  said(text: string): Promise<void>;
}

const SCRIPT = fileURLToPath(new URL('./worker-child.ts', import.meta.url));
const POLL_MS = 150;

/** Where a fleet works. */
export interface FleetPlace {
  readonly url: string;
  readonly folder: string;
  readonly pool: pg.Pool;
  readonly redis?: string;
}

/** Worker processes that come and go. */
export class Fleet implements AsyncDisposable {
  readonly #place: FleetPlace;
  readonly #alive = new Set<WorkerProcess>();
  /** What went wrong in a process that nobody had killed. */
  readonly crashes: string[] = [];
  #hastening: NodeJS.Timeout | undefined;

  constructor(place: FleetPlace) {
    this.#place = place;
  }

  get alive(): readonly WorkerProcess[] {
    return [...this.#alive];
  }

  start(settings: WorkerSettings = {}): WorkerProcess {
    const { url, folder, redis } = this.#place;
    const order: WorkerOrder = {
      url,
      folder,
      key: MASTER_KEY.toString('hex'),
      ...(redis === undefined ? {} : { redis }),
      pollMs: POLL_MS,
      ...settings,
    };
    const child = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', SCRIPT, JSON.stringify(order)],
      {
        // Its input is the leash: it ends when this process does.
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    );
    let output = '';
    const waiting = new Set<() => void>();
    const hear = (chunk: Buffer): void => {
      output += chunk.toString();
      for (const look of waiting) look();
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    const end = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
      child.on('close', (code, signal) => resolve({ code, signal }));
    });
    const worker: WorkerProcess = {
      process: child,
      output: () => output,
      end,
      said: (text) => {
        const heard = Promise.withResolvers<void>();
        const look = (): void => {
          if (!output.includes(text)) return;
          waiting.delete(look);
          heard.resolve();
        };
        waiting.add(look);
        look();
        void end.then(() => heard.reject(new Error(`It ended without saying ${text}:\n${output}`)));
        return heard.promise;
      },
    };
    this.#alive.add(worker);
    void end.then(({ code, signal }) => {
      this.#alive.delete(worker);
      if (signal !== 'SIGKILL' && code !== 0) this.crashes.push(`${code} ${signal}\n${output}`);
    });
    return worker;
  }

  async kill(worker: WorkerProcess): Promise<void> {
    worker.process.kill('SIGKILL');
    await worker.end;
  }

  /** Makes what waits for a pause to pass, or for a silence to be noticed, due at once, again and again. */
  hasten(): void {
    const { pool } = this.#place;
    this.#hastening = setInterval(() => {
      // The server may be down just now.
      hasten(pool).catch(() => undefined);
    }, 200);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#hastening);
    await Promise.all(this.alive.map((worker) => this.kill(worker)));
  }
}

/** Also of live runs: whoever looks then must find their locks held. */
async function hasten(pool: pg.Pool): Promise<void> {
  await pool.query(`UPDATE care_backup.backup_queue SET not_before = now() - interval '1 hour'
    WHERE not_before > now() - interval '30 minutes'`);
  await pool.query(`UPDATE care_backup.storage_jobs SET not_before = now() - interval '1 hour'
    WHERE status = 'QUEUED' AND not_before > now() - interval '30 minutes'`);
  await pool.query(`UPDATE care_backup.storage_jobs SET updated_at = now() - interval '1 hour'
    WHERE status = 'IN_PROGRESS'`);
  await pool.query(`UPDATE care_backup.backup_attempts SET heartbeat_at = now() - interval '1 hour'
    WHERE state = 'RUNNING'`);
}

/** Numbers in [0, 1) from a seed. */
export function numbersFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What is neither ended nor FAILED, for the wait of a test. */
export async function unended(pool: pg.Pool, configurations: readonly string[]): Promise<number> {
  const { rows } = await pool.query<{ n: number }>(
    `SELECT ((SELECT count(*) FROM care_backup.backup_snapshots
               WHERE configuration_id = ANY ($1) AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED'))
           + (SELECT count(*) FROM care_backup.storage_jobs
               WHERE configuration_id = ANY ($1) AND status IN ('QUEUED', 'IN_PROGRESS')))::int AS n`,
    [configurations],
  );
  return rows[0]?.n ?? 0;
}

export async function untilTrue(
  what: string,
  look: () => Promise<boolean>,
  limitMs: number = 120_000,
): Promise<void> {
  const end = Date.now() + limitMs;
  for (;;) {
    if (await look().catch(() => false)) return;
    if (Date.now() > end) throw new Error(`It did not happen: ${what}`);
    await sleep(50);
  }
}

interface SnapshotFacts {
  readonly id: string;
  readonly configuration: string;
  readonly number: string;
  readonly status: string;
  readonly codes: readonly string[];
  readonly tries: number;
  readonly sealed: number;
  readonly ends: readonly string[];
}

/**
 * What must be true once everything has ended: each snapshot is COMPLETED and verifies, or used up its tries; is counted
 * once; nothing of an attempt that does not count lies in the folder but its claim; nothing waits; every job ended well;
 * the audit chain is whole. Gives the numbers of both.
 */
export async function expectAllEnded(
  place: FleetPlace & { readonly backups: BackupService; readonly organization: string },
  configurations: readonly string[],
): Promise<{ readonly completed: number; readonly failed: number }> {
  const { pool, backups } = place;
  const { rows } = await pool.query<SnapshotFacts>(
    `SELECT s.id::text, s.configuration_id::text AS configuration, s.snapshot_number AS number, s.status,
            ARRAY(SELECT e ->> 'code' FROM jsonb_array_elements(s.errors) e) AS codes,
            (SELECT count(*)::int FROM care_backup.backup_attempts a WHERE a.snapshot_id = s.id) AS tries,
            (SELECT count(*)::int FROM care_backup.backup_attempts a WHERE a.snapshot_id = s.id AND a.state = 'SEALED') AS sealed,
            ARRAY(SELECT l.action FROM care_backup.audit_log l WHERE l.resource_id = s.id::text
                   AND l.action IN ('snapshot.completed', 'snapshot.adopted', 'snapshot.failed', 'snapshot.cancelled')) AS ends
       FROM care_backup.backup_snapshots s WHERE s.configuration_id = ANY ($1)`,
    [configurations],
  );
  const files = await filesBelow(place.folder);
  let completed = 0;
  for (const { id, configuration, number, status, codes, tries, sealed, ends } of rows) {
    const remains = files.filter((file) => file.includes(`/${configuration}/${number}/`));
    expect(ends, `${id} ${status} ${codes}`).toHaveLength(1);
    if (status === 'COMPLETED') {
      completed += 1;
      expect(sealed).toBe(1);
      expect(codes).toHaveLength(tries - 1);
      expect((await backups.verifySnapshot(id)).passed).toBe(true);
      const { storageLocation } = await backups.getSnapshot(id);
      const counted = storageLocation?.path ?? '';
      await expectClaims(
        place.folder,
        remains.filter((file) => !file.startsWith(counted)),
      );
    } else {
      expect({ status, tries, sealed }).toEqual({ status: 'FAILED', tries: 3, sealed: 0 });
      expect(codes).toHaveLength(3);
      await expectClaims(place.folder, remains);
    }
  }
  for (const id of configurations) {
    const good = rows.filter(({ configuration, status }) => configuration === id && status === 'COMPLETED');
    expect((await backups.getConfiguration(id)).totalBackupsCreated).toBe(good.length);
  }
  const left = await pool.query('SELECT 1 FROM care_backup.backup_queue WHERE configuration_id = ANY ($1)', [
    configurations,
  ]);
  expect(left.rows).toEqual([]);
  const jobs = await pool.query(
    `SELECT id, status, error FROM care_backup.storage_jobs
      WHERE configuration_id = ANY ($1) AND (status <> 'COMPLETED' OR NOT (result ->> 'passed')::boolean)`,
    [configurations],
  );
  expect(jobs.rows).toEqual([]);
  const db = createDatabase({ pool, clock: { now: () => new Date() } });
  expect(await createAuditLog().verifyChain(db, place.organization)).toMatchObject({ valid: true });
  return { completed, failed: rows.length - completed };
}

async function expectClaims(folder: string, files: readonly string[]): Promise<void> {
  for (const file of files) {
    expect(file).toMatch(/\/manifest$/);
    expect(isClaim(await readFile(join(folder, file)))).toBe(true);
  }
}
