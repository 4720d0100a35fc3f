-- What a field application keeps: visits, the electronic records of clocking in and out, notes.
CREATE TABLE visits (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  branch_id uuid NOT NULL,
  client_name text NOT NULL,
  status text NOT NULL DEFAULT 'SCHEDULED' CHECK (status IN ('SCHEDULED', 'IN_PROGRESS', 'DONE')),
  summary text,
  mood text,
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);
CREATE TABLE evv_records (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  branch_id uuid NOT NULL,
  visit_id uuid NOT NULL REFERENCES visits,
  kind text NOT NULL CHECK (kind IN ('CLOCK_IN', 'CLOCK_OUT')),
  at timestamptz NOT NULL
);
CREATE TABLE notes (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  branch_id uuid NOT NULL,
  visit_id uuid REFERENCES visits,
  body text NOT NULL
);
