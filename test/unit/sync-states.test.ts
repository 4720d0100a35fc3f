import { expect, it } from 'vitest';
import { mayBecome, STATUS_CHANGES } from '../../src/sync/states.ts';
import { SYNC_QUEUE_STATUSES } from '../../src/types/offline-sync.ts';

it('names every status, each change once and none to itself', () => {
  expect(Object.keys(STATUS_CHANGES)).toEqual(SYNC_QUEUE_STATUSES);
  for (const [from, changes] of Object.entries(STATUS_CHANGES)) {
    expect(new Set(changes).size).toBe(changes.length);
    expect(changes).not.toContain(from);
  }
});

it('knows what may become of an operation', () => {
  expect(mayBecome('PENDING', 'IN_PROGRESS')).toBe(true);
  expect(mayBecome('PENDING', 'COMPLETED')).toBe(false);
  expect(mayBecome('PENDING', 'PENDING')).toBe(true);
});

it('lets everything that has not ended come to an end, and nothing that has go on', () => {
  for (const status of SYNC_QUEUE_STATUSES) {
    const reached = new Set([status]);
    for (const one of reached) for (const next of STATUS_CHANGES[one]) reached.add(next);
    const ended = status === 'COMPLETED' || status === 'CANCELLED';
    expect(reached.has('COMPLETED')).toBe(status !== 'CANCELLED');
    expect(reached.size === 1).toBe(ended);
  }
});
