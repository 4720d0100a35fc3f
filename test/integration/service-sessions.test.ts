import { expect, test } from 'vitest';
import { createDataProtection } from '../../src/compose.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { createTestDatabase } from '../harness/postgres.ts';
import { actorOf } from '../harness/service-bench.ts';

const ORGANIZATION = '00000000-0000-4000-8000-0000000000bb';
const TABLES = 10;
/** More than a segment (4 MiB) of each table, so that each session fills a buffer and waits for the next. */
const ROWS = 1_500;
const BODY_LENGTH = 3_200;

test('more sessions than the archive has spare buffers do not wait for each other for ever', {
  timeout: 60_000,
}, async () => {
  await using database = await createTestDatabase();
  const names = Array.from({ length: TABLES }, (_, i) => `large_${i}`);
  for (const name of names) {
    await database.pool.query(
      `CREATE TABLE ${name} (id int PRIMARY KEY, organization_id uuid NOT NULL, body text)`,
    );
    await database.pool.query(
      `INSERT INTO ${name} SELECT i, '${ORGANIZATION}', repeat(md5(i::text), ${BODY_LENGTH / 32})
         FROM generate_series(1, ${ROWS}) i`,
    );
  }
  await using protection = await createDataProtection({
    database: database.url,
    entities: names.map((table) => defineEntity({ type: table.toUpperCase(), table })),
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/unused' } },
    openStorage: (
      (storage) => () =>
        storage
    )(memoryStorage()),
  });
  const backups = protection.backups(actorOf(ORGANIZATION));
  const configuration = await backups.createConfiguration({
    name: 'Wide',
    schedule: { frequency: 'DAILY', maxConcurrency: TABLES },
  });
  const snapshot = await backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
  expect(snapshot.dataMetrics?.totalRecords).toBe(TABLES * ROWS);
});
