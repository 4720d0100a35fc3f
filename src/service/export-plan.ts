import { type IndexedSegment, runPlans } from '../archive/reader.ts';
import type { ExportTable, LineLayout } from '../export/export.ts';
import type { BackupEntityType } from '../types/backup.ts';
import type { ColumnRecord, EntityRecord, RelationRecord, SnapshotContents } from '../types/contents.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import type { ExportSnapshotInput, SnapshotExport } from '../types/export.ts';
import type { StoredArchive } from './stored-archive.ts';

/** What an export takes from an archive. */
export interface ExportPlan {
  readonly entities: readonly PlannedEntity[];
  readonly leftOut: SnapshotExport['leftOut'];
}

export interface PlannedEntity {
  readonly entityType: BackupEntityType;
  readonly table: ExportTable;
  readonly rows: number;
  /** Table by table, in the order in which each was read from the source. */
  readonly segments: readonly PlannedSegment[];
}

export interface PlannedSegment {
  /** In the manifest. */
  readonly index: number;
  readonly continues: boolean;
  readonly layout: LineLayout;
}

/**
 * Which segments hold the rows that are asked for, and what their lines are made of. Pure. Errors: `ENTITY_UNKNOWN`,
 * `ENTITY_SCOPE_UNSUPPORTED` where nothing is left or an entity is both named and left out, `NOT_SUPPORTED`, and
 * `ARCHIVE_CORRUPT` where the segments do not add up to the recorded tables.
 */
export function planExport(
  { contents, manifest }: Pick<StoredArchive, 'contents' | 'manifest'>,
  input: Pick<ExportSnapshotInput, 'scope' | 'includePHI'>,
): ExportPlan {
  const wanted = selectEntities(contents, input.scope?.includeEntities);
  const without = input.includePHI === false;
  const kept = wanted.filter(({ classification }) => !without || classification.phi !== true);
  refuseContradiction(wanted, kept, input);
  const roots = rootsOf(contents.relations);
  const segments = Map.groupBy([...runPlans(manifest).values()].flat(), ({ part }) => part);
  const planned = kept.map((entity) => {
    const stored = storedColumns(at(contents.relations, entity.relation));
    const columns = stored.filter(({ name }) => !without || !holdsPhi(entity, name));
    const parts = [...roots.keys()].filter((part) => roots[part] === entity.relation);
    return {
      entityType: entity.type,
      table: { entityType: entity.type, columns: columns.map(({ name, type }) => ({ name, type })) },
      rows: parts.reduce((sum, part) => sum + at(contents.relations, part).rows, 0),
      segments: parts.flatMap((part) =>
        planSegments(at(contents.relations, part), columns, segments.get(part) ?? []),
      ),
      left: stored.filter((column) => !columns.includes(column)),
    };
  });
  return {
    entities: planned.map(({ left, ...entity }) => entity),
    leftOut: {
      entities: wanted.filter((entity) => !kept.includes(entity)).map(({ type }) => type),
      columns: planned.flatMap(({ entityType, left }) =>
        left.map(({ name }) => ({ entityType, column: name })),
      ),
    },
  };
}

const isAll = (types: readonly BackupEntityType[] | undefined): boolean =>
  types === undefined || types.includes('ALL');

function selectEntities(
  { entities }: SnapshotContents,
  types: readonly BackupEntityType[] | undefined,
): readonly EntityRecord[] {
  const unknown = (types ?? []).filter(
    (type) => type !== 'ALL' && !entities.some((one) => one.type === type),
  );
  if (unknown.length > 0) {
    throw new DataProtectionError(
      `The export names ${[...new Set(unknown)].join(', ')}, which the snapshot does not hold`,
      'ENTITY_UNKNOWN',
    );
  }
  return isAll(types) ? entities : entities.filter(({ type }) => types?.includes(type) === true);
}

function refuseContradiction(
  wanted: readonly EntityRecord[],
  kept: readonly EntityRecord[],
  { scope }: Pick<ExportSnapshotInput, 'scope'>,
): void {
  const left = wanted.filter((entity) => !kept.includes(entity)).map(({ type }) => type);
  if (left.length > 0 && !isAll(scope?.includeEntities)) {
    throw new DataProtectionError(
      `The export both includes and leaves out ${left.join(', ')} (includePHI: false)`,
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  }
  if (kept.length === 0)
    throw new DataProtectionError('The export holds no entity at all', 'ENTITY_SCOPE_UNSUPPORTED');
}

const holdsPhi = ({ classification }: EntityRecord, column: string): boolean =>
  Object.entries(classification.columns ?? {}).some(([name, { phi }]) => name === column && phi === true);

const storedColumns = ({ columns }: RelationRecord): readonly ColumnRecord[] =>
  columns.filter(({ generated }) => generated === null);

/** Index of the root of each relation's partition tree; itself where it has none. */
function rootsOf(relations: readonly RelationRecord[]): readonly number[] {
  const roots: number[] = [];
  for (const [index, { parent }] of relations.entries())
    roots.push(parent === null ? index : at(roots, parent));
  return roots;
}

function planSegments(
  relation: RelationRecord,
  columns: readonly ColumnRecord[],
  segments: readonly IndexedSegment[],
): PlannedSegment[] {
  const name = `${relation.schema}.${relation.name}`;
  const rows = segments.reduce((sum, segment) => sum + segment.rows, 0);
  const bytes = segments.reduce((sum, segment) => sum + segment.rawLength, 0);
  if (rows !== relation.rows || bytes !== relation.bytes) {
    throw new ArchiveError(`The segments of ${name} are not all of its rows`, 'ARCHIVE_CORRUPT');
  }
  const stored = storedColumns(relation).map((column) => column.name);
  const missing = columns.find((column) => !stored.includes(column.name));
  if (missing !== undefined) {
    throw new DataProtectionError(
      `Partition ${name} generates column ${missing.name}, which its table stores: it cannot be exported`,
      'NOT_SUPPORTED',
    );
  }
  const layout = { width: stored.length, positions: columns.map((column) => stored.indexOf(column.name)) };
  return segments.map(({ index, continues }) => ({ index, continues, layout }));
}

/** The element at an index that the manifest says is there. */
function at<T>(list: readonly T[], index: number): T {
  const item = list[index];
  if (item === undefined)
    throw new ArchiveError('The manifest refers to a table that it lacks', 'ARCHIVE_CORRUPT');
  return item;
}
