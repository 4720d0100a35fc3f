import { withClient } from './database.ts';
import { type Comparison, compareTable, isEqual, type Moment, type OracleTable } from './oracle.ts';
import { RESTORED } from './restore.ts';
import { foreignRows, insertNewRows, inspectConstraints, inspectRowSecurity } from './restored.ts';
import { count, seconds } from './screen.ts';
import type { Stage } from './stage.ts';

/** Copies what organization A looked like at the backup's moment. */
export async function copyMoment({ screen }: Stage, moment: Moment): Promise<OracleTable[]> {
  const started = performance.now();
  const bar = screen.bar();
  const tables = await moment.copy((table, done, all) =>
    bar.update({ label: 'copying the moment', percentage: (done * 100) / all, details: [table] }),
  );
  const rows = tables.reduce((sum, table) => sum + table.rows, 0);
  bar.done([`${count(rows)} rows that belong into the backup`, `${seconds(performance.now() - started)} s`]);
  return tables;
}

/** Compares every restored table with the oracle's, one line per table. */
export async function proveEqual(
  stage: Stage,
  tables: readonly OracleTable[],
  rowsInSnapshot: number,
): Promise<void> {
  const { proofs, screen, url } = stage;
  const comparisons: Comparison[] = [];
  for (const table of tables) comparisons.push(await compareTable(url, RESTORED, table));
  screen.table(
    ['table', 'at the moment', 'restored', 'missing', 'extra', 'different', 'soft-deleted, left out', ''],
    comparisons.map((found) => [
      found.table.name,
      count(found.table.rows),
      count(found.restored),
      count(found.missing),
      count(found.extra),
      count(found.different),
      found.table.deleted === null ? '-' : count(found.table.deleted),
      isEqual(found) ? 'equal' : 'NOT EQUAL',
    ]),
  );
  const unequal = comparisons.filter((found) => !isEqual(found)).map(({ table }) => table.name);
  const rows = tables.reduce((sum, table) => sum + table.rows, 0);
  const counted = rows === rowsInSnapshot;
  proofs.note(
    'equal',
    unequal.length === 0 && counted,
    unequal.length > 0
      ? `not equal: ${unequal.join(', ')}`
      : counted
        ? `${count(rows)} rows in ${tables.length} tables, every column, missing and extra rows looked for`
        : `the snapshot says it holds ${count(rowsInSnapshot)} rows instead of ${count(rows)}`,
  );
}

/** What else must hold of the restored schema. */
export async function proveSchema({ organizations, proofs, url }: Stage): Promise<void> {
  const [own, other] = organizations;
  await withClient(url, async (client) => {
    const foreign = await foreignRows(client, RESTORED, { own, other });
    proofs.note('own', foreign === 0, `${foreign} rows found`);

    const constraints = await inspectConstraints(client, RESTORED);
    const { all, unlike, open, orphans, unexplained } = constraints;
    proofs.note(
      'constraints',
      all > 0 && unlike.length === 0 && unexplained === 0,
      unlike.length > 0
        ? `unlike the live ones: ${unlike.join('; ')}`
        : `${all} as in the live schema, ${all - open} valid; ${orphans} rows refer to soft-deleted ones, which leaves ${open} foreign keys (counted per partition) NOT VALID; ${unexplained} without such a reason`,
    );

    const { inserted, wrong } = await insertNewRows(client, RESTORED);
    proofs.note(
      'sequences',
      wrong.length === 0,
      wrong.length === 0 ? `inserted into ${inserted} tables, taken back` : `wrong in ${wrong.join(', ')}`,
    );

    const security = await inspectRowSecurity(client, RESTORED, own);
    proofs.note(
      'rowSecurity',
      security.asRecorded &&
        security.protectedTables > 0 &&
        security.unnamed === 0 &&
        security.named === security.all &&
        security.all > 0,
      `${security.protectedTables} tables, policies ${security.asRecorded ? 'as' : 'NOT as'} in the live schema; a plain role sees ${security.unnamed} clients, and ${security.named} of ${security.all} once it names the organization`,
    );
  });
}
