import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import { qualified, quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { destroySession, openSession, RECORDED_SETTINGS } from '../postgres/session.ts';
import { readTypeDefinitions } from '../postgres/type-definitions.ts';
import type { BackupWarning } from '../types/backup.ts';
import type {
  EntityRecord,
  SequenceRecord,
  SnapshotContents,
  SourceDescription,
  TypeRecord,
} from '../types/contents.ts';
import type { EntityDefinition } from '../types/entity.ts';
import { DataProtectionError } from '../types/errors.ts';
import { alteredBetween, catalogVersions, type Unlocked } from './catalog-versions.ts';
import { type DescribedRelation, describeRelations, describeSequences } from './describe.ts';
import { holds } from './entity.ts';
import { type ResolvedEntity, resolveEntities } from './entity-catalog.ts';
import { type PartTotals, readRuns } from './extraction.ts';
import { type Leader, lead, type StepHook } from './leader.ts';
import { planLive } from './live-scope.ts';
import { refuseFiltered, refuseHiddenSequences, refuseLargeObjects, warnOfOwnerless } from './readable.ts';
import { checkConditions, checkLive, type ExtractionRun, leavesOf, planRuns } from './runs.ts';
import { planScope, type ScopePlan } from './scope.ts';
import type {
  ExtractionProgress,
  LiveRequest,
  LiveScope,
  RowSink,
  ScopedEntity,
  ScopeRequest,
  SnapshotRequest,
  SnapshotSource,
  SourceSnapshot,
} from './source.ts';
import { readTables } from './tables.ts';

export interface PostgresSourceOptions {
  /** A session connection: not through a transaction-pooling proxy. */
  readonly connection: pg.ClientConfig;
  readonly entities: readonly EntityDefinition[];
  /** For tests: awaited between the steps of a snapshot. */
  readonly onStep?: StepHook;
}

/** Takes snapshots of a PostgreSQL server (14 or later), a hot standby included. */
export function createPostgresSource(options: PostgresSourceOptions): SnapshotSource {
  const { connection, entities, onStep = async () => undefined } = options;
  const { host, port, database } = connection;
  return {
    description: `postgresql://${host ?? 'default'}:${port ?? 5432}/${database ?? ''}`,

    async inspect(): Promise<void> {
      await withSession(connection, async (client) => {
        resolveEntities(await readTables(client, entities));
      });
    },

    async check(request: ScopeRequest): Promise<readonly ScopedEntity[]> {
      return withSession(connection, async (client) => {
        const plan = planScope(resolveEntities(await readTables(client, entities)), request);
        await refuseFiltered(client, plan);
        await checkConditions(client, plan);
        return plan.tables.map(({ entity }) => scoped(entity));
      });
    },

    async live(request: LiveRequest): Promise<LiveScope> {
      return withSession(connection, async (client) => {
        const live = planLive(resolveEntities(await readTables(client, entities)), request);
        await checkLive(client, live);
        return live;
      });
    },

    async open(request: SnapshotRequest): Promise<SourceSnapshot> {
      const { signal } = request;
      let client: pg.Client | undefined;
      let crew: readonly pg.Client[] = [];
      try {
        client = await openSession({ connection, name: 'care-backup snapshot', signal });
        const leader = await lead(client, { connection, entities, onStep }, request);
        crew = leader.crew;
        const described = await describe(client, leader, request);
        await onStep('DESCRIBED');
        signal.throwIfAborted();
        return new PostgresSnapshot({ connection, client, leader, described, request, onStep });
      } catch (error) {
        if (client !== undefined) destroySession(client);
        crew.forEach(destroySession);
        signal.throwIfAborted();
        throw databaseError(error, 'Opening the snapshot', MOVED_AWAY);
      }
    },
  };
}

/** SQLSTATEs of a table, schema or column that is no more under the name that the snapshot has for it. */
const MOVED_AWAY = {
  '42P01': 'SOURCE_CHANGED',
  '3F000': 'SOURCE_CHANGED',
  '42703': 'SOURCE_CHANGED',
} as const;

async function withSession<T>(
  connection: pg.ClientConfig,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await openSession({ connection, name: 'care-backup check' });
  try {
    return await work(client);
  } catch (error) {
    throw databaseError(error, 'Checking the entities');
  } finally {
    destroySession(client);
  }
}

interface Described {
  readonly relations: readonly DescribedRelation[];
  readonly types: readonly TypeRecord[];
  readonly unlocked: Unlocked;
  readonly versions: readonly string[];
  readonly sequences: readonly Omit<SequenceRecord, 'lastValue' | 'isCalled'>[];
  readonly source: SourceDescription;
  readonly runs: readonly ExtractionRun[];
  readonly warnings: readonly BackupWarning[];
}

/** Locks that the queries take beside those on the tables, on indexes above all, are let go again. */
async function describe(client: pg.Client, leader: Leader, request: SnapshotRequest): Promise<Described> {
  await client.query('SAVEPOINT described');
  const described = await readDescription(client, leader, request);
  await client.query('ROLLBACK TO SAVEPOINT described');
  return described;
}

async function readDescription(
  client: pg.Client,
  leader: Leader,
  request: SnapshotRequest,
): Promise<Described> {
  const { plan } = leader;
  await refuseFiltered(client, plan);
  const nodes = plan.tables.flatMap(({ entity }) => entity.table.nodes);
  const searchPath = await schemasOf(client, plan);
  await client.query(`SET LOCAL search_path = ${searchPath.map(quoteIdent).join(', ')}`);
  const relations = await describeRelations(client, nodes);
  const definitions = await readTypeDefinitions(client, [
    ...new Set(relations.flatMap((relation) => relation.typeOids)),
  ]);
  const sequences = await describeSequences(client, nodes);
  await refuseHiddenSequences(client, sequences);
  const unlocked: Unlocked = {
    types: [...new Set(relations.flatMap((relation) => relation.typeOids))],
    schemas: [...new Set(plan.read.flatMap(({ table }) => table.nodes.map((node) => node.schema)))],
  };
  const versions = await catalogVersions(client, unlocked);
  await client.query("SET LOCAL search_path = ''");
  await refuseLargeObjects(client, relations);
  return {
    relations,
    types: definitions.records,
    unlocked,
    versions,
    sequences,
    source: await describeSource(client, leader, searchPath),
    runs: await planRuns(client, leavesOf(plan, relations), request.maxConcurrency),
    warnings: [...plan.warnings, ...(await warnOfOwnerless(client, plan))],
  };
}

interface SnapshotParts {
  readonly connection: pg.ClientConfig;
  readonly client: pg.Client;
  readonly leader: Leader;
  readonly described: Described;
  readonly request: SnapshotRequest;
  readonly onStep: StepHook;
}

/** The longest that `setTimeout` waits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

class PostgresSnapshot implements SourceSnapshot {
  readonly entities: readonly ScopedEntity[];
  readonly estimatedBytes: number;
  readonly exportedId: string;
  readonly #parts: SnapshotParts;
  readonly #stop = new AbortController();
  readonly #ageLimit: NodeJS.Timeout;

  constructor(parts: SnapshotParts) {
    this.#parts = parts;
    this.entities = parts.leader.plan.tables.map(({ entity }) => scoped(entity));
    this.estimatedBytes = parts.described.runs.reduce((sum, run) => sum + run.estimatedBytes, 0);
    this.exportedId = parts.leader.exportedId;
    const limit = parts.request.maxSnapshotAgeMs;
    const left = limit - (performance.now() - parts.leader.since);
    this.#ageLimit = setTimeout(
      () => {
        this.#end(
          new DataProtectionError(`The snapshot was held longer than ${limit} ms`, 'SOURCE_SNAPSHOT_TOO_OLD'),
        );
      },
      Math.min(Math.max(left, 0), LONGEST_TIMER_MS),
    );
    this.#ageLimit.unref();
    parts.client.once('end', () => {
      this.#end(
        new DataProtectionError(
          'The session that holds the snapshot and its locks was lost',
          'DATABASE_UNAVAILABLE',
        ),
      );
    });
  }

  async extract(
    sink: RowSink,
    onProgress: (progress: ExtractionProgress) => void,
  ): Promise<SnapshotContents> {
    const { connection, leader, described, request } = this.#parts;
    const signal = AbortSignal.any([request.signal, this.#stop.signal]);
    try {
      const totals = await readRuns({
        connection,
        exportedId: this.exportedId,
        encoding: described.source.encoding,
        runs: described.runs,
        entities: new Map(leader.plan.tables.map(({ entity }) => [entity.definition.type, entity])),
        sessions: leader.crew,
        sink,
        signal,
        onProgress,
      });
      await this.#parts.onStep('READ');
      await this.#stillHeld();
      const sequences = await this.#afterwards(signal);
      signal.throwIfAborted();
      return this.#contents(totals, sequences);
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      await this.close();
    }
  }

  async close(): Promise<void> {
    clearTimeout(this.#ageLimit);
    this.#end(new DataProtectionError('The snapshot was closed', 'BACKUP_CANCELLED'));
  }

  /** The first reason counts. */
  #end(reason: DataProtectionError): void {
    this.#stop.abort(reason);
    destroySession(this.#parts.client);
    this.#parts.leader.crew.forEach(destroySession);
  }

  /** The locks were held to the end exactly if the leader's transaction is still the one that took them. */
  async #stillHeld(): Promise<void> {
    const { client, leader } = this.#parts;
    try {
      const [now] = await selectRows<{ snapshot: string }>(
        client,
        'SELECT pg_catalog.pg_current_snapshot()::text AS snapshot',
      );
      if (now?.snapshot === leader.snapshot) return;
    } catch (error) {
      throw databaseError(error, 'Holding the snapshot’s locks');
    }
    throw new DataProtectionError(
      'The transaction that held the locks ended before the rows were read',
      'SOURCE_CHANGED',
    );
  }

  /** With a fresh snapshot: types and names must be as they were; sequences are past every row that was read. */
  async #afterwards(signal: AbortSignal): Promise<SequenceRecord[]> {
    const { connection, described } = this.#parts;
    const client = await openSession({ connection, name: 'care-backup check', signal });
    try {
      const altered = alteredBetween(described.versions, await catalogVersions(client, described.unlocked));
      if (altered.length > 0) {
        throw new DataProtectionError(
          `Altered while the rows were read: ${altered.join(', ')}`,
          'SOURCE_CHANGED',
        );
      }
      const sequences: SequenceRecord[] = [];
      for (const sequence of described.sequences) {
        const [value] = await selectRows<{ last_value: string; is_called: boolean }>(
          client,
          `SELECT last_value::text AS last_value, is_called FROM ${qualified(sequence)}`,
        );
        if (value !== undefined)
          sequences.push({ ...sequence, lastValue: value.last_value, isCalled: value.is_called });
      }
      return sequences;
    } catch (error) {
      throw databaseError(error, 'Reading types and sequences after the rows', {
        '42501': 'SOURCE_PRIVILEGE_MISSING',
        ...MOVED_AWAY,
      });
    } finally {
      destroySession(client);
    }
  }

  #contents(totals: PartTotals, sequences: readonly SequenceRecord[]): SnapshotContents {
    const { leader, described, request } = this.#parts;
    const keys = new Map(
      leader.plan.tables.flatMap(({ entity }) =>
        entity.table.nodes.map((node) => [node.oid, entity.key] as const),
      ),
    );
    const position = new Map(described.relations.map((relation, part) => [relation.oid, part]));
    const relations = described.relations.map(({ oid, record }, part) => ({
      ...record,
      key: keys.get(oid) ?? [],
      ...(totals.get(part) ?? { rows: 0, bytes: 0 }),
    }));
    return {
      contentsVersion: 1,
      source: described.source,
      scope: request.scope,
      branchIds: request.branchIds,
      entities: leader.plan.tables.map(({ entity, condition }): EntityRecord => {
        const parts = entity.table.nodes.map((node) => relations[position.get(node.oid) ?? -1]);
        return {
          type: entity.definition.type,
          relation: position.get(entity.table.root.oid) ?? 0,
          classification: entity.definition.classification ?? {},
          rows: parts.reduce((sum, part) => sum + (part?.rows ?? 0), 0),
          bytes: parts.reduce((sum, part) => sum + (part?.bytes ?? 0), 0),
          filtered: condition !== null,
        };
      }),
      types: described.types,
      sequences,
      relations,
      warnings: described.warnings,
    };
  }
}

async function schemasOf(client: pg.ClientBase, plan: ScopePlan): Promise<string[]> {
  const own = plan.tables.flatMap(({ entity }) => entity.table.nodes.map((node) => node.schema));
  const types = await selectRows<{ schema: string }>(
    client,
    `SELECT DISTINCT n.nspname AS schema
       FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
       JOIN pg_catalog.pg_namespace n ON n.oid IN (t.typnamespace, e.typnamespace)
      WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
      ORDER BY 1`,
    [plan.tables.flatMap(({ entity }) => entity.table.nodes.map((node) => node.oid))],
  );
  return [...new Set([...own, ...types.map((row) => row.schema)])].filter(
    (schema) => schema !== 'pg_catalog',
  );
}

async function describeSource(
  client: pg.ClientBase,
  leader: Leader,
  searchPath: readonly string[],
): Promise<SourceDescription> {
  const [row] = await selectRows<{ version: number; encoding: string; database: string; may_read: boolean }>(
    client,
    `SELECT pg_catalog.current_setting('server_version_num')::int AS version, pg_catalog.current_setting('server_encoding') AS encoding,
            pg_catalog.current_database() AS database,
            pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may_read`,
  );
  if (row === undefined)
    throw new DataProtectionError('The server did not describe itself', 'DATABASE_FAILED');
  const [control] = row.may_read
    ? await selectRows<{ id: string }>(
        client,
        'SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()',
      )
    : [];
  const settings = await selectRows<{ name: string; setting: string }>(
    client,
    'SELECT s.name, s.setting FROM pg_catalog.pg_settings s WHERE s.name = ANY($1::text[]) ORDER BY 1',
    [RECORDED_SETTINGS],
  );
  return {
    serverVersion: row.version,
    encoding: row.encoding,
    database: row.database,
    systemIdentifier: control?.id ?? null,
    snapshot: leader.snapshot,
    takenAt: leader.takenAt,
    searchPath,
    settings: Object.fromEntries(settings.map(({ name, setting }) => [name, setting])),
  };
}

function scoped(entity: ResolvedEntity): ScopedEntity {
  const { definition } = entity;
  return {
    type: definition.type,
    phi: holds(definition, 'phi'),
    pii: holds(definition, 'pii'),
    financial: holds(definition, 'financial'),
  };
}
