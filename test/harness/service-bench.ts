import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { entities as descriptions } from '../../examples/care-platform/entities.ts';
import {
  branchIds,
  createSchema,
  generatePlatform,
  organizationId,
} from '../../examples/care-platform/generate.ts';
import { createDataProtection, type DataProtection, type DataProtectionOptions } from '../../src/compose.ts';
import { localKeyring } from '../../src/keys/local-keyring.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { defineEntity } from '../../src/source/entity.ts';
import type { Actor } from '../../src/types/actor.ts';
import type { BackupConfiguration, BackupScope, CreateBackupConfigInput } from '../../src/types/backup.ts';
import type { EntityDefinition } from '../../src/types/entity.ts';
import { createTestDatabase, type TestDatabase } from './postgres.ts';

export const SEED = 11;
/** A 256-bit key whose hexadecimal and base64 forms a leak test can look for. */
export const MASTER_KEY = Buffer.from(
  '5ec2e7ac5ec2e7ac5ec2e7ac5ec2e7ac5ec2e7ac5ec2e7ac5ec2e7ac5ec2e7ac',
  'hex',
);
const KEY_ID = 'bench-key';

const platformEntities = (): EntityDefinition[] =>
  descriptions.map((description) => defineEntity(description));

export const wholeScope = { includeSoftDeleted: true };

export const benchKeyring = (key: Uint8Array = MASTER_KEY) =>
  localKeyring({ keys: [{ id: KEY_ID, key }], current: KEY_ID });

export const actorOf = (organization: string, over: Partial<Actor> = {}): Actor => ({
  userId: '00000000-0000-4000-8000-0000000000aa',
  organizationId: organization,
  branchIds: 'ALL',
  permissions: ['backup:admin'],
  ...over,
});

/** A source of data in a database of its own, a folder for its backups, and the library on both. */
export interface ServiceBench extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly folder: string;
  /** Two organizations with their branches. */
  readonly organizations: readonly [string, string];
  readonly branches: readonly [readonly string[], readonly string[]];
  readonly protection: DataProtection;
  /** As an administrator of the first organization. */
  readonly backups: BackupService;
  /** Another instance, as another process would have; closed with the bench. */
  open(over?: Partial<DataProtectionOptions>): Promise<DataProtection>;
  configure(over?: Partial<CreateBackupConfigInput>): Promise<BackupConfiguration>;
}

interface Content {
  readonly entities: () => readonly EntityDefinition[];
  readonly organizations: readonly [string, string];
  readonly branches: readonly [readonly string[], readonly string[]];
  readonly scope: BackupScope;
  fill(client: pg.Client): Promise<void>;
}

/** The care platform with two organizations. */
export const carePlatform = (visits = 60): Content => ({
  entities: platformEntities,
  organizations: [organizationId(SEED, 1), organizationId(SEED, 2)],
  branches: [branchIds(SEED, 1, visits), branchIds(SEED, 2, visits)],
  scope: { includeEntities: ['BRANCH', 'CLIENT', 'VISIT'], includeSoftDeleted: true },
  async fill(client) {
    await createSchema(client);
    await generatePlatform(client, { seed: SEED, organizations: 2, visits });
  },
});

/** Opens the bench; options given here hold for every instance. */
export async function createBench(
  content: Content,
  over: Partial<DataProtectionOptions> = {},
): Promise<ServiceBench> {
  return benchOn(await createTestDatabase(), content, over);
}

/** On a migrated database, which goes with the bench. */
export async function benchOn(
  database: TestDatabase,
  content: Content,
  over: Partial<DataProtectionOptions> = {},
): Promise<ServiceBench> {
  const folder = await mkdtemp(join(tmpdir(), 'care-service-'));
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    await content.fill(client);
  } finally {
    await client.end();
  }
  const opened: DataProtection[] = [];
  const open = async (more: Partial<DataProtectionOptions> = {}): Promise<DataProtection> => {
    const protection = await createDataProtection({
      database: database.url,
      entities: content.entities(),
      keys: benchKeyring(),
      storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: folder } },
      ...over,
      ...more,
    });
    opened.push(protection);
    return protection;
  };
  const protection = await open();
  const backups = protection.backups(actorOf(content.organizations[0]));
  return {
    database,
    folder,
    organizations: content.organizations,
    branches: content.branches,
    protection,
    backups,
    open,
    configure: (input = {}) =>
      backups.createConfiguration({ name: `c-${randomUUID()}`, scope: content.scope, ...input }),
    async [Symbol.asyncDispose]() {
      for (const one of opened) await one.close();
      await database[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Every file below the folder, with its path from there; unfinished uploads are left out. */
export async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile() && !entry.parentPath.includes('.tmp-uploads'))
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

/** The sessions of the library on a database, by the name that each gave itself. */
export async function librarySessions(pool: pg.Pool): Promise<{ pid: number; name: string }[]> {
  const { rows } = await pool.query<{ pid: number; name: string }>(
    `SELECT pid, application_name AS name FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'care-backup%' ORDER BY pid`,
  );
  return rows;
}

/** The rows of the library's own tables, the audit log included: equal before and after means that nothing was written. */
export const ownRows = (pool: pg.Pool): Promise<string> =>
  rowsOf(
    pool,
    [
      'backup_configurations',
      'backup_snapshots',
      'backup_attempts',
      'restore_operations',
      'restore_conflicts',
      'storage_jobs',
      'audit_log',
      'audit_checkpoints',
    ].map((table) => `care_backup.${table}`),
  );

/** A digest of the rows of tables. */
export async function rowsOf(pool: pg.Pool, tables: readonly string[]): Promise<string> {
  const parts = await Promise.all(
    tables.map(async (table) => {
      const { rows } = await pool.query<{ digest: string }>(
        `SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') AS digest FROM ${table} t`,
      );
      return `${table} ${rows[0]?.digest}`;
    }),
  );
  return parts.join('\n');
}

export async function auditActions(pool: pg.Pool, resourceId: string): Promise<string[]> {
  const { rows } = await pool.query<{ action: string }>(
    'SELECT action FROM care_backup.audit_log WHERE resource_id = $1 ORDER BY sequence',
    [resourceId],
  );
  return rows.map((row) => row.action);
}
