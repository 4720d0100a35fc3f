import { glob } from 'node:fs/promises';
import { ROOT } from '../lib/project.ts';
import { run } from '../lib/run.ts';
import type { Step, Verdict } from '../lib/steps.ts';

export const formatAndLint: Step = {
  name: 'format and lint',
  async run() {
    const { code, output } = await run('biome', [
      'check',
      '--error-on-warnings',
      '--max-diagnostics=1000',
      '--reporter=concise',
    ]);
    const [seen] = /Checked \d+ files?/.exec(output) ?? [];
    if (seen === undefined || /\b0 files/.test(seen)) return { seen: 'biome', problems: [output] };
    return verdict(seen, code, output, /^[×!] /);
  },
};

export const types: Step = {
  name: 'types',
  async run() {
    let files = 0;
    for await (const _ of glob('{src,test,bench,examples,scripts}/**/*.ts', { cwd: ROOT })) files += 1;
    const everything = await compile('tsconfig.json', `${files} files`);
    if (everything.problems.length > 0) return everything;
    // Once more as the package is built, where a global of the tests cannot hide a mistake.
    return compile('tsconfig.build.json', `${files} files, src also by itself`);
  },
};

export const unusedCode: Step = {
  name: 'unused code',
  async run() {
    const { code, output } = await run('knip', ['--no-progress']);
    return { seen: 'files, exports and dependencies (knip)', problems: code === 0 ? [] : [output] };
  },
};

async function compile(project: string, seen: string): Promise<Verdict> {
  const { code, output } = await run('tsc', ['--noEmit', '--pretty', 'false', '-p', project]);
  return verdict(seen, code, output, /error TS\d+/);
}

/** A problem for each line of the output that begins one, with the lines that belong to it. */
function verdict(seen: string, code: number, output: string, begins: RegExp): Verdict {
  if (code === 0) return { seen, problems: [] };
  const problems: string[] = [];
  for (const line of output.split('\n')) {
    if (begins.test(line)) problems.push(line);
    else if (/^\s+\S/.test(line) && problems.length > 0) problems.push(`${problems.pop()}\n${line}`);
  }
  return { seen, problems: problems.length > 0 ? problems : [output] };
}
