import { describe, expect, it } from 'vitest';
import {
  areDependenciesMet,
  type DependencyNode,
  type DependentOperation,
  descendantsOf,
  effectivePriorities,
  findCycle,
  nodeOf,
} from '../../src/sync/dependencies.ts';
import { SYNC_QUEUE_STATUSES, type SyncQueueStatus } from '../../src/types/offline-sync.ts';

type Queued = DependentOperation & { readonly status?: SyncQueueStatus };
const op = (operationId: string, dependsOn: readonly string[] = [], more: Queued = {}) => ({
  operationId,
  dependsOn,
  ...more,
});
const node = (
  operationId: string,
  predecessors: readonly string[],
  batchId: string | null = null,
): DependencyNode => ({ operationId, batchId, predecessors });
const ids = (operations: readonly { readonly operationId?: string | undefined }[] | undefined) =>
  operations?.map(({ operationId }) => operationId).join(' ');
const BATCH = { batchId: 'batch', batchSize: 2 };

describe('areDependenciesMet', () => {
  it('is met without predecessors, and with those that are not in the list', () => {
    expect(areDependenciesMet(op('a'), [])).toBe(true);
    expect(areDependenciesMet(op('a', ['gone'], { previousOperationId: 'gone too' }), [op('a')])).toBe(true);
    expect(areDependenciesMet({}, [{}])).toBe(true);
  });

  it.each(SYNC_QUEUE_STATUSES)('with a predecessor that is %s', (status) => {
    const met = status === 'COMPLETED';
    expect(areDependenciesMet(op('b', ['a']), [op('a', [], { status })])).toBe(met);
    expect(areDependenciesMet({ previousOperationId: 'a' }, [op('a', [], { status })])).toBe(met);
  });

  it('takes an operation without a status for one that has not ended', () => {
    expect(areDependenciesMet(op('b', ['a']), [op('a')])).toBe(false);
  });

  it('is not met while one of several is pending', () => {
    const list = [op('a', [], { status: 'COMPLETED' }), op('b', [], { status: 'PENDING' })];
    expect(areDependenciesMet(op('c', ['a', 'b']), list)).toBe(false);
    expect(areDependenciesMet(op('c', ['a'], { previousOperationId: 'b' }), list)).toBe(false);
    expect(areDependenciesMet(op('c', ['a']), list)).toBe(true);
  });

  it('takes an atomic batch as one', () => {
    const first = op('first', ['client'], { ...BATCH, status: 'PENDING' });
    const second = op('second', ['first'], { ...BATCH, status: 'PENDING' });
    expect(areDependenciesMet(second, [first, second])).toBe(true);
    expect(areDependenciesMet(second, [first, second, op('client')])).toBe(false);
    // Without a size it is no atomic batch, and in another stream another one.
    expect(areDependenciesMet({ ...second, batchSize: null }, [first])).toBe(false);
    expect(areDependenciesMet(second, [{ ...first, streamId: 'other' }])).toBe(false);
  });
});

describe('effectivePriorities', () => {
  it('raises what others wait for, through chains and batches', () => {
    const list = [
      { ...op('far'), priority: 'BACKGROUND' as const },
      { ...op('near', ['far'], BATCH), priority: 'LOW' as const },
      { ...op('mate', ['mates'], BATCH), priority: 'NORMAL' as const },
      { ...op('mates'), priority: 'LOW' as const },
      { ...op('urgent', ['near']), priority: 'HIGH' as const },
      { ...op('after', ['urgent']), priority: 'LOW' as const },
      { priority: 'LOW' as const },
    ];
    expect(effectivePriorities(list)).toEqual(['HIGH', 'HIGH', 'HIGH', 'HIGH', 'HIGH', 'LOW', 'LOW']);
  });

  it('ends in a circle', () => {
    const list = [
      { ...op('a', ['b']), priority: 'LOW' as const },
      { ...op('b', ['a']), priority: 'CRITICAL' as const },
    ];
    expect(effectivePriorities(list)).toEqual(['CRITICAL', 'CRITICAL']);
  });
});

describe('findCycle', () => {
  it('finds none where there is none', () => {
    expect(findCycle([])).toBeUndefined();
    expect(
      findCycle([node('a', []), node('b', ['a']), node('c', ['a', 'b', 'unknown']), node('d', ['b', 'c'])]),
    ).toBeUndefined();
  });

  it('gives the operations of the circle only, each before the one that it waits for', () => {
    const nodes = [
      node('before', []),
      node('a', ['before', 'c']),
      node('b', ['a']),
      node('c', ['b']),
      node('after', ['a']),
    ];
    expect(ids(findCycle(nodes))).toBe('a c b');
    expect(ids(findCycle(nodes.toReversed()))).toBe('a c b');
  });

  it('finds an operation that waits for itself', () => {
    expect(ids(findCycle([node('a', []), node('b', ['b'])]))).toBe('b');
  });

  it('takes the operations of an atomic batch as one', () => {
    const nodes = [node('first', [], 'batch'), node('second', ['x'], 'batch'), node('x', ['first'])];
    expect(ids(findCycle(nodes))).toBe('first second x');
    expect(findCycle(nodes.map((one) => ({ ...one, batchId: null })))).toBeUndefined();
  });

  it('lets operations of a batch wait for each other, but not in a circle', () => {
    expect(findCycle([node('a', [], 'batch'), node('b', ['a'], 'batch')])).toBeUndefined();
    expect(ids(findCycle([node('a', ['b'], 'batch'), node('b', ['a'], 'batch')]))).toBe('a b');
  });

  it('goes by previousOperationId too', () => {
    const operations = [op('a', ['b']), op('b', [], { previousOperationId: 'a' })];
    expect(ids(findCycle(operations.map(nodeOf)))).toBe('a b');
  });

  it('does not mind 100,000 operations in one chain, or before one', () => {
    const chain = Array.from({ length: 100_000 }, (_, i) => node(`${i}`, [`${i + 1}`]));
    expect(findCycle(chain)).toBeUndefined();
    expect(findCycle([...chain, node('100000', ['0'])])).toHaveLength(100_001);
    const all = chain.map((_, i) => `${i}`);
    expect(findCycle([node('last', all), ...all.map((id) => node(id, []))])).toBeUndefined();
  });
});

describe('descendantsOf', () => {
  const list = [
    op('e', ['d']),
    op('a'),
    op('b', ['a']),
    op('c', [], { previousOperationId: 'b' }),
    op('d', ['c'], BATCH),
    op('mate', [], BATCH),
    op('after mate', ['mate']),
    op('other', ['elsewhere']),
    {},
  ];

  it('are all that wait for it, in the order of the list', () => {
    expect(ids(descendantsOf('a', list))).toBe('e b c d mate after mate');
    expect(ids(descendantsOf('e', list))).toBe('');
  });

  it('of an operation of a batch are those of the batch, and the others of it', () => {
    expect(ids(descendantsOf('mate', list))).toBe('e d after mate');
  });

  it('are found also where the operation itself is not in the list', () => {
    expect(ids(descendantsOf('elsewhere', list))).toBe('other');
  });

  it('end in a circle', () => {
    expect(ids(descendantsOf('a', [op('a', ['c']), op('b', ['a']), op('c', ['b'])]))).toBe('b c');
  });
});
