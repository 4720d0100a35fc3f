import type { UUID } from '../types/ids.ts';
import type { Prepared } from './sync-prepare.ts';

/**
 * Operations in runs that may be written side by side: each entity once, and nothing that waits for another of its run.
 * The order of what is written to one entity, and of what depends on each other, stays.
 */
export function wavesOf(all: readonly Prepared[]): readonly (readonly Prepared[])[] {
  const waves: Prepared[][] = [];
  let entities = new Set<string>();
  let members = new Set<UUID>();
  for (const prepared of all) {
    const { operationId, entityType, entityId, after } = prepared.operation;
    const entity = JSON.stringify([entityType, entityId]);
    if (waves.length === 0 || entities.has(entity) || after.some((id) => members.has(id))) {
      waves.push([]);
      entities = new Set();
      members = new Set();
    }
    waves.at(-1)?.push(prepared);
    entities.add(entity);
    members.add(operationId);
  }
  return waves;
}

/** Operations with each one after those of them that it waits for; their order otherwise. */
export function inOrder<Operation extends { readonly operationId: UUID; readonly after: readonly UUID[] }>(
  operations: readonly Operation[],
): readonly Operation[] {
  const waiting = new Set(operations.map(({ operationId }) => operationId));
  const ordered: Operation[] = [];
  let rest = operations;
  while (rest.length > 0) {
    const free = rest.find(({ after }) => !after.some((id) => waiting.has(id))) ?? rest[0];
    if (free === undefined) break;
    ordered.push(free);
    waiting.delete(free.operationId);
    rest = rest.filter((one) => one !== free);
  }
  return ordered;
}

/** Runs of operations for one and the same actor: rights may differ by when something was done. */
export function runsOf(all: readonly Prepared[]): readonly (readonly Prepared[])[] {
  const runs: Prepared[][] = [];
  let before: string | undefined;
  for (const prepared of all) {
    const { branchIds, permissions, userId } = prepared.actor;
    const actor = JSON.stringify([userId, branchIds, permissions]);
    if (actor !== before) runs.push([]);
    runs.at(-1)?.push(prepared);
    before = actor;
  }
  return runs;
}
