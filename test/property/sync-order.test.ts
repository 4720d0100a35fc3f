import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { calculateBackoff } from '../../src/sync/backoff.ts';
import { batchOperations } from '../../src/sync/batches.ts';
import { type ClockState, correct, observe } from '../../src/sync/clock.ts';
import {
  areDependenciesMet,
  type DependencyNode,
  descendantsOf,
  effectivePriorities,
  findCycle,
  nodeOf,
} from '../../src/sync/dependencies.ts';
import { type SortableOperation, sortQueueByPriority } from '../../src/sync/priority.ts';
import type { ClientStamp } from '../../src/types/offline-sync.ts';
import { SYNC_PRIORITIES, SYNC_QUEUE_STATUSES } from '../../src/types/offline-sync.ts';

interface Operation extends SortableOperation {
  readonly operationId: string;
  readonly dependsOn: readonly string[];
  readonly previousOperationId: string | null;
}

const id = fc.nat(11).map((n) => `op-${n}`);
const batch = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ batchId: null, batchSize: null }) },
  { weight: 1, arbitrary: fc.record({ batchId: fc.constantFrom('x', 'y'), batchSize: fc.constant(3) }) },
  { weight: 1, arbitrary: fc.record({ batchId: fc.constantFrom('x', 'y'), batchSize: fc.constant(null) }) },
);

/** Operations with ids of their own; what they wait for may be missing, come later, or lead back. */
const anyQueue: fc.Arbitrary<readonly Operation[]> = fc
  .array(
    fc.record({
      priority: fc.constantFrom(...SYNC_PRIORITIES),
      sequenceNumber: fc.nat(5),
      dependsOn: fc.oneof(fc.constant([]), fc.array(id, { maxLength: 3 })),
      previousOperationId: fc.option(id, { nil: null, freq: 2 }),
      batch,
    }),
    { maxLength: 10 },
  )
  .map((drafts) =>
    drafts.map(({ batch: { batchId, batchSize }, ...rest }, i) => ({
      operationId: `op-${i}`,
      ...rest,
      batchId,
      batchSize,
    })),
  );
/** The same with numbers that differ, so that nothing is left to the order in which they come. */
const numberedQueue = anyQueue.map((queue) =>
  queue.map((one, i) => ({ ...one, sequenceNumber: one.sequenceNumber * 100 + i })),
);
const shuffled = <T>(queue: readonly T[]): fc.Arbitrary<readonly T[]> =>
  fc.shuffledSubarray([...queue], { minLength: queue.length });

/** Who is done as one, and who reaches whom: by transitive closure, not by walking. */
function closure(queue: readonly Operation[]) {
  const size = queue.length;
  const same = (a: Operation | undefined, b: Operation | undefined): boolean =>
    a === b || (a?.batchSize !== null && b?.batchSize !== null && a?.batchId === b?.batchId);
  const waits = (a: Operation | undefined, b: Operation | undefined): boolean =>
    b !== undefined &&
    (a?.dependsOn.includes(b.operationId) === true || a?.previousOperationId === b.operationId);
  const indexes = [...queue.keys()];
  const direct = indexes.map((a) => indexes.map((b) => waits(queue[a], queue[b])));
  const together = indexes.map((a) => indexes.map((b) => same(queue[a], queue[b])));
  const next = indexes.map((a) =>
    indexes.map(
      (b) =>
        together[a]?.[b] !== true &&
        indexes.some((c) =>
          indexes.some(
            (d) => together[a]?.[c] === true && together[d]?.[b] === true && direct[c]?.[d] === true,
          ),
        ),
    ),
  );
  const reach = structuredClone(next);
  for (let via = 0; via < size; via += 1)
    for (const row of reach)
      for (let b = 0; b < size; b += 1) if (row[via] === true && reach[via]?.[b] === true) row[b] = true;
  return {
    indexes,
    together: (a: number, b: number): boolean => together[a]?.[b] === true,
    direct: (a: number, b: number): boolean => direct[a]?.[b] === true,
    /** Whether `a`, or what shares its batch, names `b`, or what shares its batch. */
    names: (a: number, b: number): boolean => next[a]?.[b] === true,
    /** The same, directly or through others. */
    reaches: (a: number, b: number): boolean => reach[a]?.[b] === true,
  };
}

/** Whether nodes can be taken away one after the other (Kahn): not where there is a circle. */
function dissolves(nodes: readonly number[], waits: (a: number, b: number) => boolean): boolean {
  let left = nodes;
  for (;;) {
    const stuck = left.filter((a) => left.some((b) => waits(a, b)));
    if (stuck.length === left.length) return left.length === 0;
    left = stuck;
  }
}

describe('sortQueueByPriority', () => {
  it('gives the same operations, none before what it waits for but in a circle', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const before = structuredClone(queue);
        const sorted = sortQueueByPriority(queue);
        expect(queue).toEqual(before);
        expect(new Set(sorted)).toEqual(new Set(queue));
        expect(sorted).toHaveLength(queue.length);
        const { indexes, names, reaches } = closure(queue);
        const acyclic = indexes.every((a) => !reaches(a, a));
        const waits = acyclic ? reaches : names;
        const place = queue.map((one) => sorted.indexOf(one));
        for (const a of indexes)
          for (const b of indexes)
            if (waits(a, b) && !reaches(b, a)) expect(place[a]).toBeGreaterThan(place[b] ?? Infinity);
      }),
      { numRuns: 500 },
    );
  });

  it('goes by the priorities that are raised, and keeps batches together', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const sorted = sortQueueByPriority(queue);
        const ranks = effectivePriorities(sorted).map((priority) => SYNC_PRIORITIES.indexOf(priority));
        expect(ranks).toEqual(ranks.toSorted());
        const { indexes, together } = closure(sorted);
        for (const a of indexes)
          for (const b of indexes)
            for (const c of indexes) if (a < b && b < c && together(a, c)) expect(together(a, b)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it('is a stable sort where nothing waits', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const free = queue.map(({ priority, sequenceNumber }) => ({ priority, sequenceNumber }));
        const rank = ({ priority }: SortableOperation) => SYNC_PRIORITIES.indexOf(priority);
        expect(sortQueueByPriority(free)).toEqual(
          free.toSorted((a, b) => rank(a) - rank(b) || a.sequenceNumber - b.sequenceNumber),
        );
      }),
    );
  });

  it('does not depend on the order in which operations come', () => {
    fc.assert(
      fc.property(
        numberedQueue.chain((queue) => fc.tuple(fc.constant(queue), shuffled(queue))),
        ([queue, other]) => {
          expect(sortQueueByPriority(other)).toEqual(sortQueueByPriority(queue));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('changes nothing when it is done again', () => {
    fc.assert(
      fc.property(numberedQueue, (queue) => {
        const sorted = sortQueueByPriority(queue);
        expect(sortQueueByPriority(sorted)).toEqual(sorted);
      }),
    );
  });
});

describe('effectivePriorities', () => {
  it('are the highest of all that wait', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const { indexes, together, reaches } = closure(queue);
        const expected = indexes.map((a) => {
          const above = queue.filter((_, b) => together(a, b) || reaches(b, a));
          return SYNC_PRIORITIES.find((priority) => above.some((one) => one.priority === priority));
        });
        expect(effectivePriorities(queue)).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });
});

describe('findCycle', () => {
  it('finds a circle if and only if there is one, and a true one', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const { indexes, together, direct, reaches } = closure(queue);
        const acyclic =
          dissolves(indexes, (a, b) => reaches(a, b)) &&
          dissolves(indexes, (a, b) => together(a, b) && direct(a, b));
        const nodes: readonly DependencyNode[] = queue.map(nodeOf);
        const circle = findCycle(nodes);
        expect(circle === undefined).toBe(acyclic);
        if (circle === undefined) return;
        const places = circle.map((node) => nodes.indexOf(node));
        expect(new Set(places).size).toBe(places.length);
        const whole = places.some((a) => places.some((b) => !together(a, b)));
        for (const [i, a] of places.entries()) {
          const b = places[(i + 1) % places.length] ?? -1;
          // Within a batch of a larger circle the operations only stand side by side.
          if (!whole) expect(direct(a, b)).toBe(true);
          else if (!together(a, b)) expect(reaches(a, b) && reaches(b, a)).toBe(true);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('finds none in what was admitted in order', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const earlier = (one: Operation, other: string): boolean =>
          queue.findIndex(({ operationId }) => operationId === other) <
          queue.findIndex(({ operationId }) => operationId === one.operationId);
        const nodes = queue.map((one) => ({
          operationId: one.operationId,
          batchId: null,
          predecessors: one.dependsOn.filter((other) => earlier(one, other)),
        }));
        expect(findCycle(nodes)).toBeUndefined();
      }),
    );
  });
});

describe('areDependenciesMet and descendantsOf', () => {
  it('agree: what waits for one that has not ended is one of its descendants', () => {
    fc.assert(
      fc.property(anyQueue, fc.array(fc.constantFrom(...SYNC_QUEUE_STATUSES)), (queue, statuses) => {
        const list = queue.map((one, i) => ({ ...one, status: statuses[i] ?? 'COMPLETED' }));
        const { indexes, together, direct } = closure(queue);
        for (const a of indexes) {
          const one = list[a];
          if (one === undefined) continue;
          const waits = indexes.filter(
            (b) =>
              list[b]?.status !== 'COMPLETED' &&
              (!together(a, b) || (a === b && one.batchSize === null)) &&
              indexes.some((c) => together(a, c) && direct(c, b)),
          );
          expect(areDependenciesMet(one, list)).toBe(waits.length === 0);
          for (const b of waits)
            if (a !== b) expect(descendantsOf(list[b]?.operationId ?? '', list)).toContain(one);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('descendants are all that reach it, and what shares a batch with one of them', () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const { indexes, together, reaches } = closure(queue);
        for (const b of indexes) {
          const expected = queue.filter((_, a) => a !== b && (reaches(a, b) || together(a, b)));
          expect(descendantsOf(`op-${b}`, queue)).toEqual(expected);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('batchOperations', () => {
  it('keeps everything, the order but for batches, and the size but for larger ones', () => {
    fc.assert(
      fc.property(anyQueue, fc.integer({ min: 1, max: 6 }), (queue, size) => {
        const slices = batchOperations(queue, size);
        expect(new Set(slices.flat())).toEqual(new Set(queue));
        expect(slices.flat()).toHaveLength(queue.length);
        const loose = (one: Operation): boolean => one.batchId === null || one.batchSize === null;
        expect(slices.flat().filter(loose)).toEqual(queue.filter(loose));
        for (const [i, slice] of slices.entries()) {
          const batches = new Set(slice.map((one) => (loose(one) ? one : one.batchId)));
          expect(slice.length).toBeGreaterThan(0);
          if (slice.length > size) expect(batches.size).toBe(1);
          for (const other of slices.slice(i + 1))
            for (const one of other) if (!loose(one)) expect(batches.has(one.batchId ?? null)).toBe(false);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('calculateBackoff', () => {
  const numbers = fc.record({
    n: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER - 1 })),
    base: fc.oneof(fc.nat(100_000), fc.double({ min: 0, noNaN: true, noDefaultInfinity: true })),
    multiplier: fc.oneof(
      fc.double({ min: 1, max: 10, noNaN: true }),
      fc.double({ min: 1, noNaN: true, noDefaultInfinity: true }),
    ),
    maxMs: fc.nat(10_000_000),
  });

  it('never falls, never passes the limit, begins with the base', () => {
    fc.assert(
      fc.property(numbers, ({ n, base, multiplier, maxMs }) => {
        const delay = (which: number): number => calculateBackoff(which, base, multiplier, { maxMs });
        expect(delay(n)).toBeLessThanOrEqual(delay(n + 1));
        expect(delay(n)).toBeLessThanOrEqual(maxMs);
        expect(delay(1)).toBe(Math.min(base, maxMs));
      }),
    );
  });

  it('is from 0 to what it is without jitter', () => {
    fc.assert(
      fc.property(numbers, fc.double({ min: 0, max: 0.999, noNaN: true }), (numbers, value) => {
        const { n, base, multiplier, maxMs } = numbers;
        const random = (): number => value;
        const jittered = calculateBackoff(n, base, multiplier, { maxMs, jitter: 'FULL', random });
        expect(jittered).toBe(value * calculateBackoff(n, base, multiplier, { maxMs }));
      }),
    );
  });
});

describe('the clock', () => {
  const START = Date.parse('2026-01-01T00:00:00.000Z');
  const iso = (ms: number): string => new Date(ms).toISOString();

  const oddNumber = fc.oneof(
    fc.double(),
    fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, -1, 1e300, 2 ** 53, Number.MAX_SAFE_INTEGER),
  );
  const oddStamp: fc.Arbitrary<ClientStamp> = fc
    .record({
      bootId: fc.oneof(fc.constantFrom<unknown>('A', 'B', '', '__proto__', null, 5), fc.string()),
      monotonicMs: fc.oneof(fc.nat(), oddNumber, fc.constantFrom<unknown>(null, 'x', {})),
      wallTime: fc.oneof(fc.string(), fc.date().map(String), fc.constantFrom<unknown>(null, 5, iso(START))),
      counter: fc.nat(),
    })
    .map((stamp): ClientStamp => Object.assign(Object.create(null), stamp));

  it('never throws, never tells a time in the future, and never goes back', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ sent: oddStamp, stamps: fc.array(oddStamp), passed: fc.nat(10_000_000) })),
        (messages) => {
          let state: ClockState = [];
          let now = START;
          let lastEffectiveAt: string | null = null;
          for (const { sent, stamps, passed } of messages) {
            now += passed;
            state = observe(state, sent, iso(now));
            for (const stamp of stamps) {
              const time = correct(state, stamp, { receivedAt: iso(now), lastEffectiveAt });
              expect(time.skewMs === null || Number.isSafeInteger(time.skewMs)).toBe(true);
              if (time.effectiveAt === null) continue;
              expect(Date.parse(time.effectiveAt)).toBeLessThanOrEqual(now);
              if (lastEffectiveAt !== null) expect(time.effectiveAt >= lastEffectiveAt).toBe(true);
              lastEffectiveAt = time.effectiveAt;
            }
          }
          expect(JSON.stringify(state).length).toBeLessThan(20_000);
          expect(JSON.parse(JSON.stringify(state))).toEqual(state);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('is late by no more than the fastest message took, whatever the wall clock does', () => {
    const device = fc.record({
      boots: fc.array(
        fc.record({
          bootedAt: fc.nat(1_000_000),
          messages: fc.array(
            fc.record({
              after: fc.nat(600_000),
              latency: fc.nat(60_000),
              operations: fc.array(fc.nat(1000)),
            }),
            { minLength: 1, maxLength: 6 },
          ),
        }),
        { minLength: 1, maxLength: 4 },
      ),
      skew: fc.integer({ min: -10_000_000_000, max: 10_000_000_000 }),
    });
    fc.assert(
      fc.property(device, ({ boots, skew }) => {
        let state: ClockState = [];
        let now = START;
        for (const [boot, { bootedAt, messages }] of boots.entries()) {
          const began = now + bootedAt;
          now = began;
          const fastest: number[] = [];
          for (const { after, latency, operations } of messages) {
            const stampAt = (time: number): ClientStamp => ({
              bootId: `boot ${boot}`,
              monotonicMs: time - began,
              wallTime: iso(time + skew),
              counter: 0,
            });
            const sentAt = now + after;
            now = sentAt + latency;
            fastest.push(latency);
            state = observe(state, stampAt(sentAt), iso(now));
            for (const share of operations) {
              const true_ = began + Math.floor(((sentAt - began) * share) / 1000);
              const context = { receivedAt: iso(now), lastEffectiveAt: null };
              const { effectiveAt, skewMs } = correct(state, stampAt(true_), context);
              const late = Date.parse(effectiveAt ?? '') - true_;
              expect(late).toBe(Math.min(...fastest));
              expect(skewMs).toBe(skew - late);
            }
          }
        }
      }),
      { numRuns: 200 },
    );
  });
});
