import { afterAll, beforeAll, expect, test } from 'vitest';
import { entities } from '../../examples/care-platform/entities.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { carePlatform, createBench, type ServiceBench } from '../harness/service-bench.ts';

/** Every table of the platform: domains, enums, composites, arrays, ranges, generated columns, partitions, rings. */
const platform = carePlatform();
let bench: ServiceBench;

beforeAll(async () => {
  bench = await createBench({
    ...platform,
    entities: () =>
      entities.map((entity) =>
        defineEntity({
          ...entity,
          ...(entity.type === 'AUDIT_LOG' ? {} : { restore: { disableTriggers: ['touch_updated_at'] } }),
        }),
      ),
  });
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

const sql = async (text: string) => (await bench.database.pool.query<Record<string, string>>(text)).rows;

/** The rows of every table, of all organizations; of the audit trail, which the host's triggers write on, those that there were. */
async function state(upTo: string): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const { table, type } of entities) {
    const where = type === 'AUDIT_LOG' ? `WHERE t.id <= ${upTo}` : '';
    const [row] = await sql(
      `SELECT count(*) || ' ' || md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) AS digest FROM ${table} t ${where}`,
    );
    digests[type] = row?.digest ?? '';
  }
  return digests;
}

const damage = (organization: string): string => {
  const own = `organization_id = '${organization}'`;
  return `BEGIN; SET LOCAL app.bulk_load = 'on';
    UPDATE visits SET notes = 'lost', amount = NULL, details = NULL, tags = NULL, actual_start = NULL, actual_end = NULL WHERE ${own};
    UPDATE clients SET primary_care_plan_id = NULL, deleted_at = now() WHERE ${own};
    DELETE FROM evv_records WHERE ${own}; DELETE FROM notes WHERE ${own}; DELETE FROM documents WHERE ${own};
    DELETE FROM payments WHERE ${own}; DELETE FROM payroll WHERE ${own};
    DELETE FROM tasks WHERE care_plan_id IN (SELECT id FROM care_plans WHERE ${own});
    UPDATE care_plans SET goals = '[]', weekly_hours = 1 WHERE ${own}; UPDATE users SET updated_at = now() WHERE ${own}; COMMIT`;
};

test('a whole organization is put back to the byte, and away again, and back', async () => {
  const [newest] = await sql('SELECT max(id)::text AS id FROM audit_log');
  const upTo = newest?.id ?? '0';
  const { id: configurationId } = await bench.configure({ scope: { includeSoftDeleted: true } });
  const snapshot = await bench.backups.createSnapshot({ configurationId }, { wait: true });
  const whole = await state(upTo);
  await sql(damage(bench.organizations[0]));
  const damaged = await state(upTo);
  expect(damaged).not.toEqual(whole);

  const preview = await bench.backups.planRestore({ snapshotId: snapshot.id });
  expect(preview.entities.find(({ entityType }) => entityType === 'VISIT')).toMatchObject({ updates: 60 });
  expect(await state(upTo)).toEqual(damaged);
  const restore = () =>
    bench.backups.createRestoreOperation(
      { snapshotId: snapshot.id, requiresApproval: false },
      { wait: true },
    );
  const first = await restore();
  expect(first.warnings.map(({ code }) => code)).toEqual(['SHARED_ENTITY_LEFT_OUT']);
  expect(await state(upTo)).toEqual(whole);
  await bench.backups.rollbackRestore(first.id);
  expect(await state(upTo)).toEqual(damaged);
  await restore();
  expect(await state(upTo)).toEqual(whole);
});
