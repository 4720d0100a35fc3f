import type pg from 'pg';
import { quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { readTypeDefinitions } from '../postgres/type-definitions.ts';
import type { SnapshotContents } from '../types/contents.ts';
import { DataProtectionError } from '../types/errors.ts';
import { createSequences, createTable, type Definitions, localExpression, ownSequences } from './ddl.ts';
import { restoreError } from './errors.ts';
import { execute } from './execute.ts';
import type { RestorePlan } from './plan.ts';
import type { WorkSessions } from './sessions.ts';
import { createTypeSql, localType, resolveTypes } from './types.ts';

/** The schemas of the source that the target has too: names that stand unqualified may resolve there. */
async function sourcePath(client: pg.ClientBase, contents: SnapshotContents): Promise<string[]> {
  const { searchPath } = contents.source;
  const there = await selectRows<{ name: string }>(
    client,
    'SELECT nspname AS name FROM pg_catalog.pg_namespace WHERE nspname = ANY($1::text[])',
    [searchPath],
  );
  return searchPath.filter((schema) => there.some(({ name }) => name === schema));
}

/**
 * Creates sequences, types and empty tables in `schema`, and leaves the sessions with a search path under which the
 * recorded definitions resolve. Errors: `RESTORE_TARGET_INCOMPATIBLE`, `NOT_SUPPORTED`, `DATABASE_*`.
 */
export async function defineTables(
  sessions: WorkSessions,
  contents: SnapshotContents,
  plan: RestorePlan,
  schema: string,
): Promise<{ readonly definitions: Definitions; readonly searchPath: readonly string[] }> {
  const client = sessions.first;
  const path = await sourcePath(client, contents);
  await sessions.useSearchPath(path);
  const types = await resolveTypes(client, contents).catch((error: unknown) => {
    throw restoreError(error, 'Reading the types of the target');
  });
  const searchPath = [schema, ...path];
  await sessions.useSearchPath(searchPath);
  const [server] = await selectRows<{ version: number }>(
    client,
    "SELECT pg_catalog.current_setting('server_version_num')::int AS version",
  );
  const definitions: Definitions = {
    contents,
    schema,
    serverVersion: server?.version ?? 0,
    createdTypes: types.created,
    localType: (text) => localType(text, types.created, schema),
    indexNames: plan.indexNames,
  };
  for (const statement of createSequences(definitions)) await execute(client, statement);
  const local = {
    type: definitions.localType,
    expression: (text: string) => localExpression(definitions, text),
  };
  for (const type of types.created) {
    const sql = createTypeSql(type, schema, local);
    await execute(client, { sql, doing: `Creating type ${type.schema}.${type.name}` });
  }
  for (const index of contents.relations.keys()) {
    for (const statement of createTable(definitions, index)) await execute(client, statement);
  }
  for (const statement of ownSequences(definitions)) await execute(client, statement);
  await refuseOtherTypes(client, definitions);
  return { definitions, searchPath };
}

/** Unqualified names could have met a type of the target that the source did not have: rows would be read by it. */
async function refuseOtherTypes(client: pg.ClientBase, { contents, schema }: Definitions): Promise<void> {
  const columns = await selectRows<{ oid: number }>(
    client,
    `SELECT DISTINCT a.atttypid::bigint AS oid FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0`,
    [quoteIdent(schema)],
  );
  const { records } = await readTypeDefinitions(
    client,
    columns.map((column) => column.oid),
  );
  const other = records.find(
    (record) =>
      record.schema !== schema &&
      !contents.types.some((type) => type.schema === record.schema && type.name === record.name),
  );
  if (other === undefined) return;
  throw new DataProtectionError(
    `Type ${other.schema}.${other.name} of the target stands in the way of one of that name in the snapshot`,
    'RESTORE_TARGET_INCOMPATIBLE',
  );
}
