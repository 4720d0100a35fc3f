import type { RestoreScope } from '../types/backup.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { ResolvedEntity } from './entity-catalog.ts';
import {
  all,
  checkFilter,
  comparison,
  dateConditions,
  filterConditions,
  intersect,
  isShared,
  notDeleted,
  oneOf,
  ownerCondition,
  personConditions,
  ROW_ALIAS,
  refuseUnfilterable,
  selectEntities,
} from './scope.ts';
import type { LiveEntity, LiveRequest, LiveScope, Narrowing } from './source.ts';

/**
 * Which rows a restore into the live tables is about. Whose rows they are is asked of the archived row and of the one
 * that stands; what they are like (date, filters) of the archived one only, since that is what may have been damaged.
 * Errors: `ENTITY_UNKNOWN`, `ENTITY_SCOPE_UNSUPPORTED`, `VALIDATION_FAILED`.
 */
export function planLive(entities: ReadonlyMap<string, ResolvedEntity>, request: LiveRequest): LiveScope {
  const { organizationId, scope, snapshot } = request;
  const branchIds = intersect(request.branchIds, scope.branchIds ?? null);
  if (branchIds?.length === 0) {
    throw new DataProtectionError(
      'No branch is in both the scope and what the actor may see, so that no row would be restored',
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  const named = scope.includeEntities?.filter((type) => type !== 'ALL') ?? [];
  const held = heldEntities(entities, scope, snapshot.types, named);
  const wanted = selectEntities(held, scope);
  const shared = wanted.filter(
    (entity) => isShared(entity, 'organization') && !named.includes(entity.definition.type),
  );
  const chosen = wanted.filter((entity) => !shared.includes(entity));
  if (chosen.length === 0) {
    throw new DataProtectionError(
      'Every entity of the scope belongs to all organizations: name it in `scope.includeEntities` to restore it',
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  refuseUnfilterable(chosen, scope, branchIds);
  for (const filter of scope.customFilters ?? []) checkFilter(filter, chosen);

  const archived = (entity: ResolvedEntity): string | undefined =>
    chosen.includes(entity) ? request.staged(entity.definition.type) : undefined;
  const backedUp = intersect(snapshot.branchIds, snapshot.scope.branchIds ?? null);
  return {
    entities: chosen.map((entity): LiveEntity => {
      const { definition, key, table } = entity;
      const records = recordCondition(entity, scope);
      const people = personConditions(entity, scope);
      const whose = [
        ownerCondition(entity, 'organization', [organizationId], ROW_ALIAS),
        branchIds === null ? null : ownerCondition(entity, 'branch', branchIds, ROW_ALIAS),
        ...people,
      ];
      return {
        type: definition.type,
        table: { schema: table.root.schema, name: table.root.name },
        key,
        updatedAt: updatedAtOf(entity),
        disableTriggers: definition.restore?.disableTriggers ?? [],
        asked: all([
          // Every archived row is the organization's; those that say it themselves are looked at again.
          entity.organization.kind === 'COLUMN' ? (whose[0] ?? null) : null,
          branchIds === null ? null : ownerCondition(entity, 'branch', branchIds, ROW_ALIAS, archived),
          ...people,
          scope.restoreSoftDeleted === false || scope.includeSoftDeleted === false
            ? notDeleted(entity)
            : null,
          ...dateConditions(entity, scope),
          ...filterConditions(entity, scope),
          records,
        ]),
        own: all(whose),
        covered: all([
          ...whose,
          backedUp === null ? null : ownerCondition(entity, 'branch', backedUp, ROW_ALIAS),
          snapshot.scope.includeSoftDeleted === true ? null : notDeleted(entity),
          ...personConditions(entity, snapshot.scope),
          ...dateConditions(entity, snapshot.scope),
          ...filterConditions(entity, snapshot.scope),
          ...dateConditions(entity, scope),
          ...filterConditions(entity, scope),
          records,
        ]),
        narrow: narrowings(entity, scope),
      };
    }),
    warnings: shared.map(({ definition }) => ({
      code: 'SHARED_ENTITY_LEFT_OUT',
      message: `${definition.type} belongs to every organization and was left out: name it in \`scope.includeEntities\` to restore it`,
    })),
  };
}

/** The registered entities that the snapshot holds. What it holds and nobody knows any more is an error, never less data. */
function heldEntities(
  entities: ReadonlyMap<string, ResolvedEntity>,
  scope: RestoreScope,
  types: readonly string[],
  named: readonly string[],
): Map<string, ResolvedEntity> {
  const missing = named.filter((type) => entities.has(type) && !types.includes(type));
  if (missing.length > 0) {
    throw new DataProtectionError(
      `The snapshot does not hold ${missing.join(', ')}, which the scope names`,
      'ENTITY_UNKNOWN',
    );
  }
  const left = new Set(scope.excludeEntities ?? []);
  const forgotten = types.filter((type) => !entities.has(type) && named.length === 0 && !left.has(type));
  if (forgotten.length > 0) {
    throw new DataProtectionError(
      `The snapshot holds ${forgotten.join(', ')}, not registered with defineEntity any more: register it, or name in \`scope.includeEntities\` what is to be restored`,
      'ENTITY_UNKNOWN',
    );
  }
  return new Map([...entities].filter(([type]) => types.includes(type)));
}

const updatedAtOf = ({ definition, table }: ResolvedEntity): string | null =>
  definition.updatedAt ?? (table.columns.has('updated_at') ? 'updated_at' : null);

/** The records that a scope names, by their key: its text, or a JSON array of texts for a composite one. */
function recordCondition(entity: ResolvedEntity, { recordIds }: RestoreScope): string | null {
  if (recordIds === undefined) return null;
  const [column = ''] = entity.key;
  if (entity.key.length === 1) return oneOf(comparison(entity, column), recordIds);
  const records = recordIds.map((id, i) => compositeKey(entity, id, i));
  const conditions = records.map(
    (parts) =>
      `(${parts.map((part, i) => oneOf(comparison(entity, entity.key[i] ?? ''), [part])).join(' AND ')})`,
  );
  return conditions.length === 0 ? 'false' : `(${conditions.join(' OR ')})`;
}

function compositeKey(entity: ResolvedEntity, id: string, index: number): string[] {
  let parts: unknown;
  try {
    parts = JSON.parse(id);
  } catch {
    parts = undefined;
  }
  if (!Array.isArray(parts) || parts.length !== entity.key.length) {
    throw new ValidationError('The restore', [
      {
        path: `scope.recordIds.${index}`,
        message: `Is no key of ${entity.definition.type}, which is (${entity.key.join(', ')}).`,
        remedy: 'Give a JSON array with the text of each column, in this order.',
      },
    ]);
  }
  return parts.map(String);
}

/** Types whose COPY text is equal exactly when the values are, and how an id is written in it. */
const AS_COPIED: Readonly<Record<string, (id: string) => string>> = {
  uuid: (id) => id.toLowerCase(),
  text: escaped,
  'character varying': escaped,
  bigint: integer,
  integer,
  smallint: integer,
};

function escaped(id: string): string {
  const CODES: Readonly<Record<string, string>> = {
    '\\': '\\\\',
    '\n': '\\n',
    '\r': '\\r',
    '\t': '\\t',
    '\b': '\\b',
    '\f': '\\f',
    '\v': '\\v',
  };
  return [...id].map((character) => CODES[character] ?? character).join('');
}

function integer(id: string): string {
  return /^\s*[+-]?\d+\s*$/.test(id) ? BigInt(id.trim()).toString() : id;
}

function narrowings(entity: ResolvedEntity, scope: RestoreScope): Narrowing[] {
  const [key = ''] = entity.key;
  const named = [
    { column: entity.client, ids: scope.clientIds },
    { column: entity.caregiver, ids: scope.caregiverIds },
    { column: entity.key.length === 1 ? key : null, ids: scope.recordIds },
  ];
  return named.flatMap(({ column, ids }) => {
    if (column === null || ids === undefined) return [];
    const { type, baseType } = entity.table.columns.get(column) ?? { type: '', baseType: '' };
    const write = AS_COPIED[type === baseType ? baseType : ''] ?? AS_COPIED[type.replace(/\(\d+\)$/, '')];
    return write === undefined ? [] : [{ column, texts: ids.map(write) }];
  });
}
