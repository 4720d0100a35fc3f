import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readPackageJson } from '../../scripts/lib/project.ts';
import { assertSupportedNode, isSupportedNode } from '../../src/runtime.ts';
import { DataProtectionError } from '../../src/types/errors.ts';

test.each(['22.15.0', '22.20.1', '23.8.0', '24.0.0', '24.21.0', '26.1.0', '25.0.0-nightly'])(
  '%s is supported',
  (version) => {
    expect(isSupportedNode(version)).toBe(true);
  },
);

test.each(['18.20.8', '20.20.2', '21.7.3', '22.14.0', '22.2.0', '23.0.0', '23.7.9', '', 'x'])(
  '%s is not',
  (version) => {
    expect(isSupportedNode(version)).toBe(false);
  },
);

test('the range is the one of package.json', () => {
  expect(readPackageJson().engines.node).toBe('^22.15 || >=23.8');
});

test('the refusal names the version and says what to install', () => {
  const refuse = () => assertSupportedNode('20.20.2');
  expect(refuse).toThrow(DataProtectionError);
  expect(refuse).toThrow(/this is 20\.20\.2\. Install Node\.js 24/);
  expect(refuse).toThrow(expect.objectContaining({ code: 'RUNTIME_UNSUPPORTED', retryable: false }));
});

test('index.ts refuses before it loads anything else', () => {
  const index = readFileSync(new URL('../../src/index.ts', import.meta.url), 'utf8');
  const [first] = index.match(/^(?:import|export)\b.*$/m) ?? [];
  expect(first).toBe(`import './runtime.ts';`);
});
