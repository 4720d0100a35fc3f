import type { Manifest } from '../archive/manifest.ts';
import type { SnapshotResult } from '../repository/snapshot-end.ts';
import type {
  BackupConfiguration,
  BackupDataMetrics,
  BackupSnapshot,
  StorageLocation,
} from '../types/backup.ts';
import type { EntityRecord, SnapshotContents } from '../types/contents.ts';
import type { Timestamp } from '../types/ids.ts';

/** What a stored archive comes to, whoever finishes it: the run itself, or the next one that finds its manifest. */
export interface ArchiveSummary {
  readonly contents: SnapshotContents;
  readonly checksum: string;
  readonly storedBytes: number;
  readonly segments: number;
  readonly objects: number;
  readonly keyId: string | null;
}

export function summarize(manifest: Manifest, contents: SnapshotContents): ArchiveSummary {
  return {
    contents,
    checksum: manifest.checksum,
    storedBytes: manifest.header.objects.reduce((sum, object) => sum + object.size, 0),
    segments: manifest.segments.length,
    objects: manifest.header.objects.length,
    keyId: manifest.header.encryption?.wrappedKeys[0]?.keyId ?? null,
  };
}

export function snapshotResult(
  summary: ArchiveSummary,
  run: {
    readonly configuration: BackupConfiguration;
    readonly storageLocation: StorageLocation;
    readonly startedAt: Timestamp;
    readonly completedAt: Date;
    /** Whether every object was read back and compared. */
    readonly readBack: boolean;
    readonly progress?: BackupSnapshot['progress'];
  },
): SnapshotResult {
  const metrics = dataMetrics(summary);
  const { warnings } = summary.contents;
  const completedAt = run.completedAt.toISOString();
  const { retentionDays } = run.configuration.retention;
  return {
    status: warnings.length === 0 ? 'COMPLETED' : 'COMPLETED_WITH_WARNINGS',
    branchIds: summary.contents.branchIds,
    startedAt: run.startedAt,
    completedAt,
    duration: Math.max(0, run.completedAt.getTime() - Date.parse(run.startedAt)),
    dataMetrics: metrics,
    storageLocation: run.storageLocation,
    checksum: summary.checksum,
    integrityVerified: run.readBack,
    integrityVerifiedAt: run.readBack ? completedAt : null,
    encryptionKeyId: summary.keyId,
    compressionRatio: metrics.storedSizeBytes === 0 ? null : metrics.totalSizeBytes / metrics.storedSizeBytes,
    warnings,
    ...(run.progress == null ? {} : { progress: run.progress }),
    expiresAt:
      retentionDays === undefined || retentionDays === 0
        ? null
        : new Date(run.completedAt.getTime() + retentionDays * 86_400_000).toISOString(),
  };
}

function dataMetrics({ contents, storedBytes, segments, objects }: ArchiveSummary): BackupDataMetrics {
  const { entities } = contents;
  const rowsWhere = (test: (entity: EntityRecord) => boolean): number =>
    entities.filter(test).reduce((sum, entity) => sum + entity.rows, 0);
  const classified = (kind: 'phi' | 'pii' | 'financial') =>
    rowsWhere(
      ({ classification }) =>
        classification[kind] === true ||
        Object.values(classification.columns ?? {}).some((column) => column[kind] === true),
    );
  return {
    totalRecords: rowsWhere(() => true),
    totalSizeBytes: entities.reduce((sum, entity) => sum + entity.bytes, 0),
    storedSizeBytes: storedBytes,
    recordsByEntity: Object.fromEntries(entities.map(({ type, rows }) => [type, rows])),
    sizeByEntity: Object.fromEntries(entities.map(({ type, bytes }) => [type, bytes])),
    phiRecords: classified('phi'),
    piiRecords: classified('pii'),
    financialRecords: classified('financial'),
    segments,
    objects,
  };
}
