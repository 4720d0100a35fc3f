import type pg from 'pg';
import { CopyInterrupted, copyOut } from '../postgres/copy-out.ts';
import { databaseError, isFilterRefusal, sqlState } from '../postgres/errors.ts';
import { quoteLiteral } from '../postgres/quote.ts';
import { destroySession } from '../postgres/session.ts';
import type { DataProtectionError } from '../types/errors.ts';
import { type Enlistment, importSnapshot } from './crew.ts';
import type { ResolvedEntity } from './entity-catalog.ts';
import type { ExtractionRun } from './runs.ts';
import type { ExtractionProgress, RowSink } from './source.ts';
import { nameUnreadableRow, unreadableRow } from './unreadable.ts';

export interface ExtractionJob extends Enlistment {
  /** Sessions with the snapshot imported and the tables locked; they are ended. */
  readonly sessions: readonly pg.Client[];
  readonly encoding: string;
  readonly runs: readonly ExtractionRun[];
  readonly entities: ReadonlyMap<string, ResolvedEntity>;
  readonly sink: RowSink;
  readonly onProgress: (progress: ExtractionProgress) => void;
}

/** Rows and bytes that went into the sink, by part. */
export type PartTotals = ReadonlyMap<number, { readonly rows: number; readonly bytes: number }>;

/** Reads every run, several sessions side by side; the first failure ends all. */
export async function readRuns(job: ExtractionJob): Promise<PartTotals> {
  const totals = new Map<number, { rows: number; bytes: number }>();
  const progress = new ProgressCount(job);
  const failures: unknown[] = [];
  let next = 0;
  const work = async (session: pg.Client): Promise<void> => {
    try {
      for (let run = next++; run < job.runs.length; run = next++) {
        job.signal.throwIfAborted();
        const plan = job.runs[run];
        if (plan === undefined) break;
        progress.begin(plan);
        const { rows, bytes } = await readRun(session, job, plan, run, progress);
        const total = totals.get(plan.part) ?? { rows: 0, bytes: 0 };
        totals.set(plan.part, { rows: total.rows + rows, bytes: total.bytes + bytes });
        progress.end(plan);
      }
      await session.query('COMMIT').catch((error: unknown) => {
        throw databaseError(error, 'Ending a session that read rows');
      });
    } catch (error) {
      failures.push(error);
      job.sessions.forEach(destroySession);
    } finally {
      destroySession(session);
    }
  };
  await Promise.all(job.sessions.map(work));
  job.signal.throwIfAborted();
  if (failures.length > 0) throw failures[0];
  return totals;
}

async function readRun(
  session: pg.Client,
  job: ExtractionJob,
  plan: ExtractionRun,
  run: number,
  progress: ProgressCount,
): Promise<{ rows: number; bytes: number }> {
  const sql = `COPY (SELECT ${plan.columns} ${plan.from}) TO STDOUT (FORMAT text, ENCODING ${quoteLiteral(job.encoding)})`;
  try {
    // Planning locks the indexes too: they are let go after each statement, lest a REINDEX wait for the whole run.
    await session.query('SAVEPOINT run');
    const read = await copyOut(session, sql, {
      acquire: () => job.sink.acquire(),
      release: (buffer) => job.sink.release(buffer),
      add: (segment) => {
        job.sink.add({ ...segment, part: plan.part, run });
        progress.count(plan, segment.rows, segment.length);
      },
    });
    await session.query('ROLLBACK TO SAVEPOINT run');
    return read;
  } catch (error) {
    job.signal.throwIfAborted();
    throw await explainFailure(error, job, plan);
  }
}

/** SQLSTATE classes of a row that cannot be written out: data exceptions, limits, resources, corruption. */
const ROW_FAILURES = /^(22|53200|54|XX)/;

async function explainFailure(error: unknown, job: ExtractionJob, plan: ExtractionRun): Promise<unknown> {
  if (!(error instanceof CopyInterrupted)) return databaseError(error, `Reading ${plan.entity}`);
  if (error.by === 'SINK') return error.cause;
  const state = sqlState(error);
  const entity = job.entities.get(plan.entity);
  if (entity === undefined || state === undefined || !ROW_FAILURES.test(state)) {
    return readingError(error.cause, plan.entity);
  }
  let session: pg.Client | undefined;
  try {
    session = await importSnapshot(job);
    // Locks that the leader holds may be asked for in exclusive mode: see enlist.
    await session.query("SET LOCAL lock_timeout = '2s'");
    return await nameUnreadableRow(session, plan, entity, error.rowsRead, error.cause);
  } catch {
    job.signal.throwIfAborted();
    return unreadableRow(entity, error.rowsRead, error.cause);
  } finally {
    if (session !== undefined) destroySession(session);
  }
}

function readingError(error: unknown, entity: string): DataProtectionError {
  return databaseError(error, `Reading ${entity}`, {
    '42501': isFilterRefusal(error) ? 'SOURCE_FILTERED' : 'SOURCE_PRIVILEGE_MISSING',
    '42P01': 'SOURCE_CHANGED',
    '3F000': 'SOURCE_CHANGED',
    '42703': 'SOURCE_CHANGED',
  });
}

class ProgressCount {
  readonly #job: ExtractionJob;
  readonly #open = new Map<string, number>();
  #rows = 0;
  #bytes = 0;
  #completed = 0;

  constructor(job: ExtractionJob) {
    this.#job = job;
    for (const run of job.runs) this.#open.set(run.entity, (this.#open.get(run.entity) ?? 0) + 1);
  }

  begin(plan: ExtractionRun): void {
    this.#report(plan.entity);
  }

  count(plan: ExtractionRun, rows: number, bytes: number): void {
    this.#rows += rows;
    this.#bytes += bytes;
    this.#report(plan.entity);
  }

  end(plan: ExtractionRun): void {
    const left = (this.#open.get(plan.entity) ?? 1) - 1;
    this.#open.set(plan.entity, left);
    if (left === 0) this.#completed += 1;
    this.#report(plan.entity);
  }

  #report(entity: string): void {
    this.#job.onProgress({
      entity,
      entitiesCompleted: this.#completed,
      rows: this.#rows,
      bytes: this.#bytes,
    });
  }
}
