import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { OperationEnd } from '../repository/sync-outcome.ts';
import { type DetectedConflict, type DetectionInput, detectConflict, differences } from '../sync/detect.ts';
import { stepsOf } from '../sync/json-pointer.ts';
import { clientImage } from '../sync/merge-patch.ts';
import { type Newest, type Resolution, resolveAutomatically, resolveByPerson } from '../sync/resolve.ts';
import type { Timestamp } from '../types/ids.ts';
import type { ConflictResolution, ConflictStrategy, EntityRow, SyncOutcome } from '../types/offline-sync.ts';
import type { EntityChange, HandlerContext } from '../types/sync-handler.ts';
import type { SyncContext } from './sync-context.ts';
import { endOf, rejection } from './sync-failure.ts';
import type { Base } from './sync-images.ts';
import type { Prepared } from './sync-prepare.ts';
import type { Subject } from './sync-subject.ts';

/** A person's decision on a conflict, as the next try carries it out. */
export interface StoredDecision extends ConflictResolution {
  /** Whether `data` is to be written. */
  readonly writes: boolean;
  readonly outcome: Exclude<SyncOutcome, 'REJECTED'>;
  readonly superseded: readonly string[];
  readonly decidedAt: Timestamp;
  readonly overwritten: readonly string[];
  /** That nothing is to be written, where there was no row to be seen: it holds whatever the entity is. */
  readonly givesUp: boolean;
}

/** A conflict that is to be stored with what becomes of it. */
export interface FoundConflict {
  readonly detected: DetectedConflict;
  readonly serverVersionNumber: number;
  /** Set where strategies decided it at once. */
  readonly resolution: ConflictResolution | null;
  readonly autoResolution: {
    readonly attempted: boolean;
    readonly strategy: ConflictStrategy | null;
    readonly failureReason: string | null;
  };
}

/** What an operation is to do to its entity, before anything is written. */
export interface Decision {
  readonly end: OperationEnd;
  readonly change: EntityChange | null;
  /** What the client has afterwards; undefined: not known. */
  readonly clientImage: EntityRow | null | undefined | 'AS_WRITTEN';
  readonly conflict: FoundConflict | null;
  /** A person's decision that is carried out with it. */
  readonly carriedOut: StoredDecision | null;
  /** Paths of what others had written and the change takes the place of; an empty text: a deletion. */
  readonly overwritten: readonly string[];
}

const DEFAULT_STRATEGIES: readonly ConflictStrategy[] = ['FIELD_LEVEL_MERGE'];

const NOTHING = {
  change: null,
  clientImage: undefined,
  conflict: null,
  carriedOut: null,
  overwritten: [],
} as const;

/** Looks at an operation and its entity as both are now, under their locks. */
export async function decide(
  context: SyncContext,
  prepared: Prepared,
  subject: Subject,
  base: Base,
  handlerContext: HandlerContext,
): Promise<Decision> {
  const { operation } = prepared;
  const { approvedBy, approvalVersion, approvalWaived, batchSize } = operation;
  const waiting = {
    ...NOTHING,
    end: endOf(operation, 'WAITING_APPROVAL', 'APPROVAL', { voided: true }),
  } as const;
  const decided = storedDecision(operation);
  const image = imageOf(prepared, base);
  if (decided === undefined) {
    // What an atomic batch does to the entity itself belongs to what was approved.
    const version = batchSize === null ? subject.stateVersion : subject.loadedVersion;
    const moved = approvalVersion !== null && approvalVersion !== version;
    return moved && !approvalWaived
      ? waiting
      : detect(context, prepared, subject, base, image, handlerContext);
  }
  // What its author may see no more can only be left as it is.
  const leaves = subject.presence === 'HIDDEN' && !decided.writes;
  if (decided.givesUp || leaves || decided.seenVersion === subject.version) {
    return carryOut(prepared, subject, decided, image);
  }
  const again = await detect(context, prepared, subject, base, image, handlerContext);
  // What was approved is what had been decided.
  const voids = approvedBy !== null && !approvalWaived && again.end.status === 'COMPLETED';
  return voids ? waiting : again;
}

async function detect(
  context: SyncContext,
  prepared: Prepared,
  subject: Subject,
  base: Base,
  image: EntityRow | null | undefined,
  handlerContext: HandlerContext,
): Promise<Decision> {
  const { operation, payload } = prepared;
  const detection = detectConflict(inputOf(prepared, subject, base));
  const voided = operation.conflictResolution !== null;
  switch (detection.kind) {
    case 'NOTHING':
      return {
        ...NOTHING,
        end: endOf(operation, 'COMPLETED', null, { outcome: 'APPLIED', voided }),
        clientImage: image,
      };
    case 'REJECT':
      return { ...NOTHING, end: rejection(operation, detection.code) };
    case 'WRITE':
      return {
        ...NOTHING,
        end: endOf(operation, 'COMPLETED', null, {
          outcome: detection.merged ? 'MERGED' : 'APPLIED',
          voided,
        }),
        change: changeOf(operation, payload, subject, detection.change, detection.row, detection.changed),
        clientImage: detection.merged || operation.originalPayload !== null ? image : 'AS_WRITTEN',
      };
    default:
      return conflicting(context, prepared, subject, detection, image, handlerContext);
  }
}

async function conflicting(
  context: SyncContext,
  prepared: Prepared,
  subject: Subject,
  detected: DetectedConflict,
  image: EntityRow | null | undefined,
  handlerContext: HandlerContext,
): Promise<Decision> {
  const resolution = await automatically(context, prepared, subject, detected, handlerContext);
  if (resolution.kind === 'MANUAL') {
    return manual(prepared, subject, detected, image, resolution);
  }
  const { operation, payload } = prepared;
  return {
    end: endOf(operation, 'COMPLETED', null, {
      outcome: resolution.outcome,
      superseded: resolution.superseded,
      voided: true,
    }),
    change:
      resolution.change === null
        ? null
        : changeOf(operation, payload, subject, resolution.change, resolution.row, resolution.changed),
    clientImage: image,
    conflict: {
      detected,
      serverVersionNumber: subject.version,
      resolution: {
        strategy: resolution.strategy,
        resolvedBy: null,
        notes: null,
        seenVersion: subject.version,
        data: resolution.row,
      },
      autoResolution: { attempted: true, strategy: resolution.strategy, failureReason: null },
    },
    carriedOut: null,
    overwritten: resolution.overwritten,
  };
}

/** Left to a person. */
function manual(
  { operation }: Prepared,
  subject: Subject,
  detected: DetectedConflict,
  image: EntityRow | null | undefined,
  { strategy, reason }: { readonly strategy: ConflictStrategy | null; readonly reason: string },
): Decision {
  const missing = detected.type === 'DEPENDENCY';
  return {
    ...NOTHING,
    end: endOf(operation, 'CONFLICT', missing ? 'NOT_FOUND' : 'CONFLICT', { statusCode: 409, voided: true }),
    clientImage: image,
    conflict: {
      detected,
      serverVersionNumber: subject.version,
      resolution: null,
      autoResolution: { attempted: !missing, strategy, failureReason: reason },
    },
  };
}

/**
 * What becomes of an operation whose merge with the server's row the host's rules refuse: a person decides, where the
 * client's own row would stand. undefined: it is the operation itself that is refused.
 */
export async function decideUnmerged(
  prepared: Prepared,
  subject: Subject,
  base: Base,
  decision: Decision,
): Promise<Decision | undefined> {
  if (decision.end.outcome !== 'MERGED' || decision.carriedOut !== null) return undefined;
  const image = imageOf(prepared, base);
  if (image == null || (await prepared.entity.checkRow(image)).length > 0) return undefined;
  const detected =
    decision.conflict?.detected ?? detectConflict(inputOf(prepared, subject, base, { mergeDisjoint: false }));
  if (detected.kind !== 'CONFLICT') return undefined;
  const strategy = decision.conflict?.resolution?.strategy ?? 'FIELD_LEVEL_MERGE';
  return manual(prepared, subject, detected, image, { strategy, reason: 'The merged row is refused.' });
}

/** What the client has afterwards: of an operation that was edited, what it had written itself. */
function imageOf({ operation, entity, payload }: Prepared, base: Base): EntityRow | null | undefined {
  const { originalPayload: original, originalSchemaVersion: version } = operation;
  const written =
    original === null
      ? payload
      : entity.current(operation.operation, original, version ?? operation.schemaVersion);
  return written && clientImage(operation.operation, base.known ? base.row : undefined, written);
}

function inputOf(
  { operation, entity, shape, payload }: Prepared,
  subject: Subject,
  base: Base,
  { mergeDisjoint = entity.options.mergeDisjoint ?? true } = {},
): DetectionInput {
  return {
    operation: operation.operation,
    payload,
    base,
    server: { state: subject.presence, row: subject.row, everExisted: subject.everExisted },
    shape,
    policies: entity.options.merge ?? {},
    mergeDisjoint,
    operationId: operation.operationId,
  };
}

async function automatically(
  context: SyncContext,
  { operation, entity }: Prepared,
  subject: Subject,
  detected: DetectedConflict,
  handlerContext: HandlerContext,
): Promise<Exclude<Resolution, { kind: 'CUSTOM' }>> {
  if (context.options.autoConflictResolution === false) {
    return { kind: 'MANUAL', strategy: null, reason: 'Every conflict is left to a person.' };
  }
  const own = context.options.strategiesFor?.(operation.organizationId, entity.type) ?? entity.options;
  let strategies = own.strategies ?? DEFAULT_STRATEGIES;
  for (;;) {
    const resolution = resolveAutomatically(detected, {
      strategies,
      fieldStrategies: own.fieldStrategies ?? {},
      newest: newestBy(operation, (column) => subject.changedAt(column)),
    });
    if (resolution.kind !== 'CUSTOM') return resolution;
    const { base, server, client } = detected;
    const data = await entity.handler.merge?.({ base, server, client }, handlerContext);
    const decided = resolveByPerson(detected, { strategy: 'CUSTOM', data });
    if (decided !== undefined) return decided;
    strategies = resolution.remaining;
  }
}

/** Whose change of a path is the newer, by its column; equal or unknown times tell nothing. */
export function newestBy(
  { effectiveAt: client }: Pick<ClaimedOperation, 'effectiveAt'>,
  changedAt: (column: string) => string | null,
): Newest {
  return (path) => {
    const server = changedAt(stepsOf(path)?.[0] ?? '');
    if (client === null || server === null || client === server) return 'UNKNOWN';
    return client > server ? 'CLIENT' : 'SERVER';
  };
}

function storedDecision(operation: ClaimedOperation): StoredDecision | undefined {
  // As `decideConflict` stored it.
  return (operation.conflictResolution as StoredDecision | null) ?? undefined;
}

function carryOut(
  { operation, payload, shape }: Prepared,
  subject: Subject,
  decision: StoredDecision,
  image: EntityRow | null | undefined,
): Decision {
  const { writes, outcome, superseded, data } = decision;
  // There is something that its author may not see: nothing of his takes its place or removes it.
  if (writes && subject.presence === 'HIDDEN')
    return { ...NOTHING, end: rejection(operation, 'ENTITY_ID_TAKEN') };
  const row = subject.presence === 'VISIBLE' ? subject.row : null;
  const change = !writes
    ? null
    : data === null
      ? row === null
        ? null
        : changeOf(operation, payload, subject, 'DELETE', null, [])
      : row === null
        ? changeOf(operation, payload, subject, 'CREATE', data, Object.keys(data))
        : changeOf(operation, payload, subject, 'UPDATE', data, differences(row, data, shape));
  return {
    end: endOf(operation, 'COMPLETED', null, {
      outcome,
      superseded,
      conflictId: operation.conflictId,
      voided: false,
    }),
    change: change?.kind === 'UPDATE' && change.changed.length === 0 ? null : change,
    clientImage: image,
    conflict: null,
    carriedOut: decision,
    overwritten: decision.overwritten,
  };
}

/** As it stands with the conflict. */
export function withoutPlan(decision: StoredDecision): ConflictResolution {
  const { strategy, resolvedBy, notes, seenVersion, data } = decision;
  return { strategy, resolvedBy, notes, seenVersion, data };
}

function changeOf(
  operation: ClaimedOperation,
  payload: EntityRow,
  subject: Subject,
  kind: EntityChange['kind'],
  after: EntityRow | null,
  changed: readonly string[],
): EntityChange {
  const { operationId, occurredAt, deviceId, metadata } = operation;
  return {
    kind,
    entityId: operation.entityId,
    before: subject.row,
    after,
    changed,
    operation: { operationId, operation: operation.operation, payload, occurredAt, deviceId, metadata },
  };
}
