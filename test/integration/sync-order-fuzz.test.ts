import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import { ALICE, BOB, Device, type SyncBench } from '../harness/sync-bench.ts';
import { type Operation, visitBench } from '../harness/sync-visit.ts';
import { numbersFrom } from '../harness/worker-fleet.ts';

/** Seeds from which shifts on one visit are made; those of which one once overtook another are among the first. */
const SEEDS = Array.from(
  { length: process.env.CARE_SOAK === '1' ? 2_000 : 40 },
  (_, n) => [2, 126, 146, 147][n] ?? n,
);
const COLUMNS = ['notes', 'minutes', 'status', 'amount'] as const;
const OVER = ['COMPLETED', 'CANCELLED', 'FAILED', 'EXPIRED'];

/** Operations of one device on one visit, what the server was told of their order, and what has been seen of them. */
class Shift {
  readonly #device = new Device();
  readonly #alice: OfflineSyncService;
  readonly #manager: OfflineSyncService;
  readonly #pick: (most: number) => number;
  readonly #operations: Operation[] = [];
  readonly #arrived = new Set<string>();
  /** What was open before each one in number when it arrived. */
  readonly #openBefore = new Map<string, readonly string[]>();
  readonly #completed = new Set<string>();
  readonly #log: string[] = [];

  constructor(bench: SyncBench, visit: string, random: () => number) {
    this.#alice = bench.as(ALICE);
    this.#manager = bench.as(BOB, { permissions: ['sync:admin'] });
    this.#pick = (most) => Math.floor(random() * most);
    const count = 4 + this.#pick(5);
    let batch: { batchId: string; batchSize: number } | undefined;
    for (let n = 0; n < count; n += 1) {
      const begins = batch === undefined && this.#pick(6) === 0 && n < count - 1;
      const member = batch ?? (begins ? { batchId: randomUUID(), batchSize: 2 } : undefined);
      this.#operations.push(this.#anOperation(visit, n, member));
      batch = begins ? member : undefined;
    }
  }

  #anOperation(visit: string, n: number, batch: object | undefined): Operation {
    const columns = [this.#pick(4), ...(this.#pick(4) === 0 ? [this.#pick(4)] : [])].map(
      (i) => COLUMNS[i] ?? 'notes',
    );
    const value = { notes: `v${n}`, minutes: n, status: `v${n}`, amount: `${n}.00` };
    const changes = Object.fromEntries(columns.map((column) => [column, value[column]]));
    const last = this.#operations.at(-1);
    return this.#device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: visit,
      payload: this.#pick(5) === 0 ? { ...changes, tags: [`t${n}`] } : changes,
      ...batch,
      ...(this.#pick(5) === 0 && last !== undefined ? { dependsOn: [last.operationId] } : {}),
      ...(this.#pick(8) === 0
        ? { expiresAt: new Date(Date.now() + 400 + this.#pick(600)).toISOString() }
        : {}),
      ...(this.#pick(5) === 0 ? { previousOperationId: null } : {}),
    });
  }

  /** Fourteen steps in a random order, then all of it to its end. */
  async run(): Promise<void> {
    const left = [...this.#operations];
    for (let step = 0; step < 14; step += 1) await this.#step(left);
    if (left.length > 0) await this.#handIn(left);
    for (let acted = true; acted; ) {
      acted = false;
      await this.#process();
      for (const [id, status] of await this.#states()) {
        if (status !== 'PAUSED' && status !== 'WAITING_APPROVAL') continue;
        acted = true;
        await (status === 'PAUSED'
          ? this.#alice.resumeOperation(id)
          : this.#manager.approveOperation(id)
        ).catch(
          // Stale, or another of its batch has gone.
          () => this.#manager.cancelOperation(id),
        );
      }
      await this.#check();
    }
    const states = [...(await this.#states()).values()];
    expect(
      states.filter((status) => ['PENDING', 'IN_PROGRESS'].includes(status)),
      this.#story(),
    ).toEqual([]);
  }

  async #step(left: Operation[]): Promise<void> {
    const any = this.#operations[this.#pick(this.#operations.length)];
    if (any === undefined) return;
    const id = any.operationId;
    const act = (what: string, done: Promise<unknown>) =>
      done.then(
        () => void this.#log.push(`${what} ${this.#nameOf(id)}`),
        // Its state does not allow it.
        () => undefined,
      );
    switch (this.#pick(8)) {
      case 0:
      case 1:
      case 2: {
        const from = this.#pick(3) === 0 ? this.#pick(left.length || 1) : 0;
        const some = left.splice(from, 1 + this.#pick(3));
        const again = this.#pick(4) === 0 && this.#arrived.has(id);
        if (some.length > 0) await this.#handIn(again ? [any, ...some] : some);
        return;
      }
      case 3:
        return act('pause', this.#alice.pauseOperation(id));
      case 4:
        if ((await this.#states()).get(id) === 'PAUSED') await act('resume', this.#alice.resumeOperation(id));
        return;
      case 5:
        if (this.#pick(2) === 0) await act('cancel', this.#alice.cancelOperation(id));
        return;
      case 6:
        await act(
          'judge',
          this.#pick(3) === 0 ? this.#manager.refuseOperation(id) : this.#manager.approveOperation(id),
        );
        return this.#check();
      default:
        await this.#process();
        return this.#check();
    }
  }

  async #process(): Promise<void> {
    await this.#alice.processPendingOperations(this.#device.deviceId);
    this.#log.push('process');
  }

  async #handIn(operations: readonly Operation[]): Promise<void> {
    const open = [...(await this.#states())].flatMap(([id, status]) => (OVER.includes(status) ? [] : [id]));
    const answers = await this.#alice.queueOperations(operations);
    this.#log.push(`in ${operations.map(({ operationId }) => this.#nameOf(operationId)).join(' ')}`);
    for (const [n, { status }] of answers.entries()) {
      const operation = operations[n];
      if (status !== 'ACCEPTED' || operation === undefined) continue;
      this.#arrived.add(operation.operationId);
      const smaller = this.#operations.slice(0, this.#operations.indexOf(operation));
      const there = smaller.filter((one) => open.includes(one.operationId) || operations.includes(one));
      this.#openBefore.set(
        operation.operationId,
        there.map(({ operationId }) => operationId),
      );
    }
  }

  async #states(): Promise<ReadonlyMap<string, string>> {
    const states = await this.#alice.getOperationStates(
      this.#operations.map(({ operationId }) => operationId),
    );
    return new Map(states.map(({ operationId, status }) => [operationId, status]));
  }

  /** What was applied since the last look has overtaken nothing that is before it and touches the same. */
  async #check(): Promise<void> {
    const states = await this.#states();
    for (const [id, status] of states) {
      if (status !== 'COMPLETED' || this.#completed.has(id)) continue;
      this.#completed.add(id);
      const columns = this.#columnsOf(id);
      const overtaken = [...this.#before(id)].filter(
        (one) =>
          !OVER.includes(states.get(one) ?? '') &&
          this.#columnsOf(one).some((column) => columns.includes(column)),
      );
      expect(
        overtaken.map((one) => this.#nameOf(one)),
        `${this.#nameOf(id)} overtook; ${this.#story()}`,
      ).toEqual([]);
    }
  }

  /** Of what is named the whole chain; of what names nothing, what was open before it and their chains. */
  #before(id: string, seen = new Set<string>()): ReadonlySet<string> {
    const previous = this.#operation(id)?.previousOperationId ?? null;
    const next = previous === null ? (this.#openBefore.get(id) ?? []) : [previous];
    for (const one of next) {
      if (seen.has(one)) continue;
      seen.add(one);
      this.#before(one, seen);
    }
    return seen;
  }

  #operation = (id: string): Operation | undefined =>
    this.#operations.find(({ operationId }) => operationId === id);
  #nameOf = (id: string): string => `#${this.#operations.findIndex(({ operationId }) => operationId === id)}`;
  #columnsOf = (id: string): readonly string[] => Object.keys(this.#operation(id)?.payload ?? {});

  #story(): string {
    const told = this.#operations.map(
      ({ operationId, previousOperationId, dependsOn = [], batchId, expiresAt }) =>
        [
          `${this.#nameOf(operationId)} ${this.#columnsOf(operationId).join(',')}`,
          `behind ${previousOperationId == null ? 'nothing' : this.#nameOf(previousOperationId)}`,
          dependsOn.map((id) => `and ${this.#nameOf(id)}`).join(' '),
          batchId === undefined ? '' : 'in a batch',
          expiresAt === undefined ? '' : 'expires',
        ].join(' '),
    );
    return `${told.join('; ')}: ${this.#log.join(', ')}`;
  }
}

test(
  'no operation overtakes another of its stream on the same column',
  async () => {
    await using bench = await visitBench({
      disjointProceed: true,
      strategies: ['CLIENT_WINS'],
      requiresApproval: ({ payload }) => payload.tags !== undefined,
    });
    for (const seed of SEEDS) {
      const visit = await bench.aVisit({ notes: 'a', minutes: 1 });
      await new Shift(bench, visit, numbersFrom(seed)).run();
    }
  },
  process.env.CARE_SOAK === '1' ? 3_600_000 : 120_000,
);
