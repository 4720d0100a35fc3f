import type { Transaction } from '../repository/database.ts';
import { syncOutcomes } from '../repository/sync-outcome.ts';
import type { Actor } from '../types/actor.ts';
import { ValidationError } from '../types/errors.ts';
import type { OfflineEntity } from '../types/offline-sync.ts';
import type { HandlerContext } from '../types/sync-handler.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { entityOf, type SyncContext } from './sync-context.ts';
import type { SyncEntity } from './sync-entities.ts';
import { Subject } from './sync-subject.ts';

const MOST_ENTITIES = 500;

/** Rows with their versions and signatures, for offline use. */
export async function readEntities(
  context: SyncContext,
  actor: Actor,
  entityType: string,
  entityIds: readonly string[],
): Promise<readonly OfflineEntity[]> {
  const subjects = await readSubjects(context, actor, entityType, entityIds);
  return Promise.all(
    [...subjects].map(async ([entityId, { type, subject }]): Promise<OfflineEntity> => {
      const row = subject.row ?? {};
      const { version } = subject;
      const { organizationId } = actor;
      const signature = await context.signer.sign({
        organizationId,
        entityType: type,
        entityId,
        version,
        row,
      });
      return {
        entityType: type,
        entityId,
        version,
        data: row,
        ...(signature === undefined ? {} : { signature }),
      };
    }),
  );
}

/**
 * The entities that the actor may see, each at its version. One that the host has changed without the library, or that
 * it hands out for the first time, gets its version here; so the row is read again under the lock of the version.
 */
async function readSubjects(
  context: SyncContext,
  actor: Actor,
  entityType: string,
  entityIds: readonly string[],
): Promise<ReadonlyMap<string, { readonly type: string; readonly subject: Subject }>> {
  const type = normalizeEntityType(entityType);
  const entity = entityOf(context, type);
  if (entityIds.length > MOST_ENTITIES || !entityIds.every((id) => typeof id === 'string')) {
    throw new ValidationError('The entities', [
      { path: 'entityIds', message: 'Is no list of up to 500 ids.', remedy: 'Ask in several calls.' },
    ]);
  }
  const { organizationId } = actor;
  return context.db.withTransaction(
    async (transaction) => {
      const handler = handlerContext(context, actor, transaction);
      const asked = await Promise.all(entityIds.map((id) => entity.idOf(id)));
      const seen = await entity.handler.load([...new Set(asked)], handler, 'READ');
      const ids = [...seen].flatMap(([id, { visible, deleted }]) => (visible && !deleted ? [id] : []));
      if (ids.length === 0) return new Map();
      const subjects = await lockSubjects(transaction, entity, ids, handler);
      return new Map(
        [...subjects]
          .filter(([, subject]) => subject.presence === 'VISIBLE')
          .map(([id, subject]) => [id, { type, subject }]),
      );
    },
    tenantSettings(context, organizationId),
  );
}

/**
 * The version of an entity, also of one that was deleted, and the one that the actor sees: 0 where to him it was never
 * there.
 */
export async function versionOf(
  context: SyncContext,
  actor: Actor,
  entityType: string,
  entityId: string,
): Promise<{ readonly version: number; readonly visible: number }> {
  const entity = entityOf(context, entityType);
  return context.db.withTransaction(
    async (transaction) => {
      const handler = handlerContext(context, actor, transaction);
      const subjects = await lockSubjects(transaction, entity, [entityId], handler);
      const subject = subjects.get(entityId);
      return { version: subject?.stateVersion ?? 0, visible: subject?.version ?? 0 };
    },
    tenantSettings(context, actor.organizationId),
  );
}

async function lockSubjects(
  transaction: Transaction,
  entity: SyncEntity,
  ids: readonly string[],
  handler: HandlerContext,
): Promise<ReadonlyMap<string, Subject>> {
  const shape = await entity.shape();
  const outcomes = syncOutcomes(transaction);
  const { organizationId } = handler;
  const keys = ids.map((entityId) => ({ entityType: entity.type, entityId }));
  let states = await outcomes.lockStates(organizationId, keys);
  if (states.length < keys.length) states = await outcomes.lockStates(organizationId, keys);
  const loaded = await entity.handler.load(ids, handler, 'READ');
  const subjects = new Map(
    states.map((state) => [state.entityId, new Subject(state, loaded.get(state.entityId), shape)]),
  );
  const changed = [...subjects.values()].flatMap((subject) => subject.changedState ?? []);
  if (changed.length > 0) await outcomes.writeStates(organizationId, changed);
  return subjects;
}

function handlerContext(context: SyncContext, actor: Actor, transaction: Transaction): HandlerContext {
  const { organizationId } = actor;
  return { organizationId, actor, tx: transaction.host, now: context.clock.now() };
}

/** The host's settings for one organization's transaction. */
export function tenantSettings(
  context: Pick<SyncContext, 'options'>,
  organizationId: string,
): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(context.options.tenantSettings ?? {}).map(([name, value]) => [
      name,
      value(organizationId),
    ]),
  );
}
