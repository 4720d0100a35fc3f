import { qualified, quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import type { BackupScope, BackupWarning, CustomFilter } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import { holds } from './entity.ts';
import type { ResolvedEntity, ResolvedOwner } from './entity-catalog.ts';
import type { ScopeRequest } from './source.ts';
import type { TableNode } from './tables.ts';

/** An entity with the condition that its rows must satisfy to be part of a scope. */
export interface ScopedTable {
  readonly entity: ResolvedEntity;
  /** SQL over the alias `t`, values quoted; null: every row. */
  readonly condition: string | null;
  /** SQL over the alias `t`: some organization owns the row; null: each row has an owner, or belongs to all. */
  readonly owned: string | null;
}

export interface ScopePlan {
  readonly tables: readonly ScopedTable[];
  /** Every table that the rows or the conditions read; all are locked. */
  readonly read: readonly ResolvedEntity[];
  readonly warnings: readonly BackupWarning[];
}

/** The alias under which conditions name the entity's own rows. */
export const ROW_ALIAS = 't';

/**
 * Which entities a scope takes in and which of their rows. Everything that the scope asks for and the entities cannot
 * give is an error, never less data. Throws `ENTITY_UNKNOWN`, `ENTITY_SCOPE_UNSUPPORTED`.
 */
export function planScope(entities: ReadonlyMap<string, ResolvedEntity>, request: ScopeRequest): ScopePlan {
  const { scope } = request;
  const branchIds = intersect(request.branchIds, scope.branchIds ?? null);
  if (branchIds?.length === 0) {
    throw new DataProtectionError(
      'No branch is in both the scope and the configuration, so that no row would be taken',
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  const included = selectEntities(entities, scope);
  refuseUnfilterable(included, scope, branchIds);
  for (const filter of scope.customFilters ?? []) checkFilter(filter, included);
  const tables = included.map(
    (entity): ScopedTable => ({
      entity,
      condition: all([
        ownerCondition(entity, 'organization', [request.organizationId], ROW_ALIAS),
        branchIds === null ? null : ownerCondition(entity, 'branch', branchIds, ROW_ALIAS),
        scope.includeSoftDeleted === true ? null : notDeleted(entity),
        ...personConditions(entity, scope),
        ...dateConditions(entity, scope),
        ...filterConditions(entity, scope),
      ]),
      owned: ownerCondition(entity, 'organization', 'ANY', ROW_ALIAS),
    }),
  );
  return { tables, read: withOwners(included), warnings: [] };
}

/** The conditions that are not null, together; null: there are none. */
export function all(conditions: readonly (string | null)[]): string | null {
  const given = conditions.filter((condition) => condition !== null);
  return given.length === 0 ? null : given.join(' AND ');
}

export const notDeleted = (entity: ResolvedEntity): string | null =>
  entity.deletedAt === null ? null : `${column(entity.deletedAt)} IS NULL`;

/** The clients and the caregivers that a scope names. */
export const personConditions = (entity: ResolvedEntity, scope: BackupScope): (string | null)[] => [
  scope.clientIds === undefined || entity.client === null
    ? null
    : oneOf(comparison(entity, entity.client), scope.clientIds),
  scope.caregiverIds === undefined || entity.caregiver === null
    ? null
    : oneOf(comparison(entity, entity.caregiver), scope.caregiverIds),
];

export const filterConditions = (entity: ResolvedEntity, scope: BackupScope): string[] =>
  (scope.customFilters ?? [])
    .filter((filter) => filter.entityType === entity.definition.type)
    .map((filter) => filterCondition(entity, filter));

export function selectEntities(
  entities: ReadonlyMap<string, ResolvedEntity>,
  scope: BackupScope,
): ResolvedEntity[] {
  const named = [...(scope.includeEntities ?? []), ...(scope.excludeEntities ?? [])].filter(
    (type) => type !== 'ALL',
  );
  const unknown = [...new Set(named)].filter((type) => !entities.has(type));
  if (unknown.length > 0) {
    throw new DataProtectionError(
      `The scope names ${unknown.join(', ')}, which ${unknown.length === 1 ? 'is' : 'are'} not registered with defineEntity`,
      'ENTITY_UNKNOWN',
    );
  }
  const explicit = scope.includeEntities !== undefined && !scope.includeEntities.includes('ALL');
  const excluded = ({ definition }: ResolvedEntity): boolean =>
    scope.excludeEntities?.some((type) => type === definition.type || type === 'ALL') === true;
  const wanted = [...entities.values()].filter(
    (entity) =>
      (!explicit && !excluded(entity)) || scope.includeEntities?.includes(entity.definition.type) === true,
  );
  const left = wanted.map((entity): [ResolvedEntity, string | null] => [
    entity,
    excluded(entity) ? 'excludeEntities' : leftOutBy(entity, scope),
  ]);
  const contradictions = left.filter(([, field]) => explicit && field !== null);
  if (contradictions.length > 0) {
    const list = contradictions.map(([entity, field]) => `${entity.definition.type} (${field})`);
    throw new DataProtectionError(
      `The scope both includes and leaves out ${list.join(', ')}`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  const included = left.filter(([, field]) => field === null).map(([entity]) => entity);
  if (included.length === 0)
    throw new DataProtectionError('The scope holds no entity at all', 'ENTITY_SCOPE_UNSUPPORTED');
  return included;
}

function leftOutBy({ definition }: ResolvedEntity, scope: BackupScope): string | null {
  if (scope.includeAuditLogs === false && definition.auditLog === true) return 'includeAuditLogs: false';
  if (scope.includePHI === false && holds(definition, 'phi')) return 'includePHI: false';
  if (scope.includeFinancialData === false && holds(definition, 'financial'))
    return 'includeFinancialData: false';
  return null;
}

export function refuseUnfilterable(
  included: readonly ResolvedEntity[],
  scope: BackupScope,
  branchIds: readonly string[] | null,
): void {
  const lacking = (test: (entity: ResolvedEntity) => boolean): string =>
    included
      .filter(test)
      .map((entity) => entity.definition.type)
      .join(', ');
  const problems = [
    branchIds === null
      ? ''
      : say(
          'branches',
          lacking((e) => e.branch === null),
          "`branch` (or 'SHARED')",
        ),
    scope.clientIds === undefined
      ? ''
      : say(
          'clients',
          lacking((e) => e.client === null),
          '`client`',
        ),
    scope.caregiverIds === undefined
      ? ''
      : say(
          'caregivers',
          lacking((e) => e.caregiver === null),
          '`caregiver`',
        ),
    scope.dateRangeStart === undefined && scope.dateRangeEnd === undefined
      ? ''
      : say(
          'dates',
          lacking((e) => e.date === null),
          '`date`',
        ),
  ].filter((problem) => problem !== '');
  if (problems.length > 0) throw new DataProtectionError(problems.join('; '), 'ENTITY_SCOPE_UNSUPPORTED');
}

const say = (what: string, types: string, field: string): string =>
  types === ''
    ? ''
    : `The scope is limited to ${what}, but ${types} cannot be: give ${field} in defineEntity or leave the entity out of the scope`;

/** The table of an entity's archived rows, which go before those that stand: through it others find the owner they had. */
export type ArchivedOwners = (entity: ResolvedEntity) => string | undefined;

/** The condition that a row belongs to one of the owners, or to any at all; null where every row does. */
export function ownerCondition(
  entity: ResolvedEntity,
  kind: 'organization' | 'branch',
  ids: readonly string[] | 'ANY',
  alias: string,
  archivedRows: ArchivedOwners = () => undefined,
): string | null {
  const owner: ResolvedOwner | null = entity[kind];
  if (owner === null || owner.kind === 'SHARED') return null;
  if (owner.kind === 'COLUMN') {
    if (ids !== 'ANY') return oneOf(idComparison(entity, owner.column, alias), ids);
    const nullable = entity.table.columns.get(owner.column)?.nullable !== false;
    return nullable ? `${alias}.${quoteIdent(owner.column)} IS NOT NULL` : null;
  }
  if (isShared(owner.entity, kind)) return null;
  const inner = `${alias}_owner`;
  const condition = ownerCondition(owner.entity, kind, ids, inner, archivedRows);
  const { key, table } = owner.entity;
  const archived = archivedRows(owner.entity);
  if (table.leaves.length === 0 && archived === undefined) return 'false';
  const columns = key.map((name) => `${inner}.${quoteIdent(name)}`).join(', ');
  const same = key.map((name) => {
    const { expression, operator } = comparison(owner.entity, name, inner);
    return `${expression} ${operator('=')} archived.${quoteIdent(name)}`;
  });
  const unless =
    archived === undefined
      ? null
      : `NOT EXISTS (SELECT FROM ${archived} archived WHERE ${same.join(' AND ')})`;
  const select = (from: string, where: string | null): string =>
    `SELECT ${columns} FROM ${from} ${inner}${where === null ? '' : ` WHERE ${where}`}`;
  const selects = [
    ...table.leaves.map((leaf) => select(`ONLY ${leafName(leaf)}`, all([condition, unless]))),
    ...(archived === undefined ? [] : [select(archived, condition)]),
  ];
  const matches = key.map((name, i) => {
    const { expression, operator } = comparison(owner.entity, name, inner);
    return `${expression} ${operator('=')} ${alias}.${quoteIdent(owner.columns[i] ?? '')}`;
  });
  return `EXISTS (SELECT FROM (${selects.join(' UNION ALL ')}) ${inner} WHERE ${matches.join(' AND ')})`;
}

/** Ids are compared in lower case, as the actor's stand: a column that is no uuid may hold them in upper case. */
function idComparison(entity: ResolvedEntity, name: string, alias: string): Comparison {
  if (entity.table.columns.get(name)?.type === 'uuid') return comparison(entity, name, alias);
  const expression = `pg_catalog.lower(${alias}.${quoteIdent(name)}::text)`;
  return { expression, operator: (symbol) => symbol };
}

/** Whether rows belong to all, be it through others. */
export function isShared(entity: ResolvedEntity, kind: 'organization' | 'branch'): boolean {
  const owner = entity[kind];
  if (owner === null || owner.kind === 'SHARED') return true;
  return owner.kind === 'THROUGH' && isShared(owner.entity, kind);
}

/** Partitions are read leaf by leaf also here: a partition attached meanwhile would be seen through its parent. */
const leafName = (leaf: TableNode): string => qualified(leaf);

const column = (name: string, alias = ROW_ALIAS): string => `${alias}.${quoteIdent(name)}`;

/** A column with the operators of its type: under `search_path ''` an extension's type is compared as another one. */
interface Comparison {
  readonly expression: string;
  readonly operator: (name: string) => string;
}

export function comparison({ table }: ResolvedEntity, name: string, alias = ROW_ALIAS): Comparison {
  const schema = table.columns.get(name)?.operators ?? null;
  return {
    expression: column(name, alias),
    operator: (symbol) => (schema === null ? symbol : `OPERATOR(${quoteIdent(schema)}.${symbol})`),
  };
}

export function oneOf({ expression, operator }: Comparison, values: readonly string[]): string {
  if (values.length === 0) return 'false';
  const literals = values.map(quoteLiteral);
  const equals = operator('=');
  if (equals === '=' && literals.length > 1) return `${expression} IN (${literals.join(', ')})`;
  return `(${literals.map((literal) => `${expression} ${equals} ${literal}`).join(' OR ')})`;
}

/** How an instant is compared with each type of date: as UTC where the column knows no zone. */
const INSTANT_AS: Readonly<Record<string, string>> = {
  date: "::timestamptz AT TIME ZONE 'UTC'",
  'timestamp without time zone': "::timestamptz AT TIME ZONE 'UTC'",
  'timestamp with time zone': '::timestamptz',
};

export function dateConditions(entity: ResolvedEntity, scope: BackupScope): string[] {
  const { dateRangeStart: start, dateRangeEnd: end } = scope;
  if (entity.date === null || (start === undefined && end === undefined)) return [];
  const { type, baseType } = entity.table.columns.get(entity.date) ?? { type: 'unknown', baseType: '' };
  const as = INSTANT_AS[baseType];
  if (as === undefined) {
    throw new DataProtectionError(
      `The scope is limited to dates, but column ${entity.date} of ${entity.definition.type} is of type ${type}: give a date or timestamp column as \`date\` in defineEntity`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  const date = column(entity.date);
  const bounds = [
    start === undefined ? [] : [`${date} >= (${quoteLiteral(start)}${as})`],
    end === undefined ? [] : [`${date} < (${quoteLiteral(end)}${as})`],
  ].flat();
  return [`(${date} IS NULL OR (${bounds.join(' AND ')}))`];
}

export function checkFilter(filter: CustomFilter, included: readonly ResolvedEntity[]): void {
  const entity = included.find((candidate) => candidate.definition.type === filter.entityType);
  if (entity === undefined) {
    throw new DataProtectionError(
      `A custom filter names ${filter.entityType}, which is not in the scope`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  if (!entity.table.columns.has(filter.column)) {
    throw new DataProtectionError(
      `A custom filter names column ${filter.column}, which ${filter.entityType} does not have`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  const tests = filter.operator === 'IS_NULL' || filter.operator === 'IS_NOT_NULL';
  const fits =
    filter.operator === 'IN' ? Array.isArray(filter.value) : tests || typeof filter.value !== 'object';
  if (!fits || (!tests && filter.value === undefined)) {
    throw new DataProtectionError(
      `The custom filter on ${filter.entityType}.${filter.column} lacks the value that ${filter.operator} needs`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
}

function filterCondition(entity: ResolvedEntity, filter: CustomFilter): string {
  const name = column(filter.column);
  if (filter.operator === 'IS_NULL') return `${name} IS NULL`;
  if (filter.operator === 'IS_NOT_NULL') return `${name} IS NOT NULL`;
  const compared = comparison(entity, filter.column);
  const values = [filter.value ?? []].flat().map(String);
  if (filter.operator === 'IN') return oneOf(compared, values);
  const literal = quoteLiteral(values[0] ?? '');
  // A row without a value is other than any value: SQL's own <> would leave it out in silence.
  if (filter.operator === '!=') return `(${name} IS NULL OR ${name} ${compared.operator('<>')} ${literal})`;
  return `${name} ${compared.operator(filter.operator)} ${literal}`;
}

function withOwners(included: readonly ResolvedEntity[]): ResolvedEntity[] {
  const all = new Map<string, ResolvedEntity>();
  const visit = (entity: ResolvedEntity): void => {
    if (all.has(entity.definition.type)) return;
    all.set(entity.definition.type, entity);
    for (const owner of [entity.organization, entity.branch])
      if (owner?.kind === 'THROUGH') visit(owner.entity);
  };
  included.forEach(visit);
  return [...all.values()];
}

export function intersect(
  a: readonly string[] | null,
  b: readonly string[] | null,
): readonly string[] | null {
  if (a === null || b === null) return a ?? b;
  return a.filter((id) => b.includes(id));
}
