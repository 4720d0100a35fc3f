import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { OperationState, Page, SyncConflict } from '../../src/index.ts';
import { Device } from './device.ts';
import { BRANCH, ORGANIZATION } from './people.ts';

/** What the story needs of the platform. */
export interface Field {
  /** Of the server. */
  readonly url: string;
  readonly database: Pick<pg.Pool, 'query'>;
  readonly say: (line: string) => void;
}

const PATIENCE_MS = 30_000;

/** Two caregivers in a basement, one visit, a supervisor. Throws where something is not as it must be. */
export async function runScenario({ url, database, say }: Field): Promise<void> {
  const visit = randomUUID();
  await database.query(
    `INSERT INTO visits (id, organization_id, branch_id, client_name, summary) VALUES ($1, $2, $3, 'M. Ortiz', 'planned: bath')`,
    [visit, ORGANIZATION, BRANCH],
  );
  const [ana, ben] = [new Device(url, 'token-ana'), new Device(url, 'token-ben')];
  await Promise.all([ana.take('Visit', [visit]), ben.take('Visit', [visit])]);

  say('Ana works a shift without a network: 300 notes, and only then the clock-in');
  const notes = Array.from({ length: 300 }, (_, n) => {
    const id = randomUUID();
    return ana.does('CREATE', 'Note', id, { id, branch_id: BRANCH, visit_id: visit, body: `note ${n}` });
  });
  const evv = randomUUID();
  const clockIn = ana.does('CREATE', 'EVVRecord', evv, {
    ...{ id: evv, branch_id: BRANCH, visit_id: visit },
    ...{ kind: 'CLOCK_IN', at: new Date().toISOString() },
  });
  const done = ana.does('UPDATE', 'Visit', visit, { status: 'DONE', summary: 'bath, lunch' });

  say('She is online for a moment: the server gets it all, and its answer is lost');
  await ana.push('LOST');
  must(ana.waiting === 302, 'an outbox keeps what was not answered');
  const applied = await ended(ana, [clockIn]);
  must(applied[0]?.outcome === 'APPLIED', 'the clock-in is applied');

  say('She sends it again: everything is known already, nothing happens twice');
  const answers = await ana.push();
  must(answers.length === 302 && answers.every(({ status }) => status === 'DUPLICATE'), 'all are duplicates');
  await ended(ana, [...notes, clockIn, done]);
  const counts = await database.query<{ notes: string; clocks: string }>(
    `SELECT (SELECT count(*) FROM notes WHERE visit_id = $1) AS notes, (SELECT count(*) FROM evv_records WHERE visit_id = $1) AS clocks`,
    [visit],
  );
  must(
    counts.rows[0]?.notes === '300' && counts.rows[0].clocks === '1',
    'each note and the clock-in are there once',
  );
  const order = await database.query<{ before: string }>(
    `SELECT count(*) AS before FROM care_backup.offline_sync_queue n, care_backup.offline_sync_queue c
      WHERE c.operation_id = $1 AND n.entity_type = 'NOTE' AND n.synced_at < c.synced_at AND n.stream_id = c.stream_id`,
    [clockIn],
  );
  say(`   the clock-in was applied when ${order.rows[0]?.before} of 300 notes were`);
  must(Number(order.rows[0]?.before) < 300, 'the clock-in did not wait for all notes');

  say('Ben, who knows nothing of it, has noted the mood of the same visit, and a summary of his own');
  const mood = ben.does('UPDATE', 'Visit', visit, { mood: 'cheerful' });
  const summary = ben.does('UPDATE', 'Visit', visit, { summary: 'bath refused' });
  await ben.push();
  const [first, second] = await ended(ben, [mood, summary]);
  must(first?.outcome === 'MERGED', 'what only he changed is merged');
  must(second?.status === 'CONFLICT', 'what both changed waits for a person');

  say('The supervisor sees both summaries and decides');
  const response = await fetch(`${url}/conflicts`, { headers: { authorization: 'Bearer token-supervisor' } });
  const { items } = (await response.json()) as Page<SyncConflict>;
  const conflict = items.find(({ entityId }) => entityId === visit);
  must(conflict !== undefined, 'the conflict is listed');
  must(
    conflict.conflictingFields.some(
      ({ clientValue, serverValue }) => clientValue === 'bath refused' && serverValue === 'bath, lunch',
    ),
    'it shows both',
  );
  const supervisor = new Device(url, 'token-supervisor');
  const decided = await supervisor.post<SyncConflict>('/conflicts/resolve', {
    resolution: {
      conflictId: conflict.id,
      strategy: 'MANUAL',
      data: { summary: 'bath refused, lunch' },
      seenVersion: conflict.serverVersionNumber,
    },
  });
  must(decided.status === 'RESOLVED', 'the decision is carried out');
  const { rows } = await database.query('SELECT status, mood, summary FROM visits WHERE id = $1', [visit]);
  must(
    JSON.stringify(rows[0]) ===
      JSON.stringify({ status: 'DONE', mood: 'cheerful', summary: 'bath refused, lunch' }),
    'the visit has what all three wrote',
  );
  const kept = await database.query(
    'SELECT FROM care_backup.sync_conflicts WHERE id = $1 AND client_version IS NOT NULL AND server_version IS NOT NULL',
    [conflict.id],
  );
  must(kept.rowCount === 1, 'both versions are kept');
  say('Every edit is in the visit or in the conflict; nothing was lost, nothing happened twice.');
}

/** The states of operations once the server has no more to do with them. */
async function ended(device: Device, operationIds: readonly string[]): Promise<readonly OperationState[]> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const states = await device.states(operationIds);
    const open = states.filter(({ status }) => status === 'PENDING' || status === 'IN_PROGRESS');
    if (states.length === operationIds.length && open.length === 0) {
      return operationIds.flatMap((id) => states.find(({ operationId }) => operationId === id) ?? []);
    }
    if (performance.now() > until) throw new Error(`${open.length} operations have not ended`);
    await sleep(20);
  }
}

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`It is not so: ${what}`);
}
