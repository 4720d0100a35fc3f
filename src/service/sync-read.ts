import { syncOutcomes } from '../repository/sync-outcome.ts';
import type { Actor } from '../types/actor.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { OfflineEntity } from '../types/offline-sync.ts';
import type { HandlerContext } from '../types/sync-handler.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import type { SyncContext } from './sync-context.ts';
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
export async function readSubjects(
  context: SyncContext,
  actor: Actor,
  entityType: string,
  entityIds: readonly string[],
): Promise<ReadonlyMap<string, { readonly type: string; readonly subject: Subject }>> {
  const type = normalizeEntityType(entityType);
  const entity = context.entities.get(type);
  if (entity === undefined) {
    throw new DataProtectionError('The entity type is not registered for sync', 'ENTITY_UNKNOWN');
  }
  if (entityIds.length > MOST_ENTITIES || !entityIds.every((id) => typeof id === 'string')) {
    throw new ValidationError('The entities', [
      { path: 'entityIds', message: 'Is no list of up to 500 ids.', remedy: 'Ask in several calls.' },
    ]);
  }
  const shape = await entity.shape();
  const { organizationId } = actor;
  return context.db.withTransaction(
    async (transaction) => {
      const handler: HandlerContext = {
        organizationId,
        actor,
        tx: transaction.host,
        now: context.clock.now(),
      };
      const seen = await entity.handler.load([...new Set(entityIds)], handler, 'READ');
      const ids = [...seen].flatMap(([id, { visible, deleted }]) => (visible && !deleted ? [id] : []));
      if (ids.length === 0) return new Map();
      const outcomes = syncOutcomes(transaction);
      const keys = ids.map((entityId) => ({ entityType: type, entityId }));
      const states = await outcomes.lockStates(organizationId, keys);
      const loaded = await entity.handler.load(ids, handler, 'READ');
      const subjects = states
        .map((state) => ({
          id: state.entityId,
          type,
          subject: new Subject(state, loaded.get(state.entityId), shape),
        }))
        .filter(({ subject }) => subject.presence === 'VISIBLE');
      const changed = subjects.flatMap(({ subject }) => subject.changedState ?? []);
      if (changed.length > 0) await outcomes.writeStates(organizationId, changed);
      return new Map(subjects.map(({ id, ...rest }) => [id, rest]));
    },
    tenantSettings(context, organizationId),
  );
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
