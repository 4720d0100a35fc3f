import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkCodeBlocks } from './check/code-blocks.ts';
import { checkCommitted } from './check/committed.ts';
import { checkDependencies } from './check/dependencies.ts';
import { checkDocuments } from './check/links.ts';
import { formatAndLint, types, unusedCode } from './check/tools.ts';
import { ERRORS_PAGE, errorsPage } from './lib/errors-page.ts';
import { missingPackages } from './lib/lock-file.ts';
import { ROOT } from './lib/project.ts';
import { runStep, type Step } from './lib/steps.ts';

/** Everything that holds of the sources without running them. All of it runs, whatever fails. */
const STEPS: readonly Step[] = [
  formatAndLint,
  { name: 'ranks, packages and cycles', run: checkDependencies },
  types,
  unusedCode,
  {
    name: 'error codes documented',
    async run() {
      const inStep = (await readFile(join(ROOT, ERRORS_PAGE), 'utf8').catch(() => '')) === errorsPage();
      const problem = `${ERRORS_PAGE} differs from src/types/errors.ts: run \`node scripts/docs.ts --write\`.`;
      return { seen: ERRORS_PAGE, problems: inStep ? [] : [problem] };
    },
  },
  {
    name: 'lock file complete',
    async run() {
      const lock: unknown = JSON.parse(await readFile(join(ROOT, 'package-lock.json'), 'utf8'));
      const missing = missingPackages(lock).map(({ name, version }) => `${name}@${version}`);
      const problem = `npm ci will refuse it: run \`node scripts/lock.ts\`. Missing: ${missing.join(', ')}`;
      return { seen: 'package-lock.json', problems: missing.length === 0 ? [] : [problem] };
    },
  },
  { name: 'documents and links', run: checkDocuments },
  { name: 'code in documents', run: checkCodeBlocks },
  { name: 'committed files', run: checkCommitted },
];

console.log(`Checking ${ROOT} with Node ${process.versions.node}`);
let failed = 0;
for (const step of STEPS) if (!(await runStep(step))) failed += 1;
console.log(
  failed === 0 ? `All ${STEPS.length} checks passed.` : `${failed} of ${STEPS.length} checks failed.`,
);
process.exitCode = failed === 0 ? 0 : 1;
