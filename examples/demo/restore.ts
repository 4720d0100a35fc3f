import type { BackupSnapshot, RestoreOperation } from '../../src/index.ts';
import { barOf } from './backup.ts';
import { quoted, withClient } from './database.ts';
import type { Sabotage } from './options.ts';
import { count, megabytes, seconds } from './screen.ts';
import type { Stage } from './stage.ts';

export const RESTORED = 'restored';

/** Restores the snapshot into a schema of its own. */
export async function restore(stage: Stage, snapshot: BackupSnapshot): Promise<RestoreOperation> {
  const { backups, protection, screen } = stage;
  const bar = screen.bar();
  const unsubscribe = protection.on('restore.progress', ({ progress }) =>
    bar.update(barOf(progress, progress.recordsRestored)),
  );
  try {
    const operation = await backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: { type: 'STAGING', schemaName: RESTORED } },
      { wait: true },
    );
    bar.done([
      `${count(operation.dataMetrics?.totalRecords ?? 0)} rows`,
      `${megabytes(operation.dataMetrics?.totalSizeBytes ?? 0)} MB`,
      `${seconds(operation.duration ?? 0)} s`,
    ]);
    for (const [code, [first, ...more]] of Map.groupBy(operation.warnings, (warning) => warning.code)) {
      const others = more.length === 0 ? '' : ` (and ${more.length} more of the kind)`;
      screen.line(`   warning ${code}: ${first?.message}${others}`);
    }
    return operation;
  } finally {
    unsubscribe();
  }
}

const SPOIL: readonly { readonly sabotage: Sabotage; readonly sql: (otherOrganization: string) => string }[] =
  [
    {
      sabotage: 'alter-row',
      sql: () =>
        "UPDATE visits SET notes = coalesce(notes, '') || '.' WHERE id = (SELECT id FROM visits ORDER BY id LIMIT 1)",
    },
    {
      sabotage: 'lose-row',
      sql: () => 'DELETE FROM payments WHERE ctid = (SELECT min(ctid) FROM payments)',
    },
    {
      sabotage: 'foreign-row',
      sql: (other) =>
        `INSERT INTO audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.audit_log WHERE organization_id = '${other}' LIMIT 1`,
    },
    { sabotage: 'no-constraint', sql: () => 'ALTER TABLE tasks DROP CONSTRAINT tasks_priority_check' },
    { sabotage: 'old-sequence', sql: () => "SELECT setval('tasks_id_seq', 1)" },
    { sabotage: 'no-row-security', sql: () => 'ALTER TABLE clients DISABLE ROW LEVEL SECURITY' },
  ];

/** Spoils what was restored where a test asks for it, so that the proofs have something to find. */
export async function spoil({ options, organizations, screen, url }: Stage): Promise<void> {
  await withClient(url, async (client) => {
    await client.query(`SET search_path = ${quoted(RESTORED)}, public`);
    for (const { sabotage, sql } of SPOIL) {
      if (!options.sabotage.has(sabotage)) continue;
      screen.line(`   CARE_DEMO_SABOTAGE: ${sabotage}`);
      await client.query(sql(organizations[1]));
    }
  });
}
