/**
 * The main job on a bare machine: a care platform in an embedded PostgreSQL, an encrypted backup of one of its
 * organizations while it is written to, and the proof that the restored rows are those of the backup's moment;
 * then an offline shift of a field worker's phone. Ends with 0 only if every proof held.
 */
import { once } from 'node:events';
import { DataProtectionError } from '../../src/index.ts';
import { runDemo } from './demo.ts';
import { readOptions, USAGE } from './options.ts';
import { createScreen } from './screen.ts';
import { Workspace } from './workspace.ts';

const INTERRUPTED = 130;

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2), process.env);
  if (options === undefined) {
    console.log(USAGE);
    return 0;
  }
  const screen = createScreen(process.stdout);
  const workspace = new Workspace();
  const removeAndExit = endOnSignal(workspace);
  try {
    const proven = await runDemo(options, workspace, screen);
    if (options.keep) {
      removeAndExit.release();
      screen.line(`\nKept until Ctrl-C: ${workspace.folder} and ${workspace.url ?? 'no server'}`);
      await untilSignal();
    }
    return proven ? 0 : 1;
  } catch (error) {
    if (removeAndExit.signalled()) return INTERRUPTED;
    throw error;
  } finally {
    await workspace.remove();
  }
}

/** On Ctrl-C nothing is waited for: what runs fails when its server goes. */
function endOnSignal(workspace: Workspace) {
  let signalled = false;
  const end = (): void => {
    if (signalled) return;
    signalled = true;
    console.log('\nInterrupted: stopping the server and removing the files');
    workspace.remove().finally(() => process.exit(INTERRUPTED));
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, end);
  return {
    signalled: () => signalled,
    release: () => {
      for (const signal of signals) process.removeListener(signal, end);
    },
  };
}

async function untilSignal(): Promise<void> {
  // A listener alone does not keep the process alive.
  const alive = setInterval(() => undefined, 60_000);
  await Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM'), once(process, 'SIGHUP')]);
  clearInterval(alive);
}

try {
  process.exitCode = await main();
} catch (error) {
  const code = error instanceof DataProtectionError ? `${error.code}: ` : '';
  const text = `${code}${error instanceof Error ? error.message : String(error)}`;
  console.error(`\nThe demo stopped: ${text}`);
  process.exitCode = 1;
}
