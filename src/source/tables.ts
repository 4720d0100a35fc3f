import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';
import type { EntityDefinition } from '../types/entity.ts';
import { DataProtectionError } from '../types/errors.ts';

/** A table or partition as the catalog has it. */
export interface TableNode {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly kind: 'TABLE' | 'PARTITIONED';
  readonly parent: number | null;
}

export interface TableColumn {
  readonly name: string;
  readonly type: string;
  /** Rows with NULL may be there: not declared NOT NULL, or never validated as such (PostgreSQL 18). */
  readonly nullable: boolean;
  /** The type behind its domains. */
  readonly baseType: string;
  /** Schema of the type's own `=` and its kin; null: PostgreSQL's, which need no name under any search_path. */
  readonly operators: string | null;
}

/** An entity's table with its partitions, root first, and the root's columns. */
export interface EntityTable {
  readonly entity: EntityDefinition;
  readonly root: TableNode;
  /** Root, intermediate partitions and leaves; parents before their partitions. */
  readonly nodes: readonly TableNode[];
  /** The nodes that hold rows. */
  readonly leaves: readonly TableNode[];
  readonly columns: ReadonlyMap<string, TableColumn>;
  readonly primaryKey: readonly string[];
  /** Columns of each unique index without expression or predicate whose columns are all NOT NULL. */
  readonly uniqueKeys: readonly (readonly string[])[];
}

interface NodeRow {
  readonly root: number;
  readonly oid: number;
  readonly parent: number | null;
  readonly schema: string;
  readonly name: string;
  readonly relkind: string;
  readonly ispartition: boolean;
  readonly persistence: string;
}

/**
 * Reads the tables of the entities and their partitions with the snapshot of the transaction in force. Partitions
 * whose DETACH CONCURRENTLY is under way are left out, as PostgreSQL's own scans leave them out.
 * Throws `ENTITY_INVALID` for a table that is missing or of a kind that holds no rows of its own.
 */
export async function readTables(
  client: pg.ClientBase,
  entities: readonly EntityDefinition[],
): Promise<EntityTable[]> {
  const roots = await selectRows<{ entity: number; oid: number | null }>(
    client,
    `SELECT e.i AS entity, c.oid::int8 AS oid
       FROM unnest($1::int[], $2::text[], $3::text[]) AS e(i, schema, name)
       LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
         ON n.nspname = e.schema AND c.relname = e.name ORDER BY 1`,
    [entities.map((_, i) => i), entities.map((e) => e.schema), entities.map((e) => e.table)],
  );
  const missing = roots.filter((row) => row.oid === null).map((row) => label(entities[row.entity]));
  if (missing.length > 0) {
    throw new DataProtectionError(
      `There is no table for ${missing.join(', ')}. Correct \`table\` and \`schema\` in defineEntity, or create the table`,
      'ENTITY_INVALID',
    );
  }
  const oids = roots.map((row) => row.oid ?? 0);
  const nodes = await readNodes(client, oids);
  const columns = await readColumns(client, oids);
  const keys = await readKeys(client, oids);
  return entities.map((entity, i) => {
    const own = nodes.filter((node) => node.root === oids[i]);
    for (const node of own) refuseKind(node, entity);
    const tree = own.map(toNode);
    const root = tree[0];
    if (root === undefined)
      throw new DataProtectionError(`The table of ${label(entity)} was dropped meanwhile`, 'SOURCE_CHANGED');
    const ownKeys = keys.filter((key) => key.relation === root.oid);
    return {
      entity,
      root,
      nodes: tree,
      leaves: tree.filter((node) => node.kind === 'TABLE'),
      columns: new Map(columns.filter((c) => c.relation === root.oid).map((c) => [c.name, c])),
      primaryKey: ownKeys.find((key) => key.primary)?.columns ?? [],
      uniqueKeys: ownKeys.map((key) => key.columns),
    };
  });
}

/** One line per table and partition, equal exactly when two readings saw the same tree. */
export const treeFingerprint = (tables: readonly EntityTable[]): string =>
  tables
    .flatMap((table) =>
      table.nodes.map((node) => `${node.oid} ${node.parent} ${node.kind} ${node.schema} ${node.name}`),
    )
    .sort()
    .join('\n');

async function readNodes(client: pg.ClientBase, roots: readonly number[]): Promise<NodeRow[]> {
  return selectRows<NodeRow>(
    client,
    `WITH RECURSIVE tree(root, oid, parent, depth) AS (
       SELECT r, r, NULL::oid, 0 FROM unnest($1::oid[]) AS r
       UNION ALL
       SELECT t.root, i.inhrelid, i.inhparent, t.depth + 1
         FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending
     )
     SELECT t.root::int8 AS root, t.oid::int8 AS oid, t.parent::int8 AS parent, n.nspname AS schema, c.relname AS name,
            c.relkind::text AS relkind, c.relispartition AS ispartition, c.relpersistence::text AS persistence
       FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      ORDER BY t.root, t.depth, n.nspname, c.relname`,
    [roots],
  );
}

async function readColumns(
  client: pg.ClientBase,
  roots: readonly number[],
): Promise<(TableColumn & { relation: number })[]> {
  return selectRows(
    client,
    `WITH RECURSIVE own AS (
       SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
              NOT a.attnotnull OR EXISTS (
                SELECT 1 FROM pg_catalog.pg_constraint k
                 WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]) AS nullable
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     ), base(of_type, oid) AS (
       SELECT DISTINCT o.atttypid, o.atttypid FROM own o
       UNION ALL
       SELECT b.of_type, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
     )
     SELECT o.attrelid::int8 AS relation, o.attname AS name, pg_catalog.format_type(o.atttypid, o.atttypmod) AS type, o.nullable,
            pg_catalog.format_type(t.oid, NULL) AS "baseType",
            (SELECT NULLIF(n.nspname, 'pg_catalog')
               FROM pg_catalog.pg_opclass c
               JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod
               JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
                AND p.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 WHEN 'hash' THEN 1 END
               JOIN pg_catalog.pg_operator x ON x.oid = p.amopopr
               JOIN pg_catalog.pg_namespace n ON n.oid = x.oprnamespace
              WHERE c.opcintype = t.oid AND c.opcdefault ORDER BY m.amname LIMIT 1) AS operators
       FROM own o
       JOIN base b ON b.of_type = o.atttypid
       JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
      ORDER BY o.attrelid, o.attnum`,
    [roots],
  );
}

async function readKeys(
  client: pg.ClientBase,
  roots: readonly number[],
): Promise<{ relation: number; primary: boolean; columns: string[] }[]> {
  return selectRows(
    client,
    `SELECT i.indrelid::int8 AS relation, i.indisprimary AS primary,
            (SELECT array_agg(a.attname::text ORDER BY k.n)
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.n <= i.indnkeyatts) AS columns
       FROM pg_catalog.pg_index i
      WHERE i.indrelid = ANY($1::oid[]) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND NOT EXISTS (SELECT 1 FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
                          JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                         WHERE k.n <= i.indnkeyatts AND (NOT a.attnotnull OR EXISTS (
                           SELECT 1 FROM pg_catalog.pg_constraint nn
                            WHERE nn.conrelid = a.attrelid AND nn.contype = 'n' AND NOT nn.convalidated AND nn.conkey = ARRAY[a.attnum])))
      ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid`,
    [roots],
  );
}

const KINDS: Readonly<Record<string, string>> = {
  v: 'a view',
  m: 'a materialized view',
  f: 'a foreign table',
  i: 'an index',
  S: 'a sequence',
  c: 'a composite type',
  t: 'a TOAST table',
  I: 'an index',
};

function refuseKind(node: NodeRow, entity: EntityDefinition): void {
  const name = `${node.schema}.${node.name}`;
  if (node.relkind !== 'r' && node.relkind !== 'p') {
    throw new DataProtectionError(
      `${name} of ${label(entity)} is ${KINDS[node.relkind] ?? 'no table'}: only tables and partitioned tables can be backed up`,
      'ENTITY_INVALID',
    );
  }
  if (node.persistence === 't') {
    throw new DataProtectionError(`${name} of ${label(entity)} is a temporary table`, 'ENTITY_INVALID');
  }
  if (node.parent !== null && !node.ispartition) {
    throw new DataProtectionError(
      `${name} inherits from the table of ${label(entity)} without being its partition: declare each table as an entity of its own, or use declarative partitioning`,
      'ENTITY_INVALID',
    );
  }
}

const toNode = (row: NodeRow): TableNode => ({
  oid: row.oid,
  schema: row.schema,
  name: row.name,
  kind: row.relkind === 'p' ? 'PARTITIONED' : 'TABLE',
  parent: row.parent,
});

const label = (entity: EntityDefinition | undefined): string =>
  entity === undefined ? 'an entity' : `${entity.type} (${entity.schema}.${entity.table})`;
