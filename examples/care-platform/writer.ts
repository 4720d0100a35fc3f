import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

export interface WriterOptions {
  /** Decides what is done in which order; the ids of new rows come from the server. */
  seed: number;
  /** Left out: all organizations that exist when it starts. */
  organizationId?: string;
  /** Pause between two actions. Default 5; 0 writes as fast as it can. */
  intervalMs?: number;
  /** Default `public`. */
  schema?: string;
}

export interface Writer {
  /**
   * Ends after the action it is at and closes the connection. Rejects with the error that ended it earlier, such
   * as a lost connection; deadlocks and serialization failures are not errors, those actions are given up.
   */
  stop(): Promise<{ statements: number }>;
}

type Rows = Record<string, unknown>[];

/** What the writer knows about one organization. Rows may be gone by the time they are used. */
interface Known {
  organization: string;
  clients: string[];
  caregivers: string[];
  plans: string[];
  visits: string[];
  notes: string[];
  tasks: string[];
  invoices: string[];
}

interface Hand {
  known: Known;
  run(sql: string, values?: unknown[]): Promise<Rows>;
  /** A whole number from 0 below `limit`. */
  below(limit: number): number;
  /** One of them; null, which equals no row's key, where there are none. */
  one(values: readonly string[]): string | null;
}

const TEXTS = [
  '',
  'Client rested well.',
  'tab\there',
  'two\nlines',
  'back\\slash \\N',
  '"quotes" \'single\'',
  '💊 é 漢字',
];
const STATUSES = ['SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'MISSED', "CLIENT'S REFUSAL", 'CANCELLED'];
const KINDS = ['PROGRESS', 'INCIDENT', 'CALL', 'FAMILY'];

/** Every action is one transaction, and touches nothing where the row it means no longer exists. */
type Action = (hand: Hand) => Promise<void>;

const text = (hand: Hand) => `${hand.one(TEXTS)} ${hand.below(1_000_000)}`;
const day = (hand: Hand) => `2026-0${1 + hand.below(6)}-1${hand.below(10)}T0${hand.below(10)}:15:00Z`;

/** Remembers the ids that a statement returned. */
async function keep(into: string[], rows: Promise<Rows>): Promise<void> {
  for (const { id } of await rows) into.push(String(id));
}

/** Another one like a visit there was, so that client, caregiver and branch belong together. */
const insertVisit: Action = (hand) =>
  keep(
    hand.known.visits,
    hand.run(
      `INSERT INTO visits (organization_id, branch_id, client_id, caregiver_id, service_code, scheduled, amount,
         notes, tags, details)
       SELECT organization_id, branch_id, client_id, caregiver_id, service_code,
         tstzrange($2::timestamptz, $2::timestamptz + interval '45 minutes'), $3::numeric / 100, $4::text,
         ARRAY[$4, NULL], jsonb_build_object('by', 'writer', 'text', $4::text)
       FROM visits WHERE id = $1 FOR KEY SHARE RETURNING id`,
      [hand.one(hand.known.visits), day(hand), hand.below(50_000), text(hand)],
    ),
  );

const updateVisit: Action = async (hand) => {
  await hand.run('UPDATE visits SET status = $2, notes = $3 WHERE id = $1', [
    hand.one(hand.known.visits),
    hand.one(STATUSES),
    text(hand),
  ]);
};

const rescheduleVisit: Action = async (hand) => {
  await hand.run(
    `UPDATE visits SET scheduled = tstzrange($2::timestamptz, $2::timestamptz + interval '1 hour'),
       deleted_at = CASE WHEN deleted_at IS NULL AND $3 THEN now() END WHERE id = $1`,
    [hand.one(hand.known.visits), day(hand), hand.below(4) === 0],
  );
};

const completeVisit: Action = async (hand) => {
  const id = hand.one(hand.known.visits);
  await hand.run('BEGIN');
  await hand.run(
    `INSERT INTO evv_records (organization_id, branch_id, visit_id, client_id, caregiver_id, method, clock_in_at,
       clock_out_at, latitude, accuracy, device_payload)
     SELECT organization_id, branch_id, id, client_id, caregiver_id, 'FIXED "FOB"', lower(scheduled),
       upper(scheduled), 25.1 + $2::int / 1e7::float8, $2::int / 3.0, '{"writer": true, "writer": 1}'
     FROM visits WHERE id = $1 AND caregiver_id IS NOT NULL FOR KEY SHARE`,
    [id, hand.below(1_000)],
  );
  await hand.run(
    `UPDATE visits SET status = 'COMPLETED', actual_start = lower(scheduled), actual_end = upper(scheduled)
     WHERE id = $1`,
    [id],
  );
  await hand.run('COMMIT');
};

const deleteVisit: Action = async (hand) => {
  await hand.run('DELETE FROM visits WHERE id = $1', [hand.one(hand.known.visits)]);
};

const insertNote: Action = (hand) =>
  keep(
    hand.known.notes,
    hand.run(
      `INSERT INTO notes (organization_id, branch_id, client_id, visit_id, kind, body, created_at)
       SELECT organization_id, branch_id, client_id, id, $2::text, $3::text, $4::timestamptz FROM visits WHERE id = $1 FOR KEY SHARE
       RETURNING id`,
      [hand.one(hand.known.visits), hand.one(KINDS), text(hand), day(hand)],
    ),
  );

const updateNote: Action = async (hand) => {
  await hand.run('UPDATE notes SET body = $2 WHERE id = $1', [hand.one(hand.known.notes), text(hand)]);
};

/** Usually into another partition, where the row is deleted and inserted anew. */
const moveNote: Action = async (hand) => {
  await hand.run(
    `UPDATE notes SET created_at = $2
     WHERE id = $1 AND NOT EXISTS (SELECT FROM documents WHERE note_id = $1)`,
    [hand.one(hand.known.notes), day(hand)],
  );
};

const deleteNote: Action = async (hand) => {
  await hand.run('DELETE FROM notes WHERE id = $1', [hand.one(hand.known.notes)]);
};

const insertTask: Action = (hand) =>
  keep(
    hand.known.tasks,
    hand.run(
      `INSERT INTO tasks (care_plan_id, title, instructions, priority, due_on, repeat_every)
       SELECT id, $2::text, $2::text, $3::smallint, $4::date, interval '1 mon 2 days 03:04:05.000006' FROM care_plans WHERE id = $1
       FOR KEY SHARE RETURNING id`,
      [hand.one(hand.known.plans), text(hand), 1 + hand.below(5), day(hand)],
    ),
  );

const updateTask: Action = async (hand) => {
  await hand.run("UPDATE tasks SET state = 'NOT DONE', instructions = $2 WHERE id = $1", [
    hand.one(hand.known.tasks),
    text(hand),
  ]);
};

const deleteTask: Action = async (hand) => {
  await hand.run('DELETE FROM tasks WHERE id = $1', [hand.one(hand.known.tasks)]);
};

const updateClient: Action = async (hand) => {
  await hand.run(
    `UPDATE clients SET preferences = jsonb_build_object('writer', $2::text), phone = '+13055550100',
       deleted_at = CASE WHEN deleted_at IS NULL AND $3 THEN now() END WHERE id = $1`,
    [hand.one(hand.known.clients), text(hand), hand.below(8) === 0],
  );
};

/** A client and a care plan that refer to each other: both sides of the cycle in one transaction. */
const admitClient: Action = async (hand) => {
  await hand.run('BEGIN');
  const [client] = await hand.run(
    `INSERT INTO clients (organization_id, branch_id, client_number, first_name, last_name, date_of_birth, address)
     SELECT organization_id, branch_id, 'W-' || gen_random_uuid(), 'New', $2::text, '1950-02-03',
       ROW('1 Elm St', NULL, 'Miami', 'FL', '33101')::postal_address
     FROM clients WHERE id = $1 RETURNING id`,
    [hand.one(hand.known.clients), text(hand)],
  );
  const [plan] = await hand.run(
    `INSERT INTO care_plans (organization_id, branch_id, client_id, title, effective, weekly_hours)
     SELECT organization_id, branch_id, id, 'Admission', daterange('2026-01-01', NULL), 12.5
     FROM clients WHERE id = $1 RETURNING id`,
    [client?.id],
  );
  await hand.run('UPDATE clients SET primary_care_plan_id = $2 WHERE id = $1', [client?.id, plan?.id]);
  await hand.run('COMMIT');
  if (client === undefined || plan === undefined) return;
  hand.known.clients.push(String(client.id));
  hand.known.plans.push(String(plan.id));
};

/** Its tasks go with it, and the client is left without a primary plan. */
const deletePlan: Action = async (hand) => {
  await hand.run('DELETE FROM care_plans WHERE id = $1', [hand.one(hand.known.plans)]);
};

const insertInvoice: Action = (hand) =>
  keep(
    hand.known.invoices,
    hand.run(
      `WITH invoice AS (
         INSERT INTO invoices (organization_id, branch_id, client_id, invoice_number, status, billing_period,
           issued_on, subtotal)
         SELECT organization_id, branch_id, id, 'W-' || gen_random_uuid(), 'SENT', '[2026-01-01,2026-01-15)',
           '2026-01-15', $2::numeric / 100
         FROM clients WHERE id = $1 FOR KEY SHARE RETURNING *)
       INSERT INTO payments (invoice_id, installment, organization_id, branch_id, client_id, amount, method,
         received_at)
       SELECT id, 1, organization_id, branch_id, client_id, subtotal / 2, 'CHECK', now() FROM invoice
       RETURNING invoice_id AS id`,
      [hand.one(hand.known.clients), hand.below(1_000_000)],
    ),
  );

const payInvoice: Action = async (hand) => {
  await hand.run(
    `INSERT INTO payments (invoice_id, installment, organization_id, branch_id, client_id, amount, method,
       received_at, remittance)
     SELECT id, $2::smallint, organization_id, branch_id, client_id, 1.10, 'CARD', now(), '\\x005c0aff' FROM invoices
     WHERE id = $1 FOR KEY SHARE
     ON CONFLICT (invoice_id, installment) DO UPDATE SET amount = payments.amount + 0.01`,
    [hand.one(hand.known.invoices), 1 + hand.below(3)],
  );
};

const deleteInvoice: Action = async (hand) => {
  await hand.run('DELETE FROM invoices WHERE id = $1', [hand.one(hand.known.invoices)]);
};

const updateCaregiver: Action = async (hand) => {
  await hand.run(
    `UPDATE caregivers SET unavailable = unavailable + tstzmultirange(tstzrange($2::timestamptz, $2::timestamptz + interval '1 h'))
     WHERE id = $1`,
    [hand.one(hand.known.caregivers), day(hand)],
  );
};

/** Changes of which a part or everything never was. */
const changeMind: Action = async (hand) => {
  await hand.run('BEGIN');
  await insertTask(hand);
  await hand.run('SAVEPOINT before');
  await updateVisit(hand);
  await insertVisit(hand);
  await hand.run('ROLLBACK TO SAVEPOINT before');
  await updateNote(hand);
  await hand.run(hand.below(2) === 0 ? 'COMMIT' : 'ROLLBACK');
};

/** Inserts outweigh deletes a little, so that there is always something to write to. */
const ACTIONS: readonly Action[] = [
  ...[insertVisit, insertVisit, insertVisit, updateVisit, updateVisit, updateVisit, rescheduleVisit],
  ...[completeVisit, completeVisit, deleteVisit, deleteVisit],
  ...[insertNote, insertNote, updateNote, moveNote, deleteNote],
  ...[insertTask, insertTask, updateTask, deleteTask],
  ...[updateClient, admitClient, updateCaregiver, deletePlan],
  ...[insertInvoice, payInvoice, deleteInvoice, changeMind],
];

/** Resolves once it is connected and has looked around; from then on it writes until it is stopped. */
export async function startWriter(
  connection: string | pg.ClientConfig,
  options: WriterOptions,
): Promise<Writer> {
  const client = new pg.Client(connection);
  const stopping = new AbortController();
  let lost: Error | undefined;
  client.on('error', (error) => {
    lost = error;
  });
  await client.connect();
  try {
    const path = pg.escapeIdentifier(options.schema ?? 'public');
    await client.query("SELECT set_config('search_path', $1, false)", [path]);
    const known = await lookAround(client, options.organizationId);
    const writing = write(client, known, options, stopping.signal);
    // Whoever calls stop() gets the failure; until then it is nobody's unhandled rejection.
    writing.catch(() => undefined);
    return {
      async stop() {
        stopping.abort();
        try {
          return { statements: await writing };
        } catch (error) {
          throw lost ?? error;
        } finally {
          await client.end();
        }
      },
    };
  } catch (error) {
    await client.end();
    throw error;
  }
}

async function lookAround(client: pg.Client, organizationId: string | undefined): Promise<Known[]> {
  const { rows } = await client.query<Known>(
    `SELECT o.id::text AS organization,
       ARRAY(SELECT id::text FROM clients WHERE organization_id = o.id ORDER BY id LIMIT 500) AS clients,
       ARRAY(SELECT id::text FROM caregivers WHERE organization_id = o.id ORDER BY id LIMIT 500) AS caregivers,
       ARRAY(SELECT id::text FROM care_plans WHERE organization_id = o.id ORDER BY id LIMIT 500) AS plans,
       ARRAY(SELECT id::text FROM visits WHERE organization_id = o.id ORDER BY id LIMIT 1000) AS visits,
       ARRAY(SELECT id::text FROM notes WHERE organization_id = o.id ORDER BY id LIMIT 1000) AS notes,
       ARRAY(SELECT t.id::text FROM tasks t JOIN care_plans p ON p.id = t.care_plan_id
         WHERE p.organization_id = o.id ORDER BY t.id LIMIT 1000) AS tasks,
       ARRAY(SELECT id::text FROM invoices WHERE organization_id = o.id ORDER BY id LIMIT 500) AS invoices
     FROM organizations o WHERE $1::uuid IS NULL OR o.id = $1 ORDER BY o.id`,
    [organizationId ?? null],
  );
  if (rows.length === 0) throw new Error(`no organization to write to: ${organizationId ?? 'there is none'}`);
  return rows;
}

async function write(
  client: pg.Client,
  organizations: readonly Known[],
  { seed, intervalMs = 5 }: WriterOptions,
  stopping: AbortSignal,
): Promise<number> {
  const random = randomFrom(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const one = (values: readonly string[]) => values[below(values.length)] ?? null;
  let statements = 0;
  const run = async (sql: string, values?: unknown[]): Promise<Rows> => {
    const { rows } = await client.query<Rows[number]>(sql, values);
    statements += 1;
    return rows;
  };
  while (!stopping.aborted) {
    const known = organizations[below(organizations.length)];
    const action = ACTIONS[below(ACTIONS.length)];
    if (known !== undefined && action !== undefined) await attempt({ known, run, below, one }, action);
    if (intervalMs > 0) await sleep(intervalMs, undefined, { signal: stopping }).catch(() => undefined);
  }
  return statements;
}

/** Of two writers in each other's way PostgreSQL ends one: the action is given up and the writer goes on. */
const IN_EACH_OTHERS_WAY = new Set(['40001', '40P01']);

async function attempt(hand: Hand, action: Action): Promise<void> {
  try {
    await action(hand);
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || !IN_EACH_OTHERS_WAY.has(error.code ?? '')) throw error;
    await hand.run('ROLLBACK');
  }
}

/** Mulberry32: numbers from 0 below 1, the same for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
