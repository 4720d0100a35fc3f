import type { Transaction } from '../repository/database.ts';
import {
  createOfflineSyncRepository,
  type OfflineSyncRepository,
} from '../repository/offline-sync-repository.ts';
import {
  type NewSyncEvent,
  type OperationEnd,
  type SyncOutcomes,
  syncOutcomes,
} from '../repository/sync-outcome.ts';
import { stepsOf } from '../sync/json-pointer.ts';
import { DataProtectionError, SyncError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type { EntityChange, EntityShape, HandlerContext, LoadedEntity } from '../types/sync-handler.ts';
import type { SyncContext } from './sync-context.ts';
import { type Decision, decide, decideUnmerged, type FoundConflict, withoutPlan } from './sync-decide.ts';
import { eventsOf } from './sync-effects.ts';
import { endOf, rejection, undecided } from './sync-failure.ts';
import { Images } from './sync-images.ts';
import type { Prepared } from './sync-prepare.ts';
import { tenantSettings } from './sync-read.ts';
import { Subject } from './sync-subject.ts';
import { wavesOf } from './sync-waves.ts';

/** Locks are waited for less long where many operations hold theirs meanwhile. */
const BATCH_LOCK_TIMEOUT_MS = 1_000;

/** Undoes the transaction in which an operation of an atomic batch did not end well. */
export class BatchFailed extends Error {
  readonly end: OperationEnd;
  /** To be stored, since the transaction that found it is undone. */
  readonly conflict: FoundConflict | null;

  constructor(end: OperationEnd, conflict: FoundConflict | null) {
    super('An operation of an atomic batch did not end well');
    this.name = 'BatchFailed';
    this.end = end;
    this.conflict = conflict;
  }
}

/** An operation with what it is to do. */
interface Step {
  readonly prepared: Prepared;
  readonly subject: Subject;
  readonly decision: Decision;
}

/**
 * Applies claimed operations of one actor in one transaction: all of it happens, or nothing. What an operation comes to
 * by its content (a conflict, a refusal) is its end, and no failure, but in an atomic batch: then `BatchFailed`. Throws
 * what the host's code or the database throws, with everything undone; `SYNC_ATTEMPT_LOST` where another worker has
 * taken one of them over.
 */
export async function applyTogether(
  context: SyncContext,
  token: UUID,
  prepared: readonly Prepared[],
): Promise<readonly OperationEnd[]> {
  const [first] = prepared;
  if (first === undefined) return [];
  const { organizationId } = first.operation;
  const lock = Math.min(context.limits.lockTimeoutMs, BATCH_LOCK_TIMEOUT_MS);
  await context.onStep('BEFORE_APPLY');
  const ends = await context.db.withTransaction(
    (transaction) => new Application(context, transaction, token, first).run(prepared),
    {
      ...(prepared.length === 1 ? {} : { lock_timeout: `${lock}ms` }),
      ...tenantSettings(context, organizationId),
    },
    'AT_ONCE',
  );
  await context.onStep('COMMITTED');
  return ends;
}

/** One transaction of applying. */
class Application {
  readonly #context: SyncContext;
  readonly #token: UUID;
  readonly #organizationId: UUID;
  readonly #handlerContext: HandlerContext;
  readonly #outcomes: SyncOutcomes;
  readonly #transaction: Transaction;
  #made: OfflineSyncRepository | undefined;
  readonly #images: Images;
  readonly #subjects = new Map<string, Subject>();
  readonly #ends = new Map<UUID, OperationEnd>();
  readonly #events: NewSyncEvent[] = [];

  constructor(context: SyncContext, transaction: Transaction, token: UUID, { operation, actor }: Prepared) {
    const { organizationId } = operation;
    this.#context = context;
    this.#token = token;
    this.#organizationId = organizationId;
    this.#handlerContext = { organizationId, actor, tx: transaction.host, now: context.clock.now() };
    this.#outcomes = syncOutcomes(transaction);
    this.#transaction = transaction;
    this.#images = new Images(context, transaction, organizationId);
  }

  /** Made once, where something of the transaction needs it: most transactions do not. */
  get #repository(): OfflineSyncRepository {
    const scope = { organizationId: this.#organizationId, branchIds: 'ALL' } as const;
    this.#made ??= createOfflineSyncRepository(this.#transaction, scope);
    return this.#made;
  }

  async run(all: readonly Prepared[]): Promise<readonly OperationEnd[]> {
    // Asked for together, answered in this order.
    await inTurn([this.#loadSubjects(all), this.#images.load(all.map(({ operation }) => operation))]);
    for (const wave of wavesOf(all)) await this.#apply(wave);
    await this.#context.onStep('APPLIED');
    const ends = [...this.#ends.values()];
    const states = [...this.#subjects.values()].flatMap((subject) => subject.changedState ?? []);
    const ended = await this.#outcomes.finish(this.#organizationId, this.#token, ends, states, this.#events);
    if (ended.size < ends.length) {
      throw new SyncError('Another worker has taken operations over', 'SYNC_ATTEMPT_LOST', undefined);
    }
    await this.#context.onStep('COMPLETED');
    return ends;
  }

  async #loadSubjects(all: readonly Prepared[]): Promise<void> {
    const keys = new Map(
      all.map(({ operation: { entityType, entityId } }) => [
        nameOf(entityType, entityId),
        { entityType, entityId },
      ]),
    );
    const lockAndLoad = () =>
      inTurn([this.#outcomes.lockStates(this.#organizationId, [...keys.values()]), this.#load(all)]);
    let [states, rows] = await lockAndLoad();
    if (states.length < keys.size) [states, rows] = await lockAndLoad();
    for (const state of states) {
      const name = nameOf(state.entityType, state.entityId);
      const found = rows.get(name);
      if (found !== undefined) this.#subjects.set(name, new Subject(state, found.loaded, found.shape));
    }
  }

  /** Of every entity, under its name, what the host has. */
  async #load(all: readonly Prepared[]) {
    const rows = new Map<
      string,
      { readonly loaded: LoadedEntity | undefined; readonly shape: EntityShape }
    >();
    // In one order of entity types for all, so that no two transactions wait for each other.
    const types = [...Map.groupBy(all, ({ entity }) => entity.type)].toSorted(([a], [b]) => (a < b ? -1 : 1));
    for (const [type, [one, ...others]] of types) {
      if (one === undefined) continue;
      const ids = [...new Set([one, ...others].map(({ operation }) => operation.entityId))];
      const loaded = await one.entity.handler.load(ids, this.#handlerContext, 'APPLY');
      for (const id of ids) rows.set(nameOf(type, id), { loaded: loaded.get(id), shape: one.shape });
    }
    return rows;
  }

  /** Operations on different entities, none of which waits for another of them. */
  async #apply(wave: readonly Prepared[]): Promise<void> {
    const steps: Step[] = [];
    for (const prepared of wave) {
      const { operation } = prepared;
      const subject = this.#subjects.get(nameOf(operation.entityType, operation.entityId));
      if (subject === undefined)
        throw new DataProtectionError('The state of an entity was not locked', 'INTERNAL');
      const bad = operation.after.flatMap((id) => this.#ends.get(id) ?? []).find(endedBadly);
      if (bad !== undefined) {
        const reason = bad.status === 'CONFLICT' ? 'PREDECESSOR_CONFLICT' : 'PREDECESSOR_FAILED';
        this.#end(prepared, endOf(operation, 'PENDING', reason));
        continue;
      }
      const base = await this.#images.baseOf(prepared, subject);
      const decision = await decide(this.#context, prepared, subject, base, this.#handlerContext);
      const refused = await this.#refusal(prepared, decision.change);
      const unmerged =
        refused?.reason === 'VALIDATION_FAILED'
          ? await decideUnmerged(prepared, subject, base, decision)
          : undefined;
      if (refused === undefined) steps.push({ prepared, subject, decision });
      else if (unmerged !== undefined) steps.push({ prepared, subject, decision: unmerged });
      else await this.#refuse(prepared, refused);
    }
    const rows = await this.#write(steps);
    for (const step of steps) await this.#note(step, rows.get(step) ?? null);
  }

  async #refuse(prepared: Prepared, refused: OperationEnd): Promise<void> {
    const { operation } = prepared;
    const end = undecided(operation, refused);
    this.#end(prepared, end);
    if (end !== refused) await this.#repository.reopenConflict(operation.id);
  }

  async #note({ prepared, subject, decision }: Step, written: EntityRow | null): Promise<void> {
    const { operation } = prepared;
    const { id, effectiveAt } = operation;
    const overwritten = writersOf(subject, decision.overwritten);
    const by = { id, effectiveAt: decision.carriedOut?.decidedAt ?? effectiveAt };
    if (decision.change !== null) subject.write(decision.change, written, by);
    // Taken as it was: what the server filled in is what the client will see.
    const image = decision.clientImage === 'AS_WRITTEN' ? written : decision.clientImage;
    const decided = undecided(operation, decision.end);
    let end: OperationEnd = {
      ...decided,
      ...(image === undefined ? {} : { clientImage: image }),
      ...(decision.end.status === 'COMPLETED' ? { appliedVersion: subject.version } : {}),
      branchId: subject.branchId,
    };
    if (failsBatch(operation, end)) throw new BatchFailed(end, decision.conflict);
    if (decision.conflict !== null) {
      const { branchId } = subject;
      const conflictId = await this.#repository.storeConflict(operation, decision.conflict, branchId);
      end = { ...end, conflictId };
    } else if (operation.conflictId !== null && end.status === 'COMPLETED') {
      const { carriedOut } = decision;
      await this.#repository.closeConflict(
        operation.id,
        carriedOut === null ? 'AUTO_RESOLVED' : 'RESOLVED',
        carriedOut && withoutPlan(carriedOut),
      );
    } else if (operation.conflictId !== null && end.status === 'WAITING_APPROVAL') {
      await this.#repository.closeConflict(operation.id, 'CANCELLED', null);
    } else if (operation.conflictResolution !== null && end.voided) {
      await this.#repository.reopenConflict(operation.id);
    }
    this.#end(prepared, end);
    if (overwritten.size > 0) {
      const { version, branchId } = subject;
      const after = { version, branchId, conflictId: end.conflictId };
      await this.#outcomes.supersede(this.#organizationId, { ...operation, ...after, paths: overwritten });
    }
    if (decision.change?.kind === 'CREATE') {
      await this.#repository.reopenDependency(operation.entityType, operation.entityId);
    }
  }

  #end({ operation }: Prepared, end: OperationEnd): void {
    if (failsBatch(operation, end)) throw new BatchFailed(end, null);
    this.#ends.set(operation.operationId, end);
    this.#events.push(...eventsOf(operation, end));
    this.#images.note(operation, {
      status: end.status,
      outcome: end.outcome,
      appliedVersion: end.appliedVersion,
      clientImage: end.clientImage,
    });
  }

  /** What the host's rules say against a change, asked before anything of the wave is written. */
  async #refusal(
    { operation, entity }: Prepared,
    change: EntityChange | null,
  ): Promise<OperationEnd | undefined> {
    if (change === null) return undefined;
    try {
      await entity.handler.authorize?.(change, this.#handlerContext);
    } catch (error) {
      if (!(error instanceof DataProtectionError) || error.code !== 'FORBIDDEN') throw error;
      return rejection(operation, 'FORBIDDEN');
    }
    const issues = [
      ...((await entity.handler.validate?.(change, this.#handlerContext)) ?? []),
      ...(change.after === null ? [] : await entity.checkRow(change.after)),
    ];
    return issues.length === 0 ? undefined : rejection(operation, 'VALIDATION_FAILED', issues);
  }

  /** Entity type by entity type, in the order in which they first come. */
  async #write(steps: readonly Step[]): Promise<ReadonlyMap<Step, EntityRow | null>> {
    const rows = new Map<Step, EntityRow | null>();
    const writing = steps.flatMap((step) =>
      step.decision.change === null ? [] : [{ step, change: step.decision.change }],
    );
    for (const group of Map.groupBy(writing, ({ step }) => step.prepared.entity).values()) {
      const handler = group[0]?.step.prepared.entity.handler;
      if (handler === undefined) continue;
      const changes = group.map(({ change }) => change);
      const written: (EntityRow | null)[] = [];
      if (handler.applyMany !== undefined && changes.length > 1) {
        written.push(...(await handler.applyMany(changes, this.#handlerContext)));
      } else {
        for (const change of changes) written.push(await handler.apply(change, this.#handlerContext));
      }
      if (written.length !== changes.length) {
        throw new DataProtectionError(
          'A handler gave another number of rows than it was to write',
          'INTERNAL',
        );
      }
      for (const [i, { step }] of group.entries()) rows.set(step, written[i] ?? null);
    }
    return rows;
  }
}

/** What was asked for together, once all of it has ended. The first that failed is why the others did. */
async function inTurn<T extends readonly unknown[] | []>(asked: T) {
  await Promise.allSettled(asked);
  return Promise.all(asked);
}

/** Paths by the operations that wrote their columns last. */
function writersOf(subject: Subject, paths: readonly string[]): ReadonlyMap<UUID, readonly string[]> {
  const writers = new Map<UUID, string[]>();
  for (const path of paths) {
    const writer = subject.writerOf(stepsOf(path)?.[0] ?? '');
    if (writer !== undefined) writers.set(writer, [...(writers.get(writer) ?? []), path]);
  }
  return writers;
}

const failsBatch = ({ batchSize }: Prepared['operation'], { status }: OperationEnd): boolean =>
  batchSize !== null && status !== 'COMPLETED';
const endedBadly = ({ status }: OperationEnd): boolean => status !== 'COMPLETED';
const nameOf = (entityType: string, entityId: string): string => `${entityType} ${entityId}`;
