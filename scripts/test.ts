import { chmod, glob, mkdir, mkdtemp, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { freemem, tmpdir } from 'node:os';
import { join, sep } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT } from './lib/project.ts';
import { runVisibly } from './lib/run.ts';
import { judgeRun, reportSchema, requiredSchema } from './test/verdict.ts';

const NODE = join(ROOT, 'node_modules', 'node', 'bin', 'node');
const REPORT = join(ROOT, 'reports', 'tests.json');
/** A run that hangs must end and be counted. */
const LIMIT_MS = 20 * 60_000;
/** A file system of Linux in memory, and what the tests need there. */
const IN_MEMORY = '/dev/shm';
const ROOM_FOR_FILES = 4 * 2 ** 30;
const REQUIRED = join(ROOT, 'test', 'required-suites.json');

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** Writes reports/coverage. */
    coverage: { type: 'boolean', default: false },
    /** The same tests with large counts. */
    soak: { type: 'boolean', default: false },
    /** Writes the test files on disk into test/required-suites.json and runs nothing. */
    'list-suites': { type: 'boolean', default: false },
    /** Only tests whose name matches. */
    testNamePattern: { type: 'string', short: 't' },
  },
});

const present: string[] = [];
for await (const path of glob('test/**/*.test.ts', { cwd: ROOT })) present.push(path.split(sep).join('/'));
present.sort();
const required = requiredSchema.parse(JSON.parse(await readFile(REQUIRED, 'utf8')));

if (flags['list-suites']) {
  await writeFile(REQUIRED, `${JSON.stringify({ ...required, suites: present }, null, 2)}\n`);
  console.log(`Listed ${present.length} suites in test/required-suites.json.`);
} else {
  await runTests();
}

/**
 * Files in memory make the tests faster by a third: a database is cloned for most of them, in 31 ms instead of 104. Where
 * memory is short, and for large counts, they lie on disk.
 */
async function hasMemoryForFiles(): Promise<boolean> {
  if (flags.soak || freemem() < 2 * ROOM_FOR_FILES) return false;
  const there = await statfs(IN_MEMORY).catch(() => undefined);
  return there !== undefined && there.bavail * there.bsize >= ROOM_FOR_FILES;
}

async function runTests(): Promise<void> {
  const partial = positionals.length > 0 || flags.testNamePattern !== undefined;
  const args = ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${REPORT}`];
  if (flags.coverage) args.push('--coverage');
  if (flags.soak) args.push('--testTimeout=1800000', '--hookTimeout=600000');
  if (flags.testNamePattern !== undefined) args.push('-t', flags.testNamePattern);
  args.push(...positionals);

  await mkdir(join(ROOT, 'reports'), { recursive: true });
  await rm(REPORT, { force: true });
  console.log(
    `Running ${partial ? 'a part of the tests' : `${present.length} suites`} with Vitest on ${NODE}`,
  );
  if (flags.soak) console.log('CARE_SOAK=1: large counts, long timeouts. This takes long.');
  const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  const files = await mkdtemp(join((await hasMemoryForFiles()) ? IN_MEMORY : tmpdir(), 'care-tests-'));
  // The server of the tests runs as a user of its own.
  await chmod(files, 0o711);
  const exitCode = await runVisibly(NODE, [vitest, ...args], {
    // CARE_TESTS=all: what the tests need of the machine is installed before them (test/harness/needed-packages.ts).
    env: {
      TMPDIR: files,
      ...(partial ? {} : { CARE_TESTS: 'all' }),
      ...(flags.soak ? { CARE_SOAK: '1' } : {}),
    },
    ...(flags.soak ? {} : { limitMs: LIMIT_MS }),
  });
  await rm(files, { recursive: true, force: true });

  const text = await readFile(REPORT, 'utf8').catch(() => '{ "testResults": [] }');
  const outcome = judgeRun({
    report: reportSchema.parse(JSON.parse(text)),
    exitCode,
    root: `${ROOT.split(sep).join('/')}/`,
    ...(partial ? {} : { required }),
    present,
  });

  console.log('');
  if (partial) console.log('A part of the tests: the list of required suites was not looked at.');
  else console.log(`${required.suites.length} suites must run (test/required-suites.json).`);
  for (const note of outcome.notes) console.log(`Skipped: ${note}`);
  for (const problem of outcome.problems) console.log(`FAIL  ${problem}`);
  const line = `${outcome.passed} passed, ${outcome.failed} failed`;
  await writeFile(join(ROOT, 'reports', 'tests.txt'), `${line}\n`);
  console.log(line);
  process.exitCode = outcome.failed === 0 && exitCode === 0 ? 0 : 1;
}
