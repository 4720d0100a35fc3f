import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import pg from 'pg';
import { type OrganizationTable, rowsPerOrganization, SERVICE_CODE_COUNT } from './ids.ts';
import { type FirstKeys, type Job, jobs, SERVICE_CODES } from './rows.ts';

export { branchIds, organizationId, platformId } from './ids.ts';
export { startWriter, type Writer } from './writer.ts';

/** An open client is used alone and stays open; a configuration is good for as many connections as help. */
export type Connection = pg.Client | pg.PoolClient | pg.ClientConfig | string;

export interface GenerateOptions {
  /** Whole number. The same seed and sizes give the same rows in every column, on every server. */
  seed: number;
  organizations: number;
  /** Per organization; the other tables follow in proportion, see `platformRows`. */
  visits: number;
  onProgress?: (progress: GenerateProgress) => void;
  /** Where `createSchema` made the tables. Default `public`. */
  schema?: string;
}

export interface GenerateProgress {
  table: OrganizationTable;
  rows: number;
  totalRows: number;
}

/** Creates types, tables, triggers and policies in one transaction, and the schema itself where it is missing. */
export async function createSchema(client: pg.ClientBase, schema = 'public'): Promise<void> {
  const name = pg.escapeIdentifier(schema);
  const sql = await readFile(new URL('./schema.sql', import.meta.url), 'utf8');
  await client.query('BEGIN');
  try {
    await client.query(`CREATE SCHEMA IF NOT EXISTS ${name}`);
    await client.query(`SET LOCAL search_path = ${name}`);
    await client.query(sql);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  }
}

/** How many rows `generatePlatform` puts in each table of an empty schema, by table name. */
export function platformRows(size: { organizations: number; visits: number }): Record<string, number> {
  const rows = Object.entries(rowsPerOrganization(size.visits));
  const ofAll = rows.map(([table, count]) => [table, count * size.organizations] as const);
  return { service_codes: SERVICE_CODE_COUNT, ...Object.fromEntries(ofAll) };
}

/**
 * Fills the tables that `createSchema` made. The server computes the rows; foreign keys and checks stay on, the
 * audit and updated_at triggers stand aside for these sessions only (`app.bulk_load`).
 *
 * Not one transaction: what fails leaves what came before. A platform of another seed may be added to it later;
 * its counted keys follow on those that exist.
 */
export async function generatePlatform(target: Connection, options: GenerateOptions): Promise<void> {
  assertSize(options);
  if (target instanceof pg.Client) return loadOn([target], options);

  const config = typeof target === 'string' ? { connectionString: target } : target;
  const clients = Array.from({ length: Math.min(4, availableParallelism()) }, () => new pg.Client(config));
  try {
    await Promise.all(clients.map((client) => client.connect()));
    await loadOn(clients, options);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

function assertSize({ seed, organizations, visits }: GenerateOptions): void {
  if (![seed, organizations, visits].every(Number.isSafeInteger) || organizations < 1 || visits < 1) {
    throw new RangeError('seed, organizations and visits are whole numbers, the last two at least 1');
  }
}

async function loadOn(clients: readonly pg.ClientBase[], options: GenerateOptions): Promise<void> {
  const [first] = clients;
  if (first === undefined) throw new RangeError('no connection to load on');
  const undo = await Promise.all(clients.map((client) => enterLoad(client, options.schema ?? 'public')));
  try {
    await first.query(SERVICE_CODES);
    const groups = jobs({ ...options, firstKeys: await firstKeys(first) });
    const report = progress(options);
    for (const group of groups) await runAll(clients, group, report);
    await first.query(SET_SEQUENCES);
    await first.query(`ANALYZE ${Object.keys(platformRows(options)).join(', ')}`);
  } finally {
    for (const leave of undo) await leave();
  }
}

/** Pins what the rows would otherwise depend on, and returns how to put it back. */
async function enterLoad(client: pg.ClientBase, schema: string): Promise<() => Promise<void>> {
  const settings: Record<string, string> = {
    search_path: pg.escapeIdentifier(schema),
    'app.bulk_load': 'on',
    TimeZone: 'UTC',
    DateStyle: 'ISO, MDY',
    IntervalStyle: 'postgres',
    extra_float_digits: '1',
    standard_conforming_strings: 'on',
    synchronous_commit: 'off',
    jit: 'off',
  };
  const names = Object.keys(settings);
  const { rows } = await client.query<{ name: string; value: string }>(
    "SELECT name, coalesce(current_setting(name, true), '') AS value FROM unnest($1::text[]) AS name",
    [names],
  );
  const set = async (values: Iterable<[string, string]>) => {
    for (const [name, value] of values) await client.query('SELECT set_config($1, $2, false)', [name, value]);
  };
  await set(Object.entries(settings));
  return () => set(rows.map(({ name, value }) => [name, value]));
}

async function firstKeys(client: pg.ClientBase): Promise<FirstKeys> {
  const last = async (table: string, column = 'id') => {
    const { rows } = await client.query<{ last: string }>(
      `SELECT coalesce(max(${column}), 0)::text AS last FROM ${table}`,
    );
    return Number(rows[0]?.last ?? 0);
  };
  return {
    tasks: await last('tasks'),
    evv_records: await last('evv_records'),
    invoices: await last('invoices'),
    payroll: await last('payroll'),
    audit_log: await last('audit_log'),
    caregivers: await last('caregivers', 'employee_number'),
  };
}

const SET_SEQUENCES = [
  ['tasks', 'id'],
  ['evv_records', 'id'],
  ['invoices', 'id'],
  ['payroll', 'id'],
  ['audit_log', 'id'],
  ['caregivers', 'employee_number'],
]
  .map(
    ([table, column]) =>
      `SELECT setval(pg_get_serial_sequence('${table}', '${column}'), max(${column})) FROM ${table}`,
  )
  .join(';');

type Report = (job: Job) => void;

function progress({ organizations, visits, onProgress }: GenerateOptions): Report {
  const totals = new Map(Object.entries(platformRows({ organizations, visits })));
  const done = new Map<OrganizationTable, number>();
  return ({ table, rows: [from, to] }) => {
    const totalRows = totals.get(table) ?? 0;
    const rows = Math.min(totalRows, (done.get(table) ?? 0) + to - from + 1);
    done.set(table, rows);
    onProgress?.({ table, rows, totalRows });
  };
}

/** Spreads the jobs over the clients. After a failure the others finish the job they are at, no more. */
async function runAll(
  clients: readonly pg.ClientBase[],
  group: readonly Job[],
  report: Report,
): Promise<void> {
  const queue = [...group];
  const results = await Promise.allSettled(
    clients.map(async (client) => {
      for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
        try {
          await client.query(job.sql, [...job.rows]);
        } catch (error) {
          queue.length = 0;
          throw error;
        }
        report(job);
      }
    }),
  );
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
