import { existsSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { join } from 'node:path';
import { cruise, type ICruiseResult } from 'dependency-cruiser';
import { ROOT, readPackageJson } from '../lib/project.ts';
import type { Verdict } from '../lib/steps.ts';
import { withPlantedTree } from './planted.ts';
import { CONTRACT_FILES, OUTSIDE, PARTS, PROVIDER_SDKS } from './ranks.ts';

/** One import of one module. */
export interface Import {
  /** As written. */
  readonly specifier: string;
  /** Path of the imported file, relative to the root; of a package or a Node module whatever the cruiser says. */
  readonly path: string;
  readonly kind: 'file' | 'package' | 'node' | 'missing';
  readonly inCycle: boolean;
}

export interface Module {
  readonly path: string;
  readonly imports: readonly Import[];
}

/** Ranks, packages, providers and cycles of the whole tree; and the same on a tree of planted violations. */
export async function checkDependencies(): Promise<Verdict> {
  const { dependencies, peerDependencies } = readPackageJson();
  const published = [...Object.keys(dependencies), ...Object.keys(peerDependencies)];

  const modules = await readModules(ROOT);
  const problems = findViolations(modules, published);
  const sources = modules.filter(({ path }) => path.startsWith('src/'));
  if (sources.length === 0) problems.push('No module of src was looked at.');
  const seen = new Set(sources.map(({ path }) => path));
  for await (const path of glob('src/**/*.ts', { cwd: ROOT })) {
    if (!seen.has(path)) problems.push(`${path} was not looked at.`);
  }

  const planted = await withPlantedTree(async (folder, plants) => {
    const found = findViolations(await readModules(folder), published);
    for (const { what, file, because } of plants) {
      const reasons = found.filter((problem) => problem.startsWith(`${file} `));
      if (because === undefined && reasons.length > 0) {
        problems.push(`The check forbids what is allowed, ${what}: ${reasons.join('; ')}`);
      }
      if (because !== undefined && !reasons.some((reason) => reason.includes(because))) {
        problems.push(`The check misses a planted violation: ${what} (${file}).`);
      }
    }
    return plants.length;
  });

  const imports = modules.reduce((sum, module) => sum + module.imports.length, 0);
  return {
    seen: `${modules.length} modules, ${imports} imports, ${planted} planted cases judged right`,
    problems,
  };
}

async function readModules(root: string): Promise<Module[]> {
  const places = ['src', ...Object.keys(OUTSIDE)].filter((place) => existsSync(join(root, place)));
  const { output } = await cruise(places, {
    baseDir: root,
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    validate: true,
    ruleSet: { forbidden: [{ name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } }] },
  });
  if (typeof output === 'string')
    throw new Error(`dependency-cruiser gave text instead of a graph: ${output}`);
  return output.modules
    .filter(({ followable, source }) => followable !== false && isOurs(source))
    .map(toModule);
}

function toModule({ source, dependencies }: ICruiseResult['modules'][number]): Module {
  return {
    path: source,
    imports: dependencies.map((dependency) => ({
      specifier: dependency.module,
      path: dependency.resolved,
      kind: kindOf(dependency),
      inCycle: dependency.circular,
    })),
  };
}

function kindOf(dependency: ICruiseResult['modules'][number]['dependencies'][number]): Import['kind'] {
  if (dependency.coreModule) return 'node';
  if (!dependency.module.startsWith('.')) return 'package';
  return dependency.couldNotResolve ? 'missing' : 'file';
}

function isOurs(path: string): boolean {
  return path.startsWith('src/') || placeOf(path) !== undefined;
}

/** Every violation as one line that starts with the path of the importing file and a space. */
export function findViolations(modules: readonly Module[], published: readonly string[]): string[] {
  return modules.flatMap((module) => [
    ...module.imports.flatMap((dependency) =>
      judgeImport(module.path, dependency, published).map((why) => `${module.path} ${why}`),
    ),
    ...judgeFile(module).map((why) => `${module.path} ${why}`),
  ]);
}

function judgeFile({ path, imports }: Module): string[] {
  const reasons: string[] = [];
  if (path.startsWith('src/') && partOf(path) === undefined) {
    reasons.push('belongs to no part of the rank table (scripts/check/ranks.ts).');
  }
  const providers = new Set(imports.flatMap(({ specifier }) => providerOf(specifier) ?? []));
  if (providers.size > 1) reasons.push(`imports more than one provider's SDK: ${[...providers].join(', ')}.`);
  return reasons;
}

function judgeImport(from: string, { specifier, path, kind, inCycle }: Import, published: readonly string[]) {
  const reasons: string[] = [];
  if (kind === 'missing') reasons.push(`imports ${specifier}, which does not exist.`);
  if (inCycle) reasons.push(`imports ${path}, which leads back to it: a cycle.`);
  if (kind === 'file') reasons.push(...judgeFileImport(from, path));

  const part = partOf(from);
  if (part === undefined) return reasons;
  if (kind === 'node' && part.platform === 'browser') {
    reasons.push(`imports ${specifier}; ${part.name} also runs in browsers.`);
  }
  if (kind === 'package') {
    const name = packageOf(specifier);
    if (part.packages !== 'any' && !part.packages.includes(name)) {
      reasons.push(`imports the package ${name}; ${part.name} may import ${listOf(part.packages)}.`);
    } else if (!published.includes(name)) {
      reasons.push(`imports the package ${name}, which a host does not get: it is no dependency or peer.`);
    }
  }
  return reasons;
}

function judgeFileImport(from: string, to: string): string[] {
  const place = placeOf(from);
  if (place !== undefined) {
    const allowed = [`${place}/`, ...(OUTSIDE[place] ?? [])];
    return allowed.some((prefix) => to.startsWith(prefix))
      ? []
      : [`imports ${to}; ${place} may import ${listOf(allowed)}.`];
  }
  const part = partOf(from);
  if (part === undefined) return [];
  if (!to.startsWith('src/')) return [`imports ${to}, which is not published.`];
  const target = partOf(to)?.name;
  if (target === part.name || (target !== undefined && part.imports.includes(target))) return [];
  if (part.contracts === 'yes' && CONTRACT_FILES.some((file) => file === to)) return [];
  const contracts = part.contracts === 'yes' ? ', and the contract files of rank 4' : '';
  return [`imports ${to}; ${part.name} may import ${listOf(part.imports)}${contracts}.`];
}

function partOf(path: string) {
  return PARTS.find(({ name }) => path.startsWith(`src/${name}/`) || path === `src/${name}.ts`);
}

function placeOf(path: string): string | undefined {
  return Object.keys(OUTSIDE).find((place) => path === place || path.startsWith(`${place}/`));
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function providerOf(specifier: string): string | undefined {
  return PROVIDER_SDKS.find((sdk) => specifier === sdk || specifier.startsWith(`${sdk}/`));
}

function listOf(names: readonly string[]): string {
  return names.length === 0 ? 'nothing' : names.join(', ');
}
