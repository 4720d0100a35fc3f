import { uuidv7 } from 'uuidv7';
import type { ExportSegment, RowFormat } from '../export/export.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import type { ExportedEntity, ExportSnapshotInput, SnapshotExport } from '../types/export.ts';
import type { Json, UUID } from '../types/ids.ts';
import type { Asking } from './asking.ts';
import { auditEntry } from './audit-entry.ts';
import type { ServiceContext } from './context.ts';
import { type ExportPlan, type PlannedEntity, planExport } from './export-plan.ts';
import { codeOf } from './failure.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import { readSegment, requireObjects, type StoredArchive } from './stored-archive.ts';
import { THAW_DAYS, thawArchive } from './thaw.ts';

/** An export that is ready to begin. */
interface ExportOrder {
  readonly context: ServiceContext;
  readonly userId: UUID;
  readonly snapshot: BackupSnapshot;
  readonly input: ExportSnapshotInput;
  readonly archive: StoredArchive;
  readonly format: RowFormat;
  readonly plan: ExportPlan;
  readonly signal: AbortSignal;
}

/** Makes an export ready: see `BackupService.exportSnapshot`. */
export async function exportSnapshot(
  { context, actor }: Asking,
  snapshot: BackupSnapshot,
  input: ExportSnapshotInput,
  signal: AbortSignal,
): Promise<SnapshotExport> {
  const prepared = await context.work.start(
    uuidv7(),
    (closing) => prepare(context, snapshot, input, AbortSignal.any([signal, closing])),
    'STOP',
  );
  const order: ExportOrder = { context, userId: actor.userId, snapshot, input, signal, ...prepared };
  return {
    entities: order.plan.entities.map(({ entityType, rows }) => ({ entityType, rows })),
    leftOut: order.plan.leftOut,
    [Symbol.asyncIterator]: () => exportedEntities(order),
  };
}

/** Everything that can be refused before a row leaves. */
async function prepare(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  input: ExportSnapshotInput,
  signal: AbortSignal,
): Promise<Pick<ExportOrder, 'archive' | 'format' | 'plan'>> {
  signal.throwIfAborted();
  const archive = await openSnapshotArchive(context, snapshot, signal);
  const plan = planExport(archive, input);
  const format = await context.rowExporter.open(input.format, archive.contents.source.encoding);
  for (const { table } of plan.entities) format.requireWritable(table);
  await requireObjects(archive, signal);
  await thawArchive(archive, {
    signal,
    days: THAW_DAYS,
    pollMs: context.thawPollMs,
    onProgress: () => undefined,
  });
  return { archive, format, plan };
}

async function* exportedEntities(order: ExportOrder): AsyncGenerator<ExportedEntity, void> {
  const run = await ExportRun.begin(order);
  try {
    for (const entity of order.plan.entities) {
      yield run.take(entity);
      run.requireSound();
    }
  } finally {
    await run.end();
  }
}

/** One going through an export, from the audit entry of its beginning to that of its end. */
class ExportRun {
  readonly #order: ExportOrder;
  /** Rows that are out, by entity. */
  readonly #out = new Map<string, number>();
  readonly #whole = new Set<PlannedEntity>();
  readonly #stop = new AbortController();
  readonly #finished = Promise.withResolvers<void>();
  #current: PlannedEntity | undefined;
  #failure: { readonly error: unknown } | undefined;
  #ended: Promise<void> | undefined;

  private constructor(order: ExportOrder) {
    this.#order = order;
  }

  static async begin(order: ExportOrder): Promise<ExportRun> {
    const { context, plan, signal } = order;
    signal.throwIfAborted();
    const run = new ExportRun(order);
    await run.#enter('snapshot.export_started', {
      entities: plan.entities.map(({ entityType }) => entityType),
    });
    run.#endWhenAborted(signal);
    context.work.start(
      uuidv7(),
      (closing) => {
        run.#endWhenAborted(closing);
        return run.#finished.promise;
      },
      'STOP',
    );
    return run;
  }

  /** The entity whose rows may be read from now on, and no others. */
  take(entity: PlannedEntity): ExportedEntity {
    const { entityType, rows } = entity;
    const chunks = this.#read(entity);
    let taken = false;
    this.#current = entity;
    return {
      entityType,
      fileName: `${entityType}.${this.#order.format.extension}`,
      rows,
      chunks: {
        [Symbol.asyncIterator]() {
          // What has been read to its end would be taken for an empty file.
          if (taken) throw notReadable(entityType);
          taken = true;
          return chunks;
        },
      },
    };
  }

  /** Throws what the rows of an entity ended with, also where its reader kept that to itself. */
  requireSound(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  /** Ends what is going on, and enters what left. Rejects where that cannot be entered. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    const { context, plan, snapshot } = this.#order;
    this.#current = undefined;
    this.#stop.abort(this.#failure?.error);
    const complete = plan.entities.every((entity) => this.#whole.has(entity));
    const end =
      this.#failure === undefined
        ? { outcome: complete ? 'COMPLETED' : 'STOPPED' }
        : { outcome: 'FAILED', code: codeOf(this.#failure.error) };
    try {
      await this.#enter('snapshot.exported', { ...end, entities: Object.fromEntries(this.#out) });
    } catch (error) {
      context.logger.error(
        { snapshotId: snapshot.id, error: codeOf(error) },
        'The end of an export could not be recorded',
      );
      throw error;
    } finally {
      this.#finished.resolve();
    }
  }

  /** At once, also while nobody asks for rows: a reader that never comes back must not keep the process. */
  #endWhenAborted(signal: AbortSignal): void {
    const abort = (): void => {
      this.#failure ??= { error: signal.reason };
      this.end().catch(() => undefined);
    };
    signal.addEventListener('abort', abort, { once: true, signal: this.#stop.signal });
    if (signal.aborted) abort();
  }

  async *#read(entity: PlannedEntity): AsyncGenerator<Uint8Array, void> {
    const { entityType, rows: expected, table } = entity;
    this.#requireCurrent(entity);
    let out = 0;
    try {
      for await (const { bytes, rows } of this.#order.format.write(table, this.#segments(entity))) {
        this.#requireCurrent(entity);
        out += rows;
        this.#out.set(entityType, out);
        if (bytes.length > 0) yield bytes;
        this.#requireCurrent(entity);
      }
      if (out !== expected) {
        throw new ArchiveError(`${entityType} has ${out} rows instead of ${expected}`, 'ARCHIVE_CORRUPT');
      }
      this.#whole.add(entity);
    } catch (error) {
      if (this.#current === entity) this.#failure ??= { error };
      throw error;
    }
  }

  #requireCurrent(entity: PlannedEntity): void {
    this.requireSound();
    if (this.#current !== entity) throw notReadable(entity.entityType);
  }

  /** Reads one segment ahead, while the one before it is being written. */
  async *#segments({ segments }: PlannedEntity): AsyncGenerator<ExportSegment, void> {
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, stop.signal]);
    const read = (position: number): Promise<Buffer> | undefined => {
      const segment = segments[position];
      const reading = segment && readSegment(this.#order.archive, segment.index, signal);
      // It is awaited when its turn comes, which it may not.
      reading?.catch(() => undefined);
      return reading;
    };
    let ahead = read(0);
    try {
      for (const [position, { layout, continues }] of segments.entries()) {
        const bytes = await ahead;
        ahead = read(position + 1);
        if (bytes !== undefined) yield { layout, continues, bytes };
      }
    } finally {
      stop.abort();
      await ahead?.catch(() => undefined);
    }
  }

  async #enter(action: string, details: { readonly [key: string]: Json }): Promise<void> {
    const { context, userId, snapshot, input } = this.#order;
    const about = { format: input.format, includePHI: input.includePHI ?? true };
    await context.db.withTransaction(async (transaction) => {
      const entry = auditEntry(context, snapshot, action, { ...about, ...details });
      await context.audit.append(transaction, { ...entry, userId });
    });
  }
}

const notReadable = (entityType: string): DataProtectionError =>
  new DataProtectionError(
    `The rows of ${entityType} can be read once, and before the next entity is asked for; export again`,
    'INVALID_STATE',
  );
