-- The keys that wrap data keys: since when each is used, and which wrap nothing new.

-- Up Migration

-- Of the installation, not of an organization: a key provider serves them all.
CREATE TABLE wrapping_keys (
  key_id text PRIMARY KEY,
  first_used_at timestamptz(3),
  -- When it was last told that its rotation is due.
  reminded_at timestamptz(3),
  -- From then on no run may record a data key that it wrapped.
  retired_at timestamptz(3)
);

INSERT INTO wrapping_keys (key_id, first_used_at)
  SELECT encryption_key_id, min(coalesce(started_at, created_at)) FROM backup_snapshots
   WHERE encryption_key_id IS NOT NULL GROUP BY encryption_key_id;

-- What a key is needed for: all that may still be stored, or come to be.
CREATE INDEX backup_snapshots_of_key ON backup_snapshots (encryption_key_id, organization_id)
  WHERE encryption_key_id IS NOT NULL AND status NOT IN ('FAILED', 'CANCELLED', 'DELETED');

ALTER TABLE storage_jobs DROP CONSTRAINT storage_jobs_kind_known, ADD CONSTRAINT storage_jobs_kind_known
  CHECK (kind IN ('VERIFICATION', 'REPLICATION', 'HEALING', 'MIGRATION', 'REWRAPPING'));

-- Down Migration

DELETE FROM storage_jobs WHERE kind = 'REWRAPPING';
ALTER TABLE storage_jobs DROP CONSTRAINT storage_jobs_kind_known, ADD CONSTRAINT storage_jobs_kind_known
  CHECK (kind IN ('VERIFICATION', 'REPLICATION', 'HEALING', 'MIGRATION'));
DROP INDEX backup_snapshots_of_key;
DROP TABLE wrapping_keys;
