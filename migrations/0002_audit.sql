-- The audit log: append-only, hash-chained per organization.

-- Up Migration

-- The end of each organization's chain. Appending locks its row, which puts the entries in one order.
CREATE TABLE audit_heads (
  organization_id uuid PRIMARY KEY,
  sequence bigint NOT NULL CHECK (sequence >= 0),
  hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$')
);

CREATE TABLE audit_log (
  organization_id uuid NOT NULL REFERENCES audit_heads (organization_id),
  sequence bigint NOT NULL CHECK (sequence > 0),
  "timestamp" timestamptz(3) NOT NULL,
  action text NOT NULL,
  user_id uuid NOT NULL,
  resource_type text NOT NULL,
  resource_id text NOT NULL,
  details jsonb NOT NULL,
  prev_hash text NOT NULL CHECK (prev_hash ~ '^[0-9a-f]{64}$'),
  hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
  PRIMARY KEY (organization_id, sequence)
);

CREATE INDEX audit_log_of_resource ON audit_log (organization_id, resource_type, resource_id, sequence);

CREATE FUNCTION audit_log_refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only: % refused', TG_OP
    USING ERRCODE = 'restrict_violation', CONSTRAINT = 'audit_log_append_only';
END;
$$;

CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

-- Down Migration

DROP TABLE audit_log;
DROP FUNCTION audit_log_refuse_change();
DROP TABLE audit_heads;
