import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';
import type { EntityShape, FieldKind } from '../types/sync-handler.ts';
import type { ResolvedEntity } from './entity-catalog.ts';

/** A column as a handler reads and writes it. */
export interface HandledColumn {
  readonly name: string;
  /** With its modifiers, as it can be cast to. */
  readonly type: string;
  /** The type behind its domains. */
  readonly baseType: string;
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
  'character',
  'uuid',
  'name',
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

/** The columns of the tables, by entity type and name. */
export async function handledColumns(
  client: pg.ClientBase,
  entities: ReadonlyMap<string, ResolvedEntity>,
): Promise<ReadonlyMap<string, ReadonlyMap<string, HandledColumn>>> {
  const rows = await selectRows<{ relation: number; name: string; generated: string; identity: string }>(
    client,
    `SELECT a.attrelid::int8 AS relation, a.attname AS name, a.attgenerated::text AS generated, a.attidentity::text AS identity
       FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`,
    [[...entities.values()].map(({ table }) => table.root.oid)],
  );
  return new Map(
    [...entities].map(([type, { table }]) => {
      const own = rows.filter(({ relation }) => relation === table.root.oid);
      return [
        type,
        new Map(
          own.map(({ name, generated, identity }): [string, HandledColumn] => {
            const column = table.columns.get(name);
            const baseType = column?.baseType ?? 'text';
            return [
              name,
              {
                name,
                type: column?.type ?? 'text',
                baseType,
                kind: kindOf(baseType),
                writable: generated === '' && identity !== 'a',
                form: formOf(baseType),
              },
            ];
          }),
        ),
      ];
    }),
  );
}

function kindOf(baseType: string): FieldKind {
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

export function shapeOf(entity: ResolvedEntity, columns: ReadonlyMap<string, HandledColumn>): EntityShape {
  const { updatedAt } = entity.definition;
  const touched = updatedAt ?? (columns.has('updated_at') ? 'updated_at' : undefined);
  const own = new Set([touched, entity.deletedAt]);
  return {
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
const UUID_TEXT = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The values of the key's columns; undefined: it can be no key of this entity. */
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

/** `["a","b"]`. */
function composite(id: string, length: number): readonly string[] | undefined {
  try {
    const parsed: unknown = JSON.parse(id);
    const texts = Array.isArray(parsed) && parsed.every((part) => typeof part === 'string') ? parsed : [];
    return texts.length === length ? texts : undefined;
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
  if (baseType === 'uuid') return UUID_TEXT.test(text);
  if (baseType === 'date') return /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text));
  if (baseType === 'timestamp with time zone' || baseType === 'timestamp without time zone')
    return /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text) && !Number.isNaN(Date.parse(text));
  if (baseType === 'numeric') return /^-?\d{1,100}(?:\.\d{1,100})?$/.test(text);
  return ['text', 'character varying', 'character', 'name'].includes(baseType);
}
