import type pg from 'pg';
import type { Statement } from './ddl.ts';
import { restoreError } from './errors.ts';

/** Errors: `RESTORE_VALIDATION_FAILED`, `RESTORE_TARGET_INCOMPATIBLE`, `DATABASE_*`. */
export async function execute(client: pg.Client, statement: Statement): Promise<void> {
  await client.query(statement.sql).catch((error: unknown) => {
    throw restoreError(error, statement.doing);
  });
}
