import { existsSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { codeEntries, type PackageJson, ROOT } from '../lib/project.ts';
import { run } from '../lib/run.ts';
import type { Verdict } from '../lib/steps.ts';
import { EXPECTED_EXPORTS } from './expected-exports.ts';

const MODES = [
  { file: 'node16.mts', module: 'node16', moduleResolution: 'node16' },
  { file: 'required.cts', module: 'nodenext', moduleResolution: 'nodenext' },
  { file: 'bundler.ts', module: 'esnext', moduleResolution: 'bundler' },
] as const;

/** Hosts of each kind compile, with the declarations of every package checked and nothing but @types/node beside. */
export async function proveTypes(host: string, packageJson: PackageJson): Promise<Verdict> {
  const nodeTypes = join('node_modules', '@types', 'node');
  if (!existsSync(join(host, nodeTypes))) {
    await mkdir(dirname(join(host, nodeTypes)), { recursive: true });
    await symlink(join(ROOT, nodeTypes), join(host, nodeTypes));
  }
  const problems: string[] = [];
  for (const { file, ...modules } of MODES) {
    await writeFile(join(host, file), consumer(packageJson, file));
    const compilerOptions = {
      ...modules,
      target: 'es2024',
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
      types: ['node'],
    };
    await writeFile(join(host, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }));
    const { code, output } = await run('tsc', ['-p', 'tsconfig.json', '--pretty', 'false'], { cwd: host });
    if (code !== 0) problems.push(`${file} (${modules.module}, ${modules.moduleResolution}):\n${output}`);
  }
  return { seen: MODES.map(({ file }) => file).join(', '), problems };
}

/** Uses every entry point and every promised name. */
function consumer(packageJson: PackageJson, file: string): string {
  const lines = codeEntries(packageJson).map(({ name }, index) => {
    const specifier = join(packageJson.name, name);
    const names = EXPECTED_EXPORTS[name] ?? [];
    const load = file.endsWith('.cts')
      ? `import entry${index} = require('${specifier}');`
      : `import * as entry${index} from '${specifier}';`;
    return [load, ...names.map((promised) => `void entry${index}.${promised};`)].join('\n');
  });
  return `${lines.join('\n')}\n`;
}
