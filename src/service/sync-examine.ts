import { hash } from 'node:crypto';
import type { StreamKey } from '../repository/sync-admission.ts';
import { canonicalJson } from '../sync/canonical.ts';
import type { Actor } from '../types/actor.ts';
import type { ErrorCode, ValidationIssue } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import type { OperationState } from '../types/offline-sync.ts';
import type { SyncReason } from '../types/sync-reasons.ts';
import type { ParsedOperation } from '../validation/index.ts';
import { isWholeBase } from './sync-bases.ts';
import type { SyncContext } from './sync-context.ts';
import type { SyncEntity } from './sync-entities.ts';

/** What tells whether an operation was handed in before. */
export interface Identity {
  /** In the call. */
  readonly position: number;
  readonly operationId: UUID;
  /** Hexadecimal. */
  readonly payloadHash: string;
}

/** An operation that is not to be stored, unless it was stored before. */
export interface RefusedOperation extends Identity {
  readonly refusal: Refusal;
}

/** An operation that may be stored, before it has its place. */
export interface Candidate extends Identity {
  readonly operation: ParsedOperation;
  readonly key: StreamKey;
  /** undefined: not known here yet. */
  readonly entity: SyncEntity | undefined;
  /** Why it is kept without being applied. */
  readonly held: SyncReason | null;
  readonly baseTrusted: boolean;
}

/** Why an operation is not taken. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly message: string;
  readonly issues: readonly ValidationIssue[];
  readonly state?: OperationState;
}

const DEFAULT_EPOCH = 1;

/** Looks at an operation by itself: whose it is, what the host's schema says, and whether its base is the server's. */
export async function examine(
  context: SyncContext,
  actor: Actor,
  sent: ParsedOperation,
  given: Pick<Identity, 'position' | 'operationId'>,
): Promise<Candidate | RefusedOperation> {
  const entity = context.entities.get(sent.entityType);
  const entityId = (await entity?.idOf(sent.entityId)) ?? sent.entityId;
  const operation = entityId === sent.entityId ? sent : { ...sent, entityId };
  const identity = { ...given, payloadHash: hashOf(operation) };
  const refused = (why: Refusal): RefusedOperation => ({ ...identity, refusal: why });
  const deviceId = operation.deviceId ?? actor.deviceId;
  const foreign = notTheActors(actor, operation);
  if (foreign !== undefined) return refused(notOwn(foreign));
  if (deviceId === undefined) {
    return refused(
      notValid({
        path: 'deviceId',
        message: 'Is missing.',
        remedy: 'Give it with the operation, or as `deviceId` of the actor.',
      }),
    );
  }
  const judged = await judge(entity, operation);
  if (typeof judged === 'object' && judged !== null) return refused(judged);
  return {
    ...identity,
    operation,
    key: {
      userId: actor.userId,
      deviceId,
      installationId: operation.installationId ?? deviceId,
      epoch: operation.epoch ?? DEFAULT_EPOCH,
    },
    entity,
    held: judged,
    baseTrusted: await isTrusted(context, actor, operation),
  };
}

/** A refusal, why it is to be held, or null: it can be applied. */
async function judge(
  entity: SyncEntity | undefined,
  operation: ParsedOperation,
): Promise<Refusal | SyncReason | null> {
  if (entity === undefined) return 'ENTITY_UNKNOWN';
  if (entity.appendOnly && operation.operation !== 'CREATE') {
    return refusal('APPEND_ONLY', `${entity.type} takes CREATE only`);
  }
  const upcast = tryUpcast(entity, operation);
  if (upcast === 'FAILED') {
    return refusal('VALIDATION_FAILED', 'The payload cannot be brought to the current schema version.', [
      {
        path: 'payload',
        message: 'Is not what its `schemaVersion` describes.',
        remedy: 'Send what the schema of this version describes.',
      },
    ]);
  }
  if (upcast === undefined) return 'SCHEMA_UNKNOWN';
  const issues = await entity.check(operation.operation, upcast);
  if (issues.length === 0) return null;
  const placed = issues.map((issue) => ({
    ...issue,
    path: issue.path === '' ? 'payload' : `payload.${issue.path}`,
  }));
  return refusal('VALIDATION_FAILED', 'The payload is not valid.', placed);
}

function tryUpcast(entity: SyncEntity, operation: ParsedOperation) {
  try {
    return entity.current(operation.operation, operation.payload, operation.schemaVersion);
  } catch {
    return 'FAILED' as const;
  }
}

/** The first field that names somebody or something that is not the actor's. */
function notTheActors(actor: Actor, operation: ParsedOperation): string | undefined {
  const { organizationId, userId, deviceId, branchId } = operation;
  if (organizationId !== undefined && organizationId !== actor.organizationId) return 'organizationId';
  if (userId !== undefined && userId !== actor.userId) return 'userId';
  if (deviceId !== undefined && actor.deviceId !== undefined && deviceId !== actor.deviceId)
    return 'deviceId';
  const own = actor.branchIds;
  if (branchId !== undefined && own !== 'ALL' && !own.includes(branchId)) return 'branchId';
  return undefined;
}

async function isTrusted(context: SyncContext, actor: Actor, operation: ParsedOperation): Promise<boolean> {
  const base = operation.previousVersion;
  if (!isWholeBase(base)) return false;
  return context.signer.isSigned(
    {
      organizationId: actor.organizationId,
      entityType: operation.entityType,
      entityId: operation.entityId,
      version: base.version,
      row: base.data,
    },
    base.signature,
  );
}

/** What makes two operations the same: not when they were sent, nor what the network did to them. */
function hashOf(operation: ParsedOperation): string {
  const { entityType, entityId, schemaVersion, payload } = operation;
  const told: Json = [operation.operation, entityType, entityId, schemaVersion, payload];
  return hash('sha256', canonicalJson(told));
}

/** Of an operation with one malformed field. */
export function notValid(issue: ValidationIssue): Refusal {
  return refusal('VALIDATION_FAILED', 'The operation is not valid.', [issue]);
}

/** Of an operation with a field that names somebody or something that is not the actor's. */
export function notOwn(field: string): Refusal {
  return refusal('FORBIDDEN', `\`${field}\` is not the actor’s; leave it out`);
}

export function refusal(code: ErrorCode, message: string, issues: readonly ValidationIssue[] = []): Refusal {
  return { code, message, issues };
}
