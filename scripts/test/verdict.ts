import { z } from 'zod';

/** Vitest's JSON report, as far as it is read here. */
export const reportSchema = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      message: z.string().default(''),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
});

/** test/required-suites.json */
export const requiredSchema = z
  .object({
    /** Every suite of the repository: paths of test files. */
    suites: z.array(z.string()).min(1),
    /** Tests that may be skipped. */
    skips: z.array(z.object({ suite: z.string(), test: z.string(), reason: z.string().min(10) }).strict()),
  })
  .strict();

export interface TestRun {
  readonly report: z.infer<typeof reportSchema>;
  /** Vitest's own. */
  readonly exitCode: number;
  /** The project's root with a slash at its end. */
  readonly root: string;
  /** Absent where only a part was asked for. */
  readonly required?: z.infer<typeof requiredSchema>;
  /** Test files on disk, relative to the root. */
  readonly present: readonly string[];
}

export interface Outcome {
  readonly passed: number;
  /** Failed tests, and one for each of `problems`. */
  readonly failed: number;
  /** What failed besides tests. */
  readonly problems: readonly string[];
  /** Skips that are allowed, with their reasons. */
  readonly notes: readonly string[];
}

/** What the run is worth: a suite that did not run, or a test that was skipped unannounced, has failed. */
export function judgeRun({ report, exitCode, root, required, present }: TestRun): Outcome {
  const suites = report.testResults.map(({ name, status, message, assertionResults }) => ({
    path: name.startsWith(root) ? name.slice(root.length) : name,
    status,
    message,
    tests: assertionResults,
  }));
  const tests = suites.flatMap((suite) => suite.tests.map((test) => ({ ...test, suite: suite.path })));
  const passed = tests.filter(({ status }) => status === 'passed').length;
  const failed = tests.filter(({ status }) => status === 'failed').length;
  const problems: string[] = [];
  const notes: string[] = [];

  for (const { path, status, message, tests: own } of suites) {
    if (own.length === 0) problems.push(`${path} ran no test. ${message}`.trim());
    else if (status === 'failed' && own.every((test) => test.status !== 'failed')) {
      problems.push(`${path} failed outside its tests. ${message}`.trim());
    } else if (required !== undefined && own.every(wasSkipped)) {
      problems.push(`${path} was skipped as a whole.`);
    }
  }
  for (const { suite, fullName, status } of tests) {
    if (required === undefined || !wasSkipped({ status })) continue;
    const allowed = required.skips.find((skip) => skip.suite === suite && skip.test === fullName);
    if (allowed === undefined)
      problems.push(`${suite} › ${fullName} was ${status}, without a listed reason.`);
    else notes.push(`${suite} › ${fullName} was ${status}: ${allowed.reason}`);
  }
  if (required !== undefined) {
    const ran = new Set(suites.map(({ path }) => path));
    problems.push(
      ...required.suites.filter((suite) => !ran.has(suite)).map((suite) => `${suite} must run, and did not.`),
      ...present
        .filter((suite) => !required.suites.includes(suite))
        .map((suite) => `${suite} is not in test/required-suites.json: npm test -- --list-suites adds it.`),
    );
  }
  if (passed + failed + problems.length === 0) problems.push('No test ran.');
  if (exitCode !== 0 && failed + problems.length === 0) {
    problems.push(`Vitest ended with ${exitCode}: an error outside the tests, see above.`);
  }
  return { passed, failed: failed + problems.length, problems, notes };
}

function wasSkipped({ status }: { readonly status: string }): boolean {
  return status !== 'passed' && status !== 'failed';
}
