import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ERRORS_PAGE, errorsPage } from './lib/errors-page.ts';
import { ROOT } from './lib/project.ts';

// `node scripts/docs.ts --write` writes the generated pages; without it, says whether they are in step.
const path = join(ROOT, ERRORS_PAGE);
const text = errorsPage();
if (process.argv.includes('--write')) {
  await writeFile(path, text);
  console.log(`Wrote ${ERRORS_PAGE}.`);
} else {
  const inStep = (await readFile(path, 'utf8').catch(() => '')) === text;
  console.log(`${ERRORS_PAGE} is ${inStep ? 'in step' : 'out of step: node scripts/docs.ts --write'}.`);
  process.exitCode = inStep ? 0 : 1;
}
