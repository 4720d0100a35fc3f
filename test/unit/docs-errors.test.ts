import { expect, test } from 'vitest';
import { errorsPage } from '../../scripts/lib/errors-page.ts';
import { ERROR_CODES } from '../../src/types/errors.ts';

test('the page of error codes has a section for each, with what to do', () => {
  const page = errorsPage();
  for (const [code, { happened, remedy }] of Object.entries(ERROR_CODES)) {
    expect(page).toContain(`## ${code}\n\n${happened}\n\n**What to do:** ${remedy}\n`);
  }
  expect(page.match(/^## /gm)).toHaveLength(Object.keys(ERROR_CODES).length);
});
