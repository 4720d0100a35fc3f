import type pg from 'pg';
import { databaseError, sqlState } from '../postgres/errors.ts';
import { qualified } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { EntityDefinition } from '../types/entity.ts';
import { DataProtectionError } from '../types/errors.ts';
import { enlist } from './crew.ts';
import { resolveEntities } from './entity-catalog.ts';
import { refuseFiltered } from './readable.ts';
import { planScope, type ScopePlan } from './scope.ts';
import type { SnapshotRequest } from './source.ts';
import { readTables, treeFingerprint } from './tables.ts';

/** An open transaction that holds the locks and has exported its snapshot. */
export interface Leader {
  readonly plan: ScopePlan;
  readonly exportedId: string;
  /** `pg_current_snapshot()`. */
  readonly snapshot: string;
  readonly takenAt: string;
  /** The sessions that read, with locks of their own. */
  readonly crew: readonly pg.Client[];
  /** When the locks were taken, by `performance.now()`. */
  readonly since: number;
}

/** Moments between the steps of a snapshot at which a test may interfere. */
export type SnapshotStep = 'LISTED' | 'LOCKED' | 'EXPORTED' | 'DESCRIBED' | 'READ';
export type StepHook = (step: SnapshotStep) => Promise<void>;

interface LeaderOptions {
  readonly connection: pg.ClientConfig;
  readonly entities: readonly EntityDefinition[];
  readonly onStep: StepHook;
}

/** How long one LOCK TABLE waits. A waiting lock request makes every later writer wait behind it: short, and repeated. */
const LOCK_WAIT_MS = 2_000;
const LOCK_TRIES = 15;
const TREE_TRIES = 5;

/**
 * Opens the transaction that everything is read under. The order is the point: first ACCESS SHARE locks on every table
 * and partition that the scope reads, then the first snapshot. Without the locks a TRUNCATE or ALTER between the two
 * gives 0 rows and no error. ATTACH PARTITION passes ACCESS SHARE, so the tree is read again under the snapshot and
 * must equal the one that was locked.
 * Errors: `SOURCE_LOCK_TIMEOUT`, `SOURCE_CHANGED`, `ENTITY_*`, `DATABASE_*`.
 */
export async function lead(
  client: pg.Client,
  { connection, entities, onStep }: LeaderOptions,
  request: SnapshotRequest,
): Promise<Leader> {
  const { signal } = request;
  for (let lockTry = 1, treeTry = 1; ; ) {
    signal.throwIfAborted();
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const locked = await readTables(client, entities);
    const scope = planScope(resolveEntities(locked), request);
    await refuseFiltered(client, scope);
    await client.query('COMMIT');
    await onStep('LISTED');
    const tables = [...new Set(scope.read.flatMap(({ table }) => table.nodes.map(qualified)))];
    const since = performance.now();
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      await client.query(`SET LOCAL lock_timeout = ${LOCK_WAIT_MS}`);
      await client.query(
        `LOCK TABLE ${tables.map((name) => `ONLY ${name}`).join(', ')} IN ACCESS SHARE MODE`,
      );
      await client.query('SET LOCAL lock_timeout = 0');
      await onStep('LOCKED');
      const [opened] = await selectRows<{ exported: string; snapshot: string; taken_at: string }>(
        client,
        `SELECT pg_catalog.pg_export_snapshot() AS exported, pg_catalog.pg_current_snapshot()::text AS snapshot,
                pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS taken_at`,
      );
      await onStep('EXPORTED');
      const seen = await readTables(client, entities);
      if (opened !== undefined && treeFingerprint(seen) === treeFingerprint(locked)) {
        const plan = planScope(resolveEntities(seen), request);
        const leaves = plan.read.flatMap(({ table }) => table.leaves);
        const enlistment = { connection, exportedId: opened.exported, signal };
        return {
          plan,
          crew: await enlist(enlistment, request.maxConcurrency, leaves),
          exportedId: opened.exported,
          snapshot: opened.snapshot,
          takenAt: opened.taken_at,
          since,
        };
      }
      await client.query('ROLLBACK');
      if (treeTry++ >= TREE_TRIES) {
        throw new DataProtectionError(
          'Partitions were attached or detached each time the tables were locked',
          'SOURCE_CHANGED',
        );
      }
    } catch (error) {
      const state = sqlState(error);
      const vanished = state === '42P01' || state === '3F000';
      if (!vanished && state !== '55P03' && state !== '40P01') throw lockError(error);
      await client.query('ROLLBACK');
      if (lockTry++ >= LOCK_TRIES) {
        throw new DataProtectionError(
          `The tables of the scope could not be locked within ${(LOCK_WAIT_MS * LOCK_TRIES) / 1000} s: another session holds an ACCESS EXCLUSIVE lock`,
          'SOURCE_LOCK_TIMEOUT',
          { cause: error },
        );
      }
    }
  }
}

const lockError = (error: unknown): DataProtectionError =>
  databaseError(error, 'Locking the tables of the scope', { '42501': 'SOURCE_PRIVILEGE_MISSING' });
