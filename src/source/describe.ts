import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';
import type {
  ColumnRecord,
  ConstraintRecord,
  GrantRecord,
  IndexRecord,
  PolicyRecord,
  RelationRecord,
  SequenceRecord,
} from '../types/contents.ts';
import type { TableNode } from './tables.ts';

/** A relation as the manifest records it, before its rows are counted, with what extraction needs of it besides. */
export interface DescribedRelation {
  readonly oid: number;
  readonly record: Omit<RelationRecord, 'rows' | 'bytes' | 'key'>;
  /** `pg_type` oids of its columns. */
  readonly typeOids: readonly number[];
  /** Columns of type oid, or of a domain over it: they may refer to large objects. */
  readonly oidColumns: readonly string[];
}

/**
 * Reads what is needed to recreate the relations, with the snapshot and `search_path` in force. The tables must be
 * locked: the deparsing functions read the newest catalog, not the snapshot's. Seven queries.
 */
export async function describeRelations(
  client: pg.ClientBase,
  nodes: readonly TableNode[],
): Promise<DescribedRelation[]> {
  const oids = [nodes.map((node) => node.oid)];
  const relations = byRelation(await selectRows<RelationRow>(client, RELATIONS, oids));
  const columns = byRelation(await selectRows<ColumnRow>(client, COLUMNS, oids));
  const constraints = byRelation(await selectRows<ConstraintRow>(client, CONSTRAINTS, oids));
  const indexes = byRelation(await selectRows<IndexRow>(client, INDEXES, oids));
  const policies = byRelation(await selectRows<PolicyRow>(client, POLICIES, oids));
  const grants = byRelation(await selectRows<GrantRow>(client, GRANTS, oids));
  const triggers = byRelation(await selectRows<TriggerRow>(client, TRIGGERS, oids));
  const position = new Map(nodes.map((node, i) => [node.oid, i]));
  return nodes.map((node): DescribedRelation => {
    const own = <T>(rows: ReadonlyMap<number, T[]>): T[] => rows.get(node.oid) ?? [];
    const relation = own(relations)[0];
    const columnRows = own(columns);
    return {
      oid: node.oid,
      typeOids: columnRows.map((row) => row.type_oid),
      oidColumns: columnRows.filter((row) => row.is_oid).map((row) => row.name),
      record: {
        schema: node.schema,
        name: node.name,
        kind: node.kind,
        persistence: relation?.persistence === 'u' ? 'UNLOGGED' : 'PERMANENT',
        parent: node.parent === null ? null : (position.get(node.parent) ?? null),
        partitionBound: relation?.bound ?? null,
        partitionKey: relation?.partition_key ?? null,
        columns: columnRows.map(toColumn),
        constraints: own(constraints).map((row) => toConstraint(row, position)),
        indexes: own(indexes).map(toIndex),
        rowSecurity: relation?.row_security === true ? (relation.forced ? 'FORCED' : 'ENABLED') : 'OFF',
        policies: own(policies).map(toPolicy),
        grants: own(grants).map(
          ({ grantee, privilege, grantable, column }): GrantRecord => ({
            grantee,
            privilege,
            grantable,
            column,
          }),
        ),
        triggers: own(triggers).map(({ name, definition }) => ({ name, definition })),
        options: relation?.options ?? [],
      },
    };
  });
}

/** Sequences that defaults or identities of the relations draw from, without their values. */
export async function describeSequences(
  client: pg.ClientBase,
  nodes: readonly TableNode[],
): Promise<Omit<SequenceRecord, 'lastValue' | 'isCalled'>[]> {
  const rows = await selectRows<SequenceRow>(client, SEQUENCES, [nodes.map((node) => node.oid)]);
  const position = new Map(nodes.map((node, i) => [node.oid, i]));
  return rows.map(({ owner_relation, owner_column, is_identity, data_type, ...row }) => {
    const relation = owner_relation === null ? undefined : position.get(owner_relation);
    return {
      ...row,
      dataType: data_type,
      owner:
        relation === undefined || owner_column === null
          ? null
          : { relation, column: owner_column, identity: is_identity },
    };
  });
}

interface RelationRow {
  readonly relation: number;
  readonly persistence: string;
  readonly bound: string | null;
  readonly partition_key: string | null;
  readonly row_security: boolean;
  readonly forced: boolean;
  readonly options: string[] | null;
}
const RELATIONS = `
  SELECT c.oid::int8 AS relation, c.relpersistence::text AS persistence, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound,
         CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS partition_key,
         c.relrowsecurity AS row_security, c.relforcerowsecurity AS forced, c.reloptions::text[] AS options
    FROM pg_catalog.pg_class c WHERE c.oid = ANY($1::oid[])`;

interface ColumnRow {
  readonly relation: number;
  readonly name: string;
  readonly type: string;
  readonly type_oid: number;
  readonly is_oid: boolean;
  readonly not_null: boolean;
  readonly expression: string | null;
  readonly generated: string;
  readonly identity: string;
  readonly collation: string | null;
  readonly compression: string;
}
/** A NOT NULL that was never validated (PostgreSQL 18) says nothing about the rows that are there. */
const COLUMNS = `
  WITH RECURSIVE base(root, oid) AS (
    SELECT DISTINCT a.atttypid, a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0
    UNION ALL
    SELECT b.root, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
  )
  SELECT a.attrelid::int8 AS relation, a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
         a.atttypid::int8 AS type_oid,
         EXISTS (SELECT 1 FROM base b WHERE b.root = a.atttypid AND b.oid = 26) AS is_oid,
         a.attnotnull AND NOT EXISTS (
           SELECT 1 FROM pg_catalog.pg_constraint k
            WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]) AS not_null,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expression, a.attgenerated::text AS generated, a.attidentity::text AS identity,
         CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
              THEN pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname) END AS collation,
         a.attcompression::text AS compression
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN (pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace) ON co.oid = a.attcollation
   WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`;

const COMPRESSIONS: Readonly<Record<string, string>> = { p: 'pglz', l: 'lz4' };

function toColumn(row: ColumnRow): ColumnRecord {
  const generated = row.generated === '' || row.expression === null ? null : row.expression;
  return {
    name: row.name,
    type: row.type,
    notNull: row.not_null,
    default: generated === null ? row.expression : null,
    generated:
      generated === null
        ? null
        : { kind: row.generated === 'v' ? 'VIRTUAL' : 'STORED', expression: generated },
    identity: row.identity === 'a' ? 'ALWAYS' : row.identity === 'd' ? 'BY DEFAULT' : null,
    collation: row.collation,
    compression: COMPRESSIONS[row.compression] ?? null,
  };
}

interface ConstraintRow {
  readonly relation: number;
  readonly name: string;
  readonly kind: string;
  readonly definition: string;
  readonly inherited: boolean;
  readonly referenced: number | null;
  readonly referenced_schema: string | null;
  readonly referenced_name: string | null;
}
const CONSTRAINTS = `
  SELECT k.conrelid::int8 AS relation, k.conname AS name, k.contype::text AS kind, pg_catalog.pg_get_constraintdef(k.oid) AS definition,
         k.conparentid <> 0 OR NOT k.conislocal AS inherited, NULLIF(k.confrelid, 0)::int8 AS referenced,
         fn.nspname AS referenced_schema, f.relname AS referenced_name
    FROM pg_catalog.pg_constraint k
    LEFT JOIN (pg_catalog.pg_class f JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace) ON f.oid = k.confrelid
   WHERE k.conrelid = ANY($1::oid[]) AND k.contype IN ('p', 'u', 'c', 'x', 'f') ORDER BY k.conrelid, k.contype, k.conname, k.oid`;

const CONSTRAINT_KINDS: Readonly<Record<string, ConstraintRecord['kind']>> = {
  p: 'PRIMARY_KEY',
  u: 'UNIQUE',
  c: 'CHECK',
  x: 'EXCLUDE',
  f: 'FOREIGN_KEY',
};

const toConstraint = (row: ConstraintRow, position: ReadonlyMap<number, number>): ConstraintRecord => ({
  name: row.name,
  kind: CONSTRAINT_KINDS[row.kind] ?? 'CHECK',
  definition: row.definition,
  inherited: row.inherited,
  references: row.referenced === null ? null : (position.get(row.referenced) ?? null),
  referencedTable:
    row.referenced_schema === null || row.referenced_name === null
      ? null
      : { schema: row.referenced_schema, name: row.referenced_name },
});

interface IndexRow {
  readonly relation: number;
  readonly name: string;
  readonly unique: boolean;
  readonly prefix: string;
  readonly definition: string;
  readonly inherited: boolean;
}
/** Indexes of constraints are left out; one that is being dropped CONCURRENTLY has no definition any more. */
const INDEXES = `
  SELECT x.relation, x.name, x.unique, x.prefix, x.definition, x.inherited FROM (
    SELECT i.indrelid::int8 AS relation, c.relname AS name, i.indisunique AS unique,
           'CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX ' || pg_catalog.quote_ident(c.relname) || ' ON '
             || CASE WHEN c.relkind = 'I' THEN 'ONLY ' ELSE '' END
             || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname) || ' ' AS prefix,
           pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
           EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid) AS inherited
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
     WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
  ) x WHERE x.definition IS NOT NULL ORDER BY x.relation, x.name`;

function toIndex(row: IndexRow): IndexRecord {
  const definition = row.definition.startsWith(row.prefix)
    ? row.definition.slice(row.prefix.length)
    : row.definition.slice(row.definition.indexOf(' USING ') + 1);
  return { name: row.name, unique: row.unique, definition, inherited: row.inherited };
}

interface PolicyRow {
  readonly relation: number;
  readonly name: string;
  readonly permissive: boolean;
  readonly command: string;
  readonly roles: string[];
  readonly using: string | null;
  readonly check: string | null;
}
const POLICIES = `
  SELECT p.polrelid::int8 AS relation, p.polname AS name, p.polpermissive AS permissive, p.polcmd::text AS command,
         ARRAY(SELECT CASE WHEN r.oid = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(r.oid)::text END
                 FROM unnest(p.polroles) AS r(oid) ORDER BY 1) AS roles,
         pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS using, pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS check
    FROM pg_catalog.pg_policy p WHERE p.polrelid = ANY($1::oid[]) ORDER BY p.polrelid, p.polname`;

const POLICY_COMMANDS: Readonly<Record<string, PolicyRecord['command']>> = {
  r: 'SELECT',
  a: 'INSERT',
  w: 'UPDATE',
  d: 'DELETE',
};

const toPolicy = (row: PolicyRow): PolicyRecord => ({
  name: row.name,
  permissive: row.permissive,
  command: POLICY_COMMANDS[row.command] ?? 'ALL',
  roles: row.roles,
  using: row.using,
  check: row.check,
});

interface GrantRow extends GrantRecord {
  readonly relation: number;
}
const GRANTS = `
  SELECT g.relation, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(g.grantee)::text END AS grantee,
         g.privilege, g.grantable, g.column FROM (
    SELECT c.oid::int8 AS relation, c.relowner AS owner, x.grantee, x.privilege_type AS privilege, x.is_grantable AS grantable, NULL::text AS column
      FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x WHERE c.oid = ANY($1::oid[])
    UNION ALL
    SELECT c.oid::int8, c.relowner, x.grantee, x.privilege_type, x.is_grantable, a.attname::text
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped,
           pg_catalog.aclexplode(a.attacl) x WHERE c.oid = ANY($1::oid[])
  ) g WHERE g.grantee <> g.owner ORDER BY 1, 2, 3, 5`;

interface TriggerRow {
  readonly relation: number;
  readonly name: string;
  readonly definition: string;
}
const TRIGGERS = `
  SELECT t.tgrelid::int8 AS relation, t.tgname AS name, pg_catalog.pg_get_triggerdef(t.oid) AS definition
    FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ANY($1::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0 ORDER BY 1, 2`;

interface SequenceRow extends Omit<SequenceRecord, 'lastValue' | 'isCalled' | 'owner' | 'dataType'> {
  readonly data_type: string;
  readonly owner_relation: number | null;
  readonly owner_column: string | null;
  readonly is_identity: boolean;
}
const SEQUENCES = `
  WITH used(oid) AS (
    SELECT d.objid FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.refobjid = ANY($1::oid[]) AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    UNION
    SELECT d.refobjid FROM pg_catalog.pg_attrdef f
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass
     WHERE f.adrelid = ANY($1::oid[])
  )
  SELECT n.nspname AS schema, c.relname AS name, pg_catalog.format_type(s.seqtypid, NULL) AS data_type, s.seqstart::text AS start,
         s.seqincrement::text AS increment, s.seqmin::text AS min, s.seqmax::text AS max, s.seqcache::text AS cache, s.seqcycle AS cycle,
         pg_catalog.quote_literal(c.oid::regclass::text) || '::regclass' AS literal,
         COALESCE((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                     'grantee', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END,
                     'privilege', x.privilege_type, 'grantable', x.is_grantable, 'column', NULL) ORDER BY x.grantee, x.privilege_type)
                     FROM pg_catalog.aclexplode(c.relacl) x WHERE x.grantee <> c.relowner), '[]') AS grants,
         o.refobjid::int8 AS owner_relation, a.attname AS owner_column, COALESCE(o.deptype = 'i', false) AS is_identity
    FROM used u
    JOIN pg_catalog.pg_class c ON c.oid = u.oid AND c.relkind = 'S'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
    LEFT JOIN pg_catalog.pg_depend o ON o.classid = 'pg_catalog.pg_class'::regclass AND o.objid = c.oid AND o.deptype IN ('a', 'i')
                                    AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.refobjid = ANY($1::oid[])
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
   ORDER BY n.nspname, c.relname`;

function byRelation<T extends { readonly relation: number }>(rows: readonly T[]): Map<number, T[]> {
  return Map.groupBy(rows, (row) => row.relation);
}
