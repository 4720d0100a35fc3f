import {
  addChecks,
  addKey,
  createIndex,
  type Definitions,
  inSchema,
  keysAndIndexes,
  type Statement,
} from './ddl.ts';
import { execute } from './execute.ts';
import { at, type RestorePlan } from './plan.ts';
import type { Job, WorkSessions } from './sessions.ts';

const job = (statements: readonly Statement[], next: readonly Job[] = []): Job => ({
  run: async (client) => {
    for (const statement of statements) await execute(client, statement);
  },
  next,
});

/**
 * Builds keys, indexes and checks over the loaded rows, side by side, largest table first. Those of partitions come
 * first and under their own names: the partitioned table's then takes them in instead of building them one by one.
 */
export async function buildIndexes(
  sessions: WorkSessions,
  definitions: Definitions,
  plan: RestorePlan,
): Promise<void> {
  const statements = (index: number): { keys: Statement[]; indexes: Statement[] } => {
    const { keys, indexes } = keysAndIndexes(at(definitions.contents.relations, index));
    return {
      keys: keys.map((key) => addKey(definitions, index, key)),
      indexes: indexes.map((record) => createIndex(definitions, index, record)),
    };
  };
  await sessions.run(
    plan.leaves.map((leaf) => {
      // A key locks the table against everything, an index only against writers: indexes go side by side.
      const { keys, indexes } = statements(leaf);
      return job(
        keys,
        indexes.map((index) => job([index])),
      );
    }),
  );
  for (const index of plan.partitioned) {
    const { keys, indexes } = statements(index);
    for (const statement of [...keys, ...indexes]) await execute(sessions.first, statement);
  }
  const trees = Map.groupBy(definitions.contents.relations.keys(), (index) => at(plan.roots, index));
  await sessions.run(
    [...trees.values()].map((tree) => job(tree.flatMap((index) => addChecks(definitions, index) ?? []))),
  );
}

/** Statistics for the planner; foreign keys are checked with them in place. */
export async function analyze(
  sessions: WorkSessions,
  definitions: Definitions,
  plan: RestorePlan,
): Promise<void> {
  const tables = [...plan.leaves, ...plan.partitioned].map((index) => {
    const { name } = at(definitions.contents.relations, index);
    return job([{ sql: `ANALYZE ${inSchema(definitions, name)}`, doing: `Analysing ${name}` }]);
  });
  await sessions.run(tables);
}
