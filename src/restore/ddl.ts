import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import type {
  ColumnRecord,
  ConstraintRecord,
  IndexRecord,
  RelationRecord,
  SequenceRecord,
  SnapshotContents,
  TypeRecord,
} from '../types/contents.ts';
import { DataProtectionError } from '../types/errors.ts';
import { at, hasIndex } from './plan.ts';

/** Where and from what the statements are made. */
export interface Definitions {
  readonly contents: SnapshotContents;
  /** The schema that everything is created in. */
  readonly schema: string;
  readonly serverVersion: number;
  readonly createdTypes: readonly TypeRecord[];
  readonly localType: (text: string) => string;
  readonly indexNames: readonly ReadonlyMap<string, string>[];
}

export interface Statement {
  readonly sql: string;
  /** For messages: "Creating table visits". */
  readonly doing: string;
}

export const inSchema = (definitions: Definitions, name: string): string =>
  `${quoteIdent(definitions.schema)}.${quoteIdent(name)}`;

/** An expression with the recorded sequences replaced by those of the schema. */
export function localExpression(definitions: Definitions, expression: string): string {
  return definitions.contents.sequences.reduce(
    (text, sequence) =>
      text.replaceAll(
        sequence.literal,
        () => `${quoteLiteral(inSchema(definitions, sequence.name))}::regclass`,
      ),
    expression,
  );
}

/** Sequences that stand by themselves, serial's among them; those of identity columns come with their tables. */
export function createSequences(definitions: Definitions): Statement[] {
  return definitions.contents.sequences
    .filter((sequence) => sequence.owner?.identity !== true)
    .map((sequence) => ({
      sql: `CREATE SEQUENCE ${inSchema(definitions, sequence.name)} AS ${sequence.dataType} ${sequenceOptions(sequence)}`,
      doing: `Creating sequence ${sequence.name}`,
    }));
}

export function ownSequences(definitions: Definitions): Statement[] {
  return definitions.contents.sequences.flatMap((sequence) => {
    const { owner } = sequence;
    if (owner === null || owner.identity) return [];
    const table = inSchema(definitions, at(definitions.contents.relations, owner.relation).name);
    return {
      sql: `ALTER SEQUENCE ${inSchema(definitions, sequence.name)} OWNED BY ${table}.${quoteIdent(owner.column)}`,
      doing: `Giving sequence ${sequence.name} to its column`,
    };
  });
}

function sequenceOptions(sequence: SequenceRecord): string {
  const { increment, min, max, start, cache, cycle } = sequence;
  return (
    `INCREMENT BY ${integer(increment)} MINVALUE ${integer(min)} MAXVALUE ${integer(max)} ` +
    `START WITH ${integer(start)} CACHE ${integer(cache)} ${cycle ? 'CYCLE' : 'NO CYCLE'}`
  );
}

export function integer(text: string): string {
  if (!/^-?\d{1,19}$/.test(text))
    throw new DataProtectionError('A sequence option is no number', 'ARCHIVE_CORRUPT');
  return text;
}

/** The table, and its place in the partition tree; without constraints, indexes and rules of access. */
export function createTable(definitions: Definitions, index: number): Statement[] {
  const relation = at(definitions.contents.relations, index);
  const name = inSchema(definitions, relation.name);
  const columns = relation.columns.map((column) => columnSql(definitions, index, relation, column));
  const unlogged = relation.persistence === 'UNLOGGED' && relation.kind === 'TABLE' ? 'UNLOGGED ' : '';
  const partitionBy = relation.partitionKey === null ? '' : ` PARTITION BY ${relation.partitionKey}`;
  const options =
    relation.options.length === 0 ? '' : ` WITH (${relation.options.map(storageOption).join(', ')})`;
  const doing = `Creating table ${relation.name}`;
  const table = {
    sql: `CREATE ${unlogged}TABLE ${name} (${columns.join(', ')})${partitionBy}${options}`,
    doing,
  };
  if (relation.parent === null) return [table];
  const parent = inSchema(definitions, at(definitions.contents.relations, relation.parent).name);
  // Attached rather than created as a partition: that keeps the order of its own columns.
  const sql = `ALTER TABLE ONLY ${parent} ATTACH PARTITION ${name} ${relation.partitionBound}`;
  return [table, { sql, doing: `Attaching partition ${relation.name}` }];
}

function columnSql(
  definitions: Definitions,
  index: number,
  relation: RelationRecord,
  column: ColumnRecord,
): string {
  const parts = [quoteIdent(column.name), definitions.localType(column.type)];
  if (column.compression !== null) parts.push(`COMPRESSION ${quoteIdent(column.compression)}`);
  if (column.collation !== null) parts.push(`COLLATE ${column.collation}`);
  if (column.generated !== null) {
    const { kind, expression } = column.generated;
    if (kind === 'VIRTUAL' && definitions.serverVersion < 180_000) {
      throw new DataProtectionError(
        `Column ${relation.name}.${column.name} is VIRTUAL, which takes PostgreSQL 18`,
        'RESTORE_TARGET_INCOMPATIBLE',
      );
    }
    parts.push(`GENERATED ALWAYS AS (${localExpression(definitions, expression)}) ${kind}`);
  } else if (column.identity !== null) {
    const identity = identitySql(definitions, index, relation, column);
    if (identity !== null) parts.push(identity);
  } else if (column.default !== null) {
    parts.push(`DEFAULT ${localExpression(definitions, column.default)}`);
  }
  if (column.notNull) parts.push('NOT NULL');
  return parts.join(' ');
}

/** From 17 on a partition's identity is its root's, and comes when it is attached: a sequence of its own falls away. */
export const existsInTarget = (definitions: Definitions, { owner }: SequenceRecord): boolean =>
  owner?.identity !== true ||
  definitions.serverVersion < 170_000 ||
  at(definitions.contents.relations, owner.relation).parent === null;

function identitySql(
  definitions: Definitions,
  index: number,
  relation: RelationRecord,
  column: ColumnRecord,
): string | null {
  const sequence = definitions.contents.sequences.find(
    ({ owner }) => owner?.identity === true && owner.relation === index && owner.column === column.name,
  );
  if (sequence === undefined ? relation.parent !== null : !existsInTarget(definitions, sequence)) return null;
  const options =
    sequence === undefined
      ? ''
      : ` (SEQUENCE NAME ${inSchema(definitions, sequence.name)} ${sequenceOptions(sequence)})`;
  return `GENERATED ${column.identity} AS IDENTITY${options}`;
}

/** `fillfactor=90` or `toast.autovacuum_enabled=off`, as the catalog holds them. */
function storageOption(option: string): string {
  const equals = option.indexOf('=');
  const key = option.slice(0, equals).split('.').map(quoteIdent).join('.');
  return `${key} = ${quoteLiteral(option.slice(equals + 1))}`;
}

/** A primary key, unique or exclusion constraint. */
export function addKey(definitions: Definitions, index: number, constraint: ConstraintRecord): Statement {
  const relation = at(definitions.contents.relations, index);
  const name = indexName(definitions, index, constraint.name);
  return {
    sql: `ALTER TABLE ${inSchema(definitions, relation.name)} ADD CONSTRAINT ${quoteIdent(name)} ${constraint.definition}`,
    doing: `Adding constraint ${constraint.name} to ${relation.name}`,
  };
}

export function createIndex(definitions: Definitions, index: number, record: IndexRecord): Statement {
  const relation = at(definitions.contents.relations, index);
  const name = quoteIdent(indexName(definitions, index, record.name));
  const unique = record.unique ? 'UNIQUE ' : '';
  return {
    sql: `CREATE ${unique}INDEX ${name} ON ${inSchema(definitions, relation.name)} ${record.definition}`,
    doing: `Creating index ${record.name} on ${relation.name}`,
  };
}

const indexName = (definitions: Definitions, relation: number, name: string): string =>
  at(definitions.indexNames, relation).get(name) ?? name;

/** Constraints with an index of their own, primary keys first, and the other indexes. */
export function keysAndIndexes(relation: RelationRecord): {
  keys: ConstraintRecord[];
  indexes: IndexRecord[];
} {
  const keys = relation.constraints.filter((constraint) => hasIndex(constraint.kind));
  const primaryFirst = (a: ConstraintRecord, b: ConstraintRecord): number =>
    Number(b.kind === 'PRIMARY_KEY') - Number(a.kind === 'PRIMARY_KEY');
  return {
    keys: keys.toSorted(primaryFirst),
    indexes: relation.indexes.filter((index) => !keys.some((key) => key.name === index.name)),
  };
}

/** All checks of a table in one statement: the rows are read once. Null where it has none of its own. */
export function addChecks(definitions: Definitions, index: number): Statement | null {
  const relation = at(definitions.contents.relations, index);
  const checks = relation.constraints.filter(
    (constraint) => constraint.kind === 'CHECK' && !constraint.inherited,
  );
  if (checks.length === 0) return null;
  const added = checks.map((check) => `ADD CONSTRAINT ${quoteIdent(check.name)} ${check.definition}`);
  return {
    sql: `ALTER TABLE ${inSchema(definitions, relation.name)} ${added.join(', ')}`,
    doing: `Checking the constraints of ${relation.name}`,
  };
}

/** Constraints of domains that their rows need not fulfil, for when the rows are there. */
export function addDomainConstraints(definitions: Definitions): Statement[] {
  return definitions.createdTypes.flatMap((type) =>
    type.kind !== 'DOMAIN'
      ? []
      : type.constraints
          .filter((constraint) => !constraint.validated)
          .map((constraint) => ({
            sql: `ALTER DOMAIN ${inSchema(definitions, type.name)} ADD CONSTRAINT ${quoteIdent(constraint.name)} ${notValid(constraint.definition)}`,
            doing: `Adding constraint ${constraint.name} to domain ${type.name}`,
          })),
  );
}

export const notValid = (definition: string): string =>
  / NOT (VALID|ENFORCED)$/.test(definition) ? definition : `${definition} NOT VALID`;
