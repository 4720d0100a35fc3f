import type pg from 'pg';
import { copyIn } from '../postgres/copy-in.ts';
import { quoteLiteral } from '../postgres/quote.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import { type Definitions, inSchema } from './ddl.ts';
import { restoreError } from './errors.ts';
import { at, type LoadJob, type RestorePlan, storedColumns } from './plan.ts';
import type { RestorableSnapshot } from './restore.ts';
import { addDigests, NO_ROWS, RowDigester, type RowsDigest } from './row-digest.ts';
import type { WorkSessions } from './sessions.ts';

export interface LoadOptions {
  readonly sessions: WorkSessions;
  readonly snapshot: RestorableSnapshot;
  readonly definitions: Definitions;
  readonly plan: RestorePlan;
  readonly signal: AbortSignal;
  /** After each segment that was handed to the server. */
  readonly onLoaded: (relation: number, rows: number, bytes: number) => void;
}

/**
 * Loads the rows, into the tables that hold them where that is sure, and gives what was in the segments, by relation.
 * In memory at once: three segments a session: one going out, one being digested, one being read.
 * Errors: those of `read`, `ARCHIVE_CORRUPT`, `RESTORE_VALIDATION_FAILED`, `RESTORE_TARGET_INCOMPATIBLE`, `DATABASE_*`.
 */
export async function loadRows(options: LoadOptions): Promise<ReadonlyMap<number, RowsDigest>> {
  const { sessions, plan } = options;
  const queue = [...plan.loads];
  const loaded = new Map<number, RowsDigest>();
  await sessions.run(
    sessions.clients.map(() => ({
      run: async (client: pg.Client): Promise<void> => {
        const ahead = new ReadAhead(options, () => queue.shift());
        for (let job = ahead.begin(); job !== undefined; job = ahead.begin()) {
          const digest = await loadJob(client, options, job, ahead);
          loaded.set(job.relation, addDigests(loaded.get(job.relation) ?? NO_ROWS, digest));
        }
      },
    })),
  );
  return loaded;
}

async function loadJob(
  client: pg.Client,
  options: LoadOptions,
  job: LoadJob,
  ahead: ReadAhead,
): Promise<RowsDigest> {
  const { snapshot, definitions, plan } = options;
  const relation = at(snapshot.contents.relations, job.relation);
  const columns = storedColumns(relation);
  // A table without columns of its own takes empty lines, and an empty list of columns is no SQL.
  const list = columns === '' ? '' : ` (${columns})`;
  const encoding = quoteLiteral(snapshot.contents.source.encoding);
  const into = at(snapshot.contents.relations, at(plan.loadInto, job.relation)).name;
  const sql = `COPY ${inSchema(definitions, into)}${list} FROM STDIN (FORMAT text, ENCODING ${encoding})`;
  const digester = new RowDigester();
  const taken = await copyIn(client, sql, digested(options, job, ahead, digester)).catch((error: unknown) => {
    throw restoreError(error, `Loading ${relation.name}`);
  });
  const digest = digester.digest();
  if (taken !== job.rows || digest.rows !== job.rows || !digester.atRowEnd) {
    throw new DataProtectionError(
      `Loading ${relation.name} took ${taken} rows where the archive has ${job.rows}`,
      'RESTORE_VALIDATION_FAILED',
    );
  }
  return digest;
}

/** The digest of a segment is made while the socket sends the one before it. */
async function* digested(
  options: LoadOptions,
  job: LoadJob,
  ahead: ReadAhead,
  digester: RowDigester,
): AsyncGenerator<Buffer> {
  for (const index of job.segments) {
    const buffer = await ahead.next();
    const segment = at(options.snapshot.segments, index);
    if (buffer.length !== segment.rawLength) {
      throw new ArchiveError(
        `Segment ${index} has ${buffer.length} bytes instead of ${segment.rawLength}`,
        'ARCHIVE_CORRUPT',
      );
    }
    digester.update(buffer);
    yield buffer;
    options.onLoaded(job.relation, segment.rows, buffer.length);
  }
}

/** Reads one segment ahead, also from one job into the next. */
class ReadAhead {
  readonly #options: LoadOptions;
  readonly #take: () => LoadJob | undefined;
  #job: LoadJob | undefined;
  #position = 0;
  #following: Promise<Buffer> | undefined;

  constructor(options: LoadOptions, take: () => LoadJob | undefined) {
    this.#options = options;
    this.#take = take;
    this.#job = take();
    this.#read();
  }

  /** The job whose first segment comes next. */
  begin(): LoadJob | undefined {
    return this.#job;
  }

  async next(): Promise<Buffer> {
    const current = this.#following;
    if (current === undefined) throw new DataProtectionError('Read past the last segment', 'INTERNAL');
    const buffer = await current;
    this.#position += 1;
    if (this.#position === this.#job?.segments.length) {
      this.#job = this.#take();
      this.#position = 0;
    }
    this.#read();
    return buffer;
  }

  #read(): void {
    const segment = this.#job?.segments[this.#position];
    this.#following =
      segment === undefined ? undefined : this.#options.snapshot.read(segment, this.#options.signal);
    // It is awaited when its turn comes, which it may not.
    this.#following?.catch(() => undefined);
  }
}
