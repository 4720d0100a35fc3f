import { describe, expect, it } from 'vitest';
import {
  admittedPriority,
  defaultPriority,
  dueAt,
  PRIORITY_WEIGHTS,
  type SortableOperation,
  sortQueueByPriority,
} from '../../src/sync/priority.ts';
import { ValidationError } from '../../src/types/errors.ts';
import { SYNC_PRIORITIES, type SyncPriority } from '../../src/types/offline-sync.ts';

const op = (
  operationId: string,
  priority: SyncPriority,
  sequenceNumber: number,
  more: Partial<SortableOperation> = {},
): SortableOperation => ({ operationId, priority, sequenceNumber, ...more });

const order = (operations: readonly SortableOperation[]): string =>
  sortQueueByPriority(operations)
    .map(({ operationId }) => operationId)
    .join(' ');

describe('dueAt', () => {
  it('is the arrival and the weight of the priority', () => {
    expect(SYNC_PRIORITIES.map((priority) => dueAt('2026-03-01T10:00:00.000Z', priority))).toEqual([
      '2026-03-01T10:00:00.000Z',
      '2026-03-01T10:00:00.000Z',
      '2026-03-01T10:00:30.000Z',
      '2026-03-01T10:05:00.000Z',
      '2026-03-01T10:30:00.000Z',
    ]);
    expect(Object.keys(PRIORITY_WEIGHTS)).toEqual(SYNC_PRIORITIES);
  });

  it('refuses what is no instant', () => {
    expect(() => dueAt('soon', 'HIGH')).toThrow(ValidationError);
    expect(() => dueAt('9999-12-31T23:59:59.000Z', 'LOW')).toThrow(/queuedAt/);
  });
});

describe('defaultPriority', () => {
  it.each([
    ['EVV_RECORD', 'CRITICAL'],
    ['EVVRecord', 'CRITICAL'],
    ['Visit', 'HIGH'],
    ['NOTE', 'NORMAL'],
    ['constructor', 'NORMAL'],
  ])('of %s is %s', (type, priority) => {
    expect(defaultPriority(type)).toBe(priority);
  });
});

describe('sortQueueByPriority', () => {
  it('sorts by class and then by sequence number, in a new array', () => {
    const pending = Object.freeze([
      op('background', 'BACKGROUND', 1),
      op('late', 'NORMAL', 10),
      op('early', 'NORMAL', 9),
      op('clock-in', 'CRITICAL', 8),
      op('low', 'LOW', 2),
      op('visit', 'HIGH', 7),
    ]);
    expect(order(pending)).toBe('clock-in visit early late low background');
  });

  it('needs no more than priority and sequence number, and keeps equals as they come', () => {
    const pending = ['a', 'b', 'c'].map((name) => ({ name, priority: 'LOW' as const, sequenceNumber: 3 }));
    expect(sortQueueByPriority(pending).map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    expect(sortQueueByPriority([])).toEqual([]);
  });

  it('puts what a critical operation waits for before it, and nothing else', () => {
    const pending = [
      op('clock-in', 'CRITICAL', 9, { dependsOn: ['visit', 'elsewhere'] }),
      op('visit', 'LOW', 8, { previousOperationId: 'client' }),
      op('client', 'BACKGROUND', 7, { previousOperationId: null }),
      op('note', 'HIGH', 1),
    ];
    expect(order(pending)).toBe('client visit clock-in note');
  });

  it('puts what comes later by number before what waits for it', () => {
    expect(
      order([op('a', 'NORMAL', 1, { dependsOn: ['c'] }), op('b', 'NORMAL', 2), op('c', 'NORMAL', 3)]),
    ).toBe('c a b');
  });

  it('keeps an atomic batch together and raises all that it waits for', () => {
    const batch = { batchId: 'batch', batchSize: 2 };
    const pending = [
      op('clock-in', 'CRITICAL', 9, { dependsOn: ['first'] }),
      op('other', 'HIGH', 2),
      op('second', 'LOW', 3, { ...batch, dependsOn: ['client'] }),
      op('first', 'NORMAL', 1, batch),
      op('client', 'BACKGROUND', 8),
      op('loose', 'NORMAL', 4, { batchId: 'batch' }),
    ];
    expect(order(pending)).toBe('client first second clock-in other loose');
  });

  it('orders the operations of a batch by what they wait for', () => {
    const batch = { batchId: 'batch', batchSize: 2 };
    expect(order([op('a', 'LOW', 1, { ...batch, dependsOn: ['b'] }), op('b', 'LOW', 2, batch)])).toBe('b a');
  });

  it('still sorts where operations wait for each other, and what waits for them comes after', () => {
    const pending = [
      op('after', 'CRITICAL', 1, { dependsOn: ['a'] }),
      op('b', 'LOW', 3, { dependsOn: ['a'] }),
      op('a', 'LOW', 4, { dependsOn: ['b', 'a'] }),
      op('high', 'HIGH', 2),
    ];
    expect(order(pending)).toBe('b a after high');
  });

  it('loses nothing where an operation is there twice', () => {
    const twice = op('a', 'LOW', 1);
    expect(order([op('b', 'HIGH', 2, { dependsOn: ['a'] }), twice, twice])).toBe('a a b');
  });

  it('takes a priority that it does not know for NORMAL', () => {
    const foreign: SyncPriority = JSON.parse('"constructor"');
    expect(order([op('low', 'LOW', 1), op('foreign', foreign, 2), op('high', 'HIGH', 3)])).toBe(
      'high foreign low',
    );
  });

  it('is quick with 10,000 operations in one chain, in any order', () => {
    const chain = Array.from({ length: 10_000 }, (_, i) =>
      op(`${i}`, i === 9_999 ? 'CRITICAL' : 'LOW', 10_000 - i, { previousOperationId: `${i - 1}` }),
    );
    const begun = performance.now();
    expect(sortQueueByPriority(chain.toReversed())).toEqual(chain);
    expect(performance.now() - begun).toBeLessThan(1000);
  });
});

describe('admittedPriority', () => {
  it.each([
    [undefined, 'NORMAL', 'NORMAL'],
    [undefined, 'CRITICAL', 'CRITICAL'],
    ['LOW', 'CRITICAL', 'LOW'],
    ['CRITICAL', 'CRITICAL', 'CRITICAL'],
    ['CRITICAL', 'HIGH', 'HIGH'],
    ['CRITICAL', 'BACKGROUND', 'HIGH'],
    ['HIGH', 'LOW', 'HIGH'],
  ] as const)('%s of an entity that is %s: %s', (asked, own, expected) => {
    expect(admittedPriority(asked, own)).toBe(expected);
  });
});
