import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { OperationState, Page, SyncConflict } from '../../src/index.ts';
import { accountFor } from './accounting.ts';
import { Device } from './device.ts';
import { BRANCH, ORGANIZATION } from './people.ts';

/** What the story needs of the platform. */
export interface Field {
  /** Of the server. */
  readonly url: string;
  readonly database: Pick<pg.Pool, 'query'>;
  /** From then on what was handed in is applied. */
  readonly startWorker: () => Promise<unknown>;
}

/** What a test spoils on purpose, to see that it is found. */
export type Spoil = 'second-note' | 'late-clock-in' | 'lost-edit';

export interface Telling {
  readonly say: (line: string) => void;
  readonly spoil?: { has(name: Spoil): boolean };
}

interface Finding {
  readonly held: boolean;
  readonly details: string;
}

/** What the story is about. */
export interface Findings {
  /** Everything was handed in twice and is there once. */
  readonly once: Finding;
  /** The clock-in did not wait for the notes. */
  readonly order: Finding;
  /** Every acknowledged edit is in a row, a conflict or a supersession, and a person decided the conflict. */
  readonly nothingLost: Finding;
}

const PATIENCE_MS = 30_000;
const NOTES = 300;
const [HIS_SUMMARY, HER_SUMMARY, DECIDED] = ['bath refused', 'bath, lunch', 'bath refused, lunch'];

/** Two caregivers in a basement, one visit, a supervisor. Throws where the story cannot go on. */
export async function runScenario(field: Field, telling: Telling): Promise<Findings> {
  const { url, database } = field;
  const visit = randomUUID();
  await database.query(
    `INSERT INTO visits (id, organization_id, branch_id, client_name, summary) VALUES ($1, $2, $3, 'M. Ortiz', 'planned: bath')`,
    [visit, ORGANIZATION, BRANCH],
  );
  const [ana, ben] = [new Device(url, 'token-ana'), new Device(url, 'token-ben')];
  await Promise.all([ana.take('Visit', [visit]), ben.take('Visit', [visit])]);
  const { once, order } = await workShift(field, telling, ana, visit);
  await editToo(telling, ben, visit);
  const decision = await decide(field, telling, visit);
  if (telling.spoil?.has('lost-edit'))
    await database.query('UPDATE visits SET mood = NULL WHERE id = $1', [visit]);
  return { once, order, nothingLost: await account(field, telling, [ana, ben], decision) };
}

/** A shift without a network, handed in twice. */
async function workShift(
  { database, startWorker }: Field,
  { say, spoil }: Telling,
  ana: Device,
  visit: string,
): Promise<Pick<Findings, 'once' | 'order'>> {
  say(`Ana works a shift without a network: ${NOTES} notes, then the clock-in, the visit, the clock-out`);
  await ana.goOffline();
  const notes = Array.from({ length: NOTES }, (_, n) => {
    const id = randomUUID();
    return ana.does('CREATE', 'Note', id, { id, branch_id: BRANCH, visit_id: visit, body: `note ${n}` });
  });
  const clock = (kind: 'CLOCK_IN' | 'CLOCK_OUT'): string => {
    const id = randomUUID();
    const record = { id, branch_id: BRANCH, visit_id: visit, kind, at: new Date().toISOString() };
    return ana.does(
      'CREATE',
      'EVVRecord',
      id,
      record,
      spoil?.has('late-clock-in') ? { priority: 'LOW' } : {},
    );
  };
  const clockIn = clock('CLOCK_IN');
  const done = ana.does('UPDATE', 'Visit', visit, { status: 'DONE', summary: HER_SUMMARY });
  const clockOut = clock('CLOCK_OUT');
  const all = [...notes, clockIn, done, clockOut];
  const unreachable = await ana.push().then(
    () => false,
    () => true,
  );
  must(unreachable && ana.waiting === all.length, 'without a network everything stays in the outbox');

  say('She is online for a moment: the server gets it all, and its answers are lost');
  await ana.comeBack();
  await ana.push('LOST');
  must(ana.waiting === all.length, 'an outbox keeps what was not answered');

  say('She sends it again: the server knows everything, and only then begins to apply it');
  const answers = await ana.push();
  const duplicates = answers.filter(({ status }) => status === 'DUPLICATE').length;
  await startWorker();
  const states = await ended(ana, all);
  if (spoil?.has('second-note')) {
    await database.query(
      'INSERT INTO notes SELECT gen_random_uuid(), organization_id, branch_id, visit_id, body FROM notes LIMIT 1',
    );
  }
  const session = await ana.endSession();
  must(
    session.status === 'COMPLETED' && session.operationCount === all.length,
    'the session counts what was done in it',
  );

  const { rows } = await database.query<{ notes: number; clocks: number; before: number }>(
    `SELECT (SELECT count(*) FROM notes WHERE visit_id = $1)::integer AS notes,
            (SELECT count(*) FROM evv_records WHERE visit_id = $1)::integer AS clocks,
            (SELECT count(*) FROM care_backup.offline_sync_queue n
              WHERE n.operation_id = ANY ($3) AND n.synced_at < c.synced_at)::integer AS before
       FROM care_backup.offline_sync_queue c WHERE c.operation_id = $2`,
    [visit, clockIn, notes],
  );
  const found = rows[0] ?? { notes: 0, clocks: 0, before: NOTES };
  return {
    once: {
      held:
        duplicates === all.length &&
        states.every(({ outcome }) => outcome === 'APPLIED') &&
        found.notes === NOTES &&
        found.clocks === 2,
      details: `${all.length} handed in twice, ${duplicates} known the second time; ${found.notes} notes and ${found.clocks} EVV records in the tables`,
    },
    order: {
      held: found.before < NOTES / 2,
      details: `handed in behind ${NOTES} notes, applied behind ${found.before} of them`,
    },
  };
}

/** Somebody else edits the same visit, from what it was before. */
async function editToo({ say }: Telling, ben: Device, visit: string): Promise<void> {
  say('Ben, who knows nothing of it, has noted the mood of the same visit, and a summary of his own');
  await ben.goOffline();
  const mood = ben.does('UPDATE', 'Visit', visit, { mood: 'cheerful' });
  const summary = ben.does('UPDATE', 'Visit', visit, { summary: HIS_SUMMARY });
  await ben.comeBack();
  await ben.push();
  const [first, second] = await ended(ben, [mood, summary]);
  must(first?.outcome === 'MERGED', 'what only he changed is merged');
  must(second?.status === 'CONFLICT', 'what both changed waits for a person');
  must((await ben.endSession()).status === 'PARTIAL', 'the session has something open');
}

interface Decision {
  readonly conflicts: readonly SyncConflict[];
  /** Whether the visit was what was decided, and both versions are kept. */
  readonly carriedOut: boolean;
}

async function decide({ url, database }: Field, { say }: Telling, visit: string): Promise<Decision> {
  say('The supervisor sees both summaries and decides');
  const supervisor = new Device(url, 'token-supervisor');
  const list = async (status: string): Promise<SyncConflict[]> => {
    const { items } = await supervisor.send<Page<SyncConflict>>('GET', `/conflicts?status=${status}`);
    return items.filter(({ entityId }) => entityId === visit);
  };
  const [conflict] = await list('PENDING_MANUAL');
  must(conflict !== undefined, 'the conflict is listed');
  must(
    conflict.conflictingFields.some(
      ({ clientValue, serverValue }) => clientValue === HIS_SUMMARY && serverValue === HER_SUMMARY,
    ),
    'it shows both',
  );
  await supervisor.send<SyncConflict>('POST', `/conflicts/${conflict.id}/resolve`, {
    resolution: {
      strategy: 'MANUAL',
      data: { summary: DECIDED },
      seenVersion: conflict.serverVersionNumber,
    },
  });
  const conflicts = await list('RESOLVED');
  const { rows } = await database.query<{ status: string; mood: string; summary: string }>(
    'SELECT status, mood, summary FROM visits WHERE id = $1',
    [visit],
  );
  const [row] = rows;
  const stands = row?.status === 'DONE' && row.mood === 'cheerful' && row.summary === DECIDED;
  const kept = conflicts.some(
    ({ clientVersion, serverVersion }) =>
      clientVersion?.summary === HIS_SUMMARY && serverVersion?.summary === HER_SUMMARY,
  );
  return { conflicts, carriedOut: stands && kept };
}

async function account(
  { database }: Field,
  { say }: Telling,
  devices: readonly Device[],
  { conflicts, carriedOut }: Decision,
): Promise<Finding> {
  say('Looking for every edit that the server has acknowledged');
  const edits = await Promise.all(
    devices.map(async (device) => {
      const ids = device.acknowledged.map(({ operationId }) => operationId);
      const states = new Map((await ended(device, ids)).map((state) => [state.operationId, state]));
      return device.acknowledged.map((edit) => ({ ...edit, state: states.get(edit.operationId) }));
    }),
  );
  const { inRow, inConflict, superseded, lost } = await accountFor(database, edits.flat(), conflicts);
  const decided = carriedOut ? 'decided by hand' : 'NOT carried out as it was decided';
  return {
    held: lost.length === 0 && inConflict > 0 && carriedOut,
    details:
      lost.length === 0
        ? `${inRow} values in rows, ${inConflict} in a conflict ${decided}, ${superseded} superseded, 0 lost`
        : `lost: ${lost.join(', ')}`,
  };
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
