import { expect, test } from 'vitest';
import { judgeRun, type TestRun } from '../../scripts/test/verdict.ts';

type Suite = TestRun['report']['testResults'][number];

function suite(path: string, statuses: readonly string[], status = 'passed', message = ''): Suite {
  const assertionResults = statuses.map((each, index) => ({ fullName: `test ${index}`, status: each }));
  return { name: `/repo/${path}`, status, message, assertionResults };
}

function judge(suites: readonly Suite[], changes: Partial<TestRun> = {}) {
  return judgeRun({
    report: { testResults: [...suites] },
    exitCode: 0,
    root: '/repo/',
    required: { suites: ['test/a.test.ts'], skips: [] },
    present: ['test/a.test.ts'],
    ...changes,
  });
}

test('counts what passed', () => {
  expect(judge([suite('test/a.test.ts', ['passed', 'passed'])])).toEqual({
    passed: 2,
    failed: 0,
    problems: [],
    notes: [],
  });
});

test('counts what failed', () => {
  const outcome = judge([suite('test/a.test.ts', ['passed', 'failed'], 'failed')], { exitCode: 1 });
  expect(outcome).toMatchObject({ passed: 1, failed: 1, problems: [] });
});

test.each<[string, readonly Suite[], Partial<TestRun>, RegExp]>([
  ['a missing suite', [suite('test/b.test.ts', ['passed'])], { present: [] }, /a\.test\.ts must run/],
  ['an empty suite', [suite('test/a.test.ts', [])], {}, /ran no test/],
  [
    'a suite that could not be loaded',
    [suite('test/a.test.ts', [], 'failed', 'Boom')],
    { exitCode: 1 },
    /Boom/,
  ],
  [
    'a failing hook',
    [suite('test/a.test.ts', ['passed'], 'failed', 'Boom')],
    { exitCode: 1 },
    /outside its tests/,
  ],
  [
    'an unlisted suite',
    [suite('test/a.test.ts', ['passed'])],
    { present: ['test/c.test.ts'] },
    /c\.test\.ts is not in/,
  ],
  ['an unannounced skip', [suite('test/a.test.ts', ['passed', 'skipped'])], {}, /test 1 was skipped/],
  ['a todo', [suite('test/a.test.ts', ['passed', 'todo'])], {}, /test 1 was todo/],
  ['an unhandled error', [suite('test/a.test.ts', ['passed'])], { exitCode: 1 }, /error outside the tests/],
])('%s fails the run', (_, suites, changes, problem) => {
  const outcome = judge(suites, changes);
  expect(outcome.failed).toBe(outcome.problems.length);
  expect(outcome.problems).toEqual([expect.stringMatching(problem)]);
});

test('a suite that was skipped as a whole fails the run, whatever is listed', () => {
  const skips = [{ suite: 'test/a.test.ts', test: 'test 0', reason: 'no such server here' }];
  const outcome = judge([suite('test/a.test.ts', ['skipped']), suite('test/b.test.ts', ['passed'])], {
    required: { suites: ['test/a.test.ts'], skips },
  });
  expect(outcome.problems).toEqual(['test/a.test.ts was skipped as a whole.']);
});

test('a listed skip is told with its reason', () => {
  const skips = [{ suite: 'test/a.test.ts', test: 'test 1', reason: 'only on macOS' }];
  const outcome = judge([suite('test/a.test.ts', ['passed', 'skipped'])], {
    required: { suites: ['test/a.test.ts'], skips },
  });
  expect(outcome).toMatchObject({ passed: 1, failed: 0, notes: [expect.stringContaining('only on macOS')] });
});

test('a run of nothing fails', () => {
  expect(judge([], { required: { suites: [], skips: [] }, present: [] }).failed).toBe(1);
});

test('a part of the tests is judged by its tests alone', () => {
  const outcome = judgeRun({
    report: { testResults: [suite('test/a.test.ts', ['passed', 'skipped'])] },
    exitCode: 0,
    root: '/repo/',
    present: ['test/c.test.ts'],
  });
  expect(outcome).toMatchObject({ passed: 1, failed: 0 });
});
