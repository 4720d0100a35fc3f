import { STORAGE_TYPES, type StorageDestination, type StorageType } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { StoredStorageDestinationSchema } from '../validation/storage-destination.ts';
import { boolean, type Column, integer, json, nullable, text, timestamp, uuid, word } from './column.ts';
import { placements, placeOf } from './placements.ts';
import { decodeColumns, type Parameters, type RowMapping, selectColumns } from './row-mapping.ts';
import { type BoundScope, configurationVisible, idParameter, scoped } from './scope.ts';

/** A configuration with what its snapshots that count come to. */
export interface UsedConfiguration {
  readonly configurationId: UUID;
  readonly name: string;
  readonly timezone: string;
  readonly deleted: boolean;
  readonly snapshots: number;
  readonly objects: number;
  readonly storedBytes: number;
  readonly rawBytes: number;
  readonly oldestSnapshotAt: Timestamp | null;
  readonly newestSnapshotAt: Timestamp | null;
}

/** What a configuration has in a place, in a storage class. */
export interface UsedPlace {
  readonly configurationId: UUID;
  /** The same for the same place, whatever else of a destination differs. */
  readonly place: string;
  readonly type: StorageType;
  readonly storageClass: string | null;
  /** null: the catalog does not hold it; the storage tells. */
  readonly description: string | null;
  /** A single store, by which it can be opened: of the present configuration where it stores there. */
  readonly destination: StorageDestination;
  /** The smallest quota of the present configurations. */
  readonly quotaBytes: number | null;
  readonly snapshots: number;
  readonly objects: number;
  readonly bytes: number;
  readonly pendingBytes: number;
  readonly formerObjects: number;
  readonly formerBytes: number;
}

/** Where objects of a snapshot lie that counts, runs or was moved: `<organization>/<configuration>/<number>/<attempt>/`. */
export interface KnownPath {
  readonly place: string;
  readonly path: string;
  /** Whether all of it should be there. */
  readonly whole: boolean;
}

/** What came and went between two instants. */
export interface GrowthStep {
  /** 0: before the first instant; n: from the n-th on. */
  readonly bucket: number;
  readonly snapshots: number;
  readonly addedBytes: number;
  readonly addedObjects: number;
  readonly removedSnapshots: number;
  readonly removedBytes: number;
  readonly firstAt: Timestamp;
}

/** What came and went in a place, in a storage class. */
export interface PlaceGrowth {
  readonly place: string;
  readonly storageClass: string | null;
  readonly addedBytes: number;
  readonly removedBytes: number;
  /** Objects written, manifests included. */
  readonly writes: number;
  readonly firstAt: Timestamp;
}

export interface QuotaUse {
  readonly place: string;
  /** Index of the destination that was asked for. */
  readonly index: number;
  readonly usedBytes: number;
}

/** Sums beyond 2^53 are INTERNAL: no digit is lost silently. */
export interface UsageQueries {
  /** Those that were deleted too, while snapshots of theirs count. Newest first. */
  findUsedConfigurations(configurationId?: UUID): Promise<readonly UsedConfiguration[]>;
  /** Present destinations too, with zeros. */
  findUsedPlaces(configurationId?: UUID): Promise<readonly UsedPlace[]>;
  findKnownPaths(configurationId?: UUID): Promise<readonly KnownPath[]>;
  /** `instants` in ascending order. What went before the first is left out. */
  findGrowth(
    configurationIds: readonly UUID[],
    instants: readonly Timestamp[],
  ): Promise<readonly GrowthStep[]>;
  /** Bytes since `since`, writes since `writtenSince`, which is later. What went before is left out. */
  findPlaceGrowth(
    since: Timestamp,
    writtenSince: Timestamp,
    configurationId?: UUID,
  ): Promise<readonly PlaceGrowth[]>;
  /**
   * What is used of the places of `stores` (single ones), by all that is visible: what counts, what may still be copied
   * there, what was left behind, and what runs have stored so far, but for those of `exceptRunsOf`, a configuration.
   * Places that are not used are not among the rows. In a transaction it waits for others of the organization that have asked: of two runs that end at once, the second
   * sees the first.
   */
  takeQuotaUse(stores: readonly StorageDestination[], exceptRunsOf?: UUID): Promise<readonly QuotaUse[]>;
}

const CONFIGURATION: RowMapping<UsedConfiguration> = {
  configurationId: uuid('id'),
  name: text('name'),
  timezone: text('timezone'),
  deleted: boolean('deleted'),
  snapshots: integer('snapshots'),
  objects: integer('objects'),
  storedBytes: integer('bytes'),
  rawBytes: integer('raw_bytes'),
  oldestSnapshotAt: nullable(timestamp('oldest')),
  newestSnapshotAt: nullable(timestamp('newest')),
};

const PLACE: RowMapping<UsedPlace> = {
  configurationId: uuid('configuration_id'),
  place: text('place'),
  type: word('type', STORAGE_TYPES),
  storageClass: nullable(text('storage_class')),
  description: nullable(text('description')),
  destination: destination('destination'),
  quotaBytes: nullable(integer('quota')),
  snapshots: integer('snapshots'),
  objects: integer('objects'),
  bytes: integer('bytes'),
  pendingBytes: integer('pending'),
  formerObjects: integer('former_objects'),
  formerBytes: integer('former_bytes'),
};

const PATH: RowMapping<KnownPath> = {
  place: text('place'),
  path: text('own_path'),
  whole: boolean('whole'),
};

const STEP: RowMapping<GrowthStep> = {
  bucket: integer('bucket'),
  snapshots: integer('snapshots'),
  addedBytes: integer('added_bytes'),
  addedObjects: integer('added_objects'),
  removedSnapshots: integer('removed_snapshots'),
  removedBytes: integer('removed_bytes'),
  firstAt: timestamp('first_at'),
};

const PLACE_GROWTH: RowMapping<PlaceGrowth> = {
  place: text('place'),
  storageClass: nullable(text('storage_class')),
  addedBytes: integer('added_bytes'),
  removedBytes: integer('removed_bytes'),
  writes: integer('writes'),
  firstAt: timestamp('first_at'),
};

const QUOTA: RowMapping<QuotaUse> = {
  place: text('place'),
  index: integer('index'),
  usedBytes: integer('used'),
};

export function usageQueries(scope: BoundScope): UsageQueries {
  const { db } = scope;

  async function read<T>(
    mapping: RowMapping<T>,
    into: Parameters,
    tables: string,
    rows: string,
  ): Promise<T[]> {
    const found = await db.query(
      `WITH ${tables}, result AS (${rows}) SELECT ${selectColumns(mapping, 'result')} FROM result`,
      into.values,
    );
    return found.map((row) => decodeColumns(mapping, row));
  }

  return {
    async findUsedConfigurations(configurationId) {
      const into = scoped(scope);
      const tables = placements(scope, into, { configurationId });
      const only =
        configurationId === undefined ? '' : `AND c.id = ${into.add(idParameter(configurationId), 'uuid')}`;
      return read(
        CONFIGURATION,
        into,
        tables,
        `SELECT c.id, c.name, c.timezone, c.deleted_at IS NOT NULL AS deleted, count(e.id) AS snapshots,
                coalesce(sum(e.objects), 0) AS objects, coalesce(sum(e.bytes), 0) AS bytes,
                coalesce(sum(e.raw_bytes), 0) AS raw_bytes, min(e.completed_at) AS oldest, max(e.completed_at) AS newest
           FROM ${db.table('backup_configurations')} c
           LEFT JOIN entered e ON e.configuration_id = c.id 
          WHERE ${configurationVisible('c')} ${only}
          GROUP BY c.id HAVING c.deleted_at IS NULL OR count(e.id) > 0
          ORDER BY c.ordinal DESC`,
      );
    },

    async findUsedPlaces(configurationId) {
      const into = scoped(scope);
      const current = `kind = 'CURRENT'`;
      const former = `kind = 'FORMER'`;
      return read(
        PLACE,
        into,
        placements(scope, into, { configurationId }),
        `SELECT configuration_id, place, storage_class, min(destination->>'type') AS type, max(description) AS description,
                (array_agg(destination ORDER BY (kind = 'PRESENT') DESC, at DESC))[1] AS destination,
                min(quota) AS quota, count(*) FILTER (WHERE ${current}) AS snapshots,
                ${sum('objects', current)} AS objects, ${sum('bytes', current)} AS bytes,
                ${sum('pending', current)} AS pending, ${sum('objects', former)} AS former_objects,
                ${sum('bytes', former)} AS former_bytes
           FROM placed WHERE kind <> 'RUNNING'
          GROUP BY configuration_id, place, storage_class ORDER BY place, storage_class, configuration_id`,
      );
    },

    async findKnownPaths(configurationId) {
      const into = scoped(scope);
      return read(
        PATH,
        into,
        placements(scope, into, { configurationId }),
        'SELECT place, own_path, whole FROM placed WHERE own_path IS NOT NULL',
      );
    },

    async findGrowth(configurationIds, instants) {
      const into = scoped(scope);
      const [goneSince] = instants;
      const tables = placements(scope, into, goneSince === undefined ? {} : { goneSince });
      const ids = into.add(configurationIds, 'uuid[]');
      const bounds = into.add(instants, 'timestamptz[]');
      return read(
        STEP,
        into,
        `${tables}, steps AS (
          SELECT completed_at AS at, true AS added, bytes, objects FROM entered WHERE configuration_id = ANY (${ids})
          UNION ALL
          SELECT gone_at, false, bytes, objects FROM entered WHERE configuration_id = ANY (${ids}) AND gone_at IS NOT NULL)`,
        `SELECT width_bucket(at, ${bounds}) AS bucket, count(*) FILTER (WHERE added) AS snapshots,
                ${sum('bytes', 'added')} AS added_bytes, ${sum('objects', 'added')} AS added_objects,
                count(*) FILTER (WHERE NOT added) AS removed_snapshots, ${sum('bytes', 'NOT added')} AS removed_bytes,
                min(at) AS first_at
           FROM steps GROUP BY 1 ORDER BY 1`,
      );
    },

    async findPlaceGrowth(since, writtenSince, configurationId) {
      const into = scoped(scope);
      const tables = placements(scope, into, { configurationId, goneSince: since });
      const from = into.add(since, 'timestamptz');
      const written = into.add(writtenSince, 'timestamptz');
      return read(
        PLACE_GROWTH,
        into,
        tables,
        `SELECT place, storage_class, ${sum('bytes + pending', `at >= ${from}`)} AS added_bytes,
                ${sum('bytes + pending', `gone_at >= ${from}`)} AS removed_bytes,
                ${sum('objects + 1', `at >= ${written} AND whole`)} AS writes, min(at) AS first_at
           FROM placed WHERE kind = 'CURRENT' GROUP BY place, storage_class`,
      );
    },

    async takeQuotaUse(stores, exceptRunsOf) {
      await db.query(
        `SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('care-backup quota ' || $1, 0))::text AS taken`,
        [scope.organizationId],
      );
      const into = scoped(scope);
      const tables = placements(scope, into, {});
      const asked = into.add(JSON.stringify(stores), 'jsonb');
      const except = exceptRunsOf === undefined ? null : idParameter(exceptRunsOf);
      return read(
        QUOTA,
        into,
        tables,
        `SELECT s.number - 1 AS index, p.place, sum(p.bytes + p.pending) AS used
           FROM jsonb_array_elements(${asked}) WITH ORDINALITY AS s (store, number)
           JOIN placed p ON p.place = ${placeOf('s.store')}::text
          WHERE p.kind <> 'PRESENT'
            AND (p.kind <> 'RUNNING' OR p.configuration_id IS DISTINCT FROM ${into.add(except, 'uuid')})
          GROUP BY s.number, p.place ORDER BY s.number`,
      );
    },
  };
}

const sum = (value: string, which: string): string => `coalesce(sum(${value}) FILTER (WHERE ${which}), 0)`;

/** A destination as it was stored. */
function destination(name: string): Column<StorageDestination> {
  const column = json<unknown>(name);
  return {
    ...column,
    decode: (raw) => {
      const checked = StoredStorageDestinationSchema.safeParse(column.decode(raw));
      if (checked.success) return checked.data;
      throw new DataProtectionError(`The stored value of column ${name} is not a destination`, 'INTERNAL');
    },
  };
}
