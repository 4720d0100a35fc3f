-- Names carry no schema: the migration runs with the library's schema alone on the search_path.
-- Every reference holds the organization too, so that a row can never refer to another organization's.

-- Up Migration

-- The last number given, per organization, kind and UTC year. Numbers increase; gaps are allowed.
CREATE TABLE counters (
  organization_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('SNAPSHOT', 'RESTORE')),
  year integer NOT NULL,
  last_value bigint NOT NULL CHECK (last_value > 0),
  PRIMARY KEY (organization_id, kind, year)
);

CREATE TABLE backup_configurations (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  -- The order of insertion: what "newest first" means, whatever a clock says.
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  -- NULL: the whole organization. Empty would be neither, so it is refused.
  branch_ids uuid[] CHECK (branch_ids <> '{}'),
  name varchar(255) NOT NULL,
  description text,
  config_type text NOT NULL CONSTRAINT backup_configurations_config_type_known
    CHECK (config_type IN ('FULL', 'INCREMENTAL', 'DIFFERENTIAL', 'CONTINUOUS')),
  schedule jsonb NOT NULL,
  timezone varchar(100) NOT NULL,
  scope jsonb NOT NULL,
  retention jsonb NOT NULL,
  storage_destination jsonb NOT NULL,
  encryption_enabled boolean NOT NULL,
  encryption_key_id text,
  allow_unencrypted_phi boolean NOT NULL,
  compression_enabled boolean NOT NULL,
  compression_algorithm text NOT NULL CONSTRAINT backup_configurations_compression_algorithm_known
    CHECK (compression_algorithm IN ('ZSTD', 'GZIP', 'BROTLI', 'LZ4', 'NONE')),
  compression_level integer CHECK (compression_level BETWEEN 1 AND 9),
  integrity_check_enabled boolean NOT NULL,
  checksum_algorithm text NOT NULL CONSTRAINT backup_configurations_checksum_algorithm_known
    CHECK (checksum_algorithm IN ('SHA256', 'SHA512', 'BLAKE3')),
  notification_settings jsonb NOT NULL,
  status text NOT NULL CONSTRAINT backup_configurations_status_known
    CHECK (status IN ('ACTIVE', 'PAUSED', 'SUSPENDED', 'DISABLED', 'ARCHIVED')),
  status_reason text,
  last_backup_at timestamptz(3),
  last_successful_backup_at timestamptz(3),
  next_scheduled_backup_at timestamptz(3),
  total_backups_created bigint NOT NULL DEFAULT 0 CHECK (total_backups_created >= 0),
  total_storage_used bigint NOT NULL DEFAULT 0 CHECK (total_storage_used >= 0),
  compliance_requirements jsonb NOT NULL,
  audit_retention_days integer,
  custom_fields jsonb NOT NULL,
  created_by uuid NOT NULL,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  deleted_at timestamptz(3),
  deleted_by uuid,
  UNIQUE (organization_id, id),
  CHECK ((deleted_at IS NULL) = (deleted_by IS NULL))
);

CREATE INDEX backup_configurations_newest_first ON backup_configurations (organization_id, ordinal DESC)
  WHERE deleted_at IS NULL;

CREATE TABLE backup_snapshots (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  configuration_id uuid NOT NULL,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  -- The branches whose rows it holds, NULL for all. Its own, since a configuration's may be widened later.
  branch_ids uuid[] CHECK (branch_ids <> '{}'),
  snapshot_number text NOT NULL,
  snapshot_type text NOT NULL CONSTRAINT backup_snapshots_snapshot_type_known
    CHECK (snapshot_type IN ('FULL', 'INCREMENTAL', 'DIFFERENTIAL', 'CONTINUOUS')),
  trigger text NOT NULL CONSTRAINT backup_snapshots_trigger_known
    CHECK (trigger IN ('SCHEDULED', 'MANUAL', 'EMERGENCY', 'SAFETY')),
  generation integer NOT NULL CHECK (generation >= 0),
  scheduled_at timestamptz(3),
  started_at timestamptz(3),
  completed_at timestamptz(3),
  duration bigint CHECK (duration >= 0),
  status text NOT NULL CONSTRAINT backup_snapshots_status_known
    CHECK (status IN ('QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING', 'COMPLETED',
      'COMPLETED_WITH_WARNINGS', 'FAILED', 'CANCELLED', 'EXPIRED', 'DELETED')),
  status_reason text,
  progress jsonb,
  data_metrics jsonb,
  storage_location jsonb,
  checksum text,
  checksum_algorithm text NOT NULL CONSTRAINT backup_snapshots_checksum_algorithm_known
    CHECK (checksum_algorithm IN ('SHA256', 'SHA512', 'BLAKE3')),
  integrity_verified boolean NOT NULL DEFAULT false,
  integrity_verified_at timestamptz(3),
  encrypted boolean NOT NULL,
  encryption_key_id text,
  encryption_algorithm text CONSTRAINT backup_snapshots_encryption_algorithm_known
    CHECK (encryption_algorithm IN ('AES-256-GCM')),
  compressed boolean NOT NULL,
  compression_algorithm text NOT NULL CONSTRAINT backup_snapshots_compression_algorithm_known
    CHECK (compression_algorithm IN ('ZSTD', 'GZIP', 'BROTLI', 'LZ4', 'NONE')),
  compression_ratio double precision,
  errors jsonb NOT NULL DEFAULT '[]',
  warnings jsonb NOT NULL DEFAULT '[]',
  expires_at timestamptz(3),
  retention_locked boolean NOT NULL DEFAULT false,
  restore_count bigint NOT NULL DEFAULT 0 CHECK (restore_count >= 0),
  last_restored_at timestamptz(3),
  parent_snapshot_id uuid,
  tags jsonb NOT NULL DEFAULT '{}',
  notes text,
  custom_fields jsonb NOT NULL DEFAULT '{}',
  requested_by uuid NOT NULL,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  deleted_at timestamptz(3),
  deleted_by uuid,
  UNIQUE (organization_id, id),
  UNIQUE (organization_id, configuration_id, id),
  UNIQUE (organization_id, snapshot_number),
  FOREIGN KEY (organization_id, configuration_id) REFERENCES backup_configurations (organization_id, id),
  FOREIGN KEY (organization_id, configuration_id, parent_snapshot_id)
    REFERENCES backup_snapshots (organization_id, configuration_id, id),
  CHECK (parent_snapshot_id <> id),
  CHECK ((deleted_at IS NULL) = (deleted_by IS NULL)),
  -- A snapshot that counts has everything that its restore needs.
  CONSTRAINT backup_snapshots_complete CHECK (
    status NOT IN ('COMPLETED', 'COMPLETED_WITH_WARNINGS')
    OR (started_at IS NOT NULL AND completed_at IS NOT NULL AND data_metrics IS NOT NULL
        AND storage_location IS NOT NULL AND checksum IS NOT NULL)
  )
);

CREATE INDEX backup_snapshots_newest_first ON backup_snapshots (organization_id, ordinal DESC)
  WHERE deleted_at IS NULL;
CREATE INDEX backup_snapshots_newest_first_of_configuration
  ON backup_snapshots (organization_id, configuration_id, ordinal DESC) WHERE deleted_at IS NULL;
CREATE INDEX backup_snapshots_last_successful ON backup_snapshots (organization_id, configuration_id, ordinal DESC)
  WHERE deleted_at IS NULL AND status IN ('COMPLETED', 'COMPLETED_WITH_WARNINGS');
CREATE INDEX backup_snapshots_children ON backup_snapshots (organization_id, parent_snapshot_id)
  WHERE parent_snapshot_id IS NOT NULL;

-- What has ended never runs again, and what has failed or was cancelled never counts as a backup.
CREATE FUNCTION backup_snapshots_guard_status() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  running constant text[] := ARRAY['QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING'];
BEGIN
  IF NOT OLD.status = ANY (running) AND NEW.status = ANY (running)
    OR OLD.status IN ('FAILED', 'CANCELLED') AND NEW.status IN ('COMPLETED', 'COMPLETED_WITH_WARNINGS')
  THEN
    RAISE EXCEPTION 'a snapshot does not go from % to %', OLD.status, NEW.status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'backup_snapshots_guard_status';
  END IF;
  RETURN NEW;
END;
$$;

CREATE TRIGGER backup_snapshots_guard_status BEFORE UPDATE OF status ON backup_snapshots
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION backup_snapshots_guard_status();

-- One try at a snapshot; its id is the token without which nobody may finish it.
CREATE TABLE backup_attempts (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  configuration_id uuid NOT NULL,
  snapshot_id uuid NOT NULL,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  storage_prefix text NOT NULL,
  state text NOT NULL CONSTRAINT backup_attempts_state_known CHECK (state IN ('RUNNING', 'SEALED', 'CLAIMED')),
  worker text NOT NULL,
  heartbeat_at timestamptz(3) NOT NULL,
  cancel_requested_at timestamptz(3),
  swept_at timestamptz(3),
  created_at timestamptz(3) NOT NULL,
  FOREIGN KEY (organization_id, configuration_id, snapshot_id)
    REFERENCES backup_snapshots (organization_id, configuration_id, id),
  CHECK (swept_at IS NULL OR state = 'CLAIMED')
);

-- One run per configuration, beside the lock that its worker holds.
CREATE UNIQUE INDEX backup_attempts_one_running ON backup_attempts (organization_id, configuration_id)
  WHERE state = 'RUNNING';
CREATE INDEX backup_attempts_claimed ON backup_attempts (organization_id, configuration_id, ordinal)
  WHERE state = 'CLAIMED';
CREATE INDEX backup_attempts_of_snapshot ON backup_attempts (organization_id, snapshot_id);

CREATE TABLE restore_operations (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  snapshot_id uuid NOT NULL,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  restore_number text NOT NULL,
  restore_type text NOT NULL CONSTRAINT restore_operations_restore_type_known
    CHECK (restore_type IN ('FULL', 'SELECTIVE', 'POINT_IN_TIME', 'FILE_LEVEL')),
  requested_at timestamptz(3) NOT NULL,
  requested_by uuid NOT NULL,
  started_at timestamptz(3),
  completed_at timestamptz(3),
  duration bigint CHECK (duration >= 0),
  scope jsonb NOT NULL,
  restore_destination jsonb NOT NULL,
  status text NOT NULL CONSTRAINT restore_operations_status_known
    CHECK (status IN ('PENDING_APPROVAL', 'APPROVED', 'REJECTED', 'QUEUED', 'PREPARING', 'IN_PROGRESS', 'VALIDATING',
      'COMPLETED', 'COMPLETED_WITH_WARNINGS', 'FAILED', 'CANCELLED', 'ROLLED_BACK')),
  status_reason text,
  progress jsonb,
  data_metrics jsonb,
  validation_enabled boolean NOT NULL,
  validation_results jsonb,
  conflict_resolution_strategy text NOT NULL CONSTRAINT restore_operations_conflict_resolution_strategy_known
    CHECK (conflict_resolution_strategy IN ('BACKUP_WINS', 'EXISTING_WINS', 'NEWEST_WINS', 'OLDEST_WINS', 'MERGE',
      'MANUAL')),
  conflicts_detected jsonb NOT NULL DEFAULT '[]',
  errors jsonb NOT NULL DEFAULT '[]',
  warnings jsonb NOT NULL DEFAULT '[]',
  requires_approval boolean NOT NULL,
  approved_by uuid,
  approved_at timestamptz(3),
  approval_notes text,
  rollback_enabled boolean NOT NULL,
  rollback_snapshot_id uuid,
  notes text,
  custom_fields jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  UNIQUE (organization_id, id),
  UNIQUE (organization_id, restore_number),
  FOREIGN KEY (organization_id, snapshot_id) REFERENCES backup_snapshots (organization_id, id),
  FOREIGN KEY (organization_id, rollback_snapshot_id) REFERENCES backup_snapshots (organization_id, id),
  -- Whoever requests a restore does not decide on it.
  CONSTRAINT restore_operations_second_person CHECK (approved_by <> requested_by),
  CHECK ((approved_by IS NULL) = (approved_at IS NULL))
);

CREATE INDEX restore_operations_newest_first ON restore_operations (organization_id, ordinal DESC);
CREATE INDEX restore_operations_newest_first_of_snapshot
  ON restore_operations (organization_id, snapshot_id, ordinal DESC);

-- Down Migration

DROP TABLE restore_operations;
DROP TABLE backup_attempts;
DROP TABLE backup_snapshots;
DROP FUNCTION backup_snapshots_guard_status();
DROP TABLE backup_configurations;
DROP TABLE counters;
