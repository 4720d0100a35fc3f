import type { Job, JobKind } from '../jobs/jobs.ts';
import type { AuditLog } from '../repository/audit-log.ts';
import type { Database } from '../repository/database.ts';
import type { Actor } from '../types/actor.ts';
import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import type { Logger } from '../types/logger.ts';
import type { SyncLane } from '../types/offline-sync.ts';
import type { SyncLimits, SyncOptions } from '../types/sync-handler.ts';
import type { EventBus } from './event-bus.ts';
import type { BaseSigner } from './sync-bases.ts';
import type { SyncEntity } from './sync-entities.ts';

/** What the services of offline sync are made of; built once in `compose.ts`. */
export interface SyncContext {
  /** Session connections to the database of the entities. */
  readonly db: Database;
  readonly entities: ReadonlyMap<string, SyncEntity>;
  readonly options: SyncOptions;
  readonly limits: Required<Omit<SyncLimits, 'alarmMs'>> & {
    readonly alarmMs: Readonly<Record<SyncLane, number>>;
  };
  readonly signer: BaseSigner;
  readonly audit: AuditLog;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: EventBus;
  /** Wakes a worker. Does nothing where there are none; never rejects, since workers look by themselves too. */
  readonly wake: (job: Job<JobKind>) => Promise<void>;
  /** For tests that end the process between two steps. */
  readonly onStep: (step: SyncStep) => void | Promise<void>;
}

export type SyncStep =
  | 'ADMITTED'
  | 'BEFORE_CLAIM'
  | 'CLAIMED'
  | 'BEFORE_APPLY'
  | 'APPLIED'
  | 'COMPLETED'
  | 'COMMITTED'
  | 'WOKEN';

const MINUTE_MS = 60_000;
/** Operations that are taken, and may be applied, at once. */
export const MOST_AT_ONCE = 50;
const DAY_MS = 24 * 60 * MINUTE_MS;

/** Throws `CONFIGURATION_INVALID` for a limit that is none. */
export function syncLimits(given: SyncLimits = {}): SyncContext['limits'] {
  const limits = {
    maxOfflineMs: given.maxOfflineMs ?? 90 * DAY_MS,
    predecessorWaitMs: given.predecessorWaitMs ?? DAY_MS,
    leaseMs: given.leaseMs ?? MINUTE_MS,
    operationsPerTransaction: given.operationsPerTransaction ?? MOST_AT_ONCE,
    lockTimeoutMs: given.lockTimeoutMs ?? 5_000,
    statementTimeoutMs: given.statementTimeoutMs ?? 30_000,
    historyMs: given.historyMs ?? 400 * DAY_MS,
    alarmMs: {
      CRITICAL: given.alarmMs?.critical ?? MINUTE_MS,
      NORMAL: given.alarmMs?.normal ?? 15 * MINUTE_MS,
    },
  };
  const { alarmMs, ...rest } = limits;
  for (const [name, value] of [...Object.entries(rest), ...Object.entries(alarmMs)]) {
    if (Number.isSafeInteger(value) && value >= 1) continue;
    throw new DataProtectionError(
      `\`sync.limits.${name}\` must be a whole number from 1`,
      'CONFIGURATION_INVALID',
    );
  }
  if (limits.operationsPerTransaction > MOST_AT_ONCE) {
    throw new DataProtectionError(
      `\`sync.limits.operationsPerTransaction\` must be from 1 to ${MOST_AT_ONCE}`,
      'CONFIGURATION_INVALID',
    );
  }
  if (limits.historyMs <= limits.maxOfflineMs) {
    throw new DataProtectionError(
      '`sync.limits.historyMs` must be longer than `maxOfflineMs`: what is forgotten is not known again',
      'CONFIGURATION_INVALID',
    );
  }
  return limits;
}

/** Throws `ENTITY_UNKNOWN`. */
export function entityOf({ entities }: Pick<SyncContext, 'entities'>, type: string): SyncEntity {
  const entity = entities.get(type);
  if (entity !== undefined) return entity;
  throw new DataProtectionError('The entity type is not registered for sync', 'ENTITY_UNKNOWN');
}

/** A lane of a stream, which is what workers take turns in. */
export interface StreamLane {
  readonly organizationId: UUID;
  readonly streamId: UUID;
  readonly lane: SyncLane;
}

/** Wakes whoever applies operations of these streams. */
export async function wakeStreams(
  context: Pick<SyncContext, 'wake'>,
  streams: readonly StreamLane[],
  delayMs?: number,
): Promise<void> {
  await Promise.all(
    streams.map(({ organizationId, streamId, lane }) =>
      context.wake({
        kind: lane === 'CRITICAL' ? 'SYNC_CRITICAL' : 'SYNC',
        key: streamId,
        data: { organizationId, streamId },
        ...(delayMs === undefined ? {} : { delayMs }),
      }),
    ),
  );
}

/** The actor that an operation is applied for; undefined: nobody knows, or he had no right to then. */
export async function actorFor(
  context: Pick<SyncContext, 'options'>,
  operation: {
    readonly organizationId: UUID;
    readonly userId: UUID;
    readonly deviceId: string;
    readonly occurredAt: Timestamp;
    readonly actor: unknown;
  },
): Promise<Actor | undefined> {
  const { organizationId, userId, deviceId, occurredAt } = operation;
  const ask = context.options.resolveActor;
  if (ask === undefined) return storedActor(operation);
  const actor = await ask({ organizationId, userId, deviceId, occurredAt });
  if (actor === undefined) return undefined;
  if (actor.organizationId.toLowerCase() !== organizationId || actor.userId.toLowerCase() !== userId) {
    throw new DataProtectionError('`resolveActor` gave another actor than it was asked for', 'INTERNAL');
  }
  return actor;
}

/** The rights with which it was handed in, as this library stored them. */
function storedActor(operation: {
  readonly organizationId: UUID;
  readonly userId: UUID;
  readonly deviceId: string;
  readonly actor: unknown;
}): Actor {
  const { organizationId, userId, deviceId, actor } = operation;
  const rights = actor as Pick<Actor, 'branchIds' | 'permissions'>;
  return { organizationId, userId, deviceId, branchIds: rights.branchIds, permissions: rights.permissions };
}
