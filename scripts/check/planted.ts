import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** A file that imports something, and how the dependency check must judge it. */
export interface Plant {
  readonly what: string;
  readonly file: string;
  readonly text: string;
  /** A part of the reason that must be given; nothing where the import is allowed. */
  readonly because: string | undefined;
}

function wrong(what: string, file: string, text: string, because: string): Plant {
  return { what, file, text, because };
}

function right(what: string, file: string, text: string): Plant {
  return { what, file, text, because: undefined };
}

/** One of every kind of violation, and the exceptions that must stay allowed. */
const PLANTS: readonly Plant[] = [
  wrong('types imports anything', 'src/types/a.ts', `import '../utils/target.ts';`, 'may import'),
  wrong(
    'types imports a package',
    'src/types/b.ts',
    `import type { z } from 'zod'; export type A = z.ZodType;`,
    'imports the package',
  ),
  wrong(
    'a value import upward',
    'src/utils/a.ts',
    `import { x } from '../archive/target.ts'; x();`,
    'may import',
  ),
  wrong(
    'a type import upward',
    'src/utils/b.ts',
    `import type { T } from '../service/target.ts'; export type A = T;`,
    'may import',
  ),
  wrong(
    'an inline type import upward',
    'src/utils/c.ts',
    `import { type T } from '../storage/target.ts'; export type A = T;`,
    'may import',
  ),
  wrong(
    'a type query upward',
    'src/utils/d.ts',
    `export type A = import('../storage/target.ts').T;`,
    'may import',
  ),
  wrong('a re-export upward', 'src/validation/a.ts', `export * from '../archive/target.ts';`, 'may import'),
  wrong(
    'a dynamic import upward',
    'src/archive/a.ts',
    `export const a = () => import('../storage/target.ts');`,
    'may import',
  ),
  wrong(
    'archive and sync import each other',
    'src/archive/b.ts',
    `import '../sync/target.ts';`,
    'may import',
  ),
  wrong('archive knows PostgreSQL', 'src/archive/c.ts', `import '../postgres/target.ts';`, 'may import'),
  wrong('archive knows pg', 'src/archive/d.ts', `import pg from 'pg'; pg;`, 'imports the package'),
  wrong('archive knows a contract', 'src/archive/e.ts', `import '../storage/storage.ts';`, 'may import'),
  wrong('sync knows PostgreSQL', 'src/sync/a.ts', `import '../postgres/target.ts';`, 'may import'),
  wrong('storage knows PostgreSQL', 'src/storage/a.ts', `import '../postgres/target.ts';`, 'may import'),
  wrong(
    'a part of rank 4 imports another',
    'src/source/a.ts',
    `import '../storage/target.ts';`,
    'may import',
  ),
  wrong(
    'a type of another part of rank 4',
    'src/restore/a.ts',
    `import type { T } from '../source/target.ts'; export type A = T;`,
    'may import',
  ),
  wrong('service imports a provider', 'src/service/a.ts', `import '../storage/target.ts';`, 'may import'),
  wrong('service imports postgres', 'src/service/b.ts', `import '../postgres/target.ts';`, 'may import'),
  wrong(
    'worker and monitoring import each other',
    'src/worker/a.ts',
    `import '../monitoring/target.ts';`,
    'may import',
  ),
  wrong('compose imports index', 'src/compose.ts', `import './index.ts';`, 'may import'),
  wrong('cli passes by the index', 'src/cli/a.ts', `import '../service/target.ts';`, 'may import'),
  wrong('client imports a server part', 'src/client/a.ts', `import '../archive/target.ts';`, 'may import'),
  wrong(
    'client imports from node:',
    'src/client/b.ts',
    `import { createHash } from 'node:crypto'; createHash;`,
    'also runs in browsers',
  ),
  wrong(
    'client imports a Node module by its old name',
    'src/client/c.ts',
    `import fs from 'fs'; fs;`,
    'also runs in browsers',
  ),
  wrong(
    'what the client shares imports from node:',
    'src/validation/b.ts',
    `import { join } from 'node:path'; join;`,
    'also runs in browsers',
  ),
  wrong(
    'two providers in a file',
    'src/storage/b.ts',
    `import '@aws-sdk/client-s3'; import '@azure/storage-blob';`,
    'more than one provider',
  ),
  wrong('a development dependency', 'src/service/c.ts', `import 'fast-check';`, 'no dependency or peer'),
  wrong('a folder without a rank', 'src/helpers/a.ts', `export const a = 1;`, 'no part of the rank table'),
  wrong('src imports a test', 'src/service/d.ts', `import '../../test/harness/target.ts';`, 'not published'),
  wrong('a file that is not there', 'src/service/e.ts', `import './absent.ts';`, 'does not exist'),
  wrong('a cycle', 'src/keys/a.ts', `import './b.ts';`, 'a cycle'),
  wrong(
    'a cycle closed by a type',
    'src/keys/b.ts',
    `import type { A } from './a.ts'; export type B = A;`,
    'a cycle',
  ),
  wrong(
    'an example passes by the index',
    'examples/a.ts',
    `import '../src/service/target.ts';`,
    'may import',
  ),
  wrong('a script imports a test', 'scripts/a.ts', `import '../test/harness/target.ts';`, 'may import'),

  right(
    'a contract of another part',
    'src/restore/b.ts',
    `import type { T } from '../storage/storage.ts'; export type A = T;`,
  ),
  right('postgres in the source', 'src/source/b.ts', `import '../postgres/target.ts';`),
  right(
    'service on contracts and repositories',
    'src/service/f.ts',
    `import '../source/source.ts'; import '../repository/target.ts';`,
  ),
  right('zod in validation', 'src/validation/c.ts', `import { z } from 'zod'; z;`),
  right('node: on the server', 'src/archive/f.ts', `import { createHash } from 'node:crypto'; createHash;`),
  right(
    'a test goes anywhere',
    'test/unit/a.test.ts',
    `import '../../src/storage/target.ts'; import 'fast-check';`,
  ),
  right(
    'an example with the index',
    'examples/b.ts',
    `import '../src/index.ts'; import '../src/testing/target.ts';`,
  ),
];

/** What the plants import. */
const TARGETS = [
  ...[
    'utils',
    'archive',
    'sync',
    'postgres',
    'storage',
    'source',
    'service',
    'monitoring',
    'repository',
    'testing',
  ].map((folder) => `src/${folder}/target.ts`),
  'src/storage/storage.ts',
  'src/source/source.ts',
  'src/index.ts',
  'test/harness/target.ts',
];

/** Runs `work` on a folder that holds the planted files, and removes it. */
export async function withPlantedTree<T>(
  work: (folder: string, plants: readonly Plant[]) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'care-planted-'));
  try {
    const targets = TARGETS.map((file) => ({
      file,
      text: 'export const x = () => 1; export type T = number;',
    }));
    for (const { file, text } of [...targets, ...PLANTS]) {
      await mkdir(join(folder, dirname(file)), { recursive: true });
      await writeFile(join(folder, file), `${text}\n`);
    }
    return await work(folder, PLANTS);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
