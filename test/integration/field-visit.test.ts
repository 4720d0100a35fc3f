import { expect, test } from 'vitest';
import { runFieldVisit } from '../../examples/field-visit/field.ts';
import { createTestDatabase } from '../harness/postgres.ts';
import { benchKeyring } from '../harness/service-bench.ts';

test('the field visit is as its story says', { timeout: 60_000 }, async () => {
  await using database = await createTestDatabase({ migrated: false });
  const lines: string[] = [];
  await runFieldVisit(database.url, benchKeyring(), (line) => lines.push(line));
  expect(lines.at(-1)).toBe(
    'Every edit is in the visit or in the conflict; nothing was lost, nothing happened twice.',
  );
});
