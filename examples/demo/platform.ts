import { createSchema, generatePlatform, organizationId, platformRows } from '../care-platform/generate.ts';
import { withClient } from './database.ts';
import { count, type Screen, seconds } from './screen.ts';

export const SEED = 20260131;

/** Fills the database with a care platform of two organizations; gives their ids. */
export async function fillDatabase(
  url: string,
  visits: number,
  screen: Screen,
): Promise<readonly [string, string]> {
  const started = performance.now();
  const size = { organizations: 2, visits };
  const totals = platformRows(size);
  const all = Object.values(totals).reduce((sum, rows) => sum + rows, 0);
  const done = new Map<string, number>();
  const bar = screen.bar();
  await withClient(url, (client) => createSchema(client));
  await generatePlatform(url, {
    ...size,
    seed: SEED,
    onProgress: ({ table, rows }) => {
      done.set(table, rows);
      const sum = [...done.values()].reduce((total, number) => total + number, 0);
      bar.update({
        label: 'generating rows',
        percentage: (sum * 100) / all,
        details: [table, `${count(sum)} rows`],
      });
    },
  });
  bar.done([
    `${count(all)} rows in ${Object.keys(totals).length} tables`,
    `${seconds(performance.now() - started)} s`,
  ]);
  return [organizationId(SEED, 1), organizationId(SEED, 2)];
}
