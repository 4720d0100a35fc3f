-- Restores into tables that are in use: what they changed, so that it can be put back, and what they left to people.

-- Up Migration

ALTER TABLE restore_operations
  ADD COLUMN delete_not_in_backup boolean NOT NULL DEFAULT false,
  ADD COLUMN allow_cascades boolean NOT NULL DEFAULT false,
  ADD COLUMN column_mapping jsonb NOT NULL DEFAULT '{}',
  -- What became of the rows, by entity.
  ADD COLUMN changes jsonb NOT NULL DEFAULT '[]',
  ADD COLUMN rolled_back_at timestamptz(3),
  ADD COLUMN rolled_back_by uuid,
  ADD CHECK ((rolled_back_at IS NULL) = (rolled_back_by IS NULL));

-- The tables of the host that a restore changed, with the columns that its images have.
CREATE TABLE restore_image_tables (
  organization_id uuid NOT NULL,
  restore_id uuid NOT NULL,
  position integer NOT NULL,
  entity_type text NOT NULL,
  schema_name text NOT NULL,
  table_name text NOT NULL,
  columns text[] NOT NULL,
  key text[] NOT NULL,
  PRIMARY KEY (organization_id, restore_id, position),
  UNIQUE (restore_id, schema_name, table_name),
  FOREIGN KEY (organization_id, restore_id) REFERENCES restore_operations (organization_id, id)
);

-- What each row was before, value by value as PostgreSQL writes them, and the version (xmin) that the restore left.
-- before NULL: there was none. version NULL: there is none.
CREATE TABLE restore_images (
  organization_id uuid NOT NULL,
  restore_id uuid NOT NULL,
  position integer NOT NULL,
  key text[] NOT NULL,
  before text[],
  version bigint,
  PRIMARY KEY (restore_id, position, key),
  FOREIGN KEY (organization_id, restore_id, position)
    REFERENCES restore_image_tables (organization_id, restore_id, position),
  CHECK (before IS NOT NULL OR version IS NOT NULL)
);
-- The restores that a record went through.
CREATE INDEX restore_images_of_key ON restore_images (key, restore_id);

CREATE TABLE restore_conflicts (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  organization_id uuid NOT NULL,
  restore_id uuid NOT NULL,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  entity_type text NOT NULL,
  record_id text NOT NULL,
  kind text NOT NULL CONSTRAINT restore_conflicts_kind_known
    CHECK (kind IN ('DIFFERENT', 'FIELDS', 'UNDATED', 'OUT_OF_SCOPE', 'NOT_IN_BACKUP', 'UNIQUE_TAKEN',
      'MISSING_REFERENCE', 'REFERENCED', 'CHANGED_SINCE')),
  -- The columns that differ.
  fields text[] NOT NULL,
  -- The constraint that stands in the way.
  detail text,
  columns text[] NOT NULL,
  -- Both rows, in the order of columns; NULL: there is none, or it is not the organization's to see.
  backup text[],
  existing text[],
  -- The version (xmin) of the row that stands, by which a decision tells whether it is still the one that was seen.
  version bigint,
  status text NOT NULL CONSTRAINT restore_conflicts_status_known CHECK (status IN ('PENDING', 'RESOLVED')),
  resolution text CHECK (resolution IN ('BACKUP', 'EXISTING', 'FIELDS')),
  resolved_by uuid,
  resolved_at timestamptz(3),
  notes text,
  detected_at timestamptz(3) NOT NULL,
  FOREIGN KEY (organization_id, restore_id) REFERENCES restore_operations (organization_id, id),
  CHECK ((status = 'RESOLVED') = (resolution IS NOT NULL AND resolved_by IS NOT NULL AND resolved_at IS NOT NULL))
);
CREATE INDEX restore_conflicts_newest_first ON restore_conflicts (organization_id, restore_id, ordinal DESC);

-- Down Migration

DROP TABLE restore_conflicts;
DROP TABLE restore_images;
DROP TABLE restore_image_tables;
ALTER TABLE restore_operations
  DROP COLUMN delete_not_in_backup,
  DROP COLUMN allow_cascades,
  DROP COLUMN column_mapping,
  DROP COLUMN changes,
  DROP COLUMN rolled_back_at,
  DROP COLUMN rolled_back_by;
