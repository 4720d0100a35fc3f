import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { run } from './run.ts';

/** The folder of package.json. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

const packageJson = z.object({
  name: z.string(),
  version: z.string(),
  files: z.array(z.string()),
  engines: z.object({ node: z.string() }),
  exports: z.record(
    z.string(),
    z.union([z.string(), z.object({ types: z.string(), default: z.string() }).strict()]),
  ),
  dependencies: z.record(z.string(), z.string()).default({}),
  peerDependencies: z.record(z.string(), z.string()).default({}),
  peerDependenciesMeta: z.record(z.string(), z.object({ optional: z.boolean() })).default({}),
});

export type PackageJson = z.infer<typeof packageJson>;

export function readPackageJson(): PackageJson {
  return packageJson.parse(JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')));
}

/** Entry points that hold code: `./package.json` and other plain files are not among them. */
export function codeEntries({ exports }: PackageJson): Array<{ name: string; types: string; code: string }> {
  return Object.entries(exports).flatMap(([name, target]) =>
    typeof target === 'string' ? [] : [{ name, types: target.types, code: target.default }],
  );
}

/** What is committed or would be by `git add --all`, relative to the root, without what is deleted on disk. */
export async function committedFiles(): Promise<string[]> {
  const list = async (...flags: string[]) => {
    const { code, stdout, output } = await run('git', ['ls-files', '-z', ...flags]);
    if (code !== 0) throw new Error(`git ls-files failed:\n${output}`);
    return stdout.split('\0').filter((path) => path !== '');
  };
  const deleted = new Set(await list('--deleted'));
  const files = await list('--cached', '--others', '--exclude-standard');
  return [...new Set(files)].filter((path) => !deleted.has(path)).sort();
}
