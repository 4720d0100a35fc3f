import { createHash, randomUUID } from 'node:crypto';
import type pg from 'pg';

/** The floor's own tables: the columns that the same writes need, with the same keys. */
export const FLOOR_SCHEMA = `
  CREATE SCHEMA floor;
  CREATE TABLE floor.ids (organization_id uuid, operation_id uuid, stream_id uuid, sequence_number bigint, queue_id uuid, payload_hash bytea,
    PRIMARY KEY (organization_id, operation_id), UNIQUE (stream_id, sequence_number));
  CREATE TABLE floor.operations (id uuid PRIMARY KEY, organization_id uuid NOT NULL, user_id uuid NOT NULL, device_id text NOT NULL,
    stream_id uuid NOT NULL, operation_id uuid NOT NULL, sequence_number bigint NOT NULL, operation text NOT NULL, entity_type text NOT NULL,
    entity_id text NOT NULL, payload jsonb NOT NULL, previous_version jsonb, occurred_at timestamptz NOT NULL, queued_at timestamptz NOT NULL, synced_at timestamptz,
    status text NOT NULL, outcome text, version bigint, due_at timestamptz NOT NULL);
  CREATE INDEX ON floor.operations (stream_id, due_at) WHERE status = 'PENDING';
  CREATE INDEX ON floor.operations (stream_id, entity_type, entity_id, sequence_number);
  CREATE TABLE floor.versions (organization_id uuid, entity_type text, entity_id text, version bigint NOT NULL, row_hash bytea,
    PRIMARY KEY (organization_id, entity_type, entity_id));
  CREATE TABLE floor.events (id uuid PRIMARY KEY, organization_id uuid NOT NULL, type text NOT NULL, operation_id uuid NOT NULL,
    entity_type text NOT NULL, entity_id text NOT NULL, version bigint, occurred_at timestamptz NOT NULL);
  CREATE INDEX ON floor.events (organization_id, id DESC);`;

export interface FloorOperation {
  readonly operationId: string;
  readonly entityId: string;
  readonly payload: object;
  /** What the device changed, which comes with it and is kept with it. */
  readonly previousVersion: object;
}

const organization = randomUUID();
const stream = randomUUID();
let sequence = 0;

/** Admission by hand: the operation and its id, 500 in one transaction, as one statement each. */
export async function admitByHand(
  client: pg.ClientBase,
  operations: readonly FloorOperation[],
): Promise<void> {
  const rows = operations.map((operation) => {
    sequence += 1;
    const payload = JSON.stringify(operation.payload);
    return {
      id: randomUUID(),
      operation_id: operation.operationId,
      sequence_number: sequence,
      entity_id: operation.entityId,
      payload: operation.payload,
      previous_version: operation.previousVersion,
      hash: createHash('sha256').update(payload).digest('hex'),
    };
  });
  const values = [organization, stream, JSON.stringify(rows)];
  const record =
    'AS r(id uuid, operation_id uuid, sequence_number bigint, entity_id text, payload jsonb, previous_version jsonb, hash text)';
  await client.query('BEGIN');
  await client.query({
    name: 'floor-ids',
    text: `INSERT INTO floor.ids SELECT $1::uuid, r.operation_id, $2::uuid, r.sequence_number, r.id, decode(r.hash, 'hex')
      FROM json_to_recordset($3::json) ${record} ON CONFLICT DO NOTHING`,
    values,
  });
  await client.query({
    name: 'floor-operations',
    text: `INSERT INTO floor.operations SELECT r.id, $1::uuid, $2::uuid, 'device', $2::uuid, r.operation_id, r.sequence_number, 'UPDATE',
      'VISIT', r.entity_id, r.payload, r.previous_version, now(), now(), NULL, 'PENDING', NULL, NULL, now() FROM json_to_recordset($3::json) ${record}`,
    values,
  });
  await client.query('COMMIT');
}

/** Applying by hand: the row locked and read, written, its version, the event, the outcome; one statement each. */
export async function applyByHand(
  client: pg.ClientBase,
  operations: readonly FloorOperation[],
  together: number,
): Promise<void> {
  for (let i = 0; i < operations.length; i += together) {
    await client.query('BEGIN');
    for (const { operationId, entityId, payload } of operations.slice(i, i + together)) {
      await client.query({
        name: 'floor-read',
        text: 'SELECT to_jsonb(t)::text AS row FROM visits t WHERE id = $1 FOR UPDATE',
        values: [entityId],
      });
      const { rows } = await client.query<{ row: string }>({
        name: 'floor-write',
        text: `UPDATE visits t SET notes = r.notes, minutes = r.minutes, updated_at = now()
          FROM jsonb_populate_record(NULL::visits, $2::jsonb) r WHERE t.id = $1 RETURNING to_jsonb(t)::text AS row`,
        values: [entityId, JSON.stringify(payload)],
      });
      const hash = createHash('sha256')
        .update(rows[0]?.row ?? '')
        .digest();
      const version = await client.query<{ version: string }>({
        name: 'floor-version',
        text: `INSERT INTO floor.versions AS v VALUES ($1, 'VISIT', $2, 1, $3)
          ON CONFLICT (organization_id, entity_type, entity_id) DO UPDATE SET version = v.version + 1, row_hash = excluded.row_hash
          RETURNING version`,
        values: [organization, entityId, hash],
      });
      await client.query({
        name: 'floor-event',
        text: `INSERT INTO floor.events VALUES ($1, $2, 'APPLIED', $3, 'VISIT', $4, $5, now())`,
        values: [randomUUID(), organization, operationId, entityId, version.rows[0]?.version],
      });
      await client.query({
        name: 'floor-outcome',
        text: `UPDATE floor.operations o SET status = 'COMPLETED', outcome = 'APPLIED', version = $3, synced_at = now()
          FROM floor.ids d WHERE d.organization_id = $1 AND d.operation_id = $2 AND o.id = d.queue_id AND o.status = 'PENDING'`,
        values: [organization, operationId, version.rows[0]?.version],
      });
    }
    await client.query('COMMIT');
  }
}
