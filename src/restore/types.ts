import type pg from 'pg';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { readTypeDefinitions } from '../postgres/type-definitions.ts';
import type { SnapshotContents, TypeRecord } from '../types/contents.ts';
import { DataProtectionError } from '../types/errors.ts';

/** Which types of a snapshot the target database has just as they were, and which are made anew beside the tables. */
export interface ResolvedTypes {
  readonly created: readonly TypeRecord[];
  readonly reused: readonly TypeRecord[];
}

/**
 * Compares the recorded types with those of the target, under the source's search path. A type is used as it is where
 * schema, name and definition agree, and so do all types that it is made of; a domain with a constraint that its rows
 * need not fulfil is always made anew, without the constraint until the rows are there.
 * Errors: `RESTORE_TARGET_INCOMPATIBLE` for an extension's or base type that is missing, `NOT_SUPPORTED` where two
 * types of one name would have to be created.
 */
export async function resolveTypes(
  client: pg.ClientBase,
  contents: SnapshotContents,
): Promise<ResolvedTypes> {
  const { types } = contents;
  const found = await selectRows<{ oid: number }>(
    client,
    `SELECT t.oid::bigint AS oid FROM unnest($1::text[], $2::text[]) AS w(schema, name)
       JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
       JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = w.name`,
    [types.map((type) => type.schema), types.map((type) => type.name)],
  );
  const there = await readTypeDefinitions(
    client,
    found.map((row) => row.oid),
  );
  return compareTypes(types, there.records);
}

/** The pure half of `resolveTypes`. */
export function compareTypes(recorded: readonly TypeRecord[], there: readonly TypeRecord[]): ResolvedTypes {
  const inTarget = new Map(there.map((type) => [nameOf(type), type]));
  const created: TypeRecord[] = [];
  const reused: TypeRecord[] = [];
  for (const type of recorded) {
    const existing = inTarget.get(nameOf(type));
    if (type.kind === 'EXTERNAL') {
      if (existing === undefined) throw missingType(type);
      reused.push(type);
    } else if (
      JSON.stringify(existing) === JSON.stringify(type) &&
      !(type.kind === 'DOMAIN' && type.constraints.some((constraint) => !constraint.validated)) &&
      !partsOf(type).some((part) => refersTo(part, created) !== undefined)
    ) {
      reused.push(type);
    } else {
      created.push(type);
    }
  }
  for (const type of created) {
    const other = recorded.find(
      (one) => one !== type && one.name === type.name && one.schema !== type.schema,
    );
    if (other !== undefined) {
      throw new DataProtectionError(
        `A schema cannot hold both type ${nameOf(type)} and type ${nameOf(other)}: create them in the target first`,
        'NOT_SUPPORTED',
      );
    }
  }
  return { created, reused };
}

const nameOf = (type: TypeRecord): string => `${type.schema}.${type.name}`;

const missingType = (type: TypeRecord & { kind: 'EXTERNAL' }): DataProtectionError =>
  new DataProtectionError(
    type.extension === null
      ? `The target database has no type ${nameOf(type)}`
      : `The target database has no type ${nameOf(type)}: extension ${type.extension} is missing or in another schema`,
    'RESTORE_TARGET_INCOMPATIBLE',
  );

function partsOf(type: TypeRecord): string[] {
  switch (type.kind) {
    case 'DOMAIN':
      return [type.baseType];
    case 'COMPOSITE':
      return type.attributes.map((attribute) => attribute.type);
    case 'RANGE':
      return [type.subtype];
    default:
      return [];
  }
}

/** `name` or `schema.name`, each quoted where need be, at the beginning of what `format_type` gives. */
const TYPE_NAME = /^("(?:[^"]|"")+"|[^\s".([]+)(?:\.("(?:[^"]|"")+"|[^\s".([]+))?/;

/** How `format_type` begins PostgreSQL's own types with names of SQL; a host's type of such a name stands in quotes. */
const SQL_TYPES = new Set(
  'bigint bit boolean character double integer interval numeric real smallint time timestamp'.split(' '),
);

const unquoted = (identifier: string): string =>
  identifier.startsWith('"') ? identifier.slice(1, -1).replaceAll('""', '"') : identifier;

/** Which of the types a type as `format_type` gives it is, or is an array or multirange of. */
function refersTo(
  text: string,
  types: readonly TypeRecord[],
): { type: TypeRecord; name: string } | undefined {
  const match = TYPE_NAME.exec(text);
  if (match?.[1] === undefined || SQL_TYPES.has(match[0])) return undefined;
  const schema = match[2] === undefined ? undefined : unquoted(match[1]);
  const name = unquoted(match[2] ?? match[1]);
  const type = types.find(
    (one) =>
      (schema === undefined || one.schema === schema) &&
      (one.name === name || (one.kind === 'RANGE' && one.multirange === name)),
  );
  return type === undefined ? undefined : { type, name };
}

/** A type as it is written in the target: those that are created stand in `schema`. */
export function localType(text: string, created: readonly TypeRecord[], schema: string): string {
  const referred = refersTo(text, created);
  return referred === undefined
    ? text
    : text.replace(TYPE_NAME, () => `${quoteIdent(schema)}.${quoteIdent(referred.name)}`);
}

/** `CREATE TYPE` or `CREATE DOMAIN` in `schema`. */
export function createTypeSql(
  type: TypeRecord,
  schema: string,
  local: { readonly type: (text: string) => string; readonly expression: (text: string) => string },
): string {
  const name = `${quoteIdent(schema)}.${quoteIdent(type.name)}`;
  switch (type.kind) {
    case 'ENUM':
      return `CREATE TYPE ${name} AS ENUM (${type.labels.map(quoteLiteral).join(', ')})`;
    case 'DOMAIN':
      return [
        `CREATE DOMAIN ${name} AS ${local.type(type.baseType)}`,
        ...(type.collation === null ? [] : [`COLLATE ${type.collation}`]),
        ...(type.default === null ? [] : [`DEFAULT ${local.expression(type.default)}`]),
        ...(type.notNull ? ['NOT NULL'] : []),
        ...type.constraints
          .filter((constraint) => constraint.validated)
          .map((constraint) => `CONSTRAINT ${quoteIdent(constraint.name)} ${constraint.definition}`),
      ].join(' ');
    case 'COMPOSITE': {
      const attributes = type.attributes.map((attribute) => {
        const collation = attribute.collation === null ? '' : ` COLLATE ${attribute.collation}`;
        return `${quoteIdent(attribute.name)} ${local.type(attribute.type)}${collation}`;
      });
      return `CREATE TYPE ${name} AS (${attributes.join(', ')})`;
    }
    case 'RANGE': {
      const options = {
        SUBTYPE: local.type(type.subtype),
        SUBTYPE_OPCLASS: type.subtypeOpclass,
        COLLATION: type.collation,
        CANONICAL: type.canonical,
        SUBTYPE_DIFF: type.subtypeDiff,
        MULTIRANGE_TYPE_NAME: `${quoteIdent(schema)}.${quoteIdent(type.multirange)}`,
      };
      const given = Object.entries(options).flatMap(([key, value]) =>
        value === null ? [] : [`${key} = ${value}`],
      );
      return `CREATE TYPE ${name} AS RANGE (${given.join(', ')})`;
    }
    case 'EXTERNAL':
      throw missingType(type);
  }
}
