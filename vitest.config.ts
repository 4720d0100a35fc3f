import { defineConfig } from 'vitest/config';

const inCi = Boolean(process.env.CI);

/** Suites without a server of their own start at once; the others share one PostgreSQL (test/harness). */
export default defineConfig({
  test: {
    pool: 'forks',
    // One more than the cores of the smallest machine: tests that wait for time to pass leave theirs to others.
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
    reporters: inCi ? ['default', 'json'] : ['default'],
    outputFile: { json: 'reports/tests.json' },
    coverage: { provider: 'v8', include: ['src/**/*.ts'], reportsDirectory: 'reports/coverage' },
    projects: [
      {
        extends: true,
        test: {
          name: 'pure',
          // They have no state of their own: the modules are loaded once for all of them.
          isolate: false,
          include: ['test/{unit,property,types,vectors}/**/*.test.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'postgres',
          include: ['test/**/*.test.ts'],
          exclude: ['test/{unit,property,types,vectors}/**', '**/node_modules/**'],
          globalSetup: ['test/harness/needed-packages.ts', 'test/harness/global-setup.ts'],
        },
      },
    ],
  },
});
