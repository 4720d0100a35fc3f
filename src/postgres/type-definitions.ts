import type pg from 'pg';
import type { TypeRecord } from '../types/contents.ts';
import { selectRows } from './rows.ts';

/** Definitions of types, dependencies first. `oids[i]` is the `pg_type` oid of `records[i]`. */
export interface TypeDefinitions {
  readonly records: TypeRecord[];
  readonly oids: number[];
}

/**
 * Reads the definitions of the types that `roots` (`pg_type` oids of columns) are made of: elements of arrays, base
 * types of domains, attributes of composites, subtypes of ranges, ranges of multiranges. PostgreSQL's own types are
 * left out; those of an extension, base types and row types of tables stand as EXTERNAL and are not followed further.
 *
 * Expressions and names are deparsed under the `search_path` in force. Two readings of the same definitions under the
 * same path are equal as JSON, whatever the oids: a difference is an ALTER TYPE. Five queries.
 * Rejects with pg's own error.
 */
export async function readTypeDefinitions(
  client: pg.ClientBase,
  roots: readonly number[],
): Promise<TypeDefinitions> {
  const types = await selectRows<TypeRow>(client, TYPES, [[...new Set(roots)]]);
  const own = types.filter((type) => !type.builtin && type.kind !== 'PASSED_THROUGH');
  const oids = own.map((type) => type.oid);
  const labels = groupBy(await select<LabelRow>(client, LABELS, oids));
  const constraints = groupBy(await select<ConstraintRow>(client, DOMAIN_CONSTRAINTS, oids));
  const attributes = groupBy(await select<AttributeRow>(client, ATTRIBUTES, oids));
  const ranges = groupBy(await select<RangeRow>(client, RANGES, oids));
  const sorted = inOrderOfCreation(own, types);
  return {
    oids: sorted.map((type) => type.oid),
    records: sorted.map((type): TypeRecord => {
      const { schema, name } = type;
      switch (type.kind) {
        case 'ENUM':
          return { schema, name, kind: 'ENUM', labels: (labels.get(type.oid) ?? []).map((row) => row.label) };
        case 'DOMAIN':
          return {
            schema,
            name,
            kind: 'DOMAIN',
            baseType: type.base_type,
            notNull: type.not_null,
            default: type.default_expression,
            collation: type.own_collation,
            constraints: (constraints.get(type.oid) ?? []).map((row) => ({
              name: row.name,
              definition: row.definition,
              validated: row.validated,
            })),
          };
        case 'COMPOSITE':
          return {
            schema,
            name,
            kind: 'COMPOSITE',
            attributes: (attributes.get(type.oid) ?? []).map((row) => ({
              name: row.name,
              type: row.attribute_type,
              collation: row.own_collation,
            })),
          };
        case 'RANGE': {
          const range = ranges.get(type.oid)?.[0];
          if (range === undefined) return { schema, name, kind: 'EXTERNAL', extension: null };
          return {
            schema,
            name,
            kind: 'RANGE',
            subtype: range.subtype,
            subtypeOpclass: range.own_opclass,
            collation: range.own_collation,
            canonical: range.canonical,
            subtypeDiff: range.subtype_diff,
            multirange: range.multirange,
          };
        }
        default:
          return { schema, name, kind: 'EXTERNAL', extension: type.extension };
      }
    }),
  };
}

interface TypeRow {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly builtin: boolean;
  /** PASSED_THROUGH: an array or a multirange, which comes with its element or range. */
  readonly kind: 'ENUM' | 'DOMAIN' | 'COMPOSITE' | 'RANGE' | 'EXTERNAL' | 'PASSED_THROUGH';
  readonly extension: string | null;
  readonly base_type: string;
  readonly not_null: boolean;
  readonly default_expression: string | null;
  readonly own_collation: string | null;
  /** Oids of the types that it is made of. */
  readonly parts: readonly number[];
}

interface OfType {
  readonly type: number;
}
interface LabelRow extends OfType {
  readonly label: string;
}
interface ConstraintRow extends OfType {
  readonly name: string;
  readonly definition: string;
  readonly validated: boolean;
}
interface AttributeRow extends OfType {
  readonly name: string;
  readonly attribute_type: string;
  readonly own_collation: string | null;
}
interface RangeRow extends OfType {
  readonly subtype: string;
  readonly own_opclass: string | null;
  readonly own_collation: string | null;
  readonly canonical: string | null;
  readonly subtype_diff: string | null;
  readonly multirange: string;
}

const collation = (oid: string, ofType: string): string => `
  (SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)
     FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
    WHERE c.oid = ${oid} AND ${oid} IS DISTINCT FROM
          (SELECT b.typcollation FROM pg_catalog.pg_type b WHERE b.oid = ${ofType})) AS own_collation`;

/** A base type with elements is an array only where it is of variable length; `name` and `point` have elements too. */
const TYPES = `
  WITH RECURSIVE described AS (
    SELECT t.oid, t.typtype, t.typnamespace, t.typname, t.typrelid, t.typelem, t.typbasetype,
           n.nspname IN ('pg_catalog', 'information_schema') AS builtin,
           (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
             WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
               AND d.refclassid = 'pg_catalog.pg_extension'::regclass) AS extension,
           CASE WHEN t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A' THEN 'PASSED_THROUGH'
                WHEN t.typtype = 'm' THEN 'PASSED_THROUGH'
                WHEN t.typtype = 'e' THEN 'ENUM'
                WHEN t.typtype = 'd' THEN 'DOMAIN'
                WHEN t.typtype = 'r' THEN 'RANGE'
                WHEN t.typtype = 'c' AND (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid) = 'c'
                THEN 'COMPOSITE'
                ELSE 'EXTERNAL' END AS shape
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  ), part(of_type, part) AS (
    SELECT d.oid, d.typelem FROM described d WHERE d.shape = 'PASSED_THROUGH' AND d.typelem <> 0
    UNION ALL
    SELECT r.rngmultitypid, r.rngtypid FROM pg_catalog.pg_range r
    UNION ALL
    SELECT d.oid, d.typbasetype FROM described d WHERE d.shape = 'DOMAIN' AND NOT d.builtin AND d.extension IS NULL
    UNION ALL
    SELECT r.rngtypid, r.rngsubtype
      FROM pg_catalog.pg_range r JOIN described d ON d.oid = r.rngtypid
     WHERE NOT d.builtin AND d.extension IS NULL
    UNION ALL
    SELECT d.oid, a.atttypid
      FROM described d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.typrelid
     WHERE d.shape = 'COMPOSITE' AND NOT d.builtin AND d.extension IS NULL AND a.attnum > 0 AND NOT a.attisdropped
  ), reached(oid) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT p.part FROM reached r JOIN part p ON p.of_type = r.oid
  )
  SELECT t.oid::bigint AS oid, n.nspname::text AS schema, t.typname::text AS name, d.builtin,
         CASE WHEN d.extension IS NOT NULL AND d.shape <> 'PASSED_THROUGH' THEN 'EXTERNAL' ELSE d.shape END AS kind,
         d.extension::text AS extension,
         pg_catalog.format_type(t.typbasetype, t.typtypmod) AS base_type,
         t.typnotnull AS not_null,
         pg_catalog.pg_get_expr(t.typdefaultbin, 'pg_catalog.pg_type'::regclass) AS default_expression,
         ${collation('t.typcollation', 't.typbasetype')},
         ARRAY(SELECT DISTINCT p.part::bigint FROM part p WHERE p.of_type = t.oid) AS parts
    FROM reached r
    JOIN pg_catalog.pg_type t ON t.oid = r.oid
    JOIN described d ON d.oid = t.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace`;

const LABELS = `
  SELECT e.enumtypid::bigint AS type, e.enumlabel::text AS label
    FROM pg_catalog.pg_enum e WHERE e.enumtypid = ANY ($1::oid[])
   ORDER BY e.enumtypid, e.enumsortorder`;

/** From 17 on a domain's NOT NULL has a row of its own here; the domain says it already. */
const DOMAIN_CONSTRAINTS = `
  SELECT c.contypid::bigint AS type, c.conname::text AS name, pg_catalog.pg_get_constraintdef(c.oid) AS definition,
         c.convalidated AS validated
    FROM pg_catalog.pg_constraint c WHERE c.contypid = ANY ($1::oid[]) AND c.contype = 'c'
   ORDER BY c.contypid, c.conname COLLATE "C"`;

const ATTRIBUTES = `
  SELECT t.oid::bigint AS type, a.attname::text AS name,
         pg_catalog.format_type(a.atttypid, a.atttypmod) AS attribute_type,
         ${collation('a.attcollation', 'a.atttypid')}
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
   WHERE t.oid = ANY ($1::oid[]) AND t.typtype = 'c'
   ORDER BY t.oid, a.attnum`;

const RANGES = `
  SELECT r.rngtypid::bigint AS type, pg_catalog.format_type(r.rngsubtype, NULL) AS subtype,
         CASE WHEN NOT o.opcdefault THEN quote_ident(n.nspname) || '.' || quote_ident(o.opcname) END AS own_opclass,
         ${collation('r.rngcollation', 'r.rngsubtype')},
         CASE WHEN r.rngcanonical <> 0 THEN r.rngcanonical::text END AS canonical,
         CASE WHEN r.rngsubdiff <> 0 THEN r.rngsubdiff::text END AS subtype_diff,
         m.typname::text AS multirange
    FROM pg_catalog.pg_range r
    JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc
    JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace
    JOIN pg_catalog.pg_type m ON m.oid = r.rngmultitypid
   WHERE r.rngtypid = ANY ($1::oid[])`;

async function select<Row>(client: pg.ClientBase, sql: string, oids: readonly number[]): Promise<Row[]> {
  return oids.length === 0 ? [] : selectRows<Row>(client, sql, [oids]);
}

function groupBy<Row extends OfType>(rows: readonly Row[]): Map<number, Row[]> {
  const groups = new Map<number, Row[]>();
  for (const row of rows) {
    const group = groups.get(row.type);
    if (group === undefined) groups.set(row.type, [row]);
    else group.push(row);
  }
  return groups;
}

/** By name, each after what it is made of; names decide, not oids, so that the order is the same in every database. */
function inOrderOfCreation(own: readonly TypeRow[], all: readonly TypeRow[]): TypeRow[] {
  const byOid = new Map(all.map((type) => [type.oid, type]));
  const wanted = new Set(own.map((type) => type.oid));
  const sorted: TypeRow[] = [];
  const seen = new Set<number>();
  const visit = (type: TypeRow): void => {
    if (seen.has(type.oid)) return;
    seen.add(type.oid);
    for (const part of byName(type.parts.flatMap((oid) => byOid.get(oid) ?? []))) visit(part);
    if (wanted.has(type.oid)) sorted.push(type);
  };
  for (const type of byName(own)) visit(type);
  return sorted;
}

function byName(types: readonly TypeRow[]): TypeRow[] {
  return types.toSorted((a, b) => compare(a.schema, b.schema) || compare(a.name, b.name));
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
