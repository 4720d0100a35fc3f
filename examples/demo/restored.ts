/** What else must hold of the restored schema, besides that its rows are the right ones. */
import pg from 'pg';
import { entities } from '../care-platform/entities.ts';
import { andTakeBack, quoted, rowOf, rowsOf } from './database.ts';
import { ORACLE_SCHEMA } from './oracle.ts';

/** Rows in which the other organization's id stands anywhere, or that belong to what is not the organization's. */
export async function foreignRows(
  client: pg.Client,
  schema: string,
  ids: { readonly own: string; readonly other: string },
): Promise<number> {
  let found = 0;
  for (const { table, ...entity } of entities) {
    const organization = 'organization' in entity ? entity.organization : 'organization_id';
    const hasOwn = typeof organization === 'string' && organization !== 'SHARED';
    const notOwn = hasOwn
      ? ` OR t.${quoted(organization)} IS DISTINCT FROM ${pg.escapeLiteral(ids.own)}`
      : '';
    const { rows } = await rowOf<{ rows: string }>(
      client,
      `SELECT count(*) AS rows FROM ${quoted(schema)}.${quoted(table)} t WHERE strpos(t::text, $1) > 0${notOwn}`,
      [ids.other],
    );
    found += Number(rows);
  }
  const { rows } = await rowOf<{ rows: string }>(
    client,
    `SELECT count(*) AS rows FROM ${quoted(schema)}.tasks t
      WHERE NOT EXISTS (SELECT FROM ${ORACLE_SCHEMA}.care_plans p WHERE p.id = t.care_plan_id)`,
  );
  return found + Number(rows);
}

export interface ConstraintFindings {
  readonly all: number;
  /** Of the live schema's constraints, those that the restored one lacks, and the other way round. */
  readonly unlike: readonly string[];
  /** Foreign keys that are not valid, and their rows whose referenced row is not there. */
  readonly open: number;
  readonly orphans: number;
  /** Orphans whose referenced row is not among the soft-deleted ones that the backup left out. */
  readonly unexplained: number;
}

interface Constraint {
  readonly table: string;
  readonly kind: string;
  readonly definition: string;
  readonly valid: boolean;
}

/**
 * Compares keys, checks and foreign keys of every table and partition with the live ones. A live row may refer to a
 * soft-deleted one, which is not in the backup: such a foreign key is declared and not valid, and every orphan must be
 * explained that way.
 */
export async function inspectConstraints(client: pg.Client, schema: string): Promise<ConstraintFindings> {
  const live = await constraintsOf(client, 'public');
  const restored = await constraintsOf(client, schema);
  const describe = ({ table, definition }: Constraint): string => `${table}: ${definition}`;
  const [inLive, inRestored] = [live.map(describe), restored.map(describe)];
  const open = restored.filter(({ valid }) => !valid);
  const findings = { orphans: 0, unexplained: open.filter(({ kind }) => kind !== 'f').length };
  for (const key of await openForeignKeys(client, schema)) {
    const { orphans, unexplained } = await countOrphans(client, schema, key);
    findings.orphans += orphans;
    findings.unexplained += unexplained;
  }
  return {
    all: restored.length,
    unlike: [
      ...inLive.filter((one) => !inRestored.includes(one)),
      ...inRestored.filter((one) => !inLive.includes(one)),
    ],
    open: open.length,
    ...findings,
  };
}

async function constraintsOf(client: pg.Client, schema: string): Promise<Constraint[]> {
  return andTakeBack(client, async () => {
    await client.query(`SET LOCAL search_path = ${quoted(schema)}, public`);
    return rowsOf<{ table: string; kind: string; definition: string; valid: boolean }>(
      client,
      `SELECT c.relname AS table, k.contype AS kind, k.convalidated AS valid,
              replace(replace(pg_get_constraintdef(k.oid), 'public.', ''), ' NOT VALID', '') AS definition
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_class f ON f.oid = k.confrelid
        WHERE k.connamespace = to_regnamespace($1) AND c.relkind = 'r' AND k.contype IN ('p', 'u', 'c', 'f', 'x')
          AND f.relispartition IS NOT TRUE`,
      [quoted(schema)],
    );
  });
}

interface OpenForeignKey {
  readonly from: string;
  readonly to: string;
  readonly own: string[];
  readonly other: string[];
}

const openForeignKeys = (client: pg.Client, schema: string): Promise<OpenForeignKey[]> =>
  rowsOf<{ from: string; to: string; own: string[]; other: string[] }>(
    client,
    `SELECT c.relname AS from, f.relname AS to,
            ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i) AS own,
            ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, i) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i) AS other
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
      WHERE k.connamespace = to_regnamespace($1) AND k.contype = 'f' AND NOT k.convalidated AND c.relkind = 'r'`,
    [quoted(schema)],
  );

async function countOrphans(
  client: pg.Client,
  schema: string,
  key: OpenForeignKey,
): Promise<{ orphans: number; unexplained: number }> {
  const match = (alias: string): string =>
    key.own.map((own, i) => `${alias}.${quoted(key.other[i] ?? '')} = t.${quoted(own)}`).join(' AND ');
  const given = key.own.map((own) => `t.${quoted(own)} IS NOT NULL`).join(' AND ');
  const row = await rowOf<{ orphans: string; unexplained: string }>(
    client,
    `SELECT count(*) AS orphans, count(*) FILTER (WHERE NOT EXISTS (
              SELECT FROM ${ORACLE_SCHEMA}.${quoted(key.to)} o WHERE ${match('o')} AND o.deleted_at IS NOT NULL)) AS unexplained
       FROM ${quoted(schema)}.${quoted(key.from)} t
      WHERE ${given} AND NOT EXISTS (SELECT FROM ${quoted(schema)}.${quoted(key.to)} p WHERE ${match('p')})`,
  );
  return { orphans: Number(row.orphans), unexplained: Number(row.unexplained) };
}

const NEW_ROWS: readonly { readonly table: string; readonly number: string; readonly insert: string }[] = [
  {
    table: 'tasks',
    number: 'id',
    insert: "INSERT INTO tasks (care_plan_id, title) SELECT id, 'new' FROM care_plans LIMIT 1",
  },
  {
    table: 'caregivers',
    number: 'employee_number',
    insert: `INSERT INTO caregivers (organization_id, branch_id, first_name, last_name, hourly_rate, hired_on)
             SELECT organization_id, id, 'New', 'Caregiver', 20, '2026-01-01' FROM branches LIMIT 1`,
  },
  {
    table: 'evv_records',
    number: 'id',
    insert: `INSERT INTO evv_records (organization_id, branch_id, visit_id, client_id, caregiver_id, method, clock_in_at)
             SELECT v.organization_id, v.branch_id, v.id, c.id, g.id, 'MANUAL', now()
               FROM visits v JOIN clients c ON c.id = v.client_id JOIN caregivers g ON g.id = v.caregiver_id LIMIT 1`,
  },
  {
    table: 'invoices',
    number: 'id',
    insert: `INSERT INTO invoices (organization_id, branch_id, client_id, invoice_number, billing_period, issued_on, subtotal)
             SELECT organization_id, branch_id, id, 'NEW-1', '[2026-07-01,2026-07-15)', '2026-07-15', 1 FROM clients LIMIT 1`,
  },
  {
    table: 'payroll',
    number: 'id',
    insert: `INSERT INTO payroll (organization_id, branch_id, caregiver_id, period, hours, gross)
             SELECT organization_id, branch_id, id, '[2099-01-01,2099-01-15)', 1, 1 FROM caregivers LIMIT 1`,
  },
  {
    table: 'audit_log',
    number: 'id',
    insert: `INSERT INTO audit_log (organization_id, table_name, row_key, operation)
             SELECT id, 'visits', 'new', 'INSERT' FROM organizations LIMIT 1`,
  },
];

/** Tables with numbers of their own in which a new row does not get a number past the restored ones. Leaves no row. */
export async function insertNewRows(
  client: pg.Client,
  schema: string,
): Promise<{ inserted: number; wrong: string[] }> {
  return andTakeBack(client, async () => {
    await client.query(`SET LOCAL search_path = ${quoted(schema)}, public`);
    const wrong: string[] = [];
    for (const { table, number, insert } of NEW_ROWS) {
      const { last } = await rowOf<{ last: string | null }>(
        client,
        `SELECT max(${number}) AS last FROM ${table}`,
      );
      await client.query('SAVEPOINT before');
      const [made] = await rowsOf<{ number: string }>(
        client,
        `${insert} RETURNING ${number} AS number`,
      ).catch(
        // A number that is taken; any other refusal shows the same way.
        () => [],
      );
      await client.query('ROLLBACK TO SAVEPOINT before');
      if (made === undefined || Number(made.number) <= Number(last ?? 0)) wrong.push(table);
    }
    return { inserted: NEW_ROWS.length, wrong };
  });
}

export interface RowSecurityFindings {
  readonly protectedTables: number;
  /** Row security and policies are those of the live tables. */
  readonly asRecorded: boolean;
  /** Clients that a role without rights of its own sees: without naming an organization, and naming the own. */
  readonly unnamed: number;
  readonly named: number;
  readonly all: number;
}

const READER = 'care_demo_reader';

/** Compares the policies, then looks as a role that they apply to. Leaves no role. */
export async function inspectRowSecurity(
  client: pg.Client,
  schema: string,
  organization: string,
): Promise<RowSecurityFindings> {
  const live = await rowSecurityOf(client, 'public');
  const restored = await rowSecurityOf(client, schema);
  const seen = await andTakeBack(client, async () => {
    const clients = `${quoted(schema)}.clients`;
    const see = async (): Promise<number> =>
      Number((await rowOf<{ rows: string }>(client, `SELECT count(*) AS rows FROM ${clients}`)).rows);
    const all = await see();
    await client.query(
      `CREATE ROLE ${READER}; GRANT USAGE ON SCHEMA ${quoted(schema)} TO ${READER}; GRANT SELECT ON ${clients} TO ${READER}`,
    );
    await client.query(`SET LOCAL ROLE ${READER}`);
    const unnamed = await see();
    await client.query("SELECT set_config('app.organization_id', $1, true)", [organization]);
    return { all, unnamed, named: await see() };
  });
  return {
    protectedTables: restored.filter((line) => line.endsWith('true')).length,
    asRecorded: live.join('\n') === restored.join('\n'),
    ...seen,
  };
}

async function rowSecurityOf(client: pg.Client, schema: string): Promise<string[]> {
  const rows = await rowsOf<{ line: string }>(
    client,
    `SELECT line FROM (
       SELECT format('%s forced %s enabled %s', relname, relforcerowsecurity::text, relrowsecurity::text) AS line
         FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')
       UNION ALL
       SELECT format('%s %s %s %s %s %s %s', tablename, policyname, permissive, roles, cmd, qual, with_check)
         FROM pg_policies WHERE schemaname = $2) s ORDER BY line COLLATE "C"`,
    [quoted(schema), schema],
  );
  return rows.map(({ line }) => line);
}
