import type pg from 'pg';
import { qualified, quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { LiveEntity } from '../source/source.ts';
import { DataProtectionError } from '../types/errors.ts';

/** A table as it stands now, with what decides how rows can be put into it. */
export interface LiveTable {
  readonly oid: number;
  /** Quoted and qualified. */
  readonly name: string;
  readonly columns: ReadonlyMap<string, LiveColumn>;
  readonly primaryKey: readonly string[];
  /** Equality of each column of the entity's key, qualified. */
  readonly keyOperators: readonly string[];
  readonly uniques: readonly UniqueRule[];
  readonly triggers: readonly LiveTrigger[];
  readonly rights: TableRights;
}

export interface LiveColumn {
  readonly name: string;
  /** Quoted. */
  readonly sql: string;
  /** As it is written under an empty search path. */
  readonly type: string;
  /** As it is written under the path that the archive was described under. */
  readonly archivedAs: string;
  /** `COLLATE ...`, or empty. */
  readonly collate: string;
  /** Values that are equal have equal bytes. */
  readonly deterministic: boolean;
  /** The expression of a generated column. */
  readonly generated: string | null;
  readonly identity: 'ALWAYS' | 'BY DEFAULT' | null;
  readonly required: boolean;
  /** The sequence that it owns and counts up by, quoted and qualified. */
  readonly sequence: string | null;
}

/** A unique index or exclusion constraint beside the key of the entity. */
export interface UniqueRule {
  readonly name: string;
  /** SQL over the columns of one table, unqualified. */
  readonly expressions: readonly string[];
  /** Operator of each expression, qualified. */
  readonly operators: readonly string[];
  readonly predicate: string | null;
  /** The columns that it consists of, without those of expressions. */
  readonly columns: readonly string[];
  /** The columns that it reads. */
  readonly reads: readonly string[];
  readonly nullsEqual: boolean;
}

export interface LiveTrigger {
  readonly table: string;
  readonly name: string;
  /** O, A, R or D, as `pg_trigger.tgenabled`. */
  readonly enabled: string;
  readonly before: boolean;
}

export interface TableRights {
  readonly reachable: boolean;
  readonly select: boolean;
  readonly insert: boolean;
  readonly update: boolean;
  readonly delete: boolean;
  readonly owner: boolean;
  readonly filtered: boolean;
}

/** A foreign key between two tables of the database, of which at least one was asked about. */
export interface ForeignKey {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  /** Quoted and qualified, as `ONLY` does not apply: partitions are seen through their roots. */
  readonly fromName: string;
  readonly toName: string;
  /** Quoted. */
  readonly columns: readonly string[];
  readonly referenced: readonly string[];
  /** Equality of each pair, qualified: `referenced OPERATOR column`. */
  readonly operators: readonly string[];
  readonly onDelete: 'NO ACTION' | 'RESTRICT' | 'CASCADE' | 'SET NULL' | 'SET DEFAULT';
  readonly deferrable: boolean;
  readonly deferred: boolean;
  readonly full: boolean;
  readonly enforced: boolean;
  /** Whether the role owns the table that declares it. */
  readonly owner: boolean;
}

/** Reads the tables of the entities. `RESTORE_TARGET_INCOMPATIBLE` where one is no more. */
export async function readLiveTables(
  client: pg.ClientBase,
  entities: readonly LiveEntity[],
  searchPath: readonly string[],
): Promise<LiveTable[]> {
  const found = await selectRows<TableRights & { i: number; oid: number }>(
    client,
    `SELECT w.i, c.oid::int8 AS oid, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS reachable,
            pg_catalog.has_table_privilege(c.oid, 'SELECT') AS select, pg_catalog.has_table_privilege(c.oid, 'INSERT') AS insert,
            pg_catalog.has_table_privilege(c.oid, 'UPDATE') AS update, pg_catalog.has_table_privilege(c.oid, 'DELETE') AS delete,
            pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owner, pg_catalog.row_security_active(c.oid) AS filtered
       FROM unnest($1::int[], $2::text[], $3::text[]) AS w(i, schema, name)
       JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name ORDER BY w.i`,
    [
      entities.map((_, i) => i),
      entities.map(({ table }) => table.schema),
      entities.map(({ table }) => table.name),
    ],
  );
  const oids = [found.map(({ oid }) => oid)];
  const columns = await selectRows<Omit<LiveColumn, 'sql' | 'archivedAs'> & { relation: number }>(
    client,
    COLUMNS,
    oids,
  );
  const archivedAs = await typesUnder(client, searchPath, oids);
  const uniques = await selectRows<UniqueRule & { relation: number; primary: boolean }>(
    client,
    UNIQUES,
    oids,
  );
  const triggers = await selectRows<LiveTrigger & { relation: number }>(client, TRIGGERS, oids);
  return entities.map((entity, i) => {
    const own = found.find((row) => row.i === i);
    if (own === undefined) {
      throw new DataProtectionError(
        `The table of ${entity.type} was dropped meanwhile`,
        'RESTORE_TARGET_INCOMPATIBLE',
      );
    }
    const { oid, i: _, ...rights } = own;
    const rules = uniques.filter(({ relation }) => relation === oid);
    const ofKey = rules.find((rule) => isKey(entity, rule));
    return {
      oid,
      name: qualified(entity.table),
      columns: new Map(
        columns
          .filter(({ relation }) => relation === oid)
          .map((column) => [
            column.name,
            {
              ...column,
              sql: quoteIdent(column.name),
              archivedAs: archivedAs.get(`${oid} ${column.name}`) ?? column.type,
            },
          ]),
      ),
      primaryKey: rules.find(({ primary }) => primary)?.columns ?? [],
      keyOperators: entity.key.map((column) => ofKey?.operators[ofKey.columns.indexOf(column)] ?? '='),
      uniques: rules.filter((rule) => !isKey(entity, rule)),
      triggers: triggers.filter(({ relation }) => relation === oid),
      rights,
    };
  });
}

const isKey = ({ key }: LiveEntity, { columns, expressions, predicate }: UniqueRule): boolean =>
  predicate === null &&
  columns.length === key.length &&
  expressions.length === key.length &&
  key.every((column) => columns.includes(column));

async function typesUnder(
  client: pg.ClientBase,
  searchPath: readonly string[],
  oids: readonly unknown[],
): Promise<Map<string, string>> {
  await client.query("SELECT pg_catalog.set_config('search_path', $1, false)", [
    searchPath.map(quoteIdent).join(', '),
  ]);
  try {
    const rows = await selectRows<{ relation: number; name: string; type: string }>(
      client,
      `SELECT a.attrelid::int8 AS relation, a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped`,
      oids,
    );
    return new Map(rows.map(({ relation, name, type }) => [`${relation} ${name}`, type]));
  } finally {
    await client.query("SELECT pg_catalog.set_config('search_path', '', false)");
  }
}

const COLUMNS = `
  SELECT a.attrelid::int8 AS relation, a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
         CASE WHEN l.oid IS NULL OR a.attcollation = t.typcollation THEN ''
              ELSE 'COLLATE ' || pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname) END AS collate,
         COALESCE(l.collisdeterministic, true) AS deterministic, CASE WHEN a.attgenerated <> '' THEN pg_catalog.pg_get_expr(g.adbin, g.adrelid) END AS generated,
         CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END AS identity,
         a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,
         (SELECT pg_catalog.quote_ident(sn.nspname) || '.' || pg_catalog.quote_ident(s.relname)
            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
            JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
           WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
             AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i') LIMIT 1) AS sequence
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN (pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace) ON l.oid = a.attcollation
    LEFT JOIN pg_catalog.pg_attrdef g ON g.adrelid = a.attrelid AND g.adnum = a.attnum
   WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`;

/** Unique indexes by the equality of their operator classes, exclusion constraints by their own operators. */
const UNIQUES = `
  SELECT i.indrelid::int8 AS relation, c.relname AS name, i.indisprimary AS primary,
         ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, n::int, false) FROM pg_catalog.generate_series(1, i.indnkeyatts) n) AS expressions,
         ARRAY(SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n] ORDER BY n) AS columns,
         ARRAY(SELECT 'OPERATOR(' || pg_catalog.quote_ident(s.nspname) || '.' || o.oprname || ')'
                 FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n
                 JOIN pg_catalog.pg_opclass x ON x.oid = i.indclass[n]
                 JOIN pg_catalog.pg_operator o ON o.oid = CASE WHEN k.contype = 'x' THEN k.conexclop[n + 1]
                   ELSE (SELECT p.amopopr FROM pg_catalog.pg_amop p WHERE p.amopfamily = x.opcfamily AND p.amoplefttype = x.opcintype
                          AND p.amoprighttype = x.opcintype AND p.amopstrategy = 3) END
                 JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace ORDER BY n) AS operators,
         pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
         ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
                  AND (a.attnum = ANY (i.indkey::int2[]) OR EXISTS (
                    SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                       AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))) AS reads,
         COALESCE((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS "nullsEqual"
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'x'
   WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid AND (i.indisunique OR k.oid IS NOT NULL) ORDER BY 1, 2`;

/** Those of the table and of its partitions, which hold clones of them. */
const TRIGGERS = `
  WITH RECURSIVE tree(root, oid) AS (
    SELECT r, r FROM unnest($1::oid[]) AS r
    UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
  )
  SELECT t.root::int8 AS relation, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS table,
         g.tgname AS name, g.tgenabled::text AS enabled, g.tgtype & 2 <> 0 AS before
    FROM tree t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   ORDER BY 1, 2, 3`;

/**
 * Foreign keys from or to the tables, and on from those that deletes may cascade into. Those of partitions that come with
 * their parent's are left out: the parent's says the same.
 */
export async function readForeignKeys(client: pg.ClientBase, oids: readonly number[]): Promise<ForeignKey[]> {
  const keys = await selectRows<ForeignKey>(
    client,
    `WITH RECURSIVE reached(oid) AS (
       SELECT unnest($1::oid[])
       UNION
       SELECT k.conrelid FROM reached r JOIN pg_catalog.pg_constraint k ON k.confrelid = r.oid AND k.contype = 'f' AND k.confdeltype <> 'a'
     )
     SELECT k.conname AS name, k.conrelid::int8 AS from, k.confrelid::int8 AS to,
            pg_catalog.quote_ident(fn.nspname) || '.' || pg_catalog.quote_ident(f.relname) AS "fromName",
            pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.relname) AS "toName",
            (SELECT array_agg(a.attname::text ORDER BY c.n) FROM unnest(k.conkey) WITH ORDINALITY c(attnum, n)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum) AS columns,
            (SELECT array_agg(a.attname::text ORDER BY c.n) FROM unnest(k.confkey) WITH ORDINALITY c(attnum, n)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.attnum) AS referenced,
            (SELECT array_agg('OPERATOR(' || pg_catalog.quote_ident(s.nspname) || '.' || o.oprname || ')' ORDER BY c.n)
               FROM unnest(k.conpfeqop) WITH ORDINALITY c(operator, n) JOIN pg_catalog.pg_operator o ON o.oid = c.operator
               JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace) AS operators,
            CASE k.confdeltype WHEN 'a' THEN 'NO ACTION' WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL'
                 ELSE 'SET DEFAULT' END AS "onDelete",
            k.condeferrable AS deferrable, k.condeferred AS deferred, k.confmatchtype = 'f' AS full,
            COALESCE((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true) AS enforced,
            pg_catalog.pg_has_role(f.relowner, 'USAGE') AS owner
       FROM pg_catalog.pg_constraint k
       JOIN pg_catalog.pg_class f ON f.oid = k.conrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
       JOIN pg_catalog.pg_class t ON t.oid = k.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
      WHERE k.contype = 'f' AND k.conparentid = 0
        AND (k.conrelid IN (SELECT oid FROM reached) OR k.confrelid IN (SELECT oid FROM reached))
      ORDER BY k.conrelid, k.conname`,
    [oids],
  );
  return keys.map((key) => ({
    ...key,
    columns: key.columns.map(quoteIdent),
    referenced: key.referenced.map(quoteIdent),
  }));
}
