/**
 * Who may import whom: the one table that the dependency check works from. A part is a folder of `src`, or one of
 * the files `compose.ts`, `runtime.ts` and `index.ts`. Type imports count like any other.
 */
export interface Part {
  readonly name: string;
  /** Parts that it may import as a whole. */
  readonly imports: readonly string[];
  /** Whether it may also import the contract files below. */
  readonly contracts: 'yes' | 'no';
  /** npm packages that it may import. */
  readonly packages: 'any' | readonly string[];
  /** Whether it may import from `node:`; what runs in a browser too may not. */
  readonly platform: 'node' | 'browser';
}

/** Files of rank 4 that other parts of rank 4, and rank 5, may import. */
export const CONTRACT_FILES = [
  'src/storage/storage.ts',
  'src/source/source.ts',
  'src/restore/restore.ts',
  'src/keys/keys.ts',
  'src/jobs/jobs.ts',
  'src/export/export.ts',
] as const;

const RANKS = [
  ['types'],
  ['utils'],
  ['validation'],
  ['archive', 'sync', 'postgres'],
  ['storage', 'source', 'restore', 'keys', 'repository', 'jobs', 'export'],
  ['service'],
  ['worker', 'monitoring'],
  ['compose', 'runtime', 'index'],
] as const;

function upTo(rank: number): readonly string[] {
  return RANKS.slice(0, rank + 1).flat();
}

function part(
  name: string,
  imports: readonly string[],
  { contracts = 'no', packages = 'any', platform = 'node' }: Partial<Omit<Part, 'name' | 'imports'>> = {},
): Part {
  return { name, imports, contracts, packages, platform };
}

/** `postgres` (sessions, quoting, COPY) has rank 3 and serves only the parts that talk to PostgreSQL. */
const WITHOUT_POSTGRES = [...upTo(2), 'archive', 'sync'];

export const PARTS: readonly Part[] = [
  part('types', [], { packages: [], platform: 'browser' }),
  part('utils', upTo(0), { packages: ['date-fns', 'date-fns-tz', 'croner', 'uuidv7'], platform: 'browser' }),
  part('validation', upTo(1), { packages: ['zod'], platform: 'browser' }),
  // The entry point of the pure functions.
  part('rules', [...upTo(1), 'sync'], { packages: [], platform: 'browser' }),

  part('archive', upTo(2), { packages: ['zod', '@napi-rs/blake-hash', 'lz4-napi'] }),
  part('sync', upTo(2), { packages: ['zod'], platform: 'browser' }),
  part('postgres', upTo(2), { packages: ['zod', 'pg', 'pg-copy-streams'] }),

  part('storage', WITHOUT_POSTGRES, { contracts: 'yes' }),
  part('keys', WITHOUT_POSTGRES, { contracts: 'yes' }),
  part('source', upTo(3), { contracts: 'yes' }),
  part('restore', upTo(3), { contracts: 'yes' }),
  part('repository', upTo(3), { contracts: 'yes' }),
  part('jobs', upTo(3), { contracts: 'yes' }),
  part('export', WITHOUT_POSTGRES, { packages: ['hyparquet-writer'] }),

  part('service', [...WITHOUT_POSTGRES, 'repository'], { contracts: 'yes' }),

  part('worker', upTo(5)),
  part('monitoring', upTo(5)),

  part('compose', upTo(6)),
  part('runtime', ['types'], { packages: [] }),
  part('index', [...upTo(6), 'compose', 'runtime']),

  part('cli', ['index']),
  part('testing', upTo(7)),
  part('client', [...upTo(2), 'sync'], { platform: 'browser' }),
];

/** What lies outside `src`, and what of the project it may import besides itself. A prefix of a path, or a file. */
export const OUTSIDE: Readonly<Record<string, readonly string[]>> = {
  test: ['src/', 'test/', 'bench/', 'examples/', 'scripts/'],
  bench: ['src/', 'test/', 'examples/'],
  examples: ['src/index.ts', 'src/testing/', 'test/'],
  scripts: ['src/types/', 'src/runtime.ts'],
  'vitest.config.ts': ['test/'],
};

/** Clients of a service outside; a file holds one of them. A scope stands for all its packages. */
export const PROVIDER_SDKS = [
  '@aws-sdk',
  '@smithy',
  '@azure',
  '@google-cloud',
  'googleapis',
  '@microsoft',
  'ssh2',
  'ssh2-sftp-client',
  'nodemailer',
  'twilio',
] as const;
