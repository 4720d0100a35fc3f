import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { committedFiles, ROOT } from '../lib/project.ts';
import { run } from '../lib/run.ts';
import type { Verdict } from '../lib/steps.ts';

const MACHINE_PATH = /(?<![\w.*-])\/(?:work|root|tmp\/me)\/[^\s'"`)]*/;

const GENERATED = [
  /(?:^|\/)(?:node_modules|dist|coverage|reports|\.bench|\.demo|\.cache)\//,
  /\.(?:tgz|log|tsbuildinfo|map|d\.ts)$/,
  /^(?:src|scripts|test|bench|examples)\/.*\.[cm]?js$/,
];

/** No path of somebody's machine in a text, no generated file. */
export async function checkCommitted(): Promise<Verdict> {
  const files = await committedFiles();
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--ignored', '--exclude-standard']);
  const ignored = stdout.split('\0').filter((path) => path !== '');
  const problems = [
    ...ignored.map((path) => `${path} is committed although .gitignore names it.`),
    ...files.filter(isGenerated).map((path) => `${path} is generated: do not commit it.`),
  ];
  if (files.length === 0) problems.push('git lists no file: nothing was looked at.');
  for (const path of files) {
    const content = await readFile(join(ROOT, path));
    if (content.subarray(0, 8192).includes(0)) continue;
    for (const { line, found } of machinePaths(content.toString())) {
      problems.push(`${path}:${line} names a path of one machine: ${found}`);
    }
  }
  return { seen: `${files.length} files`, problems };
}

export function machinePaths(text: string): Array<{ line: number; found: string }> {
  return text.split('\n').flatMap((content, index) => {
    const [found] = MACHINE_PATH.exec(content) ?? [];
    return found === undefined ? [] : [{ line: index + 1, found }];
  });
}

export function isGenerated(path: string): boolean {
  return GENERATED.some((pattern) => pattern.test(path));
}
