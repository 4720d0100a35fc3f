import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { createSchema, generatePlatform, organizationId } from '../../examples/care-platform/generate.ts';
import { createTestDatabase } from '../harness/postgres.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LIMIT_MS = 180_000;

interface Run {
  readonly code: number | null;
  readonly output: string;
}

/** Starts the demo as `npm run demo` does, and gives what it printed when it has ended. */
const runDemo = (
  environment: Readonly<Record<string, string>> = {},
  onOutput: (output: string, child: ChildProcess) => void = () => undefined,
): Promise<Run> => runNode(['examples/demo/main.ts', '--visits', '400'], environment, onOutput);

function runNode(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  onOutput: (output: string, child: ChildProcess) => void = () => undefined,
): Promise<Run> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      onOutput(output, child);
    });
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
}

/** The folders that the run names: the server's and its own. */
const foldersOf = (output: string): string[] =>
  [...output.matchAll(/ in (\S+care-(?:postgres|demo)-[^\s:]+)/g)].flatMap(([, path]) => path ?? []);

const linesOf = (output: string, start: string): string[] =>
  output
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith(start));

test('the demo proves everything and leaves nothing', { timeout: LIMIT_MS }, async () => {
  const { code, output } = await runDemo();
  expect(output).toContain('All 13 proofs held.');
  expect(linesOf(output, 'FAILED')).toEqual([]);
  expect(code).toBe(0);
  expect(output).not.toContain('\u001b');
  const folders = foldersOf(output);
  expect(folders).toHaveLength(2);
  expect(folders.filter((folder) => existsSync(folder))).toEqual([]);
});

test('every proof can fail, is then named, and makes the demo fail', { timeout: LIMIT_MS }, async () => {
  const { code, output } = await runDemo({
    CARE_DEMO_SABOTAGE:
      'no-writer,no-damage,alter-row,lose-row,foreign-row,no-constraint,old-sequence,no-row-security,plaintext,second-note,late-clock-in,lost-edit',
  });
  const failed = linesOf(output, 'FAILED: ').slice(-12).join('\n');
  expect(code).toBe(1);
  expect(failed).toContain('verification finds one flipped bit');
  expect(failed).toContain('a damaged copy is not restored and leaves nothing: it was restored');
  expect(failed).toContain('the writer changed both organizations');
  expect(failed).toMatch(/every restored row equals .*: not equal: visits, payments, audit_log\n/);
  expect(failed).toContain('no row of another organization was restored: 1 rows found');
  expect(failed).toContain('nothing readable lies in the storage');
  expect(failed).toMatch(/keys, checks and foreign keys hold: unlike the live ones: tasks: CHECK/);
  expect(failed).toContain('new rows get new numbers: wrong in tasks');
  expect(failed).toContain('row-level security is in force');
  expect(failed).toMatch(/what a device hands in twice takes effect once: .*; 301 notes/);
  expect(failed).toMatch(/a clock-in overtakes the notes .*applied behind 2\d\d of them/);
  expect(failed).toMatch(/every edit is in a row, .*: lost: Visit\/mood$/m);
  expect(output).toContain('12 of 13 proofs failed.');
});

test('one altered row is enough', { timeout: LIMIT_MS }, async () => {
  const { code, output } = await runDemo({ CARE_DEMO_SABOTAGE: 'alter-row' });
  expect(code).toBe(1);
  expect(output).toContain('1 of 13 proofs failed.');
  expect(linesOf(output, 'FAILED: every restored row equals').at(-1)).toMatch(/: not equal: visits$/);
});

test('Ctrl-C leaves nothing', { timeout: LIMIT_MS }, async () => {
  let sent = false;
  const { code, output } = await runDemo({}, (printed, child) => {
    if (sent || !printed.includes('Backing up organization A')) return;
    sent = true;
    child.kill('SIGINT');
  });
  expect(code).toBe(130);
  expect(output).toContain('Interrupted');
  const folders = foldersOf(output);
  expect(folders).toHaveLength(2);
  expect(folders.filter((folder) => existsSync(folder))).toEqual([]);
});

/** The program of QUICKSTART.md with a real server, a real organization and a folder of the test's. */
async function quickstart(place: { folder: string; url: string; organization: string }): Promise<string> {
  const markdown = await readFile(join(ROOT, 'QUICKSTART.md'), 'utf8');
  const all = [...markdown.matchAll(/^```ts( continued)?\n(.*?)^```$/gms)];
  // The first block and what continues it: the others are programs of their own, for clouds and workers.
  const next = all.findIndex(([, continued], index) => index > 0 && continued === undefined);
  const blocks = all.slice(0, next === -1 ? all.length : next).map(([, , code]) => code);
  const replacements = {
    '@care-commons/data-backup-offline': new URL('../../src/index.ts', import.meta.url).href,
    'postgresql://backup@db.internal/care': place.url,
    '01890a5d-ac96-774b-bcce-b302099a8058': place.organization,
    '/etc/care/keyring.json': join(place.folder, 'keyring.json'),
    '/srv/backups': join(place.folder, 'backups'),
  };
  return Object.entries(replacements).reduce((program, [from, to]) => {
    expect(program).toContain(`'${from}'`);
    return program.replaceAll(`'${from}'`, `'${to}'`);
  }, blocks.join('\n'));
}

test('the program of QUICKSTART.md does what it says', { timeout: LIMIT_MS }, async () => {
  await using database = await createTestDatabase({ migrated: false });
  const client = await database.pool.connect();
  await createSchema(client).finally(() => client.release());
  await generatePlatform(database.url, { seed: 5, organizations: 2, visits: 300 });
  const folder = await mkdtemp(join(tmpdir(), 'care-quickstart-'));
  try {
    const program = join(folder, 'quickstart.ts');
    const place = { folder, url: database.url, organization: organizationId(5, 1) };
    await writeFile(program, await quickstart(place));
    const { code, output } = await runNode([program]);
    expect(output).toMatch(/^BKP-\d{4}-000001 COMPLETED /m);
    expect(output).toMatch(/^true counts \d+ rows in 5 tables$/m);
    expect(output).toMatch(/^COMPLETED_WITH_WARNINGS \d+$/m);
    expect(code).toBe(0);
    const { rows } = await database.pool.query<{ organization_id: string; visits: string }>(
      'SELECT organization_id, count(*) AS visits FROM restored.visits GROUP BY 1',
    );
    expect(rows.map((row) => row.organization_id)).toEqual([place.organization]);
    expect(Number(rows[0]?.visits)).toBeGreaterThan(250);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
