-- Checkpoints of the audit log, and pruning behind them.

-- Up Migration

-- Authenticated sidecars that hold the hash of the entry with this sequence. CHECKPOINT: the chain reached it. PRUNED:
-- it and all before it were removed.
CREATE TABLE audit_checkpoints (
  organization_id uuid NOT NULL REFERENCES audit_heads (organization_id),
  kind text NOT NULL CONSTRAINT audit_checkpoints_kind_known CHECK (kind IN ('CHECKPOINT', 'PRUNED')),
  sequence bigint NOT NULL CHECK (sequence > 0),
  record bytea NOT NULL,
  PRIMARY KEY (organization_id, kind, sequence)
);
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();
ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER audit_checkpoints_append_only;

-- Entries are removed only in the transaction that says so for good: whoever removes leaves a PRUNED record, and only who
-- holds the key makes one that verifies.
DROP TRIGGER audit_log_append_only ON audit_log;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

CREATE FUNCTION audit_log_refuse_removal() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM (SELECT organization_id, max(sequence) AS sequence FROM removed GROUP BY organization_id) r
     WHERE NOT EXISTS (SELECT 1 FROM audit_checkpoints c
       WHERE c.organization_id = r.organization_id AND c.kind = 'PRUNED' AND c.sequence >= r.sequence
         AND c.xmin = pg_current_xact_id()::xid)
  ) THEN
    RAISE EXCEPTION 'the audit log is append-only: % refused', TG_OP
      USING ERRCODE = 'restrict_violation', CONSTRAINT = 'audit_log_pruned_only';
  END IF;
  RETURN NULL;
END;
$$;
CREATE TRIGGER audit_log_pruned_only AFTER DELETE ON audit_log REFERENCING OLD TABLE AS removed
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_removal();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_pruned_only;

-- Down Migration

DROP TRIGGER audit_log_pruned_only ON audit_log;
DROP FUNCTION audit_log_refuse_removal();
DROP TRIGGER audit_log_append_only ON audit_log;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;
DROP TABLE audit_checkpoints;
