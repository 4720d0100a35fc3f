import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { MASTER_KEY } from './service-bench.ts';

/** What a child is to do, and where it is to die. */
export interface KillOrder {
  readonly url: string;
  readonly folder: string;
  readonly key: string;
  readonly configurationId: string;
  /** Left out: a backup; given: a restore of this snapshot into `schema`, or into the live tables. */
  readonly snapshotId?: string;
  readonly schema?: string;
  /** A rollback of this restore instead. */
  readonly rollBack?: string;
  /** Triggers of `item` that stand aside for restores. */
  readonly disableTriggers?: readonly string[];
  /** The step to die at, from 1; left out, the child runs to its end unless `atName` is met. */
  readonly at?: number;
  /** The first step whose name holds this. */
  readonly atName?: string;
  /** SIGKILL when left out. */
  readonly signal?: 'SIGKILL' | 'SIGSTOP';
  readonly trace?: boolean;
}

export interface ChildEnd {
  readonly signal: NodeJS.Signals | null;
  readonly code: number | null;
  readonly output: string;
}

export interface Child {
  readonly process: ChildProcess;
  readonly end: Promise<ChildEnd>;
  /** Resolves when the child has written this. */
  said(text: string): Promise<void>;
}

const SCRIPT = fileURLToPath(new URL('./kill-child.ts', import.meta.url));

export function startChild(order: Omit<KillOrder, 'key'>): Child {
  const argument = JSON.stringify({ ...order, key: MASTER_KEY.toString('hex') });
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', SCRIPT, argument], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const waiting: { text: string; resolve: () => void }[] = [];
  const hear = (chunk: Buffer): void => {
    output += chunk.toString();
    for (const { text, resolve } of waiting) if (output.includes(text)) resolve();
  };
  child.stdout.on('data', hear);
  child.stderr.on('data', hear);
  return {
    process: child,
    end: new Promise((resolve) => {
      child.on('close', (code, signal) => resolve({ code, signal, output }));
    }),
    said: (text) =>
      new Promise((resolve) => {
        if (output.includes(text)) resolve();
        else waiting.push({ text, resolve });
      }),
  };
}

export const runChild = (order: Omit<KillOrder, 'key'>): Promise<ChildEnd> => startChild(order).end;

/** A share of the numbers from 1 to `last`, spread evenly from a seed; all of them in a soak. */
export function share(last: number, wanted: number, seed: number): number[] {
  const all = Array.from({ length: last }, (_, index) => index + 1);
  if (process.env.CARE_SOAK === '1' || last <= wanted) return all;
  const every = last / wanted;
  const shift = (seed % 97) / 97;
  return [
    ...new Set(
      Array.from({ length: wanted }, (_, index) => all[Math.floor((index + shift) * every)] ?? last),
    ),
  ];
}
