import type pg from 'pg';
import { databaseError, isFilterRefusal, sqlState } from '../postgres/errors.ts';
import { qualified, quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows, selectText } from '../postgres/rows.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { DescribedRelation } from './describe.ts';
import { ROW_ALIAS, type ScopePlan } from './scope.ts';
import type { LiveScope } from './source.ts';
import type { TableNode } from './tables.ts';

/** One COPY statement: the rows of a leaf, or of a range of its pages. */
export interface ExtractionRun {
  readonly part: number;
  readonly entity: string;
  /** `FROM ONLY leaf t WHERE ...`. */
  readonly from: string;
  /** The columns that leave, quoted, under the alias. Generated ones are not among them. */
  readonly columns: string;
  readonly estimatedBytes: number;
}

export interface Leaf {
  readonly node: TableNode;
  readonly part: number;
  readonly entity: string;
  readonly condition: string | null;
  readonly description: DescribedRelation;
}

/** Tables are cut into ranges of at least this size: below it a further statement costs more than it spreads. */
const MINIMUM_RANGE_BYTES = 32 * 1024 * 1024;
/** Ranges per session, so that sessions that were faster take from the rest. */
const RANGES_PER_SESSION = 4;

/** The leaves of a scope with their part numbers, in the order of `relations`. */
export function leavesOf(plan: ScopePlan, relations: readonly DescribedRelation[]): Leaf[] {
  const position = new Map(relations.map((relation, part) => [relation.oid, part]));
  return plan.tables.flatMap(({ entity, condition }) =>
    entity.table.leaves.flatMap((node): Leaf[] => {
      const part = position.get(node.oid);
      const description = part === undefined ? undefined : relations[part];
      if (part === undefined || description === undefined) return [];
      return [{ node, part, entity: entity.definition.type, condition, description }];
    }),
  );
}

/**
 * Plans the statements. A leaf that the planner reads from end to end is split by `ctid` ranges, the last one open
 * (TID range scans, PostgreSQL 14); one that it reaches through an index is read by one statement. Largest first.
 */
export async function planRuns(
  client: pg.ClientBase,
  leaves: readonly Leaf[],
  maxConcurrency: number,
): Promise<ExtractionRun[]> {
  const runs: ExtractionRun[] = [];
  for (const leaf of leaves) {
    const name = qualified(leaf.node);
    const columns = leaf.description.record.columns
      .filter((column) => column.generated === null)
      .map((column) => `${ROW_ALIAS}.${quoteIdent(column.name)}`)
      .join(', ');
    const from = `FROM ONLY ${name} ${ROW_ALIAS}`;
    const where = leaf.condition === null ? [] : [leaf.condition];
    const estimate = await explain(client, `SELECT ${columns} ${from}${whereClause(where)}`, leaf);
    const pages = estimate.scansAll ? await pagesOf(client, leaf.node) : null;
    const ranges = pages === null ? [null] : cut(pages, maxConcurrency);
    for (const range of ranges) {
      runs.push({
        part: leaf.part,
        entity: leaf.entity,
        columns,
        from: `${from}${whereClause([...where, ...(range === null ? [] : [rangeCondition(range)])])}`,
        estimatedBytes: estimate.bytes / ranges.length,
      });
    }
  }
  return runs.sort((a, b) => b.estimatedBytes - a.estimatedBytes);
}

/** Asks the planner for each leaf once, so that a filter value that does not fit its column is said before a run. */
export async function checkConditions(client: pg.ClientBase, plan: ScopePlan): Promise<void> {
  for (const { entity, condition } of plan.tables) {
    const leaf = entity.table.leaves[0];
    if (leaf === undefined || condition === null) continue;
    await explain(client, `SELECT FROM ONLY ${qualified(leaf)} ${ROW_ALIAS} WHERE ${condition}`, {
      entity: entity.definition.type,
    });
  }
}

/** Likewise for the rows that a restore is about, by the conditions on those that stand. */
export async function checkLive(client: pg.ClientBase, { entities }: LiveScope): Promise<void> {
  for (const { type, table, covered } of entities) {
    if (covered === null) continue;
    await explain(client, `SELECT FROM ${qualified(table)} ${ROW_ALIAS} WHERE ${covered}`, { entity: type });
  }
}

interface Estimate {
  readonly scansAll: boolean;
  readonly bytes: number;
}

interface PlanNode {
  readonly 'Node Type': string;
  readonly Alias?: string;
  readonly 'Plan Rows': number;
  readonly 'Plan Width': number;
  readonly Plans?: readonly PlanNode[];
}

async function explain(
  client: pg.ClientBase,
  sql: string,
  leaf: { readonly entity: string },
): Promise<Estimate> {
  try {
    const plan = await selectText(client, `EXPLAIN (FORMAT JSON) ${sql}`);
    const [{ Plan: root }] = JSON.parse(plan.join('\n')) as readonly [{ readonly Plan: PlanNode }];
    const scan = find(root, ROW_ALIAS);
    return { scansAll: scan?.['Node Type'] === 'Seq Scan', bytes: root['Plan Rows'] * root['Plan Width'] };
  } catch (error) {
    if (VALUE_FAILURES.test(sqlState(error) ?? '')) {
      throw new DataProtectionError(
        `The scope of ${leaf.entity} compares a column with a value that does not fit it (SQLSTATE ${sqlState(error)})`,
        'ENTITY_SCOPE_UNSUPPORTED',
        { cause: error },
      );
    }
    throw databaseError(error, `Planning the scope of ${leaf.entity}`, {
      '42P01': 'SOURCE_CHANGED',
      '3F000': 'SOURCE_CHANGED',
      '42501': isFilterRefusal(error) ? 'SOURCE_FILTERED' : 'SOURCE_PRIVILEGE_MISSING',
    });
  }
}

/** Data exceptions, and operators that the column's type does not have. */
const VALUE_FAILURES = /^(22...|42883|42804|42725|42601)$/;

function find(node: PlanNode, alias: string): PlanNode | undefined {
  if (node.Alias === alias) return node;
  for (const child of node.Plans ?? []) {
    const found = find(child, alias);
    if (found !== undefined) return found;
  }
  return undefined;
}

interface Pages {
  readonly pages: number;
  /** Bytes of a page with its share of what is stored out of line. */
  readonly weight: number;
}

async function pagesOf(client: pg.ClientBase, node: TableNode): Promise<Pages> {
  const [row] = await selectRows<{ pages: number; bytes: number }>(
    client,
    `SELECT pg_catalog.pg_relation_size($1::oid) / pg_catalog.current_setting('block_size')::int8 AS pages,
            pg_catalog.pg_table_size($1::oid) AS bytes`,
    [node.oid],
  );
  return { pages: row?.pages ?? 0, weight: row === undefined || row.pages === 0 ? 0 : row.bytes / row.pages };
}

type Range = { readonly from: number; readonly to: number | null };

function cut({ pages, weight }: Pages, maxConcurrency: number): readonly (Range | null)[] {
  const count = Math.min(
    maxConcurrency * RANGES_PER_SESSION,
    Math.floor((pages * weight) / MINIMUM_RANGE_BYTES),
  );
  if (count <= 1) return [null];
  const size = Math.ceil(pages / count);
  return Array.from({ length: count }, (_, i) => ({
    from: i * size,
    to: i === count - 1 ? null : (i + 1) * size,
  }));
}

const rangeCondition = ({ from, to }: Range): string => {
  const lower = `${ROW_ALIAS}.ctid >= ${quoteLiteral(`(${from},0)`)}::tid`;
  return to === null ? lower : `${lower} AND ${ROW_ALIAS}.ctid < ${quoteLiteral(`(${to},0)`)}::tid`;
};

const whereClause = (conditions: readonly string[]): string =>
  conditions.length === 0 ? '' : ` WHERE ${conditions.join(' AND ')}`;
