import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import ts from 'typescript';
import { codeEntries, committedFiles, ROOT, readPackageJson } from '../lib/project.ts';
import type { Verdict } from '../lib/steps.ts';
import { splitMarkdown } from './markdown.ts';

const OTHER_NAMES = ['typescript', 'tsx', 'mts', 'cts', 'js', 'javascript', 'mjs', 'cjs', 'jsx'];

/**
 * Type-checks every `ts` block of the documents against the sources, as a module of its own. A block whose fence
 * says `ts continued` is one module with the block before it. Nothing else may stand behind `ts`.
 */
export async function checkCodeBlocks(): Promise<Verdict> {
  const problems: string[] = [];
  const modules = new Map<string, string>();
  let count = 0;
  for (const document of (await committedFiles()).filter((path) => path.endsWith('.md'))) {
    let last: string | undefined;
    for (const { language, info, line, code } of blocksOf(await readFile(join(ROOT, document), 'utf8'))) {
      if (OTHER_NAMES.includes(language)) problems.push(`${document}:${line} Write the block in \`ts\`.`);
      if (language !== 'ts') continue;
      count += 1;
      if (info !== '' && info !== 'continued') {
        problems.push(`${document}:${line} \`ts ${info}\`: only \`ts\` and \`ts continued\` are checked.`);
        continue;
      }
      const name: string = info === 'continued' && last !== undefined ? last : `${document}.${line}.ts`;
      modules.set(name, atLine(line, modules.get(name) ?? '', code));
      last = name;
    }
  }
  problems.push(...typeErrors(modules));
  return { seen: `${count} blocks in ${modules.size} modules`, problems };
}

function blocksOf(markdown: string) {
  return splitMarkdown(markdown).blocks;
}

/** Appends the code so that its lines have the numbers that they have in the document. */
function atLine(line: number, before: string, code: string): string {
  return `${before}${'\n'.repeat(line - before.split('\n').length)}${code}\n`;
}

/** Type-checks texts as if they were files in the project's root. */
export function typeErrors(modules: ReadonlyMap<string, string>): string[] {
  if (modules.size === 0) return [];
  const options = compilerOptions();
  const texts = new Map([...modules].map(([name, text]) => [pathOf(name), `${text}\nexport {};\n`]));
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile: readText, getSourceFile } = host;
  host.fileExists = (path) => texts.has(path) || fileExists(path);
  host.readFile = (path) => texts.get(path) ?? readText(path);
  host.getSourceFile = (path, language, onError, fresh) => {
    const text = texts.get(path);
    return text === undefined
      ? getSourceFile(path, language, onError, fresh)
      : ts.createSourceFile(path, text, language, true);
  };
  const program = ts.createProgram([...texts.keys()], options, host);
  return [...modules.keys()].flatMap((name) => {
    const file = program.getSourceFile(pathOf(name));
    if (file === undefined) return [`${name} was not looked at.`];
    const found = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
    return found.map(({ start = 0, messageText }) => {
      const line = file.getLineAndCharacterOfPosition(start).line + 1;
      const document = name.replace(/\.\d+\.ts$/, '');
      return `${document}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n  ')}`;
    });
  });
}

/** A flat name, so that a block of docs/ resolves as one of the root does. */
function pathOf(name: string): string {
  return join(ROOT, name.replaceAll('/', '-')).replaceAll('\\', '/');
}

function compilerOptions(): ts.CompilerOptions {
  const file = join(ROOT, 'tsconfig.json');
  const { config, error } = ts.readConfigFile(file, ts.sys.readFile);
  if (error) throw new Error(ts.flattenDiagnosticMessageText(error.messageText, '\n'));
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, ROOT);
  const packageJson = readPackageJson();
  const paths = codeEntries(packageJson).map(({ name, code }) => [
    join(packageJson.name, name),
    [join(ROOT, code.replace(/^\.\/dist\//, 'src/').replace(/\.js$/, '.ts'))],
  ]);
  return {
    ...options,
    noUnusedLocals: false,
    noUnusedParameters: false,
    paths: Object.fromEntries(paths),
  };
}
