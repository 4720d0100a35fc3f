import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { fileProblems } from '../../scripts/build/tarball.ts';
import { completeLockFile, missingPackages } from '../../scripts/lib/lock-file.ts';

describe('the packed files', () => {
  const files = [
    'LICENSE',
    'README.md',
    'package.json',
    'dist/index.js',
    'dist/index.d.ts',
    'migrations/0001_a.sql',
  ];
  const migrations = ['migrations/0001_a.sql'];

  test('are what a host needs', () => {
    expect(fileProblems(files, migrations)).toEqual([]);
  });

  test.each(['src/index.ts', 'test/unit/a.test.js', 'dist/index.js.map', '.env', 'migrations/notes.md'])(
    'do not include %s',
    (path) => {
      expect(fileProblems([...files, path], migrations)).toEqual([
        `${path} does not belong into the package.`,
      ]);
    },
  );

  test('include every migration, and at least one', () => {
    expect(fileProblems(files, [...migrations, 'migrations/0002_b.sql'])).toEqual([
      'migrations/0002_b.sql is not in the package.',
    ]);
    expect(fileProblems(files, [])).toEqual(['There is no migration to pack.']);
  });
});

describe('the lock file', () => {
  const lock = {
    lockfileVersion: 3,
    packages: {
      '': { dependencies: { a: '^1.0.0' } },
      'node_modules/a': {
        version: '1.0.0',
        dev: true,
        dependencies: { c: '^2.0.0' },
        optionalDependencies: { '@a/b-linux-arm64-musl': '1.0.0', '@a/b-win32-x64-msvc': '1.0.0' },
      },
      'node_modules/a/node_modules/c': { version: '2.0.0' },
    },
  };

  test('names the packages that the registry did not serve', () => {
    expect(missingPackages(lock).map(({ name }) => name)).toEqual([
      '@a/b-linux-arm64-musl',
      '@a/b-win32-x64-msvc',
    ]);
  });

  test('is completed by what their names tell', () => {
    const complete = completeLockFile(lock);
    expect(missingPackages(complete)).toEqual([]);
    expect(complete).toMatchObject({
      packages: {
        'node_modules/@a/b-linux-arm64-musl': {
          version: '1.0.0',
          cpu: ['arm64'],
          dev: true,
          libc: ['musl'],
          optional: true,
          os: ['linux'],
        },
        'node_modules/@a/b-win32-x64-msvc': { version: '1.0.0', cpu: ['x64'], optional: true, os: ['win32'] },
      },
    });
  });

  test('is not guessed at where a package is needed', () => {
    const broken = { packages: { '': { dependencies: { a: '1.0.0' } } } };
    expect(() => completeLockFile(broken)).toThrow(/a@1\.0\.0 is missing from the lock file/);
  });

  test('of this repository is complete', () => {
    const text = readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8');
    expect(missingPackages(JSON.parse(text))).toEqual([]);
  });
});
