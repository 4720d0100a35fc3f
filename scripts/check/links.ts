import { existsSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join, normalize, relative } from 'node:path';
import { committedFiles, ROOT } from '../lib/project.ts';
import type { Verdict } from '../lib/steps.ts';
import { anchorsOf, linksOf } from './markdown.ts';

const REQUIRED = [
  'README.md',
  'QUICKSTART.md',
  'IMPLEMENTATION.md',
  'CHANGELOG.md',
  'LICENSE',
  'docs/errors.md',
];

/** The documents that must be there, and every relative link of every committed Markdown file. */
export async function checkDocuments(): Promise<Verdict> {
  const committed = await committedFiles();
  const documents = committed.filter((path) => path.endsWith('.md'));
  const problems = REQUIRED.filter((path) => !committed.includes(path)).map((path) => `${path} is missing.`);
  let links = 0;
  for (const document of documents) {
    const markdown = await readFile(join(ROOT, document), 'utf8');
    for (const { target, line } of linksOf(markdown)) {
      if (/^[a-z][a-z0-9+.-]*:/i.test(target)) continue;
      links += 1;
      const why = await brokenBecause(document, markdown, target);
      if (why !== undefined) problems.push(`${document}:${line} links to ${target}: ${why}`);
    }
  }
  return { seen: `${documents.length} documents, ${links} relative links`, problems };
}

async function brokenBecause(
  document: string,
  markdown: string,
  target: string,
): Promise<string | undefined> {
  const [path = '', anchor] = decodeURIComponent(target).split('#');
  const file = path === '' ? document : normalize(join(dirname(document), path));
  if (path.startsWith('/') || relative('.', file).startsWith('..')) return 'it leaves the repository.';
  if (!existsSync(join(ROOT, file))) return 'there is no such file.';
  if (anchor === undefined || !file.endsWith('.md') || !statSync(join(ROOT, file)).isFile()) return undefined;
  const there = path === '' ? markdown : await readFile(join(ROOT, file), 'utf8');
  return anchorsOf(there).has(anchor) ? undefined : 'there is no such heading.';
}
