import { describe, expect, test } from 'vitest';
import { typeErrors } from '../../scripts/check/code-blocks.ts';
import { isGenerated, machinePaths } from '../../scripts/check/committed.ts';
import { anchorsOf, linksOf, splitMarkdown } from '../../scripts/check/markdown.ts';

describe('Markdown', () => {
  test('parts code from prose, with line numbers', () => {
    const { blocks, prose } = splitMarkdown(
      ['a', '```ts continued', 'const b = 1;', '```', '', '  ~~~', '  ```', '  ~~~', 'z'].join('\n'),
    );
    expect(blocks).toEqual([
      { language: 'ts', info: 'continued', line: 3, code: 'const b = 1;' },
      { language: '', info: '', line: 7, code: '```' },
    ]);
    expect(prose).toEqual(['a', '', '', '', '', '', '', '', 'z']);
  });

  test('a block that is never closed is an error', () => {
    expect(() => splitMarkdown('```ts\nconst a = 1;')).toThrow(/line 1 is never closed/);
  });

  test('finds links, images and definitions, none in code', () => {
    const text = '[a](b.md) ![c](d.png "e")\n`[no](no.md)`\n```\n[no](no.md)\n```\n[f]: <g.md#h>';
    expect(linksOf(text)).toEqual([
      { target: 'b.md', line: 1 },
      { target: 'd.png', line: 1 },
      { target: 'g.md#h', line: 6 },
    ]);
  });

  test('gives headings the fragments that GitHub gives them', () => {
    const text =
      '# A `b` (c), d!\n## Twice\n## Twice\n### [Link](x.md) to_it\n<a id="own"></a> <a id="own"></a>';
    expect([...anchorsOf(text)]).toEqual(['a-b-c-d', 'twice', 'twice-1', 'link-to_it', 'own']);
  });
});

describe('code of documents', () => {
  test('is checked against the sources, and errors have the line of the document', () => {
    const errors = typeErrors(
      new Map([
        [
          'docs/some.md.3.ts',
          `\n\nimport { DataProtectionError } from '@care-commons/data-backup-offline';\nconst code: number = new DataProtectionError('', 'INTERNAL').code;\n`,
        ],
        ['docs/good.md.1.ts', `import type { Logger } from '@care-commons/data-backup-offline';\nawait 1;\n`],
      ]),
    );
    expect(errors).toEqual([
      expect.stringMatching(/^docs\/some\.md:4 Type '.*' is not assignable to type 'number'/s),
    ]);
  }, 60_000);
});

describe('committed files', () => {
  const path = (...names: string[]) => ['', ...names].join('/');

  test('name no path of a machine', () => {
    const text = `a ${path('work', 'main')} b\n${path('var', 'work', 'x')} ./work/ s3://bucket/work/x\n(${path('root', '.npm')})`;
    expect(machinePaths(text).map(({ line }) => line)).toEqual([1, 3]);
  });

  test.each([
    'dist/index.js',
    'a/node_modules/b.ts',
    'reports/tests.json',
    'x.tgz',
    'src/a/b.js',
    'src/a.d.ts',
  ])('%s is generated', (file) => {
    expect(isGenerated(file)).toBe(true);
  });

  test.each([
    'src/a/b.ts',
    'docs/errors.md',
    'scripts/build/x.ts',
    'package-lock.json',
    'test/vectors/v1/a.bin',
  ])('%s is not', (file) => {
    expect(isGenerated(file)).toBe(false);
  });
});
