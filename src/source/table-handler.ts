import { hash, randomUUID } from 'node:crypto';
import type pg from 'pg';
import { sqlState } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
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
import { type ResolvedEntity, resolveEntities } from './entity-catalog.ts';
import { type HandledColumn, handledColumns, keyText, shapeOf } from './table-handler-columns.ts';
import { type Statements, statementsFor } from './table-handler-sql.ts';
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
}

/** SQLSTATEs that tell of a table that is no longer what was read of it. */
const CHANGED_TABLE = new Set(['42703', '42P01', '42704', '0A000']);

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
          if (CHANGED_TABLE.has(sqlState(error) ?? '')) read = undefined;
          throw error;
        }
      };
      return {
        describe: async () => (await table()).shape,
        load: (ids, context, purpose) => watched((handled) => load(handled, ids, context, purpose)),
        apply: (change, context) =>
          watched(async (handled) => (await applyAll(handled, [change], context))[0] ?? null),
        applyMany: (changes, context) => watched((handled) => applyAll(handled, changes, context)),
      };
    },
  };
}

async function readHandledTables(options: TableHandlerOptions): Promise<ReadonlyMap<string, HandledTable>> {
  const client = await openSession({ connection: options.connection, name: 'care-backup sync catalog' });
  try {
    const found = resolveEntities(await readTables(client, options.entities));
    const columns = await handledColumns(client, found);
    return new Map(
      [...found].map(([type, entity]) => {
        const own = columns.get(type) ?? new Map();
        return [
          type,
          { entity, columns: own, shape: shapeOf(entity, own), statements: statementsFor(entity, own) },
        ];
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
  const keys = ids.flatMap((id) => {
    const key = keyText(entity, columns, id);
    return key === undefined ? [] : [{ id, key }];
  });
  if (keys.length === 0) return new Map();
  const { byKey, name } = statements;
  const given = new Map(keys.map(({ id, key }) => [asKey(key[0] ?? ''), id]));
  const values = byKey
    ? [keys.map(({ key }) => key[0])]
    : [keys.map(({ id }) => id), ...entity.key.map((_, i) => keys.map(({ key }) => key[i] ?? ''))];
  const { rows } = await context.tx.query<LoadedRow>(
    purpose === 'APPLY' ? statements.loadLocked : statements.load,
    [...scopeOf(context), ...values],
    `${name}-${purpose}`,
  );
  return new Map(
    rows.map((row): [string, LoadedEntity] => [
      byKey ? (given.get(asKey(row.care_id)) ?? row.care_id) : row.care_id,
      {
        row: decodeRow(columns, row.care_row),
        visible: row.care_visible === 'true',
        deleted: row.care_deleted === 'true',
        branchId: row.care_branch,
        updatedAt: row.care_updated_at,
      },
    ]),
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

/** Documents come as text where JavaScript would change a number of theirs. */
function decodeRow(columns: ReadonlyMap<string, HandledColumn>, text: string): EntityRow {
  const parsed = JSON.parse(text) as Record<string, EntityRow[string]>;
  for (const [name, { kind }] of columns) {
    const value = parsed[name];
    if (kind !== 'DOCUMENT' || typeof value !== 'string') continue;
    parsed[name] = documentOf(value);
  }
  return parsed;
}

/** The document, or, where a number of it is not JavaScript's, its text behind a mark: then it is one value. */
function documentOf(text: string): EntityRow[string] {
  let exact = true;
  const value = JSON.parse(text, ((_key, parsed: unknown, context?: { readonly source?: string }) => {
    if (typeof parsed === 'number' && context?.source !== undefined && !isExact(parsed, context.source))
      exact = false;
    return parsed;
  }) as (this: unknown, key: string, value: unknown) => unknown) as EntityRow[string];
  return exact ? value : { [EXACT]: text };
}

/** The only field of a document that is carried as text. */
const EXACT = '$exact';

function isExact(value: number, source: string): boolean {
  return String(value) === source || JSON.stringify(value) === source;
}

async function applyAll(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<readonly (EntityRow | null)[]> {
  const { entity } = handled;
  if (entity.organization.kind === 'SHARED') {
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
  return changes.map((change) => results.get(change) ?? null);
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

/** JSON in which documents that were carried as text stand as they are, to the last digit of their numbers. */
function jsonOf(records: readonly Record<string, unknown>[]): string {
  const texts = new Map<string, string>();
  const json = JSON.stringify(records, (_name, value: unknown) => {
    const text = exactText(value);
    if (text === undefined) return value;
    const mark = randomUUID();
    texts.set(mark, text);
    return mark;
  });
  return texts.size === 0 ? json : json.replace(/"([0-9a-f-]{36})"/g, (all, mark) => texts.get(mark) ?? all);
}

function exactText(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const names = Object.keys(value);
  const text: unknown = names.length === 1 ? Reflect.get(value, EXACT) : undefined;
  return typeof text === 'string' && isJsonText(text) ? text : undefined;
}

function isJsonText(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function checkColumns({ columns }: HandledTable, names: readonly string[]): void {
  const unknown = names.filter((name) => !columns.has(name));
  if (unknown.length === 0) return;
  throw new ValidationError(
    'The row',
    unknown.map((name) => ({
      path: /^[a-z_]{1,40}$/.test(name) ? name : '(unknown column)',
      message: 'Is no column of this entity.',
      remedy: 'Send columns of the entity only.',
    })),
  );
}

async function create(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<ReadonlyMap<string, EntityRow>> {
  const { entity, columns } = handled;
  const rows = changes.map((change) => {
    const names = Object.keys(change.after ?? {});
    checkColumns(handled, names);
    const writable = names.filter((name) => columns.get(name)?.writable === true);
    const record = recordOf(handled, change, writable);
    own(entity, record, context);
    return { change, record };
  });
  const written = new Map<string, EntityRow>();
  // A default belongs to a column that no row of the statement names.
  const alike = Map.groupBy(rows, ({ record }) => JSON.stringify(Object.keys(record).sort()));
  for (const group of alike.values()) {
    const names = Object.keys(group[0]?.record ?? {});
    const text = handled.statements.insert(names);
    await run(handled, text, group, context, written);
  }
  if (written.size < changes.length) throw refused(entity);
  return written;
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
): Promise<ReadonlyMap<string, EntityRow>> {
  const { entity, columns } = handled;
  const names = [...(changes[0]?.changed ?? [])];
  checkColumns(handled, names);
  const fixed = names.filter(
    (name) =>
      entity.key.includes(name) ||
      columns.get(name)?.writable !== true ||
      (entity.organization.kind === 'COLUMN' && entity.organization.column === name),
  );
  if (fixed[0] !== undefined) throw invalid(fixed[0], 'Cannot be changed.', 'Leave it as it is.');
  const rows = changes.map((change) => ({ change, record: recordOf(handled, change, names) }));
  const written = new Map<string, EntityRow>();
  await run(handled, handled.statements.update(names), rows, context, written);
  if (written.size < changes.length) throw refused(entity);
  return written;
}

async function remove(
  handled: HandledTable,
  changes: readonly EntityChange[],
  context: HandlerContext,
): Promise<ReadonlyMap<string, EntityRow>> {
  const rows = changes.map((change) => ({ change, record: recordOf(handled, change, []) }));
  const gone = new Map<string, EntityRow>();
  await run(handled, handled.statements.remove, rows, context, gone);
  if (gone.size < changes.length) throw refused(handled.entity);
  return new Map();
}

async function run(
  { entity, columns, statements }: HandledTable,
  text: string,
  rows: readonly { readonly change: EntityChange; readonly record: Record<string, unknown> }[],
  context: HandlerContext,
  into: Map<string, EntityRow>,
): Promise<void> {
  const { byKey, name } = statements;
  const [key = ''] = entity.key;
  const given = new Map(rows.map(({ change, record }) => [asKey(String(record[key])), change.entityId]));
  const records = rows.map(({ change, record }) =>
    byKey ? record : { ...record, care_id: change.entityId },
  );
  const written = await context.tx.query<{ care_id: string; care_row: string }>(
    text,
    [
      ...scopeOf(context),
      jsonOf(records),
      ...(byKey && text.includes('$4') ? [rows.map(({ record }) => record[key])] : []),
    ],
    `${name}-${hash('md5', text)}`,
  );
  for (const { care_id, care_row } of written.rows) {
    into.set(byKey ? (given.get(asKey(care_id)) ?? care_id) : care_id, decodeRow(columns, care_row));
  }
}

/** A UUID may be written in either case; nothing else may. */
const asKey = (text: string): string => (isUuid(text) ? text.toLowerCase() : text);

const invalid = (path: string, message: string, remedy: string): ValidationError =>
  new ValidationError('The row', [{ path, message, remedy }]);

const refused = (entity: ResolvedEntity): DataProtectionError =>
  new DataProtectionError(
    `A row of ${entity.definition.type} is not, or would not be, the actor’s to write`,
    'FORBIDDEN',
  );
