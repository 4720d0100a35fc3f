import { Socket } from 'node:net';
import pg from 'pg';
import { databaseError, sqlState } from './errors.ts';
import { LendingSocket } from './lending-socket.ts';

/**
 * What every session that reads or writes rows pins, whatever the server, the database or the role set. Rows mean the
 * same under the same settings: without them 0.30000000000000004 became 0.3 and 4 March became 3 April.
 */
const ROW_SETTINGS: Readonly<Record<string, string>> = {
  search_path: '',
  row_security: 'off',
  extra_float_digits: '3',
  DateStyle: 'ISO, YMD',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  bytea_output: 'hex',
  xmloption: 'content',
  xmlbinary: 'base64',
  lc_monetary: 'C',
  array_nulls: 'on',
  standard_conforming_strings: 'on',
  backslash_quote: 'safe_encoding',
  transform_null_equals: 'off',
  quote_all_identifiers: 'off',
  default_transaction_read_only: 'off',
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
  check_function_bodies: 'off',
  client_min_messages: 'warning',
  synchronize_seqscans: 'off',
  max_parallel_workers_per_gather: '0',
  jit: 'off',
  tcp_keepalives_idle: '30',
};

/**
 * Settings that are zero on the sessions that hold a snapshot: an idle-in-transaction timeout kills the export.
 * They go first, in statements that take no time, lest they end the statement that sets the others.
 */
const NO_TIMEOUTS = [
  'SET statement_timeout = 0',
  'SET lock_timeout = 0',
  'SET idle_in_transaction_session_timeout = 0',
  'SET idle_session_timeout = 0',
  "SELECT pg_catalog.set_config('transaction_timeout', '0', false) WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL",
];

/** How soon the server ends a session whose client is gone, whatever it waits for. */
const ORPHAN_CHECK = "SET client_connection_check_interval = '500ms'";

/** The settings that decide how a row is written as text; they go into the manifest. */
export const RECORDED_SETTINGS: readonly string[] = [
  'extra_float_digits',
  'DateStyle',
  'IntervalStyle',
  'TimeZone',
  'bytea_output',
  'xmloption',
  'lc_monetary',
];

export interface SessionOptions {
  readonly connection: pg.ClientConfig;
  /** Shown in `pg_stat_activity`. */
  readonly name: string;
  /** Cuts the session, also while it is being opened; what waits for it then rejects. */
  readonly signal?: AbortSignal;
}

/**
 * A connection of its own with every setting pinned. Errors: `DATABASE_UNAVAILABLE`, `DATABASE_FAILED`.
 * The caller ends it with `client.end()`, or destroys it with `destroySession`.
 */
export async function openSession(options: SessionOptions): Promise<pg.Client> {
  const client = new pg.Client({
    ...options.connection,
    application_name: options.name,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    connectionTimeoutMillis: options.connection.connectionTimeoutMillis ?? 30_000,
    statement_timeout: false,
    query_timeout: 0,
    stream: (...given: unknown[]) => (usesTls(given[0]) ? new Socket() : new LendingSocket()),
  });
  // An idle connection that breaks emits 'error'; the next query on it rejects, which is where it is handled.
  client.on('error', () => undefined);
  cutOnAbort(client, options.signal);
  try {
    options.signal?.throwIfAborted();
    await client.connect();
    await pinSettings(client, options.name);
  } catch (error) {
    destroySession(client);
    throw databaseError(error, 'Opening a session');
  }
  return client;
}

/** pg hands over the connection's options; TLS, which they decide on, reads from a plain socket by itself. */
function usesTls(options: unknown): boolean {
  return typeof options !== 'object' || options === null || !('ssl' in options) || Boolean(options.ssl);
}

/** Sets what the server knows of the pinned settings (each version knows its own timeouts) for the session. */
async function pinSettings(client: pg.ClientBase, name: string): Promise<void> {
  // A connection string may name the session too, and pg lets it win: sessions are found again by the library's names.
  const settings = { ...ROW_SETTINGS, application_name: name };
  await client.query(NO_TIMEOUTS.join('; '));
  await client.query(
    `SELECT pg_catalog.set_config(w.name, w.value, false)
       FROM unnest($1::text[], $2::text[]) AS w(name, value)
       JOIN pg_catalog.pg_settings s ON lower(s.name) = lower(w.name)`,
    [Object.keys(settings), Object.values(settings)],
  );
  await client.query(ORPHAN_CHECK).catch((error: unknown) => {
    // 22023: the server's platform cannot tell that a client is gone, and accepts 0 only.
    if (sqlState(error) !== '22023') throw error;
  });
}

/** What the host's triggers may depend on: names without a schema, and how values become text. */
const HOST_SETTINGS = [
  'search_path',
  'extra_float_digits',
  'DateStyle',
  'IntervalStyle',
  'TimeZone',
  'bytea_output',
  'xmloption',
  'xmlbinary',
  'lc_monetary',
  'array_nulls',
  'transform_null_equals',
] as const;

/**
 * Runs statements that fire the host's triggers under the settings that its own sessions begin with, and pins them again.
 * What fails leaves them as they are: for transactions, whose end puts them back.
 */
export async function asHost<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await client.query(HOST_SETTINGS.map((name) => `RESET ${name}`).join('; '));
  const result = await work();
  await client.query(
    'SELECT pg_catalog.set_config(w.name, w.value, false) FROM unnest($1::text[], $2::text[]) AS w(name, value)',
    [[...HOST_SETTINGS], HOST_SETTINGS.map((name) => ROW_SETTINGS[name] ?? '')],
  );
  return result;
}

function cutOnAbort(client: pg.Client, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const cut = (): void => cutConnection(client);
  signal.addEventListener('abort', cut, { once: true });
  client.once('end', () => signal.removeEventListener('abort', cut));
}

/** Cuts the connection at once, whatever it is doing: the server ends the session within `client_connection_check_interval`. */
export function destroySession(client: pg.Client): void {
  cutConnection(client);
  client.end().catch(() => undefined);
}

/** Without `client.end()`, after which pg would never settle a `connect()` that is under way. */
function cutConnection(client: pg.Client): void {
  const { connection } = client as unknown as { connection?: { stream?: { destroy(): void } } };
  connection?.stream?.destroy();
}
