import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lintTarball, packTarball, typesOfTarball } from './build/tarball.ts';
import { installTarball, proveEntries, proveLightness, proveRefusal } from './build/use.ts';
import { proveTypes } from './build/use-types.ts';
import { codeEntries, ROOT, readPackageJson } from './lib/project.ts';
import { run } from './lib/run.ts';
import { runStep, type Step } from './lib/steps.ts';

// Builds dist/, packs it and uses the packed package as a host would. Stops at the first failure.
const packageJson = readPackageJson();
const entries = codeEntries(packageJson);
console.log(`Building ${packageJson.name} ${packageJson.version} with Node ${process.versions.node}`);

const folder = await mkdtemp(join(tmpdir(), 'care-package-'));
const host = join(folder, 'host');
let tarball = '';

const STEPS: readonly Step[] = [
  {
    name: 'compile src to dist',
    async run() {
      await rm(join(ROOT, 'dist'), { recursive: true, force: true });
      const { code, output } = await run('tsc', ['-p', 'tsconfig.build.json', '--pretty', 'false']);
      return { seen: 'tsc -p tsconfig.build.json', problems: code === 0 ? [] : [output] };
    },
  },
  {
    name: 'entry points exist',
    async run() {
      const files = entries.flatMap(({ code, types }) => [code, types]);
      const missing = files.filter((file) => !existsSync(join(ROOT, file)));
      return {
        seen: entries.map(({ name }) => name).join(', '),
        problems: missing.map((file) => `${file} is missing.`),
      };
    },
  },
  {
    name: 'pack',
    async run() {
      const packed = await packTarball(folder);
      tarball = packed.path;
      return packed.verdict;
    },
  },
  { name: 'publint', run: () => lintTarball(tarball) },
  { name: 'types as every resolution sees them (attw)', run: () => typesOfTarball(tarball) },
  { name: 'install in an empty project', run: () => installTarball(host, tarball) },
  { name: 'import and require() every entry point', run: () => proveEntries(host, packageJson) },
  { name: 'the root loads no optional part', run: () => proveLightness(host, packageJson) },
  { name: 'types in a host', run: () => proveTypes(host, packageJson) },
  { name: 'refusal of other Node versions', run: () => proveRefusal(host, packageJson) },
];

try {
  for (const step of STEPS) {
    if (await runStep(step)) continue;
    console.log('The build failed.');
    process.exitCode = 1;
    break;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
if (process.exitCode !== 1) console.log('dist/ is built, and the package works as installed.');
