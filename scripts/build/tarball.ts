import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ROOT } from '../lib/project.ts';
import { run } from '../lib/run.ts';
import type { Verdict } from '../lib/steps.ts';

const packed = z.object({
  filename: z.string(),
  size: z.number(),
  files: z.array(z.object({ path: z.string() })),
});
/** npm 11 prints a list, npm 12 an object by name. */
const packOutput = z.union([z.array(packed), z.record(z.string(), packed)]);

/** What a published file may be. */
const PUBLISHED = [
  /^dist\/.+\.(?:js|d\.ts)$/,
  /^migrations\/[^/]+\.sql$/,
  /^(?:README|QUICKSTART|IMPLEMENTATION|CHANGELOG)\.md$/,
  /^docs\/[a-z-]+\.md$/,
  /^LICENSE$/,
  /^package\.json$/,
];

/** `npm pack` into a folder; every file in it is one that a host needs, and the migrations are all there. */
export async function packTarball(folder: string): Promise<{ path: string; verdict: Verdict }> {
  const { code, stdout, output } = await run('npm', [
    'pack',
    '--json',
    '--ignore-scripts',
    `--pack-destination=${folder}`,
  ]);
  if (code !== 0) throw new Error(output);
  const [result] = Object.values(packOutput.parse(JSON.parse(stdout)));
  if (result === undefined) throw new Error(`npm pack packed nothing:\n${output}`);
  const migrations = await readdir(join(ROOT, 'migrations'));
  return {
    path: join(folder, result.filename),
    verdict: {
      seen: `${result.files.length} files, ${Math.ceil(result.size / 1024)} KiB, ${migrations.length} migrations`,
      problems: fileProblems(
        result.files.map(({ path }) => path),
        migrations.map((name) => `migrations/${name}`),
      ),
    },
  };
}

export function fileProblems(files: readonly string[], migrations: readonly string[]): string[] {
  const required = ['LICENSE', 'README.md', 'dist/index.js', 'dist/index.d.ts', ...migrations];
  const problems = required
    .filter((path) => !files.includes(path))
    .map((path) => `${path} is not in the package.`);
  if (!migrations.some((path) => path.endsWith('.sql'))) problems.push('There is no migration to pack.');
  const strangers = files.filter((path) => !PUBLISHED.some((pattern) => pattern.test(path)));
  return [...problems, ...strangers.map((path) => `${path} does not belong into the package.`)];
}

export async function lintTarball(tarball: string): Promise<Verdict> {
  const { code, output } = await run('publint', ['run', tarball, '--strict']);
  return { seen: 'publint --strict on the tarball', problems: code === 0 ? [] : [output] };
}

/**
 * The package is ESM without a copy in CommonJS. TypeScript calls a `require()` of that an error (cjs-resolves-to-esm)
 * because Node before 22.12 cannot do it; ours can, and `proveEntries` does it. Resolution `node10` knows no `exports`.
 * All else must be right in all ways of resolving.
 */
export async function typesOfTarball(tarball: string): Promise<Verdict> {
  const { code, output } = await run('attw', [
    tarball,
    '--profile=node16',
    '--ignore-rules=cjs-resolves-to-esm',
    '--no-emoji',
    '--no-color',
  ]);
  return { seen: 'node16 from ESM and CommonJS, bundler', problems: code === 0 ? [] : [output] };
}
