-- What workers do: queued runs of backups, and jobs over what is stored.

-- Up Migration

ALTER TABLE backup_configurations ADD COLUMN consecutive_failures integer NOT NULL DEFAULT 0
  CHECK (consecutive_failures >= 0);
CREATE INDEX backup_configurations_due ON backup_configurations (next_scheduled_backup_at)
  WHERE status = 'ACTIVE' AND deleted_at IS NULL AND next_scheduled_backup_at IS NOT NULL;

-- Where the try stores, which a later try at the same snapshot may do elsewhere. NULL: entered by an earlier version.
ALTER TABLE backup_attempts ADD COLUMN destination jsonb;

-- One run per occurrence of a schedule, whoever enters it.
CREATE UNIQUE INDEX backup_snapshots_one_per_occurrence
  ON backup_snapshots (organization_id, configuration_id, scheduled_at)
  WHERE trigger = 'SCHEDULED' AND scheduled_at IS NOT NULL;

-- The snapshots that a worker is to run or runs; a row goes when its snapshot ends. Redis or a queue's tables may lose
-- everything: what is to be done stands here.
CREATE TABLE backup_queue (
  snapshot_id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  configuration_id uuid NOT NULL,
  max_attempts integer NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
  not_before timestamptz(3) NOT NULL,
  must_end_by timestamptz(3),
  max_duration_ms bigint CHECK (max_duration_ms > 0),
  FOREIGN KEY (organization_id, configuration_id, snapshot_id)
    REFERENCES backup_snapshots (organization_id, configuration_id, id)
);

-- One unfinished run per configuration.
CREATE UNIQUE INDEX backup_queue_one_per_configuration ON backup_queue (organization_id, configuration_id);
CREATE INDEX backup_queue_next ON backup_queue (not_before);

CREATE TABLE storage_jobs (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  kind text NOT NULL CONSTRAINT storage_jobs_kind_known
    CHECK (kind IN ('VERIFICATION', 'REPLICATION', 'HEALING', 'MIGRATION')),
  configuration_id uuid NOT NULL,
  -- NULL: all of the configuration's.
  snapshot_id uuid,
  input jsonb NOT NULL,
  status text NOT NULL CONSTRAINT storage_jobs_status_known
    CHECK (status IN ('QUEUED', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED')),
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  max_attempts integer NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
  not_before timestamptz(3) NOT NULL,
  progress jsonb,
  result jsonb,
  error jsonb,
  requested_by uuid NOT NULL,
  started_at timestamptz(3),
  completed_at timestamptz(3),
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  UNIQUE (organization_id, id),
  FOREIGN KEY (organization_id, configuration_id) REFERENCES backup_configurations (organization_id, id),
  FOREIGN KEY (organization_id, configuration_id, snapshot_id)
    REFERENCES backup_snapshots (organization_id, configuration_id, id)
);

-- The same work is not queued twice.
CREATE UNIQUE INDEX storage_jobs_one_unended
  ON storage_jobs (organization_id, kind, configuration_id, coalesce(snapshot_id, configuration_id))
  WHERE status IN ('QUEUED', 'IN_PROGRESS');
CREATE INDEX storage_jobs_next ON storage_jobs (not_before) WHERE status IN ('QUEUED', 'IN_PROGRESS');

-- Down Migration

DROP TABLE storage_jobs;
DROP TABLE backup_queue;
ALTER TABLE backup_attempts DROP COLUMN destination;
DROP INDEX backup_snapshots_one_per_occurrence;
DROP INDEX backup_configurations_due;
ALTER TABLE backup_configurations DROP COLUMN consecutive_failures;
