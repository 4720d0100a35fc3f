import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { completeLockFile, missingPackages } from './lib/lock-file.ts';
import { ROOT } from './lib/project.ts';

// `node scripts/lock.ts` after each change of the dependencies: completes package-lock.json for other platforms.
const path = join(ROOT, 'package-lock.json');
const lock: unknown = JSON.parse(await readFile(path, 'utf8'));
const missing = missingPackages(lock);
for (const { name, version } of missing) console.log(`Adding ${name}@${version}`);
await writeFile(path, `${JSON.stringify(completeLockFile(lock), null, 2)}\n`);
console.log(`package-lock.json is complete; ${missing.length} entries added.`);
