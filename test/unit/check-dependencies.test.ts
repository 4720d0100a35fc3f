import { describe, expect, test } from 'vitest';
import { findViolations, type Import } from '../../scripts/check/dependencies.ts';
import { CONTRACT_FILES, PARTS } from '../../scripts/check/ranks.ts';

function file(path: string): Import {
  return { specifier: './some.ts', path, kind: 'file', inCycle: false };
}

function judge(path: string, ...imports: Import[]): string[] {
  return findViolations([{ path, imports }], ['zod', 'pg']);
}

describe('the rank table', () => {
  test('names parts that exist, none twice', () => {
    const names = PARTS.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { imports } of PARTS) expect(names).toEqual(expect.arrayContaining([...imports]));
  });

  test('lets nobody import in a circle', () => {
    const open = new Map(PARTS.map(({ name, imports }) => [name, new Set(imports)]));
    while (open.size > 0) {
      const bottom = [...open].filter(([, imports]) => [...imports].every((name) => !open.has(name)));
      expect(bottom, [...open.keys()].join()).not.toEqual([]);
      for (const [name] of bottom) open.delete(name);
    }
  });

  test.each([
    ['types', 'utils'],
    ['utils', 'validation'],
    ['validation', 'archive'],
    ['archive', 'sync'],
    ['sync', 'archive'],
    ['archive', 'postgres'],
    ['sync', 'postgres'],
    ['storage', 'postgres'],
    ['keys', 'postgres'],
    ['source', 'storage'],
    ['restore', 'source'],
    ['service', 'source'],
    ['service', 'postgres'],
    ['worker', 'monitoring'],
    ['monitoring', 'worker'],
    ['monitoring', 'compose'],
    ['compose', 'index'],
    ['runtime', 'utils'],
    ['cli', 'service'],
    ['client', 'service'],
  ])('%s may not import %s', (from, to) => {
    expect(judge(`src/${from}/a.ts`, file(`src/${to}/b.ts`))).toHaveLength(1);
  });

  test.each([
    ['source', 'postgres'],
    ['restore', 'postgres'],
    ['repository', 'postgres'],
    ['jobs', 'postgres'],
    ['service', 'repository'],
    ['service', 'sync'],
    ['worker', 'service'],
    ['compose', 'monitoring'],
    ['index', 'compose'],
    ['testing', 'index'],
    ['client', 'sync'],
  ])('%s may import %s', (from, to) => {
    expect(judge(`src/${from}/a.ts`, file(`src/${to}/b.ts`))).toEqual([]);
  });

  test.each(CONTRACT_FILES)('%s serves rank 4 and the service, and no lower part', (contract) => {
    expect(judge('src/repository/a.ts', file(contract))).toEqual([]);
    expect(judge('src/service/a.ts', file(contract))).toEqual([]);
    expect(judge('src/archive/a.ts', file(contract))).toHaveLength(1);
  });
});

test('a package must be one that a host gets', () => {
  const dependency = (specifier: string): Import => ({
    specifier,
    path: specifier,
    kind: 'package',
    inCycle: false,
  });
  expect(judge('src/source/a.ts', dependency('pg'))).toEqual([]);
  expect(judge('src/source/a.ts', dependency('vitest'))).toHaveLength(1);
  expect(judge('src/archive/a.ts', dependency('pg'))).toHaveLength(1);
  expect(judge('src/validation/a.ts', dependency('zod/v4'))).toEqual([]);
});

test('several packages of one provider are one SDK', () => {
  const sdk = (specifier: string): Import => ({
    specifier,
    path: specifier,
    kind: 'package',
    inCycle: false,
  });
  const published = ['@aws-sdk/client-s3', '@aws-sdk/lib-storage', '@azure/storage-blob'];
  const imports = [sdk('@aws-sdk/client-s3'), sdk('@aws-sdk/lib-storage')];
  expect(findViolations([{ path: 'src/storage/s3.ts', imports }], published)).toEqual([]);
  const two = [...imports, sdk('@azure/storage-blob')];
  expect(findViolations([{ path: 'src/storage/s3.ts', imports: two }], published)).toHaveLength(1);
});
