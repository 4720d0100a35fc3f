import { randomUUID } from 'node:crypto';
import { createDataProtection, type DataProtection, type DataProtectionOptions } from '../../src/compose.ts';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import { defineEntity } from '../../src/source/entity.ts';
import type { Actor } from '../../src/types/actor.ts';
import type { QueueOperationInput, SyncConflict } from '../../src/types/offline-sync.ts';
import type { SyncEntityOptions, SyncOptions } from '../../src/types/sync-handler.ts';
import { createTestDatabase, type TestDatabase } from './postgres.ts';
import { benchKeyring } from './service-bench.ts';

export const ORGANIZATION = '00000000-0000-4000-8000-000000000001';
export const OTHER_ORGANIZATION = '00000000-0000-4000-8000-000000000002';
export const BRANCH_A = '00000000-0000-4000-8000-00000000000a';
export const BRANCH_B = '00000000-0000-4000-8000-00000000000b';
export const ALICE = '00000000-0000-4000-8000-0000000000a1';
export const BOB = '00000000-0000-4000-8000-0000000000b1';
export const MANAGER = '00000000-0000-4000-8000-0000000000c1';

/** What a field application has: visits, records of clock-ins, notes, and an outbox for side effects. */
export const SYNC_SCHEMA = `
  CREATE TABLE visits (
    id uuid PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'SCHEDULED', notes text, minutes integer, amount numeric(12,2),
    tags text[] NOT NULL DEFAULT '{}', vitals jsonb, actual_start timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
    CONSTRAINT visits_minutes_sane CHECK (minutes BETWEEN 0 AND 1440));
  CREATE TABLE evv_records (
    id uuid PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL,
    visit_id uuid NOT NULL REFERENCES visits, kind text NOT NULL, at timestamptz NOT NULL);
  CREATE TABLE notes (
    id uuid PRIMARY KEY, organization_id uuid NOT NULL, branch_id uuid NOT NULL,
    visit_id uuid REFERENCES visits, body text NOT NULL, reference text UNIQUE);
  CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, operation_id uuid NOT NULL, entity_id text NOT NULL);`;

export const syncTables = () => [
  defineEntity({ type: 'VISIT', table: 'visits', classification: { phi: true } }),
  defineEntity({ type: 'EVV_RECORD', table: 'evv_records' }),
  defineEntity({ type: 'NOTE', table: 'notes', classification: { phi: true } }),
];

export const SYNC_ENTITIES: readonly SyncEntityOptions[] = [
  { type: 'VISIT' },
  { type: 'EVV_RECORD' },
  { type: 'NOTE' },
];

export const syncActor = (userId: string, over: Partial<Actor> = {}): Actor => ({
  userId,
  organizationId: ORGANIZATION,
  branchIds: 'ALL',
  permissions: ['sync:write', 'sync:read'],
  ...over,
});

/** Of a decision: the conflict, and the version that whoever decides it saw. */
export const shown = (conflict: SyncConflict | undefined) => ({
  conflictId: conflict?.id ?? '',
  seenVersion: conflict?.serverVersionNumber ?? 0,
});

/** The tables of a field application, and the library on them. */
export interface SyncBench extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly protection: DataProtection;
  /** Another instance, as another process would have; closed with the bench. */
  open(over?: Partial<DataProtectionOptions>): Promise<DataProtection>;
  as(userId: string, over?: Partial<Actor>): OfflineSyncService;
  sql<Row extends object>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** A visit in the host's table. */
  aVisit(over?: Readonly<Record<string, unknown>>): Promise<string>;
  visit(id: string): Promise<Record<string, unknown> | undefined>;
  /** How the operations stand: status, outcome and reason by operation id. */
  standing(): Promise<Record<string, string>>;
}

export async function createSyncBench(
  over: Partial<DataProtectionOptions> & { readonly syncOptions?: Partial<SyncOptions> } = {},
): Promise<SyncBench> {
  return syncBenchOn(await createTestDatabase(), over);
}

/** On a migrated database, which goes with the bench. */
export async function syncBenchOn(
  database: TestDatabase,
  {
    syncOptions,
    ...over
  }: Partial<DataProtectionOptions> & { readonly syncOptions?: Partial<SyncOptions> } = {},
): Promise<SyncBench> {
  await database.pool.query(SYNC_SCHEMA);
  const opened: DataProtection[] = [];
  const open = async (more: Partial<DataProtectionOptions> = {}): Promise<DataProtection> => {
    const protection = await createDataProtection({
      database: database.url,
      entities: syncTables(),
      keys: benchKeyring(),
      sync: { entities: SYNC_ENTITIES, ...syncOptions },
      ...over,
      ...more,
    });
    opened.push(protection);
    return protection;
  };
  const protection = await open();
  const sql = async <Row extends object>(text: string, values: readonly unknown[] = []): Promise<Row[]> =>
    (await database.pool.query<Row>(text, [...values])).rows;
  return {
    database,
    protection,
    open,
    sql,
    as: (userId, more) => protection.sync(syncActor(userId, more)),
    async aVisit(given = {}) {
      const row = { id: randomUUID(), organization_id: ORGANIZATION, branch_id: BRANCH_A, ...given };
      await sql(
        `INSERT INTO visits (${Object.keys(row).join(', ')}) VALUES (${Object.keys(row).map((_, i) => `$${i + 1}`)})`,
        Object.values(row),
      );
      return row.id;
    },
    async visit(id) {
      const [row] = await sql<Record<string, unknown>>('SELECT * FROM visits WHERE id = $1', [id]);
      return row;
    },
    async standing() {
      const rows = await sql<{ id: string; standing: string }>(
        `SELECT operation_id::text AS id, concat_ws(' ', status, outcome, status_reason) AS standing FROM care_backup.offline_sync_queue`,
      );
      return Object.fromEntries(rows.map(({ id, standing }) => [id, standing]));
    },
    async [Symbol.asyncDispose]() {
      for (const one of opened) await one.close();
      await database[Symbol.asyncDispose]();
    },
  };
}

/** A device's outbox: numbers what is done on it, and links it. */
export class Device {
  readonly deviceId: string;
  readonly #last = new Map<string, string>();
  #sequence = 0;
  epoch = 1;

  constructor(deviceId: string = randomUUID()) {
    this.deviceId = deviceId;
  }

  /** An operation as the library's own clients would hand it in. */
  does(
    operation: Omit<QueueOperationInput, 'deviceId' | 'sequenceNumber'>,
  ): QueueOperationInput & { operationId: string } {
    const operationId = operation.operationId ?? randomUUID();
    const entity = `${operation.entityType} ${operation.entityId}`;
    const previousOperationId = operation.previousOperationId ?? this.#last.get(entity);
    this.#last.set(entity, operationId);
    this.#sequence += 1;
    return {
      ...operation,
      operationId,
      deviceId: this.deviceId,
      epoch: this.epoch,
      sequenceNumber: this.#sequence,
      previousOperationId: previousOperationId ?? null,
    };
  }
}

/** Whoever may do everything in the organization. */
export const managerOf = (bench: SyncBench) => bench.as(MANAGER, { permissions: ['sync:admin'] });

/** A visit as the server hands it out for offline use. */
export const baseOf = async (bench: SyncBench, id: string) => {
  const [entity] = await managerOf(bench).readForOffline('VISIT', [id]);
  return { version: entity?.version ?? 0, data: entity?.data ?? {}, signature: entity?.signature ?? '' };
};
