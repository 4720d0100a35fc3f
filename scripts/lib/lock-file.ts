import { z } from 'zod';

const names = z.record(z.string(), z.string()).default({});

const lockFile = z.looseObject({
  packages: z.record(
    z.string(),
    z.looseObject({
      dev: z.boolean().optional(),
      dependencies: names,
      optionalDependencies: names,
    }),
  ),
});

/** A package that another one names and the lock file does not hold. */
export interface MissingPackage {
  readonly name: string;
  /** As the other package names it. */
  readonly version: string;
  /** Path of the other package in the lock file; empty for the project itself. */
  readonly neededBy: string;
  readonly optional: boolean;
}

/**
 * npm writes a lock file without the packages that its registry did not serve, and `npm ci` refuses such a file. That
 * happens to optional packages for other platforms, where a registry holds only some.
 */
export function missingPackages(lock: unknown): MissingPackage[] {
  const { packages } = lockFile.parse(lock);
  return Object.entries(packages).flatMap(([neededBy, { dependencies, optionalDependencies }]) =>
    Object.entries({ ...dependencies, ...optionalDependencies })
      .filter(([name]) => !places(neededBy, name).some((place) => place in packages))
      .map(([name, version]) => ({ name, version, neededBy, optional: name in optionalDependencies })),
  );
}

/** Where a package may lie for another one to find it. */
function places(from: string, name: string): string[] {
  const parents = from.split(/\/?node_modules\//).filter((part) => part !== '');
  return [...parents.keys(), parents.length].map((depth) =>
    [...parents.slice(0, depth), name].map((part) => `node_modules/${part}`).join('/'),
  );
}

/**
 * The lock file with an entry for each optional package that is missing: its version, and the platform that its name
 * tells. The digest is not known; npm checks the download against the registry's own, as `npm install` would.
 */
export function completeLockFile(lock: unknown): unknown {
  const { packages, ...rest } = z.looseObject({ packages: z.record(z.string(), z.unknown()) }).parse(lock);
  const known = lockFile.parse(lock).packages;
  const added = missingPackages(lock).map(({ name, version, neededBy, optional }) => {
    const platform = platformOf(name);
    if (!optional || platform === undefined || !/^\d+\.\d+\.\d+\S*$/.test(version)) {
      throw new Error(`${name}@${version} is missing from the lock file: run npm install.`);
    }
    const { cpu, libc, os } = platform;
    const dev = known[neededBy]?.dev ? { dev: true } : {};
    return [
      `node_modules/${name}`,
      { version, cpu, ...dev, ...(libc && { libc }), optional: true, os },
    ] as const;
  });
  const all = [...Object.entries(packages), ...added].sort(([a], [b]) => a.localeCompare(b, 'en'));
  return { ...rest, packages: Object.fromEntries(all) };
}

const SYSTEMS = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32'];
const PROCESSORS = ['arm', 'arm64', 'ia32', 'loong64', 'ppc64', 'riscv64', 's390x', 'x64'];

function platformOf(name: string): { os: string[]; cpu: string[]; libc?: string[] } | undefined {
  const words = name.split(/[/-]/);
  const os = words.filter((word) => SYSTEMS.includes(word));
  const cpu = words.filter((word) => PROCESSORS.includes(word));
  if (os.length !== 1 || cpu.length !== 1) return undefined;
  if (words.some((word) => word.startsWith('musl'))) return { os, cpu, libc: ['musl'] };
  return words.some((word) => word.startsWith('gnu')) ? { os, cpu, libc: ['glibc'] } : { os, cpu };
}
