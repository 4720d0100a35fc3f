import type { BackupScope, BackupWarning } from './backup.ts';
import type { Classification } from './entity.ts';
import type { Timestamp, UUID } from './ids.ts';

/**
 * What the encrypted body of a manifest says about the rows in its segments: enough to recreate the tables elsewhere.
 * A segment's `part` is an index into `relations`. Definitions are as PostgreSQL deparses them with `searchPath`
 * in force: names in those schemas stand unqualified, so that they resolve in whatever schema they are restored into.
 */
export interface SnapshotContents {
  readonly contentsVersion: 1;
  readonly source: SourceDescription;
  readonly scope: BackupScope;
  /** The branches whose rows were asked for, besides those that the scope names; null: all. */
  readonly branchIds: readonly UUID[] | null;
  readonly entities: readonly EntityRecord[];
  readonly types: readonly TypeRecord[];
  readonly sequences: readonly SequenceRecord[];
  /** Parents stand before their partitions. */
  readonly relations: readonly RelationRecord[];
  readonly warnings: readonly BackupWarning[];
}

export interface SourceDescription {
  readonly serverVersion: number;
  /** Encoding of the rows' bytes, such as UTF8: `COPY ... (ENCODING ...)`. */
  readonly encoding: string;
  readonly database: string;
  /** From `pg_control_system()`; null where the role may not read it. */
  readonly systemIdentifier: string | null;
  /** `pg_current_snapshot()` of the transaction that read the rows. */
  readonly snapshot: string;
  readonly takenAt: Timestamp;
  /** Schemas of the entities and their types. */
  readonly searchPath: readonly string[];
  /** The session settings that the rows were read under; they are written under the same. */
  readonly settings: { readonly [name: string]: string };
}

export interface EntityRecord {
  readonly type: string;
  /** Index of the root relation. */
  readonly relation: number;
  readonly classification: Classification & {
    readonly columns?: { readonly [column: string]: Classification };
  };
  readonly rows: number;
  readonly bytes: number;
  /** Whether the scope may have left out rows of the table (always so where an organization owns rows). */
  readonly filtered: boolean;
}

export interface RelationRecord {
  readonly schema: string;
  readonly name: string;
  /** PARTITIONED relations hold no rows themselves. */
  readonly kind: 'TABLE' | 'PARTITIONED';
  readonly persistence: 'PERMANENT' | 'UNLOGGED';
  /** Index of the partitioned relation that it is a partition of. */
  readonly parent: number | null;
  /** `FOR VALUES ...` or `DEFAULT`. */
  readonly partitionBound: string | null;
  /** `RANGE (created_at)`. */
  readonly partitionKey: string | null;
  readonly columns: readonly ColumnRecord[];
  /** The columns of the entity's key. */
  readonly key: readonly string[];
  readonly constraints: readonly ConstraintRecord[];
  readonly indexes: readonly IndexRecord[];
  readonly rowSecurity: 'OFF' | 'ENABLED' | 'FORCED';
  readonly policies: readonly PolicyRecord[];
  readonly grants: readonly GrantRecord[];
  /** For the record: triggers are not recreated in a copy of the tables. */
  readonly triggers: readonly { readonly name: string; readonly definition: string }[];
  /** Storage parameters, `fillfactor=90`. */
  readonly options: readonly string[];
  /** Rows in the segments of this part. */
  readonly rows: number;
  readonly bytes: number;
}

export interface ColumnRecord {
  readonly name: string;
  /** As `format_type` gives it. */
  readonly type: string;
  readonly notNull: boolean;
  readonly default: string | null;
  /** The expression of a generated column; such a column is not in the segments. */
  readonly generated: { readonly kind: 'STORED' | 'VIRTUAL'; readonly expression: string } | null;
  readonly identity: 'ALWAYS' | 'BY DEFAULT' | null;
  /** Quoted and qualified where it is not the type's own. */
  readonly collation: string | null;
  /** pglz, lz4; null: the server's default. */
  readonly compression: string | null;
}

export interface ConstraintRecord {
  readonly name: string;
  readonly kind: 'PRIMARY_KEY' | 'UNIQUE' | 'CHECK' | 'EXCLUDE' | 'FOREIGN_KEY';
  /** As `pg_get_constraintdef` gives it, NOT VALID and DEFERRABLE included. */
  readonly definition: string;
  /** Comes with the parent's constraint; not created by itself. */
  readonly inherited: boolean;
  /** For a FOREIGN_KEY: the relation that it refers to, where the snapshot holds it. */
  readonly references: number | null;
  /** For a FOREIGN_KEY: schema and name of the relation that it refers to. */
  readonly referencedTable: { readonly schema: string; readonly name: string } | null;
}

export interface IndexRecord {
  readonly name: string;
  readonly unique: boolean;
  /** From `USING` on. */
  readonly definition: string;
  readonly inherited: boolean;
}

export interface PolicyRecord {
  readonly name: string;
  readonly permissive: boolean;
  readonly command: 'ALL' | 'SELECT' | 'INSERT' | 'UPDATE' | 'DELETE';
  /** `PUBLIC` or names of roles. */
  readonly roles: readonly string[];
  readonly using: string | null;
  readonly check: string | null;
}

export interface GrantRecord {
  /** `PUBLIC` or the name of a role. */
  readonly grantee: string;
  readonly privilege: string;
  readonly grantable: boolean;
  /** A column grant. */
  readonly column: string | null;
}

/** A sequence that a column's default or identity draws from. */
export interface SequenceRecord {
  readonly schema: string;
  readonly name: string;
  readonly dataType: string;
  readonly start: string;
  readonly increment: string;
  readonly min: string;
  readonly max: string;
  readonly cache: string;
  readonly cycle: boolean;
  /** Read after the rows, so that it is past every restored id. Text: a bigint. */
  readonly lastValue: string;
  readonly isCalled: boolean;
  /** The column that owns it (serial) or is it (identity). */
  readonly owner: { readonly relation: number; readonly column: string; readonly identity: boolean } | null;
  /** How the literal stands in defaults: `'visits_seq'::regclass`. */
  readonly literal: string;
  readonly grants: readonly GrantRecord[];
}

/** A type that is not PostgreSQL's own, in an order in which each can be created. */
export type TypeRecord = { readonly schema: string; readonly name: string } & (
  | { readonly kind: 'ENUM'; readonly labels: readonly string[] }
  | {
      readonly kind: 'DOMAIN';
      readonly baseType: string;
      readonly notNull: boolean;
      readonly default: string | null;
      readonly collation: string | null;
      readonly constraints: readonly {
        readonly name: string;
        readonly definition: string;
        readonly validated: boolean;
      }[];
    }
  | {
      readonly kind: 'COMPOSITE';
      readonly attributes: readonly {
        readonly name: string;
        readonly type: string;
        readonly collation: string | null;
      }[];
    }
  | {
      readonly kind: 'RANGE';
      readonly subtype: string;
      readonly subtypeOpclass: string | null;
      readonly collation: string | null;
      readonly canonical: string | null;
      readonly subtypeDiff: string | null;
      readonly multirange: string;
    }
  /** Comes with an extension, or is a base type or a table's row type: must be there already. */
  | { readonly kind: 'EXTERNAL'; readonly extension: string | null }
);
