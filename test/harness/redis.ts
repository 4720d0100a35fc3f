import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { REDIS, requireProgram } from './debian-package.ts';
import { freePort } from './free-port.ts';

/** A Redis for tests. Where TEST_REDIS_URL names it, everything that would touch it as a whole is refused. */
export interface RedisServer extends AsyncDisposable {
  readonly url: string;
  /** SIGSTOP: connections stay open and nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** SIGKILL: the data is gone. */
  kill(): Promise<void>;
  /** Starts again after `kill`, on the same port, empty. */
  restart(): Promise<void>;
  /** FLUSHALL. */
  flush(): Promise<void>;
  /** Harmless when repeated. */
  stop(): Promise<void>;
}

/**
 * The server that TEST_REDIS_URL names, unless the test needs to control its server; else a private one on a random
 * port of 127.0.0.1, without persistence. It is gone after `stop()` and when this process ends in any other way.
 * Without `redis-server` or `valkey-server` on the PATH it installs Debian's package, where it may.
 */
export async function startRedis(
  options: {
    readonly control?: 'needed' | 'not-needed';
    readonly settings?: Readonly<Record<string, string>>;
  } = {},
): Promise<RedisServer> {
  const given = process.env.TEST_REDIS_URL;
  if (given && (options.control ?? 'not-needed') === 'not-needed') return named(given);
  return ownServer(await requireProgram(REDIS), options.settings ?? {});
}

async function ownServer(file: string, settings: Readonly<Record<string, string>>): Promise<RedisServer> {
  const folder = await mkdtemp(join(tmpdir(), 'care-redis-'));
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}`;
  let server: ChildProcess | undefined;
  let guard: { release(): void } | undefined;

  const start = async (): Promise<void> => {
    const all = { port: `${port}`, bind: '127.0.0.1', dir: folder, save: '', appendonly: 'no', ...settings };
    const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
    const child = spawn(file, args, { stdio: 'ignore' });
    child.on('error', () => {});
    server = child;
    guard = spawnGuard(child.pid, folder);
    await answers(url, child);
  };
  const kill = async (): Promise<void> => {
    const child = server;
    server = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    guard?.release();
  };
  const stop = async (): Promise<void> => {
    await kill();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url,
    pause: () => void server?.kill('SIGSTOP'),
    resume: () => void server?.kill('SIGCONT'),
    kill,
    restart: start,
    flush: () => command(url, (client) => client.flushall()),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function named(url: string): RedisServer {
  const refuse = (): never => {
    throw new Error('TEST_REDIS_URL names a server that is not the test’s: ask for { control: "needed" }');
  };
  return {
    url,
    pause: refuse,
    resume: refuse,
    kill: async () => refuse(),
    restart: async () => refuse(),
    flush: async () => refuse(),
    stop: async () => {},
    [Symbol.asyncDispose]: async () => {},
  };
}

async function answers(url: string, child: ChildProcess): Promise<void> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    try {
      return await command(url, (client) => client.ping());
    } catch (error) {
      if (child.exitCode !== null) throw new Error(`redis ended with status ${child.exitCode}`);
      if (Date.now() > deadline) throw new Error('redis did not answer within 15 s', { cause: error });
    }
    await sleep(20);
  }
}

async function command(url: string, work: (client: Redis) => Promise<unknown>): Promise<void> {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 });
  client.on('error', () => {});
  try {
    await client.connect();
    await work(client);
  } finally {
    client.disconnect();
  }
}

/** A shell on a pipe that closes when this process ends, however it ends: then it ends the server. */
function spawnGuard(pid: number | undefined, folder: string): { release(): void } {
  const script = 'read -r word; test "$word" = done && exit 0; kill -KILL "$1"; rm -rf "$2"';
  const guard = spawn('/bin/sh', ['-c', script, 'care-redis-guard', `${pid}`, folder], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.on('error', () => {});
  guard.unref();
  const { stdin } = guard;
  stdin.on('error', () => {});
  if ('unref' in stdin && typeof stdin.unref === 'function') stdin.unref();
  return { release: () => void stdin.end('done\n') };
}
