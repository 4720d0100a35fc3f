import type pg from 'pg';
import { sqlState } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import { sameValue } from '../sync/canonical.ts';
import type { EntityDefinition } from '../types/entity.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import type {
  EntityChange,
  EntityHandler,
  EntityShape,
  HandlerContext,
  LoadedEntity,
} from '../types/sync-handler.ts';
import { isUuid } from '../utils/uuid.ts';
import { type ResolvedEntity, type ResolvedOwner, resolveEntities } from './entity-catalog.ts';
import { type HandledColumn, handledCatalogs, keyText, shapeOf } from './table-handler-columns.ts';
import { documentOf, jsonOf } from './table-handler-documents.ts';
import { type Statement, type Statements, statementsFor } from './table-handler-sql.ts';
import { misfits } from './table-handler-values.ts';
import { readTables } from './tables.ts';

export interface TableHandlerOptions {
  /** Where the entities are. */
  readonly connection: pg.ClientConfig;
  readonly entities: readonly EntityDefinition[];
}

/** Gives the handlers of the registered entities' tables. The catalog is read on the first use of any of them. */
export interface TableHandlers {
  /** Throws `ENTITY_UNKNOWN` for a type that is not registered. */
  handlerFor(type: string): EntityHandler;
}

/** A table as a handler works with it. */
export interface HandledTable {
  readonly entity: ResolvedEntity;
  readonly columns: ReadonlyMap<string, HandledColumn>;
  readonly shape: EntityShape;
  readonly statements: Statements;
  /** What was written is read again: triggers may have changed it since. */
  readonly triggered: boolean;
}

/** SQLSTATEs that tell of a table that is no longer what was read of it. */
const CHANGED_TABLE = new Set(['42703', '42P01', '42704', '42804', '42846', '42883', '0A000']);

export function createTableHandlers(options: TableHandlerOptions): TableHandlers {
  let read: Promise<ReadonlyMap<string, HandledTable>> | undefined;
  const tables = (): Promise<ReadonlyMap<string, HandledTable>> => {
    read ??= readHandledTables(options).catch((error: unknown) => {
      read = undefined;
      throw error;
    });
    return read;
  };
  const types = new Set(options.entities.map(({ type }) => type));
  return {
    handlerFor(type) {
      if (!types.has(type)) {
        throw new DataProtectionError('The entity type is not registered', 'ENTITY_UNKNOWN');
      }
      const table = async (): Promise<HandledTable> => {
        const found = (await tables()).get(type);
        if (found === undefined)
          throw new DataProtectionError('The entity type is not registered', 'ENTITY_UNKNOWN');
        return found;
      };
      /** After a failure that tells of another table, the next use reads it anew. */
      const watched = async <T>(work: (handled: HandledTable) => Promise<T>): Promise<T> => {
        try {
          return await work(await table());
        } catch (error) {
          if (error instanceof TableChanged || CHANGED_TABLE.has(sqlState(error) ?? '')) read = undefined;
          throw error;
        }
      };
      /** A column that is not known may be new. */
      const knowing = async (changes: readonly EntityChange[]): Promise<HandledTable> => {
        const known = await table();
        if (changes.some((change) => unknownColumns(known, namesOf(change)).length > 0)) read = undefined;
        return table();
      };
      const write = (changes: readonly EntityChange[], context: HandlerContext) =>
        watched(async () => applyAll(await knowing(changes), changes, context));
      return {
        describe: async () => (await table()).shape,
        load: (ids, context, purpose) => watched((handled) => load(handled, ids, context, purpose)),
        apply: async (change, context) => (await write([change], context))[0] ?? null,
        applyMany: write,
      };
    },
  };
}

async function readHandledTables(options: TableHandlerOptions): Promise<ReadonlyMap<string, HandledTable>> {
  const client = await openSession({ connection: options.connection, name: 'care-backup sync catalog' });
  try {
    const found = resolveEntities(await readTables(client, options.entities));
    const catalogs = await handledCatalogs(client, found);
    return new Map(
      [...found].map(([type, entity]): [string, HandledTable] => {
        const { columns = new Map(), triggered = false } = catalogs.get(type) ?? {};
        const shape = shapeOf(entity, columns);
        return [type, { entity, columns, shape, statements: statementsFor(entity, columns), triggered }];
      }),
    );
  } finally {
    await client.end().catch(() => destroySession(client));
  }
}

const scopeOf = ({ organizationId, actor }: HandlerContext) => [
  organizationId,
  actor.branchIds === 'ALL' ? null : actor.branchIds,
];

async function load(
  { entity, columns, statements }: HandledTable,
  ids: readonly string[],
  context: HandlerContext,
  purpose: 'APPLY' | 'READ',
): Promise<ReadonlyMap<string, LoadedEntity>> {
  const asked = new Set(ids);
  const keys = ids.flatMap((id) => {
    const key = keyText(entity, columns, id);
    return key === undefined ? [] : [key];
  });
  if (keys.length === 0) return new Map();
  const { text, name } = purpose === 'APPLY' ? statements.loadLocked : statements.load;
  const values = entity.key.map((_, i) => keys.map((key) => key[i] ?? ''));
  const { rows } = await context.tx.query<LoadedRow>(text, [...scopeOf(context), ...values], name);
  return new Map(
    rows.flatMap((row): [string, LoadedEntity][] => {
      const id = idOf(entity, row.care_id);
      // A row has one id; another text of its key is none.
      if (!asked.has(id)) return [];
      const loaded = {
        row: decodeRow(columns, row.care_row),
        visible: row.care_visible === 'true',
        deleted: row.care_deleted === 'true',
        branchId: isUuid(row.care_branch ?? '') ? (row.care_branch?.toLowerCase() ?? null) : null,
        updatedAt: row.care_updated_at,
      };
      return [[id, loaded]];
    }),
  );
}

interface LoadedRow {
  readonly care_id: string;
  readonly care_row: string;
  readonly care_visible: string;
  readonly care_deleted: string;
  readonly care_branch: string | null;
  readonly care_updated_at: string | null;
}

const idOf = ({ key }: ResolvedEntity, text: string): string =>
  key.length === 1 ? text : JSON.stringify(JSON.parse(text));

/** Documents come as text where JavaScript would change a number of theirs. */
function decodeRow(columns: ReadonlyMap<string, HandledColumn>, text: string): EntityRow {
  const parsed = JSON.parse(text) as Record<string, EntityRow[string]>;
  for (const [name, { kind }] of columns) {
    const value = parsed[name];
    if (kind === 'DOCUMENT' && typeof value === 'string') parsed[name] = documentOf(value);
    else if (kind === 'NUMBER' && typeof value === 'number' && !Number.isSafeInteger(value))
      throw new TableChanged(name);
  }
  return parsed;
}

/** A table is no longer what was read of it. */
class TableChanged extends DataProtectionError {
  constructor(column: string) {
    super(`Column ${column} has another type than before`, 'SOURCE_CHANGED');
  }
}

async function applyAll(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<readonly (EntityRow | null)[]> {
  const { entity } = handled;
  if (isShared(entity.organization)) {
    throw new DataProtectionError(
      `${entity.definition.type} belongs to all organizations and is not written by sync`,
      'FORBIDDEN',
    );
  }
  const results = new Map<EntityChange, EntityRow | null>();
  const groups = Map.groupBy(changes, (change) =>
    change.kind === 'UPDATE' ? `UPDATE ${JSON.stringify([...change.changed].sort())}` : change.kind,
  );
  for (const group of groups.values()) {
    const [first] = group;
    if (first === undefined) continue;
    const written =
      first.kind === 'CREATE'
        ? await create(handled, group, context)
        : first.kind === 'UPDATE'
          ? await update(handled, group, context)
          : await remove(handled, group, context);
    for (const change of group) results.set(change, written.get(change.entityId) ?? null);
  }
  const last = handled.triggered ? await readAgain(handled, results, context) : results;
  return changes.map((change) => last.get(change) ?? null);
}

/** Whether rows belong to all organizations, be it through others. */
const isShared = (owner: ResolvedOwner): boolean =>
  owner.kind === 'SHARED' || (owner.kind === 'THROUGH' && isShared(owner.entity.organization));

/** The rows as triggers left them. */
async function readAgain(
  handled: HandledTable,
  written: ReadonlyMap<EntityChange, EntityRow | null>,
  context: HandlerContext,
): Promise<ReadonlyMap<EntityChange, EntityRow | null>> {
  const standing = [...written].flatMap(([change, row]) => (row === null ? [] : [change]));
  const ids = standing.map(({ entityId }) => entityId);
  const loaded = await load(handled, ids, context, 'READ');
  return new Map(
    standing.map((change) => {
      const found = loaded.get(change.entityId);
      if (found?.visible === false) throw refused(handled.entity);
      return [change, found === undefined || found.deleted ? null : found.row];
    }),
  );
}

/** What a change says of the columns, and its key. */
function recordOf(
  { entity, columns }: HandledTable,
  change: EntityChange,
  names: readonly string[],
): Record<string, unknown> {
  const record: Record<string, unknown> = {};
  for (const name of names) record[name] = change.after?.[name] ?? null;
  const key = keyText(entity, columns, change.entityId);
  if (key === undefined)
    throw invalid('entityId', 'Is no key of this entity.', 'Use an id of the column’s type.');
  for (const [i, column] of entity.key.entries()) record[column] = key[i];
  return record;
}

const namesOf = ({ kind, after, changed }: EntityChange): readonly string[] =>
  kind === 'UPDATE' ? changed : Object.keys(after ?? {});

const unknownColumns = ({ columns }: HandledTable, names: readonly string[]): readonly string[] =>
  names.filter((name) => !columns.has(name));

/** Throws `VALIDATION_FAILED` for columns that are not there, and for values that are not theirs. */
function check(handled: HandledTable, { after }: EntityChange, names: readonly string[]): void {
  const unknown = unknownColumns(handled, names).map((name) => ({
    path: /^[a-z_]{1,40}$/.test(name) ? name : '(unknown column)',
    message: 'Is no column of this entity.',
    remedy: 'Send columns of the entity only.',
  }));
  const issues = [...unknown, ...misfits(after ?? {}, handled.columns, names)];
  if (issues.length > 0) throw new ValidationError('The row', issues);
}

async function create(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<Written> {
  const { entity, shape, statements } = handled;
  const rows = changes.map((change) => {
    const names = Object.keys(change.after ?? {}).filter((name) => !shape.serverOwned.includes(name));
    check(handled, change, names);
    const record = recordOf(handled, change, names);
    checkKey(handled, change, record);
    own(entity, record, context);
    return { change, record, cleared: clearedBy(handled, change, record) };
  });
  const written = new Map<string, EntityRow | null>();
  // A default belongs to a column that no row of the statement names.
  const alike = Map.groupBy(rows, ({ change, record, cleared }) =>
    JSON.stringify([change.operation.operation === 'CREATE', Object.keys(record).sort(), cleared]),
  );
  for (const group of alike.values()) {
    const [{ change, record, cleared }] = group as [(typeof group)[number]];
    // A new row is nothing but what it says; of one that comes back, what nobody speaks of is not lost.
    const rest = change.operation.operation === 'CREATE' ? 'DEFAULT' : 'KEPT';
    const statement = statements.insert(Object.keys(record), { cleared, rest });
    for (const [id, row] of await run(handled, statement, group, context)) written.set(id, row);
  }
  for (const { entityId } of changes) {
    if (written.has(entityId)) continue;
    // The row stands under the key as PostgreSQL, or a trigger, writes it.
    if (written.size === changes.length)
      throw invalid('entityId', 'Is not the key as the row shows it.', 'Write it as rows have it.');
    throw refused(entity);
  }
  return written;
}

/** Where the row comes back that was deleted: what the operation empties. */
function clearedBy(
  { columns, entity, shape }: HandledTable,
  { operation }: EntityChange,
  record: Record<string, unknown>,
): readonly string[] {
  if (operation.operation === 'CREATE') return [];
  return Object.keys(operation.payload)
    .filter(
      (name) =>
        operation.payload[name] === null &&
        columns.has(name) &&
        !Object.hasOwn(record, name) &&
        !shape.serverOwned.includes(name) &&
        !entity.key.includes(name),
    )
    .sort();
}

/** The row's own key is that of the id. */
function checkKey(
  { entity, columns }: HandledTable,
  { after }: EntityChange,
  record: Record<string, unknown>,
): void {
  for (const name of entity.key) {
    const column = columns.get(name);
    const given = after?.[name] ?? null;
    if (column?.writable !== true) throw invalid(name, 'Is the server’s to give.', 'Let the server make it.');
    if (given !== null && !sameValue(given, String(record[name]), column.kind))
      throw invalid(name, 'Is not of the entity’s id.', 'Leave it out.');
  }
}

/** The organization is the actor's; the branch one of his. */
function own(
  entity: ResolvedEntity,
  record: Record<string, unknown>,
  { organizationId, actor }: HandlerContext,
): void {
  if (entity.organization.kind === 'COLUMN') {
    const { column } = entity.organization;
    const given = record[column] ?? organizationId;
    if (String(given).toLowerCase() !== organizationId) throw refused(entity);
    record[column] = organizationId;
  }
  if (entity.branch?.kind !== 'COLUMN' || actor.branchIds === 'ALL') return;
  const { column } = entity.branch;
  const [only, ...others] = actor.branchIds;
  if (record[column] === undefined && only !== undefined && others.length === 0) record[column] = only;
  if (record[column] === undefined || record[column] === null) {
    throw invalid(column, 'Is missing.', 'Name one of the branches of the actor.');
  }
}

async function update(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<Written> {
  const { entity, columns } = handled;
  const names = [...(changes[0]?.changed ?? [])];
  for (const change of changes) check(handled, change, names);
  const fixed = names.filter(
    (name) =>
      entity.key.includes(name) ||
      columns.get(name)?.writable !== true ||
      (entity.organization.kind === 'COLUMN' && entity.organization.column === name),
  );
  if (fixed[0] !== undefined) throw invalid(fixed[0], 'Cannot be changed.', 'Leave it as it is.');
  const rows = changes.map((change) => ({ change, record: recordOf(handled, change, names) }));
  const written = await run(handled, handled.statements.update(names), rows, context);
  if (!changes.every(({ entityId }) => written.has(entityId))) throw refused(entity);
  return written;
}

async function remove(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<Written> {
  const rows = changes.map((change) => ({ change, record: recordOf(handled, change, []) }));
  const { entity } = handled;
  const gone = await run(handled, handled.statements.remove, rows, context);
  // A trigger may have kept a row from being marked.
  const isGone = ({ entityId }: EntityChange): boolean =>
    entity.deletedAt === null ? gone.has(entityId) : gone.get(entityId) === null;
  if (!changes.every(isGone)) throw refused(entity);
  return new Map();
}

/** By id; null: it is marked as deleted. */
type Written = ReadonlyMap<string, EntityRow | null>;

async function run(
  { entity, columns }: HandledTable,
  { text, name, keyed }: Statement,
  rows: readonly { readonly record: Record<string, unknown> }[],
  context: HandlerContext,
): Promise<Written> {
  const [key = ''] = entity.key;
  const records = rows.map(({ record }) => record);
  const written = await context.tx.query<Pick<LoadedRow, 'care_id' | 'care_row' | 'care_deleted'>>(
    text,
    [...scopeOf(context), jsonOf(records), ...(keyed ? [records.map((record) => record[key])] : [])],
    name,
  );
  return new Map(
    written.rows.map(({ care_id, care_row, care_deleted }) => [
      idOf(entity, care_id),
      care_deleted === 'true' ? null : decodeRow(columns, care_row),
    ]),
  );
}

const invalid = (path: string, message: string, remedy: string): ValidationError =>
  new ValidationError('The row', [{ path, message, remedy }]);

const refused = (entity: ResolvedEntity): DataProtectionError =>
  new DataProtectionError(
    `A row of ${entity.definition.type} is not, or would not be, the actor’s to write`,
    'FORBIDDEN',
  );
