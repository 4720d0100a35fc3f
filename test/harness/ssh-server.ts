import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { requireProgram, SSHD } from './debian-package.ts';
import { freePort } from './free-port.ts';

/** An OpenSSH server of the test's own, with its own keys, on 127.0.0.1. Files below `folder` vanish with it. */
export interface SshServer extends AsyncDisposable {
  readonly port: number;
  /** `ssh-ed25519 AAAA...` */
  readonly hostKey: string;
  /** `ssh-rsa AAAA...`: the server has two keys. */
  readonly rsaHostKey: string;
  readonly username: string;
  /** What logs this user in, in OpenSSH's format; the second needs the passphrase `test passphrase`. */
  readonly privateKey: string;
  readonly encryptedPrivateKey: string;
  /** An empty folder for the test's storages. */
  readonly folder: string;
  /** Processes that serve connections now. */
  connections(): number[];
  /** SIGKILL to those; the server itself goes on. */
  killConnections(): void;
  /** SIGSTOP and SIGCONT to those: the connections stay open and nothing answers. */
  pauseConnections(): void;
  resumeConnections(): void;
  /** Harmless when repeated. */
  stop(): Promise<void>;
}

/**
 * Starts `sshd` on a random port, for the user that runs the test, with a key made for it. It reads nothing of /etc/ssh
 * and of the user's own keys. Without sshd it installs Debian's package, where it may. What stays on the machine: the
 * package, and as root the empty folder /run/sshd, without which sshd does not start.
 */
export async function startSshServer(options: { readonly subsystem?: string } = {}): Promise<SshServer> {
  // sshd starts itself again for each connection: its path is absolute.
  const program = await requireProgram(SSHD);
  // In memory where that is possible: thousands of fsyncs on a busy disk would be most of the time of a suite.
  const base = await mkdtemp(join(isWritable('/dev/shm') ? '/dev/shm' : tmpdir(), 'care-sshd-'));
  const folder = join(base, 'files');
  const file = (name: string): string => join(base, name);
  const keygen = (name: string, type: string, passphrase: string): void =>
    void execFileSync('ssh-keygen', [
      '-q',
      '-t',
      type,
      ...(type === 'rsa' ? ['-b', '2048'] : []),
      '-N',
      passphrase,
      '-C',
      '',
      '-f',
      file(name),
    ]);
  await mkdir(folder);
  keygen('host', 'ed25519', '');
  keygen('host-rsa', 'rsa', '');
  keygen('user', 'ed25519', '');
  keygen('user-encrypted', 'ed25519', 'test passphrase');
  const keys = await Promise.all(
    ['user.pub', 'user-encrypted.pub'].map((name) => readFile(file(name), 'utf8')),
  );
  await writeFile(file('authorized'), keys.join(''));
  const port = await freePort();
  const settings = [
    `Port ${port}`,
    'ListenAddress 127.0.0.1',
    `HostKey ${file('host')}`,
    `HostKey ${file('host-rsa')}`,
    `AuthorizedKeysFile ${file('authorized')}`,
    'PidFile none',
    'StrictModes no',
    'UsePAM no',
    'PermitRootLogin yes',
    'PasswordAuthentication yes',
    'PermitEmptyPasswords no',
    'MaxStartups 100',
    'MaxAuthTries 20',
    `Subsystem sftp ${options.subsystem ?? 'internal-sftp'}`,
  ];
  await writeFile(file('config'), `${settings.join('\n')}\n`);
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 });

  const server = spawn(program, ['-D', '-e', '-f', file('config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  server.stderr.on('data', (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-4_000);
  });
  const guard = spawnGuard(server.pid, base);
  const stop = async (): Promise<void> => {
    for (const pid of descendantsOf(server.pid)) kill(pid, 'SIGKILL');
    await end(server);
    await rm(base, { recursive: true, force: true });
    guard.release();
  };
  const signalAll = (signal: NodeJS.Signals): void => {
    for (const pid of descendantsOf(server.pid)) kill(pid, signal);
  };
  try {
    await answers(port, server, () => log);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    port,
    hostKey: (await readFile(file('host.pub'), 'utf8')).trim(),
    rsaHostKey: (await readFile(file('host-rsa.pub'), 'utf8')).trim(),
    username: userInfo().username,
    privateKey: await readFile(file('user'), 'utf8'),
    encryptedPrivateKey: await readFile(file('user-encrypted'), 'utf8'),
    folder,
    connections: () => descendantsOf(server.pid),
    killConnections: () => signalAll('SIGKILL'),
    pauseConnections: () => signalAll('SIGSTOP'),
    resumeConnections: () => signalAll('SIGCONT'),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function descendantsOf(pid: number | undefined): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
    return children.flatMap((child) => [Number(child), ...descendantsOf(Number(child))]);
  } catch {
    return [];
  }
}

/** A process that has ended meanwhile needs no signal. */
function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  const ended = new Promise((resolve) => server.once('exit', resolve));
  server.kill('SIGKILL');
  await ended;
}

async function answers(port: number, server: ChildProcess, log: () => string): Promise<void> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    if (await accepts(port)) return;
    if (server.exitCode !== null) throw new Error(`sshd ended with status ${server.exitCode}: ${log()}`);
    if (Date.now() > deadline) throw new Error(`sshd did not answer within 15 s: ${log()}`);
    await sleep(20);
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** A shell on a pipe that closes when this process ends, however it ends: then it ends the server. */
function spawnGuard(pid: number | undefined, folder: string): { release(): void } {
  const script =
    'read -r word; test "$word" = done && exit 0; ' +
    'for child in $(cat "/proc/$1/task/$1/children"); do kill -KILL "$child"; done; ' +
    'kill -KILL "$1"; rm -rf "$2"';
  const guard = spawn('/bin/sh', ['-c', script, 'care-sshd-guard', `${pid}`, folder], {
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
