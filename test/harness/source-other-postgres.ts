import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const ROOT = '/usr/lib/postgresql';

/** Major versions that Debian's packages have put on this machine, with their programs. */
export const otherPostgres: readonly { readonly version: number; readonly bin: string }[] = (
  existsSync(ROOT) ? readdirSync(ROOT) : []
)
  .map((name) => ({ version: Number(name), bin: join(ROOT, name, 'bin') }))
  .filter(({ version, bin }) => version >= 14 && existsSync(join(bin, 'initdb')))
  .sort((a, b) => a.version - b.version);

export interface OtherServer extends AsyncDisposable {
  readonly url: string;
}

/** Starts one on a random port with a directory of its own; as root it runs under the system user `postgres`. */
export async function startOtherPostgres(bin: string): Promise<OtherServer> {
  const as: { uid?: number; gid?: number } = process.getuid?.() === 0 ? idsOf('postgres') : {};
  const directory = mkdtempSync(join(tmpdir(), 'care-other-postgres-'));
  const password = randomBytes(12).toString('hex');
  const passwordFile = join(directory, 'password');
  writeFileSync(passwordFile, password, { mode: 0o600 });
  const { uid, gid } = as;
  if (uid !== undefined && gid !== undefined)
    for (const path of [directory, passwordFile]) chownSync(path, uid, gid);
  const data = join(directory, 'data');
  execFileSync(
    join(bin, 'initdb'),
    [
      '-D',
      data,
      '-U',
      'postgres',
      '-E',
      'UTF8',
      '--no-locale',
      '--no-sync',
      '-A',
      'scram-sha-256',
      `--pwfile=${passwordFile}`,
    ],
    { ...as, cwd: directory, stdio: 'ignore' },
  );
  const port = await freePort();
  const settings = [
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    'fsync=off',
    'max_connections=60',
  ];
  const server = spawn(
    join(bin, 'postgres'),
    ['-D', data, ...settings.flatMap((setting) => ['-c', setting])],
    {
      ...as,
      cwd: directory,
      stdio: 'ignore',
    },
  );
  const ended = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  const stop = (): void => void server.kill('SIGQUIT');
  process.once('exit', stop);
  const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  for (let tries = 0; ; tries += 1) {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    const connected = await client.connect().then(
      () => true,
      () => false,
    );
    await client.end().catch(() => undefined);
    if (connected) break;
    if (tries > 100) throw new Error(`${bin}/postgres did not start`);
    await sleep(100);
  }
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      process.off('exit', stop);
      server.kill('SIGINT');
      await ended;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function idsOf(user: string): { uid: number; gid: number } {
  const id = (flag: string): number => Number(execFileSync('id', [flag, user], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
