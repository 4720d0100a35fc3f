import {
  BACKUP_CONFIG_TYPES,
  BACKUP_SNAPSHOT_STATUSES,
  BACKUP_TRIGGERS,
  type BackupSnapshot,
  type BackupSnapshotStatus,
} from '../types/backup.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS, ENCRYPTION_ALGORITHMS } from '../types/encryption.ts';
import { BackupSnapshotSchema } from '../validation/index.ts';
import {
  boolean,
  computed,
  float,
  freeText,
  integer,
  json,
  nullable,
  text,
  timestamp,
  uuid,
  uuids,
  wholeMilliseconds,
  word,
} from './column.ts';
import type { Database } from './database.ts';
import { defineRow, type RowType } from './row-mapping.ts';

/** A snapshot that has not ended. */
export const RUNNING_STATUSES = [
  'QUEUED',
  'PREPARING',
  'IN_PROGRESS',
  'FINALIZING',
  'VERIFYING',
] as const satisfies readonly BackupSnapshotStatus[];
export type RunningSnapshotStatus = (typeof RUNNING_STATUSES)[number];

/** A snapshot that counts as a backup. */
export const SUCCESSFUL_STATUSES = [
  'COMPLETED',
  'COMPLETED_WITH_WARNINGS',
] as const satisfies readonly BackupSnapshotStatus[];
export type SuccessfulSnapshotStatus = (typeof SUCCESSFUL_STATUSES)[number];

/** Of a snapshot nothing is stored, or nothing that counts: no key is needed for it. A list in SQL. */
export const UNKEPT_STATUSES = `'FAILED', 'CANCELLED', 'DELETED'`;

/** The children of a snapshot are read from their own rows: a list kept beside them could disagree. */
export function snapshotRow(db: Database): RowType<BackupSnapshot> {
  const children = (alias: string): string =>
    `(SELECT coalesce(jsonb_agg(child.id ORDER BY child.ordinal), '[]') FROM ${db.table('backup_snapshots')} child
       WHERE child.organization_id = ${alias}.organization_id AND child.parent_snapshot_id = ${alias}.id)::text`;
  return defineRow<BackupSnapshot>(
    {
      id: uuid('id'),
      organizationId: uuid('organization_id'),
      configurationId: uuid('configuration_id'),
      snapshotNumber: text('snapshot_number'),
      snapshotType: word('snapshot_type', BACKUP_CONFIG_TYPES),
      trigger: word('trigger', BACKUP_TRIGGERS),
      generation: integer('generation'),
      scheduledAt: nullable(timestamp('scheduled_at')),
      startedAt: nullable(timestamp('started_at')),
      completedAt: nullable(timestamp('completed_at')),
      duration: nullable(wholeMilliseconds('duration')),
      status: word('status', BACKUP_SNAPSHOT_STATUSES),
      statusReason: nullable(freeText('status_reason')),
      progress: nullable(json('progress')),
      dataMetrics: nullable(json('data_metrics')),
      storageLocation: nullable(json('storage_location')),
      checksum: nullable(text('checksum')),
      checksumAlgorithm: word('checksum_algorithm', CHECKSUM_ALGORITHMS),
      integrityVerified: boolean('integrity_verified'),
      integrityVerifiedAt: nullable(timestamp('integrity_verified_at')),
      encrypted: boolean('encrypted'),
      encryptionKeyId: nullable(text('encryption_key_id')),
      encryptionAlgorithm: nullable(word('encryption_algorithm', ENCRYPTION_ALGORITHMS)),
      compressed: boolean('compressed'),
      compressionAlgorithm: word('compression_algorithm', COMPRESSION_ALGORITHMS),
      compressionRatio: nullable(float('compression_ratio')),
      errors: json('errors'),
      warnings: json('warnings'),
      expiresAt: nullable(timestamp('expires_at')),
      retentionLocked: boolean('retention_locked'),
      restoreCount: integer('restore_count'),
      lastRestoredAt: nullable(timestamp('last_restored_at')),
      parentSnapshotId: nullable(uuid('parent_snapshot_id')),
      childSnapshotIds: computed(uuids('child_snapshot_ids'), children),
      tags: json('tags'),
      notes: nullable(text('notes')),
      customFields: json('custom_fields'),
      requestedBy: uuid('requested_by'),
      createdAt: timestamp('created_at'),
      updatedAt: timestamp('updated_at'),
    },
    BackupSnapshotSchema,
  );
}
