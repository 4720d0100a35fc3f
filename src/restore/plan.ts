import { quoteIdent } from '../postgres/quote.ts';
import type { BackupWarning } from '../types/backup.ts';
import type { RelationRecord, SnapshotContents } from '../types/contents.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import type { RestorableSegment, RestorableSnapshot } from './restore.ts';

/** What is to be done, in the order of its fields; decided before anything is touched. */
export interface RestorePlan {
  /** Indexes of the relations that hold rows themselves, largest first. */
  readonly leaves: readonly number[];
  readonly loads: readonly LoadJob[];
  /** Partitioned relations, those farthest from the root first: their indexes take in those of their partitions. */
  readonly partitioned: readonly number[];
  /** Index of the root of each relation's partition tree; itself where it has none. */
  readonly roots: readonly number[];
  /**
   * Which relation the rows of each are loaded into: itself, but the root for a tree with a HASH level. The hash of an
   * enum that is made anew, or of text in another encoding, is another, and so is the partition.
   */
  readonly loadInto: readonly number[];
  /** Index of the entity that each relation belongs to. */
  readonly entities: readonly (number | null)[];
  /** Names for indexes, by relation: two schemas may hold indexes of one name, one schema may not. */
  readonly indexNames: readonly ReadonlyMap<string, string>[];
  readonly warnings: readonly BackupWarning[];
}

/** One COPY: segments that follow one another and begin and end at a row's end. */
export interface LoadJob {
  readonly relation: number;
  /** Indexes into the snapshot's segments. */
  readonly segments: readonly number[];
  readonly rows: number;
  readonly bytes: number;
}

/**
 * Plans a restore. Errors: `ARCHIVE_CORRUPT` where the segments do not add up to the recorded tables, `NOT_SUPPORTED`
 * where two objects would take the same name in the one schema.
 */
export function planRestore(
  snapshot: Pick<RestorableSnapshot, 'contents' | 'segments'>,
  maxConcurrency: number,
): RestorePlan {
  const { contents, segments } = snapshot;
  const roots = rootsOf(contents.relations);
  refuseSameNames(contents);
  const { indexNames, warnings } = nameIndexes(contents.relations);
  const runs = runsOf(contents.relations, segments);
  const bytes = contents.relations.map((relation) => relation.bytes);
  const depth = depthsOf(contents.relations);
  return {
    leaves: indexesOf(contents.relations, 'TABLE').toSorted((a, b) => at(bytes, b) - at(bytes, a)),
    loads: cutIntoJobs(runs, segments, maxConcurrency),
    partitioned: indexesOf(contents.relations, 'PARTITIONED').toSorted((a, b) => at(depth, b) - at(depth, a)),
    roots,
    loadInto: loadTargets(contents.relations, roots),
    entities: roots.map((root) => {
      const entity = contents.entities.findIndex(({ relation }) => relation === root);
      return entity < 0 ? null : entity;
    }),
    indexNames,
    warnings,
  };
}

const indexesOf = (relations: readonly RelationRecord[], kind: RelationRecord['kind']): number[] =>
  relations.flatMap((relation, index) => (relation.kind === kind ? [index] : []));

/** The element at an index that is known to be there. */
export function at<T>(list: readonly T[], index: number): T {
  const item = list[index];
  if (item === undefined) throw corrupt(`refers to part ${index}, which is not in it`);
  return item;
}

const corrupt = (what: string): ArchiveError => new ArchiveError(`The manifest ${what}`, 'ARCHIVE_CORRUPT');

const named = ({ schema, name }: { readonly schema: string; readonly name: string }): string =>
  `${schema}.${name}`;

function rootsOf(relations: readonly RelationRecord[]): number[] {
  const roots: number[] = [];
  relations.forEach((relation, index) => {
    const { parent } = relation;
    if (parent === null) {
      roots.push(index);
      return;
    }
    if (parent >= index || at(relations, parent).kind !== 'PARTITIONED' || relation.partitionBound === null) {
      throw corrupt(`names no partitioned table before ${named(relation)}, its partition`);
    }
    roots.push(at(roots, parent));
  });
  return roots;
}

function depthsOf(relations: readonly RelationRecord[]): number[] {
  const depths: number[] = [];
  for (const { parent } of relations) depths.push(parent === null ? 0 : at(depths, parent) + 1);
  return depths;
}

/** Rows are compared as they are written, column by column: partitions that differ in the order stay by themselves. */
function loadTargets(relations: readonly RelationRecord[], roots: readonly number[]): number[] {
  const trees = Map.groupBy(relations.keys(), (index) => at(roots, index));
  return roots.map((root, index) => {
    const tree = (trees.get(root) ?? []).map((member) => at(relations, member));
    const hashed = tree.some((relation) => relation.partitionKey?.startsWith('HASH ') === true);
    const orders = new Set(tree.filter(({ kind }) => kind === 'TABLE').map(storedColumns));
    return hashed && orders.size === 1 ? root : index;
  });
}

/** The columns of the segments, quoted; empty where every column is generated. */
export const storedColumns = (relation: RelationRecord): string =>
  relation.columns
    .filter((column) => column.generated === null)
    .map((column) => quoteIdent(column.name))
    .join(', ');

/** Tables, sequences and types share the one schema: a table is also the name of its row type. */
function refuseSameNames({ relations, sequences, types }: SnapshotContents): void {
  const taken = new Map<string, string>();
  for (const object of [...relations, ...sequences, ...types]) {
    const other = taken.get(object.name) ?? named(object);
    if (other !== named(object) && !(isType(object) && types.some((type) => named(type) === other))) {
      throw new DataProtectionError(
        `A schema cannot hold both ${other} and ${named(object)}: restore them one at a time, by entity`,
        'NOT_SUPPORTED',
      );
    }
    taken.set(object.name, other);
  }
  const names = relations.map(named);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw corrupt(`describes ${twice} twice`);
}

/** Types of one name are told apart later: those that the target has already are not created. */
const isType = (object: object): boolean => 'kind' in object && !('columns' in object);

function nameIndexes(relations: readonly RelationRecord[]): Pick<RestorePlan, 'indexNames' | 'warnings'> {
  const taken = new Set(relations.map((relation) => relation.name));
  const warnings: BackupWarning[] = [];
  const indexNames = relations.map((relation) => {
    const names = new Map<string, string>();
    const own = [
      ...relation.constraints.filter((constraint) => hasIndex(constraint.kind)),
      ...relation.indexes,
    ];
    for (const { name } of own) {
      if (names.has(name)) continue;
      const free = freeName(name, taken);
      taken.add(free);
      names.set(name, free);
      if (free === name) continue;
      const message = `Index ${name} of ${named(relation)} is called ${free}: another schema has an index of that name`;
      warnings.push({ code: 'INDEX_RENAMED', message });
    }
    return names;
  });
  return { indexNames, warnings };
}

export const hasIndex = (kind: string): boolean => ['PRIMARY_KEY', 'UNIQUE', 'EXCLUDE'].includes(kind);

/** PostgreSQL cuts names after 63 bytes. */
function freeName(name: string, taken: ReadonlySet<string>): string {
  for (let n = 0, free = name; ; n += 1, free = `${[...name].slice(0, 12).join('')}_restored_${n}`) {
    if (!taken.has(free)) return free;
  }
}

/** Segments by run, in order; a run is the rows of one relation or of several, one after the other. */
function runsOf(relations: readonly RelationRecord[], segments: readonly RestorableSegment[]): number[][] {
  const runs = [...Map.groupBy(segments.keys(), (index) => at(segments, index).run).values()];
  const rows = relations.map(() => 0);
  const bytes = relations.map(() => 0);
  for (const run of runs) {
    run.sort((a, b) => at(segments, a).ordinal - at(segments, b).ordinal);
    let part: number | undefined;
    run.forEach((index, ordinal) => {
      const segment = at(segments, index);
      const relation = relations[segment.part];
      if (segment.ordinal !== ordinal) throw corrupt(`lacks segment ${ordinal} of stream ${segment.run}`);
      if (relation?.kind !== 'TABLE') throw corrupt(`has rows for part ${segment.part}, which holds none`);
      if (segment.continues && segment.part !== part)
        throw corrupt(`begins stream ${segment.run} inside a row`);
      part = segment.part;
      rows[segment.part] = at(rows, segment.part) + segment.rows;
      bytes[segment.part] = at(bytes, segment.part) + segment.rawLength;
    });
  }
  relations.forEach((relation, index) => {
    if (rows[index] === relation.rows && bytes[index] === relation.bytes) return;
    throw corrupt(`has ${relation.rows} rows of ${named(relation)}, and segments for ${rows[index]}`);
  });
  return runs;
}

/** Jobs a session, so that one that was faster takes from the rest. */
const JOBS_PER_SESSION = 4;
const SMALLEST_JOB = 4 * 1024 * 1024;
const LARGEST_JOB = 64 * 1024 * 1024;

/**
 * Cuts the runs where a row ends, into jobs of a quarter of a session's share, 4 to 64 MiB; largest table first. One
 * large table is thereby loaded by several sessions (778 MB on 2 cores: one COPY 9.1 s, two side by side 6.1 s).
 */
function cutIntoJobs(
  runs: readonly (readonly number[])[],
  segments: readonly RestorableSegment[],
  maxConcurrency: number,
): LoadJob[] {
  const total = segments.reduce((sum, segment) => sum + segment.rawLength, 0);
  const size = Math.min(Math.max(total / (maxConcurrency * JOBS_PER_SESSION), SMALLEST_JOB), LARGEST_JOB);
  const jobs: { relation: number; segments: number[]; rows: number; bytes: number }[] = [];
  const tableBytes = new Map<number, number>();
  for (const run of runs) {
    let job: (typeof jobs)[number] | undefined;
    for (const index of run) {
      const { part, continues, rows, rawLength } = at(segments, index);
      if (job === undefined || (!continues && (job.bytes + rawLength > size || job.relation !== part))) {
        job = { relation: part, segments: [], rows: 0, bytes: 0 };
        jobs.push(job);
      }
      job.segments.push(index);
      job.rows += rows;
      job.bytes += rawLength;
      tableBytes.set(part, (tableBytes.get(part) ?? 0) + rawLength);
    }
  }
  const ofTable = (job: LoadJob): number => tableBytes.get(job.relation) ?? 0;
  return jobs.sort((a, b) => ofTable(b) - ofTable(a) || a.relation - b.relation || b.bytes - a.bytes);
}
