import { spawn } from 'node:child_process';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const bin = join(root, 'node_modules', '.bin');

export interface CommandOptions {
  /** The project's root when left out. */
  readonly cwd?: string;
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Ends the command after this many milliseconds; it has then failed. */
  readonly limitMs?: number;
}

export interface CommandResult {
  /** 1 also when a signal ended the command. */
  readonly code: number;
  readonly stdout: string;
  /** stdout and stderr in the order of their arrival. */
  readonly output: string;
}

/** Runs a command without a shell and keeps what it prints. Commands of node_modules/.bin are found by name. */
export function run(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...settings(options), stdio: ['ignore', 'pipe', 'pipe'] });
    const everything: Buffer[] = [];
    const stdout: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => {
      everything.push(chunk);
      stdout.push(chunk);
    });
    child.stderr.on('data', (chunk: Buffer) => everything.push(chunk));
    child.on('error', reject);
    child.on('close', (code) =>
      resolve({
        code: code ?? 1,
        stdout: Buffer.concat(stdout).toString(),
        output: Buffer.concat(everything).toString(),
      }),
    );
  });
}

/** Runs a command that prints straight to the terminal; resolves with its exit code. */
export function runVisibly(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...settings(options), stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

function settings({ cwd = root, env = {}, limitMs }: CommandOptions) {
  return {
    timeout: limitMs,
    cwd,
    env: { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH ?? ''}`, ...env },
  };
}
