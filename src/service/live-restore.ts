import type { Transaction } from '../repository/database.ts';
import {
  type LivePreview,
  type LiveRestoreRequest,
  type RestoreRecords,
  stageName,
} from '../restore/restore.ts';
import type { LiveEntity, LiveScope } from '../source/source.ts';
import type {
  ColumnMapping,
  ConflictResolutionStrategy,
  ResolveRestoreConflictInput,
  RestoreConflict,
  RestoreOperation,
  RestorePreview,
  RestoreScope,
} from '../types/backup.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { type Asking, notFound } from './asking.ts';
import type { ServiceContext } from './context.ts';
import { readSegment, requireObjects, type StoredArchive } from './stored-archive.ts';

/** A restore into the live tables as it was asked for. */
export interface LiveOrder {
  readonly restoreId: UUID;
  readonly organizationId: UUID;
  /** Within the branches of who asked. */
  readonly scope: RestoreScope;
  readonly strategy: ConflictResolutionStrategy;
  readonly deleteNotInBackup: boolean;
  readonly allowCascades: boolean;
  readonly columnMapping: ColumnMapping;
  readonly rollbackEnabled: boolean;
}

/** The rows that an order is about. `ENTITY_*`, `VALIDATION_FAILED`, `NOT_SUPPORTED`. */
export async function liveScope(
  context: ServiceContext,
  order: Pick<LiveOrder, 'organizationId' | 'scope' | 'columnMapping'>,
  { contents }: StoredArchive,
): Promise<LiveScope> {
  if (!context.dataIsOwn) {
    throw new DataProtectionError(
      'Restores into the live tables need the entities in `database`, and `source` names another server',
      'NOT_SUPPORTED',
    );
  }
  const types = contents.entities.map(({ type }) => type);
  const scope = await context.source.live({
    organizationId: order.organizationId,
    branchIds: null,
    scope: order.scope,
    snapshot: { types, scope: contents.scope, branchIds: contents.branchIds },
    staged: (type) => stageName(types.indexOf(type)),
  });
  const unknown = Object.keys(order.columnMapping).filter(
    (type) => !scope.entities.some((entity) => entity.type === type),
  );
  if (unknown.length > 0) {
    throw new DataProtectionError(
      `\`columnMapping\` names ${unknown.join(', ')}, which the restore does not touch`,
      'ENTITY_UNKNOWN',
    );
  }
  return scope;
}

/** What the restore target is asked for, but for what happens at the end. */
export function liveRequest(
  context: ServiceContext,
  order: LiveOrder,
  archive: StoredArchive,
  scope: LiveScope,
  signal: AbortSignal,
  onRead: LiveRestoreRequest['onRead'],
): Omit<LiveRestoreRequest, 'finish'> {
  const { recordIds, clientIds, caregiverIds } = order.scope;
  return {
    restoreId: order.restoreId,
    organizationId: order.organizationId,
    snapshot: {
      contents: archive.contents,
      segments: archive.manifest.segments,
      read: (index, reading) => readSegment(archive, index, reading),
    },
    entities: scope.entities,
    namesRecords: recordIds !== undefined || clientIds !== undefined || caregiverIds !== undefined,
    strategy: order.strategy,
    deleteNotInBackup: order.deleteNotInBackup,
    allowCascades: order.allowCascades,
    columnMapping: order.columnMapping,
    keepImages: order.rollbackEnabled,
    records: restoreRecords(context),
    now: context.clock.now().toISOString(),
    signal,
    onRead,
  };
}

export const restoreRecords = ({ db }: ServiceContext): RestoreRecords => ({
  tables: db.table('restore_image_tables'),
  images: db.table('restore_images'),
  conflicts: db.table('restore_conflicts'),
});

/** What a restore would do now. Errors as the restore itself. */
export async function previewRestore(
  context: ServiceContext,
  order: LiveOrder,
  archive: StoredArchive,
  signal: AbortSignal,
): Promise<RestorePreview> {
  const scope = await liveScope(context, order, archive);
  await requireObjects(archive, signal);
  const preview: LivePreview = await context.restoreTarget.previewLive(
    liveRequest(context, order, archive, scope, signal, () => undefined),
  );
  return {
    ...segmentsOf(archive, scope),
    ...preview,
    warnings: [...scope.warnings, ...preview.warnings],
  };
}

/** The segments that hold rows of the entities. */
export function segmentsOf(
  { contents, manifest }: StoredArchive,
  { entities }: LiveScope,
): { readonly segments: number; readonly bytes: number } {
  const roots = new Set(
    contents.entities
      .filter(({ type }) => entities.some((entity) => entity.type === type))
      .map(({ relation }) => relation),
  );
  const rootOf = (part: number): number => {
    const parent = contents.relations[part]?.parent ?? null;
    return parent === null ? part : rootOf(parent);
  };
  const read = manifest.segments.filter(({ part }) => roots.has(rootOf(part)));
  return { segments: read.length, bytes: read.reduce((sum, { rawLength }) => sum + rawLength, 0) };
}

/** The order that an operation is. */
export const orderOf = (restore: RestoreOperation): LiveOrder => ({
  restoreId: restore.id,
  organizationId: restore.organizationId,
  scope: restore.scope,
  strategy: restore.conflictResolutionStrategy,
  deleteNotInBackup: restore.deleteNotInBackup,
  allowCascades: restore.allowCascades,
  columnMapping: restore.columnMapping,
  rollbackEnabled: restore.rollbackEnabled,
});

/** A decision of a person, carried out and entered. See `BackupService.resolveRestoreConflict`. */
export async function resolveConflict(
  { context, actor, repository }: Asking,
  restore: RestoreOperation,
  conflict: RestoreConflict,
  input: ResolveRestoreConflictInput,
  signal: AbortSignal,
): Promise<RestoreConflict> {
  const { resolution } = input;
  const enter = async (transaction: Transaction): Promise<void> => {
    const done = await context.repository(actor, transaction).resolveRestoreConflict(conflict.id, {
      resolution,
      resolvedBy: actor.userId,
      resolvedAt: context.clock.now().toISOString(),
      notes: input.notes ?? null,
    });
    if (!done) {
      throw new DataProtectionError('The conflict has been decided by somebody else', 'INVALID_STATE');
    }
    await context.audit.append(transaction, {
      organizationId: actor.organizationId,
      action: 'restore.conflict_resolved',
      userId: actor.userId,
      resourceType: 'restore_operation',
      resourceId: restore.id,
      details: { conflictId: conflict.id, entityType: conflict.entityType, kind: conflict.kind, resolution },
    });
  };
  if (resolution === 'EXISTING') await context.db.withTransaction(enter);
  else {
    const entity = await entityOf(context, restore, conflict.entityType);
    await context.restoreTarget.decideLive({
      restoreId: restore.id,
      organizationId: restore.organizationId,
      entity,
      key: entity.key.length === 1 ? [conflict.recordId] : (JSON.parse(conflict.recordId) as string[]),
      values: valuesOf(conflict, input),
      version: conflict.version,
      keepImages: restore.rollbackEnabled && restore.status !== 'ROLLED_BACK',
      records: restoreRecords(context),
      signal,
      finish: (client) => enter(context.within(client)),
    });
  }
  const decided = await repository.findRestoreConflict(conflict.id);
  if (decided === undefined) throw notFound('restore conflict', conflict.id);
  return decided;
}

async function entityOf(
  context: ServiceContext,
  restore: RestoreOperation,
  type: string,
): Promise<LiveEntity> {
  const { entities } = await context.source.live({
    organizationId: restore.organizationId,
    branchIds: null,
    scope: { includeEntities: [type] },
    snapshot: { types: [type], scope: {}, branchIds: null },
    staged: (entity) => entity,
  });
  const [entity] = entities;
  if (entity === undefined) throw new DataProtectionError(`${type} is no entity any more`, 'ENTITY_UNKNOWN');
  return entity;
}

function valuesOf(
  { kind, backup }: RestoreConflict,
  { resolution, fields = [] }: ResolveRestoreConflictInput,
): RestoreConflict['backup'] {
  if (kind === 'OUT_OF_SCOPE') {
    throw new DataProtectionError(
      'The row is in other hands now: only EXISTING can be decided about it',
      'INVALID_STATE',
    );
  }
  if (resolution === 'BACKUP') return backup;
  const unknown = fields.filter((field) => !Object.hasOwn(backup ?? {}, field));
  if (backup === null || unknown.length > 0) {
    throw new ValidationError('The decision', [
      {
        path: 'fields',
        message:
          backup === null
            ? 'There is no row to take them from.'
            : `${unknown.join(', ')} is no column of it.`,
        remedy: 'Name columns of `backup`, or decide for BACKUP or EXISTING.',
      },
    ]);
  }
  return Object.fromEntries(fields.map((field) => [field, backup[field] ?? null]));
}
