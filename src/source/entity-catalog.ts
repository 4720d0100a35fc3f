import type { EntityDefinition, OwnerPath } from '../types/entity.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { EntityTable } from './tables.ts';

/** How rows of an entity find their owner, with every column checked. */
export type ResolvedOwner =
  | { readonly kind: 'SHARED' }
  | { readonly kind: 'COLUMN'; readonly column: string }
  | { readonly kind: 'THROUGH'; readonly columns: readonly string[]; readonly entity: ResolvedEntity };

/** An entity whose table and columns are known to exist. */
export interface ResolvedEntity {
  readonly definition: EntityDefinition;
  readonly table: EntityTable;
  readonly key: readonly string[];
  readonly organization: ResolvedOwner;
  /** null: the entity says nothing about branches, so no branch's rows can be told from another's. */
  readonly branch: ResolvedOwner | null;
  readonly client: string | null;
  readonly caregiver: string | null;
  readonly deletedAt: string | null;
  readonly date: string | null;
}

const DATE_COLUMNS = ['occurred_at', 'service_date', 'scheduled_start', 'scheduled_at', 'created_at'];

/**
 * Holds the definitions to the tables: key, owner, client, caregiver and dates, by name where they are left out.
 * Throws `ENTITY_INVALID` with everything that does not fit.
 */
export function resolveEntities(tables: readonly EntityTable[]): Map<string, ResolvedEntity> {
  const resolver = new EntityResolver(tables);
  resolver.problems.push(...sharedTables(tables));
  const resolved = new Map(tables.map((table) => [table.entity.type, resolver.resolve(table.entity.type)]));
  if (resolver.problems.length > 0) {
    throw new DataProtectionError(
      `Entity definitions do not fit the database: ${resolver.problems.join('; ')}`,
      'ENTITY_INVALID',
    );
  }
  return resolved;
}

/** A type that is defined twice, or a table that two entities hold: its rows would be missing from one, or doubled. */
function sharedTables(tables: readonly EntityTable[]): string[] {
  const types = Map.groupBy(tables, ({ entity }) => entity.type);
  const twice = [...types]
    .filter(([, found]) => found.length > 1)
    .map(([type]) => `${type} is defined twice`);
  const holders = Map.groupBy(
    tables.flatMap(({ entity, nodes }) => nodes.map((node) => ({ type: entity.type, node }))),
    ({ node }) => node.oid,
  );
  const shared = [...holders.values()].flatMap((found) => {
    const by = [...new Set(found.map(({ type }) => type))];
    const node = found[0]?.node;
    return by.length < 2 || node === undefined
      ? []
      : [`${node.schema}.${node.name} belongs to both ${by.join(' and ')}`];
  });
  return [...twice, ...shared];
}

class EntityResolver {
  readonly problems: string[] = [];
  readonly #tables: ReadonlyMap<string, EntityTable>;
  readonly #resolved = new Map<string, ResolvedEntity>();
  readonly #underway = new Set<string>();

  constructor(tables: readonly EntityTable[]) {
    this.#tables = new Map(tables.map((table) => [table.entity.type, table]));
  }

  resolve(type: string): ResolvedEntity {
    const done = this.#resolved.get(type);
    if (done !== undefined) return done;
    const table = this.#tables.get(type);
    if (table === undefined)
      throw new DataProtectionError(`${type} is not a registered entity`, 'ENTITY_INVALID');
    this.#underway.add(type);
    const definition = table.entity;
    const key = this.#key(table);
    const organization = this.#organization(table, key);
    const entity: ResolvedEntity = {
      definition,
      table,
      key,
      organization,
      branch: this.#branch(table, key, organization),
      client: this.#column(table, 'client', definition.client, type === 'CLIENT' ? key : ['client_id']),
      caregiver: this.#column(
        table,
        'caregiver',
        definition.caregiver,
        type === 'CAREGIVER' ? key : ['caregiver_id'],
      ),
      deletedAt: this.#column(table, 'deletedAt', definition.deletedAt, ['deleted_at']),
      date: this.#column(table, 'date', definition.date, DATE_COLUMNS),
    };
    this.#column(table, 'updatedAt', definition.updatedAt, ['updated_at']);
    for (const column of Object.keys(definition.classification?.columns ?? {}))
      this.#exists(table, 'classification', column);
    this.#underway.delete(type);
    this.#resolved.set(type, entity);
    return entity;
  }

  #key(table: EntityTable): readonly string[] {
    const given = table.entity.key;
    if (given === undefined) {
      if (table.primaryKey.length === 0)
        this.#problem(
          table,
          'has no primary key: give `key`, the columns of a unique index that are NOT NULL',
        );
      return table.primaryKey;
    }
    const columns = typeof given === 'string' ? [given] : given;
    for (const column of columns) this.#exists(table, 'key', column);
    const unique = table.uniqueKeys.some(
      (key) => key.length === columns.length && key.every((column) => columns.includes(column)),
    );
    if (!unique)
      this.#problem(table, `\`key\` (${columns.join(', ')}) is not a unique index over NOT NULL columns`);
    return columns;
  }

  #organization(table: EntityTable, key: readonly string[]): ResolvedOwner {
    const { organization, type } = table.entity;
    if (organization !== undefined) return this.#owner(table, 'organization', organization);
    if (type === 'ORGANIZATION' && key[0] !== undefined) return { kind: 'COLUMN', column: key[0] };
    if (table.columns.has('organization_id')) return { kind: 'COLUMN', column: 'organization_id' };
    this.#problem(
      table,
      "has no column organization_id: give `organization` (a column, { through, entity }, or 'SHARED' when its rows belong to every organization)",
    );
    return { kind: 'SHARED' };
  }

  #branch(table: EntityTable, key: readonly string[], organization: ResolvedOwner): ResolvedOwner | null {
    const { branch, type } = table.entity;
    if (branch !== undefined) return this.#owner(table, 'branch', branch);
    if (type === 'BRANCH' && key[0] !== undefined) return { kind: 'COLUMN', column: key[0] };
    if (table.columns.has('branch_id')) return { kind: 'COLUMN', column: 'branch_id' };
    if (type === 'ORGANIZATION' || organization.kind === 'SHARED') return { kind: 'SHARED' };
    if (organization.kind === 'THROUGH' && organization.entity.branch !== null) return organization;
    return null;
  }

  #owner(table: EntityTable, field: 'organization' | 'branch', path: OwnerPath): ResolvedOwner {
    if (path === 'SHARED') return { kind: 'SHARED' };
    if (typeof path === 'string') {
      this.#exists(table, field, path);
      return { kind: 'COLUMN', column: path };
    }
    const columns = typeof path.through === 'string' ? [path.through] : path.through;
    for (const column of columns) this.#exists(table, field, column);
    if (!this.#tables.has(path.entity)) {
      this.#problem(table, `\`${field}\` goes through ${path.entity}, which is not registered`);
      return { kind: 'SHARED' };
    }
    if (this.#underway.has(path.entity)) {
      this.#problem(
        table,
        `\`${field}\` goes through ${path.entity}, which leads back to ${table.entity.type}`,
      );
      return { kind: 'SHARED' };
    }
    const entity = this.resolve(path.entity);
    if (entity.key.length !== columns.length) {
      this.#problem(
        table,
        `\`${field}\` gives ${columns.length} columns for the key (${entity.key.join(', ')}) of ${path.entity}`,
      );
    }
    return { kind: 'THROUGH', columns, entity };
  }

  #column(
    table: EntityTable,
    field: string,
    given: string | undefined,
    candidates: readonly string[],
  ): string | null {
    if (given !== undefined) {
      this.#exists(table, field, given);
      return given;
    }
    return candidates.find((column) => table.columns.has(column)) ?? null;
  }

  #exists(table: EntityTable, field: string, column: string): void {
    if (!table.columns.has(column)) this.#problem(table, `has no column ${column}, which \`${field}\` names`);
  }

  #problem(table: EntityTable, text: string): void {
    this.problems.push(`${table.entity.type} (${table.entity.schema}.${table.entity.table}) ${text}`);
  }
}
