import {
  BACKUP_CONFIG_STATUSES,
  BACKUP_CONFIG_TYPES,
  type BackupConfiguration,
  type ListConfigurationsInput,
  type Page,
} from '../types/backup.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS } from '../types/encryption.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { BackupConfigurationSchema } from '../validation/index.ts';
import { boolean, freeText, integer, json, nullable, text, timestamp, uuid, uuids, word } from './column.ts';
import { readPage } from './page.ts';
import { defineRow, parameters, setList } from './row-mapping.ts';
import { type BoundScope, configurationVisible, idParameter, requireOwnBranches, scoped } from './scope.ts';

const CONFIGURATION_ROW = defineRow<BackupConfiguration>(
  {
    id: uuid('id'),
    organizationId: uuid('organization_id'),
    branchIds: nullable(uuids('branch_ids')),
    name: text('name'),
    description: nullable(text('description')),
    configType: word('config_type', BACKUP_CONFIG_TYPES),
    schedule: json('schedule'),
    timezone: text('timezone'),
    scope: json('scope'),
    retention: json('retention'),
    storageDestination: json('storage_destination'),
    encryptionEnabled: boolean('encryption_enabled'),
    encryptionKeyId: nullable(text('encryption_key_id')),
    allowUnencryptedPHI: boolean('allow_unencrypted_phi'),
    compressionEnabled: boolean('compression_enabled'),
    compressionAlgorithm: word('compression_algorithm', COMPRESSION_ALGORITHMS),
    compressionLevel: nullable(integer('compression_level')),
    integrityCheckEnabled: boolean('integrity_check_enabled'),
    checksumAlgorithm: word('checksum_algorithm', CHECKSUM_ALGORITHMS),
    notificationSettings: json('notification_settings'),
    status: word('status', BACKUP_CONFIG_STATUSES),
    statusReason: nullable(freeText('status_reason')),
    lastBackupAt: nullable(timestamp('last_backup_at')),
    lastSuccessfulBackupAt: nullable(timestamp('last_successful_backup_at')),
    nextScheduledBackupAt: nullable(timestamp('next_scheduled_backup_at')),
    totalBackupsCreated: integer('total_backups_created'),
    totalStorageUsed: integer('total_storage_used'),
    complianceRequirements: json('compliance_requirements'),
    auditRetentionDays: nullable(integer('audit_retention_days')),
    customFields: json('custom_fields'),
    createdBy: uuid('created_by'),
    createdAt: timestamp('created_at'),
    updatedAt: timestamp('updated_at'),
  },
  BackupConfigurationSchema,
);

/** What the caller decides of a new configuration; the rest is the repository's. */
export type NewConfiguration = Omit<
  BackupConfiguration,
  | 'organizationId'
  | 'lastBackupAt'
  | 'lastSuccessfulBackupAt'
  | 'totalBackupsCreated'
  | 'totalStorageUsed'
  | 'createdAt'
  | 'updatedAt'
>;
export type ConfigurationChanges = Partial<Omit<NewConfiguration, 'id' | 'createdBy'>>;

export interface ConfigurationQueries {
  /** Throws FORBIDDEN where it reaches beyond the actor's branches. */
  insertConfig(configuration: NewConfiguration): Promise<BackupConfiguration>;
  /**
   * Changes a configuration that is still as the caller has read it. Undefined: it is not visible, was deleted, or was
   * changed since `expectedUpdatedAt`. Throws FORBIDDEN as `insertConfig`.
   */
  updateConfig(
    id: UUID,
    changes: ConfigurationChanges,
    expected: { readonly expectedUpdatedAt: Timestamp },
  ): Promise<BackupConfiguration | undefined>;
  /** The scheduler's own change: does not touch `updatedAt`. */
  setNextScheduledBackup(id: UUID, at: Timestamp | null): Promise<boolean>;
  findConfigById(id: UUID): Promise<BackupConfiguration | undefined>;
  /** As `findConfigById`, and locks it against changes until the transaction ends; undefined also while somebody else has. */
  lockConfig(id: UUID): Promise<BackupConfiguration | undefined>;
  /** The configuration of a visible snapshot, also when it was deleted since: snapshots outlive it. */
  findConfigOfSnapshot(snapshotId: UUID): Promise<BackupConfiguration | undefined>;
  /** Newest first. Throws VALIDATION_FAILED for a wrong limit or cursor. */
  listConfigs(input?: ListConfigurationsInput): Promise<Page<BackupConfiguration>>;
  /** Hides a configuration; its snapshots stay. */
  softDeleteConfig(id: UUID, deletedBy: UUID): Promise<boolean>;
}

export function configurationQueries(scope: BoundScope): ConfigurationQueries {
  const { db } = scope;
  const table = db.table('backup_configurations');
  const select = CONFIGURATION_ROW.select('t');
  const live = `${configurationVisible('t')} AND t.deleted_at IS NULL`;
  const now = (): Timestamp => db.clock.now().toISOString();

  return {
    async insertConfig(configuration) {
      requireOwnBranches(scope, configuration.branchIds);
      const into = parameters();
      const created = { organizationId: scope.organizationId, createdAt: now(), updatedAt: now() };
      const columns = CONFIGURATION_ROW.assign({ ...configuration, ...created }, into);
      const [row] = await db.query(
        `INSERT INTO ${table} AS t (${columns.map(({ column }) => column).join(', ')})
         VALUES (${columns.map(({ value }) => value).join(', ')}) RETURNING ${select}`,
        into.values,
      );
      return CONFIGURATION_ROW.decode(row ?? {});
    },

    async updateConfig(id, changes, { expectedUpdatedAt }) {
      if (changes.branchIds !== undefined) requireOwnBranches(scope, changes.branchIds);
      const into = scoped(scope);
      const assigned = [...CONFIGURATION_ROW.assign(changes, into)];
      if (changes.status === 'ACTIVE') assigned.push({ column: 'consecutive_failures', value: '0' });
      // Always later than before, so that two changes within a millisecond are told apart.
      const later = `greatest(${into.add(now(), 'timestamptz')}, t.updated_at + interval '1 millisecond')`;
      const [row] = await db.query(
        `UPDATE ${table} AS t SET ${setList([...assigned, { column: 'updated_at', value: later }])}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live}
            AND t.updated_at = ${into.add(expectedUpdatedAt, 'timestamptz')}
         RETURNING ${select}`,
        into.values,
      );
      return row && CONFIGURATION_ROW.decode(row);
    },

    async setNextScheduledBackup(id, at) {
      const into = scoped(scope);
      const rows = await db.query(
        `UPDATE ${table} AS t SET next_scheduled_backup_at = ${into.add(at, 'timestamptz')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live} RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },

    async findConfigById(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live}`,
        into.values,
      );
      return row && CONFIGURATION_ROW.decode(row);
    },

    async lockConfig(id) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live}
            FOR NO KEY UPDATE OF t SKIP LOCKED`,
        into.values,
      );
      return row && CONFIGURATION_ROW.decode(row);
    },

    async findConfigOfSnapshot(snapshotId) {
      const into = scoped(scope);
      const [row] = await db.query(
        `SELECT ${select} FROM ${table} t JOIN ${db.table('backup_snapshots')} s
             ON s.organization_id = t.organization_id AND s.configuration_id = t.id
          WHERE s.id = ${into.add(idParameter(snapshotId), 'uuid')} AND ${configurationVisible('t')}
            AND ($2::uuid[] IS NULL OR s.branch_ids <@ $2::uuid[])`,
        into.values,
      );
      return row && CONFIGURATION_ROW.decode(row);
    },

    listConfigs: (input = {}) =>
      readPage(scope, input, {
        table: 'backup_configurations',
        selectList: select,
        where: (into) =>
          input.status ? `${live} AND t.status = ANY (${into.add(input.status, 'text[]')})` : live,
        decode: CONFIGURATION_ROW.decode,
      }),

    async softDeleteConfig(id, deletedBy) {
      const into = scoped(scope);
      const rows = await db.query(
        `UPDATE ${table} AS t SET deleted_at = ${into.add(now(), 'timestamptz')},
                deleted_by = ${into.add(deletedBy, 'uuid')}
          WHERE t.id = ${into.add(idParameter(id), 'uuid')} AND ${live} RETURNING t.id::text AS id`,
        into.values,
      );
      return rows.length === 1;
    },
  };
}
