import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import { DataProtectionError } from '../../src/types/errors.ts';
import type {
  AdmissionAnswer,
  ConflictStrategy,
  EntityRow,
  QueueOperationInput,
  SyncConflict,
} from '../../src/types/offline-sync.ts';
import type { SyncOptions } from '../../src/types/sync-handler.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  createSyncBench,
  MANAGER,
  type SyncBench,
  shown,
} from '../harness/sync-bench.ts';
import { numbersFrom } from '../harness/worker-fleet.ts';

/**
 * Random devices against the invariant: every acknowledged edit is in the server's state, was seen by whoever wrote over
 * it, is in a conflict, or in an operation that somebody can see; and what adds up, adds up once.
 */
const SOAK = process.env.CARE_SOAK === '1';
const OPERATIONS = 1000;
const SEEDS = SOAK ? Array.from({ length: 100 }, (_, i) => 9_000 + i) : [9_000];
const FIELDS = ['notes', 'status'] as const;

type Field = (typeof FIELDS)[number];
type Operation = QueueOperationInput & { readonly operationId: string };

/** A value that stands once in the whole run, and where it was written. */
interface Edit {
  readonly operationId: string;
  readonly entityId: string;
  readonly field: Field;
  readonly value: string;
}

/** What all sides have done, outside of the library. */
class World {
  readonly bench: SyncBench;
  readonly random: () => number;
  readonly visits: readonly string[];
  readonly edits: Edit[] = [];
  /** Values that somebody had before him when he wrote over them. */
  readonly seen = new Set<string>();
  /** Minutes that an operation adds. */
  readonly added = new Map<string, { readonly entityId: string; readonly minutes: number }>();
  readonly accepted = new Set<string>();
  #values = 0;

  constructor(bench: SyncBench, random: () => number, visits: readonly string[]) {
    this.bench = bench;
    this.random = random;
    this.visits = visits;
  }

  below = (limit: number): number => Math.floor(this.random() * limit);
  pick = <T>(list: readonly T[]): T => {
    const item = list[this.below(list.length)];
    if (item === undefined) throw new Error('nothing to pick');
    return item;
  };
  value = (): string => {
    this.#values += 1;
    return `v${this.#values}`;
  };
}

/** A phone: its rows, its outbox, its clocks. */
class Phone {
  readonly world: World;
  readonly service: OfflineSyncService;
  deviceId: string;
  epoch = 1;
  sequence = 0;
  counter = 0;
  boot = randomUUID();
  readonly bases = new Map<string, { version: number; data: EntityRow; signature?: string }>();
  readonly images = new Map<string, EntityRow>();
  readonly last = new Map<string, string>();
  /** Handed in or not, but not answered. */
  outbox: Operation[] = [];
  skew: number;

  constructor(world: World, service: OfflineSyncService, deviceId: string = randomUUID()) {
    this.world = world;
    this.service = service;
    this.deviceId = deviceId;
    this.skew = (world.random() - 0.5) * 3_600_000;
  }

  /** Takes the rows as the server has them, where nothing of its own is under way. */
  async refresh(): Promise<void> {
    const free = this.world.visits.filter((id) => !this.outbox.some(({ entityId }) => entityId === id));
    const open = new Set(
      (
        await this.world.bench.sql<{ id: string }>(
          `SELECT DISTINCT entity_id AS id FROM care_backup.offline_sync_queue WHERE device_id = $1 AND (runnable OR waiting)`,
          [this.deviceId],
        )
      ).map(({ id }) => id),
    );
    for (const { entityId, version, data, signature } of await this.service.readForOffline('VISIT', free)) {
      if (open.has(entityId)) continue;
      this.bases.set(entityId, { version, data, ...(signature === undefined ? {} : { signature }) });
      this.images.set(entityId, data);
      this.last.delete(entityId);
    }
  }

  edit(): void {
    const { world } = this;
    const entityId = world.pick(world.visits);
    const base = this.bases.get(entityId);
    const image = this.images.get(entityId);
    if (base === undefined || image === undefined) return;
    const operationId = randomUUID();
    const payload: Record<string, EntityRow[string]> = {};
    if (world.random() < 0.35) {
      const minutes = 1 + world.below(5);
      payload.minutes = Number(image.minutes ?? 0) + minutes;
      world.added.set(operationId, { entityId, minutes });
    } else {
      for (const field of world.random() < 0.3 ? FIELDS : [world.pick(FIELDS)]) {
        const value = world.value();
        payload[field] = value;
        const before = image[field];
        if (typeof before === 'string') world.seen.add(`${entityId} ${field} ${before}`);
        world.edits.push({ operationId, entityId, field, value });
      }
    }
    this.images.set(entityId, { ...image, ...payload });
    this.sequence += 1;
    this.counter += 1;
    const previousOperationId = this.last.get(entityId);
    this.last.set(entityId, operationId);
    const operation = world.random() < 0.5 ? 'UPDATE' : 'PATCH';
    this.outbox.push({
      operationId,
      deviceId: this.deviceId,
      epoch: this.epoch,
      sequenceNumber: this.sequence,
      operation,
      entityType: 'VISIT',
      entityId,
      payload,
      previousVersion: base,
      previousOperationId: previousOperationId ?? null,
      stamp: this.stamp(),
    });
  }

  stamp() {
    return {
      bootId: this.boot,
      monotonicMs: performance.now(),
      wallTime: new Date(Date.now() + this.skew).toISOString(),
      counter: this.counter,
    };
  }

  /** Sends some of the outbox, in whatever order the network makes of it; sometimes the answer does not come. */
  async push(whole = false): Promise<void> {
    const { world } = this;
    if (this.outbox.length === 0) return;
    const from = whole ? 0 : world.below(this.outbox.length);
    const sent = this.outbox.slice(from, whole ? undefined : from + 1 + world.below(20));
    if (!whole && world.random() < 0.3) sent.reverse();
    const twice = world.random() < 0.2 ? [...sent, ...sent.slice(0, 2)] : sent;
    const answers = await this.service.queueOperations(twice, { sentAt: this.stamp() });
    for (const answer of answers) if (answer.status !== 'REJECTED') world.accepted.add(answer.operationId);
    if (!whole && world.random() < 0.2) return;
    this.hear(sent, answers);
  }

  hear(sent: readonly Operation[], answers: readonly AdmissionAnswer[]): void {
    const taken = new Set(
      answers.filter(({ status }) => status !== 'REJECTED').map(({ operationId }) => operationId),
    );
    const collided = answers.some((one) => one.status === 'REJECTED' && one.code === 'SEQUENCE_CONFLICT');
    for (const answer of answers) {
      if (answer.status === 'REJECTED' && answer.code !== 'SEQUENCE_CONFLICT')
        throw new Error(`${answer.code} ${answer.message} ${JSON.stringify(answer.issues)}`);
    }
    this.outbox = this.outbox.filter(({ operationId }) => !taken.has(operationId));
    // Another phone has its numbers: it begins anew, with what has not been taken.
    if (collided && sent.length > 0) this.renumber(this.epoch + 1 + this.world.below(1000));
  }

  renumber(epoch: number): void {
    this.epoch = epoch;
    this.sequence = 0;
    this.outbox = this.outbox.map((operation) => {
      this.sequence += 1;
      return { ...operation, epoch, sequenceNumber: this.sequence };
    });
  }

  /** The app is installed anew, mostly after it was online: what was not handed in is gone with it, and was never acknowledged. */
  async reinstall(): Promise<void> {
    if (this.world.random() < 0.8) await this.push(true);
    for (const { operationId } of this.outbox) this.forget(operationId);
    this.outbox = [];
    this.deviceId = randomUUID();
    this.epoch = 1;
    this.sequence = 0;
    this.boot = randomUUID();
    this.bases.clear();
    this.images.clear();
    this.last.clear();
  }

  forget(operationId: string): void {
    if (this.world.accepted.has(operationId)) return;
    this.world.added.delete(operationId);
  }
}

async function decideSome(world: World, manager: OfflineSyncService, share: number): Promise<void> {
  const { items } = await manager.listConflicts({ status: ['PENDING_MANUAL'], limit: 1000 });
  for (const conflict of items) {
    if (world.random() >= share) continue;
    // What was never there, or waits for what is missing, has no fields to choose among.
    const strategy = world.pick<ConflictStrategy>(
      conflict.conflictType === 'DEPENDENCY'
        ? ['CLIENT_WINS', 'SERVER_WINS']
        : ['CLIENT_WINS', 'SERVER_WINS', 'FIELD_LEVEL_MERGE', 'MANUAL'],
    );
    // Somebody is quicker than the person who decides.
    if (world.random() < 0.2) await hostWrites(world, conflict.entityId);
    await decide(manager, conflict, strategy);
  }
}

/** Where somebody was quicker, the person looks again and decides on what is there now, once. */
async function decide(
  manager: OfflineSyncService,
  conflict: SyncConflict,
  strategy: ConflictStrategy,
  again = true,
): Promise<void> {
  try {
    await manager.resolveConflict({
      ...shown(conflict),
      strategy,
      ...(strategy === 'MANUAL' ? { data: textsOf(conflict) } : {}),
    });
  } catch (error) {
    const code = error instanceof DataProtectionError ? error.code : undefined;
    if (code === 'CONFLICT_STALE' && again) {
      await decide(manager, await manager.getConflict(conflict.id), strategy, false);
    } else if (code !== 'CONFLICT_STALE' && code !== 'INVALID_STATE') throw error;
  }
}

/** The client’s texts over the server’s row; what adds up is left alone. */
function textsOf({ serverVersion, clientVersion }: SyncConflict): EntityRow {
  const texts = FIELDS.flatMap((field) => {
    const value = clientVersion?.[field];
    return value === undefined ? [] : [[field, value] as const];
  });
  return { ...serverVersion, ...Object.fromEntries(texts) };
}

/** The platform’s own code changes a row, of which it sees what it writes over. */
async function hostWrites(world: World, entityId: string): Promise<void> {
  const field = world.pick(FIELDS);
  const value = world.value();
  const rows = await world.bench.sql<{ before: string | null }>(
    `WITH old AS (SELECT id, ${field} AS before FROM visits WHERE id = $1 FOR UPDATE)
     UPDATE visits v SET ${field} = $2 FROM old WHERE v.id = old.id RETURNING old.before`,
    [entityId, value],
  );
  const before = rows[0]?.before;
  if (typeof before === 'string') world.seen.add(`${entityId} ${field} ${before}`);
  world.edits.push({ operationId: 'HOST', entityId, field, value });
}

async function run(seed: number): Promise<void> {
  const entities: SyncOptions['entities'] = [
    { type: 'VISIT', merge: { '/minutes': 'COUNTER' }, disjointProceed: seed % 2 === 0 },
  ];
  await using bench = await createSyncBench({ syncOptions: { entities } });
  const random = numbersFrom(seed);
  const visits = await Promise.all(
    Array.from({ length: 8 }, () => bench.aVisit({ notes: 'n0', minutes: 0 })),
  );
  const world = new World(bench, random, visits);
  const services = [bench.as(ALICE), bench.as(BOB)];
  const manager = bench.as(MANAGER, { permissions: ['sync:read', 'sync:resolve'] });
  const phones = [0, 1, 0, 1].map((of) => new Phone(world, services[of] ?? manager));
  // A copied outbox: the same installation and epoch, numbers that collide.
  phones.push(new Phone(world, services[0] ?? manager, phones[0]?.deviceId));
  for (const phone of phones) await phone.refresh();
  while (world.edits.length + world.added.size < OPERATIONS) {
    const phone = world.pick(phones);
    const what = random();
    if (what < 0.55) phone.edit();
    else if (what < 0.7) await phone.push();
    else if (what < 0.8) await phone.service.processPendingOperations(phone.deviceId);
    else if (what < 0.88) await phone.refresh();
    else if (what < 0.92) await hostWrites(world, world.pick(visits));
    else if (what < 0.95) await decideSome(world, manager, 0.4);
    else if (what < 0.97) phone.skew = (random() - 0.5) * 86_400_000;
    else if (what < 0.99) phone.boot = randomUUID();
    else await phone.reinstall();
  }
  await settle(world, phones, manager, entities);
  await expectInvariant(world);
}

/** Everything is handed in, applied and decided. */
async function settle(
  world: World,
  phones: readonly Phone[],
  manager: OfflineSyncService,
  entities: SyncOptions['entities'],
): Promise<void> {
  for (const phone of phones) while (phone.outbox.length > 0) await phone.push(true);
  // What has not arrived when everything was handed in never will.
  const last = await world.bench.open({ sync: { entities, limits: { predecessorWaitMs: 1 } } });
  await using _worker = await last.startWorker({ pollMs: 100 });
  for (let round = 0; round < 60; round += 1) {
    await decideSome(world, manager, 1);
    const [left] = await world.bench.sql<{ n: number }>(
      `SELECT count(*)::int AS n FROM care_backup.offline_sync_queue WHERE runnable OR waiting`,
    );
    if (left?.n === 0) return;
    await sleep(50);
  }
  const open = await world.bench.sql(
    `SELECT status, status_reason, operation_id, previous_operation_id FROM care_backup.offline_sync_queue WHERE runnable OR waiting LIMIT 5`,
  );
  throw new Error(`Not everything has ended: ${JSON.stringify(open)}`);
}

async function expectInvariant(world: World): Promise<void> {
  const { bench } = world;
  const rows = new Map(
    (
      await bench.sql<{ id: string; minutes: number; row: string }>(
        'SELECT id, minutes, to_jsonb(v)::text AS row FROM visits v',
      )
    ).map((row) => [row.id, row]),
  );
  const operations = new Map(
    (
      await bench.sql<{ id: string; status: string; outcome: string }>(
        'SELECT operation_id AS id, status, outcome FROM care_backup.offline_sync_queue',
      )
    ).map((row) => [row.id, row]),
  );
  const shown = (
    await bench.sql<{ text: string }>('SELECT to_jsonb(c)::text AS text FROM care_backup.sync_conflicts c')
  )
    .map(({ text }) => text)
    .join('\n');
  const lost: Edit[] = [];
  for (const edit of world.edits) {
    const { operationId, entityId, field, value } = edit;
    if (operationId !== 'HOST' && !world.accepted.has(operationId)) continue;
    const inState = rows.get(entityId)?.row.includes(`"${field}": "${value}"`) === true;
    const wasSeen = world.seen.has(`${entityId} ${field} ${value}`);
    const inConflict = shown.includes(`"${value}"`);
    if (!inState && !wasSeen && !inConflict) lost.push(edit);
  }
  expect(lost).toEqual([]);
  for (const id of world.accepted) expect(operations.get(id)?.status, id).toBe('COMPLETED');
  expect(operations.size).toBe(world.accepted.size);
  // What adds up, adds up once, but for what a person has decided: against it, or without what it builds on.
  const decided = new Set(
    (
      await bench.sql<{ id: string }>(
        `SELECT DISTINCT c.entity_id AS id FROM care_backup.sync_conflicts c
        WHERE c.conflict_type = 'DEPENDENCY' AND c.status <> 'CANCELLED' OR c.client_version -> 'minutes' IS DISTINCT FROM c.server_version -> 'minutes' AND c.base_version IS NULL`,
      )
    ).map(({ id }) => id),
  );
  const sums = world.visits.filter((id) => !decided.has(id));
  expect(sums.length).toBeGreaterThan(0);
  for (const id of sums) {
    const own = [...world.added].filter(
      ([operation, { entityId }]) => entityId === id && world.accepted.has(operation),
    );
    const kept = own.filter(([operation]) => operations.get(operation)?.outcome !== 'SUPERSEDED');
    const sum = kept.reduce((total, [, { minutes }]) => total + minutes, 0);
    expect(rows.get(id)?.minutes).toBe(sum);
  }
}

test.each(SEEDS)(
  'random devices, seed %i',
  async (seed) => {
    await run(seed);
  },
  SOAK ? 3_600_000 : 240_000,
);

test('the invariant can be broken', async () => {
  await using bench = await createSyncBench();
  const id = await bench.aVisit({ notes: 'n0', branch_id: BRANCH_A });
  const world = new World(bench, numbersFrom(1), [id]);
  world.edits.push({ operationId: 'HOST', entityId: id, field: 'notes', value: 'v1' });
  await expect(expectInvariant(world)).rejects.toThrow();
});
