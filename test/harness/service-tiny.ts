import type pg from 'pg';
import { defineEntity } from '../../src/source/entity.ts';

export const TINY_ORGANIZATION = '00000000-0000-4000-8000-000000000001';
export const OTHER_ORGANIZATION = '00000000-0000-4000-8000-000000000002';
export const BRANCH_A = '00000000-0000-4000-8000-00000000000a';
export const BRANCH_B = '00000000-0000-4000-8000-00000000000b';

/** Recognisable health information: nothing but a row and an archive may ever hold it. */
export const PLANTED = 'PLANTED-PHI-hiv-positive-4711';

/** Two tables with a few rows, so that a run takes little more than its sessions: for tests that run hundreds. */
export const tinyData = {
  entities: () => [
    defineEntity({ type: 'ITEM', table: 'item', classification: { phi: true } }),
    defineEntity({
      type: 'PART',
      table: 'part',
      organization: { through: 'item_id', entity: 'ITEM' },
      branch: { through: 'item_id', entity: 'ITEM' },
    }),
  ],
  organizations: [TINY_ORGANIZATION, OTHER_ORGANIZATION] as const,
  branches: [[BRANCH_A, BRANCH_B], []] as const,
  scope: {},
  fill: async (client: pg.Client): Promise<void> => {
    await client.query(`
      CREATE TABLE item (id bigint PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL, secret text NOT NULL);
      CREATE TABLE part (id bigint PRIMARY KEY, item_id bigint NOT NULL REFERENCES item, weight double precision);
      INSERT INTO item SELECT n, CASE WHEN n % 5 = 0 THEN '${OTHER_ORGANIZATION}' ELSE '${TINY_ORGANIZATION}' END::uuid,
             CASE WHEN n % 2 = 0 THEN '${BRANCH_A}' ELSE '${BRANCH_B}' END::uuid, '${PLANTED} ' || n FROM generate_series(1, 50) n;
      INSERT INTO part SELECT n, 1 + n % 50, n / 7.0 FROM generate_series(1, 100) n`);
  },
};

/** Rows of a restored schema that are not exactly the organization's, both tables together. */
export async function tinyDifferences(
  pool: pg.Pool,
  schema: string,
  condition = `organization_id = '${TINY_ORGANIZATION}'`,
): Promise<number> {
  const { rows } = await pool.query<{ n: string }>(`
    WITH mine AS (SELECT * FROM public.item WHERE ${condition}),
         parts AS (SELECT p.* FROM public.part p JOIN mine m ON m.id = p.item_id)
    SELECT (SELECT count(*) FROM mine l FULL JOIN "${schema}".item r ON l.id = r.id
             WHERE l.id IS NULL OR r.id IS NULL OR NOT (l.*)::text = (r.*)::text OR NOT ROW(l.*)::record *= ROW(r.*)::record)
         + (SELECT count(*) FROM parts l FULL JOIN "${schema}".part r ON l.id = r.id
             WHERE l.id IS NULL OR r.id IS NULL OR NOT ROW(l.*)::record *= ROW(r.*)::record) AS n`);
  return Number(rows[0]?.n);
}
