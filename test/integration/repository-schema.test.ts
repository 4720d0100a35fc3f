import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTEMPT_STATES } from '../../src/repository/attempts.ts';
import {
  BACKUP_CONFIG_STATUSES,
  BACKUP_CONFIG_TYPES,
  BACKUP_SNAPSHOT_STATUSES,
  BACKUP_TRIGGERS,
  CONFLICT_RESOLUTION_STRATEGIES,
  RESTORE_CONFLICT_KINDS,
  RESTORE_STATUSES,
  RESTORE_TYPES,
  STORAGE_JOB_KINDS,
  STORAGE_JOB_STATUSES,
} from '../../src/types/backup.ts';
import {
  CHECKSUM_ALGORITHMS,
  COMPRESSION_ALGORITHMS,
  ENCRYPTION_ALGORITHMS,
} from '../../src/types/encryption.ts';
import {
  CONFLICT_STATUSES,
  CONFLICT_STRATEGIES,
  CONFLICT_TYPES,
  OFFLINE_SESSION_STATUSES,
  SYNC_EVENT_TYPES,
  SYNC_LANES,
  SYNC_OPERATIONS,
  SYNC_OUTCOMES,
  SYNC_PRIORITIES,
  SYNC_QUEUE_STATUSES,
} from '../../src/types/offline-sync.ts';
import {
  BackupConfigurationSchema,
  BackupSnapshotSchema,
  RestoreOperationSchema,
  StorageJobSchema,
} from '../../src/validation/index.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database[Symbol.asyncDispose]());

const VOCABULARIES: Readonly<Record<string, readonly string[]>> = {
  audit_checkpoints_kind_known: ['CHECKPOINT', 'PRUNED'],
  backup_configurations_config_type_known: BACKUP_CONFIG_TYPES,
  backup_configurations_status_known: BACKUP_CONFIG_STATUSES,
  backup_configurations_compression_algorithm_known: COMPRESSION_ALGORITHMS,
  backup_configurations_checksum_algorithm_known: CHECKSUM_ALGORITHMS,
  backup_snapshots_snapshot_type_known: BACKUP_CONFIG_TYPES,
  backup_snapshots_trigger_known: BACKUP_TRIGGERS,
  backup_snapshots_status_known: BACKUP_SNAPSHOT_STATUSES,
  backup_snapshots_compression_algorithm_known: COMPRESSION_ALGORITHMS,
  backup_snapshots_checksum_algorithm_known: CHECKSUM_ALGORITHMS,
  backup_snapshots_encryption_algorithm_known: ENCRYPTION_ALGORITHMS,
  backup_attempts_state_known: ATTEMPT_STATES,
  restore_operations_restore_type_known: RESTORE_TYPES,
  restore_conflicts_kind_known: RESTORE_CONFLICT_KINDS,
  restore_conflicts_status_known: ['PENDING', 'RESOLVED'],
  storage_jobs_kind_known: STORAGE_JOB_KINDS,
  storage_jobs_status_known: STORAGE_JOB_STATUSES,
  restore_operations_status_known: RESTORE_STATUSES,
  restore_operations_conflict_resolution_strategy_known: CONFLICT_RESOLUTION_STRATEGIES,
  sync_streams_numbered_by_known: ['CLIENT', 'SERVER'],
  offline_sync_queue_operation_known: SYNC_OPERATIONS,
  offline_sync_queue_status_known: SYNC_QUEUE_STATUSES,
  offline_sync_queue_outcome_known: SYNC_OUTCOMES,
  offline_sync_queue_priority_known: SYNC_PRIORITIES,
  offline_sync_queue_lane_known: SYNC_LANES,
  sync_predecessors_kind_known: ['DEPENDS_ON', 'ORDER', 'PREVIOUS'],
  sync_conflicts_conflict_type_known: CONFLICT_TYPES,
  sync_conflicts_status_known: CONFLICT_STATUSES,
  sync_conflicts_auto_resolution_strategy_known: CONFLICT_STRATEGIES,
  offline_sessions_status_known: OFFLINE_SESSION_STATUSES,
  sync_events_type_known: SYNC_EVENT_TYPES,
};

describe('the tables and the types do not drift apart', () => {
  test('each vocabulary is the one of its CHECK', async () => {
    const { rows } = await database.pool.query<{ name: string; definition: string }>(
      "SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conname LIKE '%\\_known' AND connamespace = 'care_backup'::regnamespace",
    );
    const stored = rows.map(({ name, definition }) => [
      name,
      [...definition.matchAll(/'([^']+)'::text/g)].map((match) => match[1]).toSorted(),
    ]);
    const typed = Object.entries(VOCABULARIES).map(([name, words]) => [name, words.toSorted()]);
    expect(Object.fromEntries(stored)).toEqual(Object.fromEntries(typed));
  });

  const own = ['ordinal', 'deleted_at', 'deleted_by', 'branch_ids', 'consecutive_failures'];
  test.each([
    ['backup_configurations', Object.keys(BackupConfigurationSchema.shape), []],
    ['storage_jobs', Object.keys(StorageJobSchema.shape), []],
    // Children are read from their own rows.
    ['backup_snapshots', Object.keys(BackupSnapshotSchema.shape), ['child_snapshot_ids']],
    ['restore_operations', Object.keys(RestoreOperationSchema.shape), []],
  ])(
    'every field of the type has its column in %s, and every column its field',
    async (table, fields, computed) => {
      const { rows } = await database.pool.query<{ name: string }>(
        "SELECT attname AS name FROM pg_attribute WHERE attrelid = ('care_backup.' || $1)::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
      );
      const columns = rows.map((row) => row.name);
      const expected = fields.map((field) =>
        field.replace(/PHI/, '_phi').replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      );
      expect(expected.filter((name) => !columns.includes(name))).toEqual(computed);
      expect(columns.filter((name) => !expected.includes(name) && !own.includes(name))).toEqual([]);
    },
  );
});

test('every foreign key holds the organization', async () => {
  const { rows } = await database.pool.query<{ name: string; definition: string }>(
    "SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE contype = 'f' AND connamespace = 'care_backup'::regnamespace",
  );
  expect(rows.length).toBeGreaterThan(8);
  for (const { definition } of rows)
    expect(definition).toMatch(/^FOREIGN KEY \(organization_id.*\(organization_id/);
});

test('every point in time has a zone', async () => {
  const { rows } = await database.pool.query(
    "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'care_backup' AND data_type = 'timestamp without time zone' AND table_name <> 'migrations'",
  );
  expect(rows).toEqual([]);
});
