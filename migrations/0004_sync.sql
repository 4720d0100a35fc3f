-- Offline sync: streams, the queue of operations and their order, versions of entities, conflicts, sessions, events.

-- Up Migration

ALTER TABLE counters DROP CONSTRAINT counters_kind_check;
ALTER TABLE counters ADD CONSTRAINT counters_kind_check CHECK (kind IN ('SNAPSHOT', 'RESTORE', 'CONFLICT', 'SESSION'));

-- One outbox: an installation of the app under one user, in one life (epoch) of its outbox.
CREATE TABLE sync_streams (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  user_id uuid NOT NULL,
  device_id text NOT NULL,
  installation_id text NOT NULL,
  epoch bigint NOT NULL CHECK (epoch >= 1),
  -- Whose the sequence numbers are; NULL until the first.
  numbered_by text CONSTRAINT sync_streams_numbered_by_known CHECK (numbered_by IN ('CLIENT', 'SERVER')),
  last_sequence bigint NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
  -- Offsets of the device's clocks, per boot.
  clock jsonb NOT NULL DEFAULT '[]',
  clock_skew_ms bigint,
  last_effective_at timestamptz(3),
  last_seen_at timestamptz(3) NOT NULL,
  created_at timestamptz(3) NOT NULL,
  UNIQUE (organization_id, user_id, installation_id, epoch)
);
CREATE INDEX sync_streams_of_device ON sync_streams (organization_id, device_id);

-- What was ever taken, kept beyond the longest time offline and longer than the operations themselves.
CREATE TABLE sync_operation_ids (
  organization_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  stream_id uuid NOT NULL,
  sequence_number bigint NOT NULL,
  queue_id uuid NOT NULL,
  payload_hash bytea NOT NULL,
  -- What it came to, written when the operation itself is removed.
  final_state jsonb,
  PRIMARY KEY (organization_id, operation_id),
  UNIQUE (stream_id, sequence_number)
);
CREATE INDEX sync_operation_ids_oldest ON sync_operation_ids (queue_id) WHERE final_state IS NOT NULL;

CREATE TABLE offline_sync_queue (
  -- A UUIDv7: sorts by arrival.
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  branch_id uuid,
  user_id uuid NOT NULL,
  device_id text NOT NULL,
  -- Of sync_streams, whose rows stay: admission holds the stream locked, so that no foreign key need be checked.
  stream_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  sequence_number bigint NOT NULL CHECK (sequence_number >= 0),
  batch_id uuid,
  -- Of an atomic batch: how many belong to it.
  batch_size integer CHECK (batch_size BETWEEN 1 AND 50),
  session_id uuid,
  operation text NOT NULL CONSTRAINT offline_sync_queue_operation_known
    CHECK (operation IN ('CREATE', 'UPDATE', 'DELETE', 'PATCH', 'MERGE', 'UPSERT')),
  entity_type text NOT NULL,
  entity_id text NOT NULL,
  schema_version integer NOT NULL,
  payload jsonb NOT NULL,
  -- Who edited it last.
  edited_by uuid,
  -- As the device has it, of an operation that was edited.
  original_payload jsonb,
  original_schema_version integer,
  previous_version jsonb,
  -- Whether previous_version is what the server had handed out.
  base_trusted boolean NOT NULL DEFAULT false,
  -- The columns that it touches; '*': all.
  fields text[] NOT NULL,
  -- The entity as the device had it afterwards, where the payload does not tell; JSON null: deleted.
  client_image jsonb,
  depends_on uuid[] NOT NULL DEFAULT '{}',
  previous_operation_id uuid,
  -- May go on past one that waits for a decision and touches other columns: has all that is ahead of it on its entity for
  -- its predecessors.
  disjoint_proceeds boolean NOT NULL DEFAULT false,
  occurred_at timestamptz(3) NOT NULL,
  effective_at timestamptz(3),
  clock_skew_ms bigint,
  client_stamp jsonb,
  queued_at timestamptz(3) NOT NULL,
  attempted_at timestamptz(3),
  synced_at timestamptz(3),
  status text NOT NULL CONSTRAINT offline_sync_queue_status_known
    CHECK (status IN ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CONFLICT', 'EXPIRED', 'CANCELLED', 'PAUSED',
      'WAITING_APPROVAL', 'BLOCKED', 'AWAITING_EFFECT', 'PARKED')),
  status_reason text,
  outcome text CONSTRAINT offline_sync_queue_outcome_known
    CHECK (outcome IN ('APPLIED', 'MERGED', 'SUPERSEDED', 'REJECTED')),
  applied_version bigint,
  superseded jsonb NOT NULL DEFAULT '[]',
  priority text NOT NULL CONSTRAINT offline_sync_queue_priority_known
    CHECK (priority IN ('CRITICAL', 'HIGH', 'NORMAL', 'LOW', 'BACKGROUND')),
  lane text NOT NULL CONSTRAINT offline_sync_queue_lane_known CHECK (lane IN ('CRITICAL', 'NORMAL')),
  -- Its place: arrival + the weight of its priority, so that waiting needs no recounting.
  due_at timestamptz(3) NOT NULL,
  expires_at timestamptz(3),
  retry_count integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
  max_retries integer NOT NULL CHECK (max_retries BETWEEN 0 AND 100),
  next_retry_at timestamptz(3),
  backoff_multiplier double precision NOT NULL DEFAULT 2,
  -- Who applies it now, and until when nobody else takes it (the database's clock).
  claim_token uuid,
  lease_expires_at timestamptz(3),
  -- Claims without an outcome.
  claims integer NOT NULL DEFAULT 0,
  has_conflict boolean NOT NULL DEFAULT false,
  conflict_id uuid,
  -- A decision that the next attempt carries out.
  conflict_resolution jsonb,
  validation_errors jsonb NOT NULL DEFAULT '[]',
  requires_approval boolean NOT NULL DEFAULT false,
  approved_by uuid,
  approved_at timestamptz(3),
  -- The version of the entity that the approver saw.
  approval_version bigint,
  -- It is CRITICAL, or one of the same author waits for it: it is applied without an approval, and reviewed.
  approval_waived boolean NOT NULL DEFAULT false,
  review_required boolean NOT NULL DEFAULT false,
  -- The host's schema has not been asked about its payload: its type or version was not known.
  unchecked boolean NOT NULL DEFAULT false,
  last_attempt_error text,
  last_attempt_status_code integer,
  -- The rights of whoever handed it in.
  actor jsonb NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  -- What a worker looks at. Its own column, so that taking an operation (PENDING to IN_PROGRESS) touches no index.
  runnable boolean GENERATED ALWAYS AS (status IN ('PENDING', 'IN_PROGRESS')) STORED,
  -- Neither runnable nor over.
  waiting boolean GENERATED ALWAYS AS (status NOT IN ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED')) STORED,
  -- What builds on it does not go on by itself.
  holding boolean GENERATED ALWAYS AS (status IN ('CONFLICT', 'PARKED', 'BLOCKED', 'FAILED', 'CANCELLED', 'EXPIRED')) STORED,
  CONSTRAINT offline_sync_queue_claimed CHECK ((status = 'IN_PROGRESS') = (claim_token IS NOT NULL)),
  CONSTRAINT offline_sync_queue_ended CHECK ((status IN ('COMPLETED', 'FAILED')) = (outcome IS NOT NULL)),
  CONSTRAINT offline_sync_queue_rejected CHECK ((status = 'FAILED') = (outcome IS NOT DISTINCT FROM 'REJECTED')),
  CONSTRAINT offline_sync_queue_second_person CHECK (approved_by <> user_id),
  CONSTRAINT offline_sync_queue_not_its_editor CHECK (approved_by <> edited_by),
  -- What is critical neither expires nor waits for approval.
  CONSTRAINT offline_sync_queue_critical CHECK (priority <> 'CRITICAL' OR status NOT IN ('EXPIRED', 'WAITING_APPROVAL'))
);

CREATE INDEX offline_sync_queue_next ON offline_sync_queue (stream_id, lane, due_at, sequence_number) WHERE runnable;
CREATE INDEX offline_sync_queue_next_batch ON offline_sync_queue (stream_id, lane, due_at, sequence_number)
  WHERE runnable AND batch_size IS NOT NULL;
CREATE INDEX offline_sync_queue_of_entity ON offline_sync_queue (stream_id, entity_type, entity_id, sequence_number);
CREATE INDEX offline_sync_queue_open_of_entity ON offline_sync_queue (stream_id, entity_type, entity_id, sequence_number)
  WHERE runnable OR waiting;
CREATE INDEX offline_sync_queue_waiting ON offline_sync_queue (organization_id, status, id) WHERE waiting;
CREATE INDEX offline_sync_queue_holding ON offline_sync_queue (organization_id, operation_id) WHERE holding;
CREATE INDEX offline_sync_queue_batch ON offline_sync_queue (stream_id, batch_id) WHERE batch_size IS NOT NULL;
CREATE INDEX offline_sync_queue_of_session ON offline_sync_queue (session_id) WHERE session_id IS NOT NULL;

-- `docs/sync-protocol.md` has this as a picture; a test holds both to src/sync/states.ts. The condition stands with the
-- trigger, so that the function is called only to refuse.
CREATE FUNCTION offline_sync_queue_refuse_status() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RAISE EXCEPTION 'an operation does not go from % to %', OLD.status, NEW.status
    USING ERRCODE = 'check_violation', CONSTRAINT = 'offline_sync_queue_guard_status';
END;
$$;
CREATE TRIGGER offline_sync_queue_guard_status BEFORE UPDATE OF status ON offline_sync_queue
  FOR EACH ROW WHEN (OLD.status <> NEW.status AND NOT (CASE OLD.status
    WHEN 'PENDING' THEN NEW.status IN ('IN_PROGRESS', 'PAUSED', 'CANCELLED', 'EXPIRED', 'BLOCKED', 'PARKED', 'CONFLICT',
      'FAILED', 'WAITING_APPROVAL')
    WHEN 'IN_PROGRESS' THEN NEW.status IN ('PENDING', 'COMPLETED', 'FAILED', 'CONFLICT', 'PARKED', 'WAITING_APPROVAL',
      'BLOCKED', 'AWAITING_EFFECT')
    WHEN 'CONFLICT' THEN NEW.status IN ('PENDING', 'CANCELLED')
    WHEN 'PAUSED' THEN NEW.status IN ('PENDING', 'CANCELLED', 'EXPIRED', 'WAITING_APPROVAL')
    WHEN 'WAITING_APPROVAL' THEN NEW.status IN ('PENDING', 'CANCELLED', 'EXPIRED', 'FAILED', 'PAUSED', 'BLOCKED')
    WHEN 'BLOCKED' THEN NEW.status IN ('PENDING', 'CANCELLED', 'EXPIRED', 'CONFLICT', 'FAILED', 'PARKED', 'WAITING_APPROVAL')
    WHEN 'PARKED' THEN NEW.status IN ('PENDING', 'CANCELLED', 'WAITING_APPROVAL')
    WHEN 'FAILED' THEN NEW.status IN ('PENDING', 'CANCELLED', 'WAITING_APPROVAL')
    WHEN 'EXPIRED' THEN NEW.status IN ('PENDING', 'CANCELLED')
    WHEN 'AWAITING_EFFECT' THEN NEW.status IN ('COMPLETED', 'FAILED', 'PENDING', 'PARKED')
    ELSE false
  END)) EXECUTE FUNCTION offline_sync_queue_refuse_status();

-- What an operation waits for. By the predecessor's operation id, since it may not have arrived.
CREATE TABLE sync_predecessors (
  -- Of offline_sync_queue; removed with it.
  successor_id uuid NOT NULL,
  organization_id uuid NOT NULL,
  predecessor uuid NOT NULL,
  -- PREVIOUS: before it on the same entity, and it builds on it. ORDER: before it there, whatever became of it.
  kind text NOT NULL CONSTRAINT sync_predecessors_kind_known CHECK (kind IN ('DEPENDS_ON', 'PREVIOUS', 'ORDER')),
  PRIMARY KEY (successor_id, predecessor)
);
CREATE INDEX sync_predecessors_of ON sync_predecessors (organization_id, predecessor);

-- The version of every entity that was ever synchronized. Survives the entity, so that versions never begin again.
CREATE TABLE sync_entity_state (
  organization_id uuid NOT NULL,
  entity_type text NOT NULL,
  entity_id text NOT NULL,
  version bigint NOT NULL CHECK (version >= 0),
  -- SHA-256 of the canonical row at this version; NULL: deleted, or never seen.
  row_hash bytea,
  deleted boolean NOT NULL DEFAULT false,
  -- When each column last changed, by the server's clock; null: not known. '': all others.
  times jsonb NOT NULL DEFAULT '{}',
  -- Which operation (offline_sync_queue.id) last wrote each column, where it was one. '': all others.
  writers jsonb NOT NULL DEFAULT '{}',
  updated_at timestamptz(3) NOT NULL,
  PRIMARY KEY (organization_id, entity_type, entity_id)
);

CREATE TABLE sync_conflicts (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  branch_id uuid,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  queue_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  user_id uuid NOT NULL,
  device_id text NOT NULL,
  -- Given after the transaction that found the conflict, so that no two of them wait for each other.
  conflict_number text,
  conflict_type text NOT NULL CONSTRAINT sync_conflicts_conflict_type_known
    CHECK (conflict_type IN ('UPDATE_UPDATE', 'UPDATE_DELETE', 'DELETE_UPDATE', 'CREATE_CREATE', 'FIELD_LEVEL', 'DEPENDENCY')),
  entity_type text NOT NULL,
  entity_id text NOT NULL,
  base_version jsonb,
  client_version jsonb,
  server_version jsonb,
  server_version_number bigint NOT NULL,
  conflicting_fields jsonb NOT NULL DEFAULT '[]',
  status text NOT NULL CONSTRAINT sync_conflicts_status_known
    CHECK (status IN ('DETECTED', 'AUTO_RESOLVING', 'AUTO_RESOLVED', 'PENDING_MANUAL', 'RESOLVING', 'RESOLVED', 'EXPIRED', 'CANCELLED')),
  resolution jsonb,
  auto_resolution_attempted boolean NOT NULL DEFAULT false,
  auto_resolution_strategy text CONSTRAINT sync_conflicts_auto_resolution_strategy_known
    CHECK (auto_resolution_strategy IN ('CLIENT_WINS', 'SERVER_WINS', 'NEWEST_WINS', 'MANUAL', 'FIELD_LEVEL_MERGE', 'CUSTOM')),
  auto_resolution_failed boolean NOT NULL DEFAULT false,
  auto_resolution_failure_reason text,
  requires_manual_resolution boolean NOT NULL,
  assigned_to uuid,
  resolved_at timestamptz(3),
  detected_at timestamptz(3) NOT NULL,
  redetections integer NOT NULL DEFAULT 0,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  UNIQUE (organization_id, conflict_number)
);
CREATE INDEX sync_conflicts_newest_first ON sync_conflicts (organization_id, ordinal DESC);
CREATE INDEX sync_conflicts_open ON sync_conflicts (organization_id, entity_type, entity_id)
  WHERE status IN ('DETECTED', 'AUTO_RESOLVING', 'PENDING_MANUAL', 'RESOLVING');
CREATE INDEX sync_conflicts_unnumbered ON sync_conflicts (organization_id, ordinal) WHERE conflict_number IS NULL;
-- One open conflict per operation.
CREATE UNIQUE INDEX sync_conflicts_one_open ON sync_conflicts (queue_id)
  WHERE status IN ('DETECTED', 'AUTO_RESOLVING', 'PENDING_MANUAL', 'RESOLVING');

CREATE TABLE offline_sessions (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  user_id uuid NOT NULL,
  device_id text NOT NULL,
  session_number text NOT NULL,
  started_at timestamptz(3) NOT NULL,
  ended_at timestamptz(3),
  status text NOT NULL CONSTRAINT offline_sessions_status_known
    CHECK (status IN ('ACTIVE', 'SYNCING', 'COMPLETED', 'PARTIAL', 'FAILED')),
  network_status jsonb NOT NULL,
  last_online_at timestamptz(3),
  device_info jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  UNIQUE (organization_id, session_number)
);
-- A device is in one session of a user at a time.
CREATE UNIQUE INDEX offline_sessions_one_open ON offline_sessions (organization_id, user_id, device_id) WHERE ended_at IS NULL;

CREATE TABLE sync_events (
  -- A UUIDv7.
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL,
  type text NOT NULL CONSTRAINT sync_events_type_known
    CHECK (type IN ('APPLIED', 'MERGED', 'SUPERSEDED', 'REJECTED', 'CONFLICT_DETECTED', 'CONFLICT_RESOLVED',
      'CONFLICT_REOPENED', 'RETRY', 'PARKED', 'BLOCKED', 'EXPIRED', 'CANCELLED', 'PAUSED', 'RESUMED', 'APPROVED',
      'EDITED', 'REDRIVEN', 'REVIEW_REQUIRED')),
  queue_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  user_id uuid NOT NULL,
  device_id text NOT NULL,
  branch_id uuid,
  entity_type text NOT NULL,
  entity_id text NOT NULL,
  version bigint,
  details jsonb NOT NULL DEFAULT '{}',
  occurred_at timestamptz(3) NOT NULL
);
CREATE INDEX sync_events_newest_first ON sync_events (organization_id, id DESC);

-- Down Migration

DROP TABLE sync_events;
DROP TABLE offline_sessions;
DROP TABLE sync_conflicts;
DROP TABLE sync_entity_state;
DROP TABLE sync_predecessors;
DROP TABLE offline_sync_queue;
DROP FUNCTION offline_sync_queue_refuse_status();
DROP TABLE sync_operation_ids;
DROP TABLE sync_streams;
DELETE FROM counters WHERE kind IN ('CONFLICT', 'SESSION');
ALTER TABLE counters DROP CONSTRAINT counters_kind_check;
ALTER TABLE counters ADD CONSTRAINT counters_kind_check CHECK (kind IN ('SNAPSHOT', 'RESTORE'));
