import { execFile, spawn } from 'node:child_process';
import { chown, mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A PostgreSQL of its own for a benchmark, with the tools of the same version beside it. */
export interface BenchServer {
  readonly version: string;
  readonly port: number;
  readonly folder: string;
  tool(name: string): string;
  stop(): Promise<void>;
}

/** Settings of a small dedicated server; durability as PostgreSQL ships it. */
const SETTINGS = [
  'shared_buffers=1GB',
  'max_wal_size=8GB',
  'checkpoint_timeout=30min',
  'listen_addresses=127.0.0.1',
];

/**
 * Starts a fresh cluster from Debian's packages (or whatever `pg_config` names): server and `pg_dump` of one version,
 * which `pg_dump` on the PATH, a wrapper on Debian, does not promise.
 */
export async function startBenchServer(): Promise<BenchServer> {
  const bin = await binaries();
  const folder = await mkdtemp(join(tmpdir(), 'care-bench-'));
  const root = process.getuid?.() === 0;
  if (root) {
    const { stdout } = await run('id', ['-u', 'postgres']);
    await chown(folder, Number(stdout), -1);
  }
  const as = async (tool: string, args: readonly string[]): Promise<void> => {
    const [command, rest] = root
      ? ['runuser', ['-u', 'postgres', '--', join(bin, tool), ...args]]
      : [join(bin, tool), args];
    await new Promise<void>((resolve, reject) => {
      const child = spawn(command, [...rest], { stdio: ['ignore', 'ignore', 'inherit'], cwd: folder });
      child.on('error', reject);
      child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`${tool} ended with ${code}`))));
    });
  };
  const data = join(folder, 'data');
  const port = await freePort();
  await as('initdb', ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8']);
  const options = ['-p', String(port), '-k', folder, ...SETTINGS.flatMap((setting) => ['-c', setting])];
  await as('pg_ctl', ['-D', data, '-w', '-l', join(folder, 'log'), '-o', options.join(' '), 'start']);
  const { stdout } = await run(join(bin, 'postgres'), ['--version']);
  return {
    version: stdout.trim(),
    port,
    folder,
    tool: (name) => join(bin, name),
    async stop() {
      await as('pg_ctl', ['-D', data, '-m', 'immediate', 'stop']).catch(() => undefined);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function binaries(): Promise<string> {
  const home = '/usr/lib/postgresql';
  const versions = (await readdir(home).catch(() => [])).sort((a, b) => Number(b) - Number(a));
  if (versions[0] !== undefined) return join(home, versions[0], 'bin');
  const { stdout } = await run('pg_config', ['--bindir']).catch(() => {
    throw new Error(
      "No PostgreSQL server: install Debian's `postgresql` (and `zstd`, `age`) for this benchmark",
    );
  });
  return stdout.trim();
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        typeof address === 'object' && address !== null
          ? resolve(address.port)
          : reject(new Error('no port')),
      );
    });
  });
}
