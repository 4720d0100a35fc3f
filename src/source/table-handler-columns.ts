import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';
import type { EntityShape, FieldKind } from '../types/sync-handler.ts';
import type { ResolvedEntity } from './entity-catalog.ts';

/** A column as a handler reads and writes it. */
export interface HandledColumn {
  readonly name: string;
  /** The type behind its domains. */
  readonly baseType: string;
  /** The same, as it can be cast to under any `search_path`, without modifiers. */
  readonly castType: string;
  readonly kind: FieldKind;
  /** Neither generated nor an identity that is always the server's. */
  readonly writable: boolean;
  /** How it is read as JSON: as PostgreSQL writes it as JSON, as text, as an instant in UTC, or a document as its text. */
  readonly form: 'JSON' | 'TEXT' | 'INSTANT' | 'DOCUMENT';
}

const JSON_TYPES = new Set([
  'smallint',
  'integer',
  'boolean',
  'text',
  'character varying',
  'uuid',
  'name',
  'inet',
]);
const JSON_ARRAYS = new Set([
  'text[]',
  'uuid[]',
  'integer[]',
  'smallint[]',
  'boolean[]',
  'date[]',
  'character varying[]',
]);

/** What a handler has to know of an entity's table, beyond its definition. */
export interface HandledCatalog {
  readonly columns: ReadonlyMap<string, HandledColumn>;
  /** Triggers fire after a row was written, and may change it. */
  readonly triggered: boolean;
}

/** By entity type. */
export async function handledCatalogs(
  client: pg.ClientBase,
  entities: ReadonlyMap<string, ResolvedEntity>,
): Promise<ReadonlyMap<string, HandledCatalog>> {
  const rows = await selectRows<{
    relation: number;
    name: string;
    generated: string;
    identity: string;
    castType: string;
  }>(
    client,
    `WITH RECURSIVE own AS (
       SELECT a.* FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     ), base(of_type, oid) AS (
       SELECT DISTINCT o.atttypid, o.atttypid FROM own o
       UNION ALL
       SELECT b.of_type, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
     )
     SELECT o.attrelid::int8 AS relation, o.attname AS name, o.attgenerated::text AS generated, o.attidentity::text AS identity,
            pg_catalog.format('%I.%I', n.nspname, t.typname) AS "castType"
       FROM own o
       JOIN base b ON b.of_type = o.atttypid
       JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
       JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      ORDER BY o.attrelid, o.attnum`,
    [[...entities.values()].map(({ table }) => table.root.oid)],
  );
  const triggers = await selectRows<{ relation: number }>(
    client,
    // Of the bits of a trigger's type 2 is BEFORE, 64 INSTEAD OF, and 20 INSERT and UPDATE.
    `SELECT DISTINCT t.tgrelid::int8 AS relation FROM pg_catalog.pg_trigger t
      WHERE t.tgrelid = ANY($1::oid[]) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 66 = 0 AND t.tgtype & 20 <> 0`,
    [[...entities.values()].flatMap(({ table }) => table.nodes.map(({ oid }) => oid))],
  );
  const triggered = new Set(triggers.map(({ relation }) => relation));
  return new Map(
    [...entities].map(([type, { table }]) => {
      const own = rows.filter(({ relation }) => relation === table.root.oid);
      const columns = own.map(({ name, generated, identity, castType }): [string, HandledColumn] => {
        const baseType = table.columns.get(name)?.baseType ?? 'text';
        const writable = generated === '' && identity !== 'a';
        return [name, { name, baseType, castType, kind: kindOf(baseType), writable, form: formOf(baseType) }];
      });
      return [
        type,
        { columns: new Map(columns), triggered: table.nodes.some(({ oid }) => triggered.has(oid)) },
      ];
    }),
  );
}

export function kindOf(baseType: string): FieldKind {
  switch (baseType) {
    case 'smallint':
    case 'integer':
    case 'bigint':
    case 'numeric':
    case 'real':
    case 'double precision':
      return 'NUMBER';
    case 'boolean':
      return 'BOOLEAN';
    case 'timestamp with time zone':
      return 'INSTANT';
    case 'date':
      return 'DATE';
    case 'uuid':
      return 'UUID';
    case 'json':
    case 'jsonb':
      return 'DOCUMENT';
    default:
      return 'TEXT';
  }
}

function formOf(baseType: string): HandledColumn['form'] {
  if (baseType === 'timestamp with time zone') return 'INSTANT';
  if (baseType === 'json' || baseType === 'jsonb') return 'DOCUMENT';
  return JSON_TYPES.has(baseType) || JSON_ARRAYS.has(baseType) ? 'JSON' : 'TEXT';
}

const TIMES = new Set(['timestamp with time zone', 'timestamp without time zone', 'date']);

/** The column that says when a row last changed, and whether it is a time that can be read and set. */
export function touchedColumn(
  { definition }: ResolvedEntity,
  columns: ReadonlyMap<string, HandledColumn>,
): { readonly name: string; readonly isTime: boolean } | undefined {
  const column = columns.get(definition.updatedAt ?? 'updated_at');
  return column && { name: column.name, isTime: TIMES.has(column.baseType) };
}

export function shapeOf(entity: ResolvedEntity, columns: ReadonlyMap<string, HandledColumn>): EntityShape {
  const own = new Set([touchedColumn(entity, columns)?.name, entity.deletedAt]);
  const [key] = entity.key;
  const isUuid = entity.key.length === 1 && columns.get(key ?? '')?.baseType === 'uuid';
  return {
    ...(isUuid ? { idKind: 'UUID' } : {}),
    kinds: Object.fromEntries([...columns.values()].map(({ name, kind }) => [name, kind])),
    serverOwned: [...columns.values()]
      .filter(({ name, writable }) => !writable || own.has(name))
      .map(({ name }) => name),
  };
}

const INTEGERS: Readonly<Record<string, bigint>> = {
  smallint: 2n ** 15n,
  integer: 2n ** 31n,
  bigint: 2n ** 63n,
};
const CLOCK = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d';
/** Keys as rows show them: of any other text PostgreSQL might make the same key, and a row has one id. */
const KEYS: Readonly<Record<string, RegExp>> = {
  uuid: /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  numeric: /^-?\d{1,100}(?:\.\d{1,100})?$/,
  date: /^\d{4}-\d\d-\d\d$/,
  'timestamp with time zone': new RegExp(`^\\d{4}-\\d\\d-\\d\\dT${CLOCK}\\.\\d{6}Z$`),
  'timestamp without time zone': new RegExp(`^\\d{4}-\\d\\d-\\d\\d ${CLOCK}(?:\\.\\d{1,6})?$`),
  text: /^/,
  'character varying': /^/,
  character: /^/,
  name: /^/,
};

/**
 * The id as the values of the key's columns; undefined: it can be no key of this entity. Whether it is the key as its
 * row shows it, the row tells.
 */
export function keyText(
  entity: ResolvedEntity,
  columns: ReadonlyMap<string, HandledColumn>,
  id: string,
): readonly string[] | undefined {
  const parts = entity.key.length === 1 ? [id] : composite(id, entity.key.length);
  if (parts === undefined) return undefined;
  const fits = entity.key.every((name, i) => isOfType(columns.get(name)?.baseType ?? 'text', parts[i] ?? ''));
  return fits ? parts : undefined;
}

/** `["a","b"]`, and no other spelling of it. */
function composite(id: string, length: number): readonly string[] | undefined {
  try {
    const parsed: unknown = JSON.parse(id);
    const texts = Array.isArray(parsed) && parsed.every((part) => typeof part === 'string') ? parsed : [];
    return texts.length === length && JSON.stringify(texts) === id ? texts : undefined;
  } catch {
    return undefined;
  }
}

/** Whether PostgreSQL would read the text as the type: a batch must not fail for one id. */
function isOfType(baseType: string, text: string): boolean {
  if (text.includes('\0')) return false;
  const bound = INTEGERS[baseType];
  if (bound !== undefined) {
    if (!/^(?:0|-?[1-9]\d{0,19})$/.test(text)) return false;
    const value = BigInt(text);
    return value < bound && value >= -bound;
  }
  if (KEYS[baseType]?.test(text) !== true) return false;
  return !TIMES.has(baseType) || isDay(text.slice(0, 10));
}

/** JavaScript takes 30 February for 2 March. */
function isDay(text: string): boolean {
  const time = new Date(`${text}T00:00:00Z`);
  return text > '0001' && !Number.isNaN(time.getTime()) && time.toISOString().startsWith(text);
}
