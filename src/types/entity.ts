import type { BackupEntityType } from './backup.ts';

/** Which protected kinds of data something holds. */
export interface Classification {
  /** Protected health information (45 CFR 160.103). */
  readonly phi?: boolean;
  /** Personally identifiable information. */
  readonly pii?: boolean;
  readonly financial?: boolean;
}

/**
 * How a row finds its owner: a column of its own name; another entity's owner through a reference
 * (`columns` of this table hold the key of `entity`); or SHARED: it belongs to all.
 */
export type OwnerPath =
  | string
  | { readonly through: string | readonly string[]; readonly entity: BackupEntityType }
  | 'SHARED';

/**
 * An entity of the host: a table and what its columns mean. Columns left out are found by name
 * (`organization_id`, `branch_id`, `client_id`, `caregiver_id`, `updated_at`, `deleted_at`) and the key by reading
 * the primary key; a name given here must exist.
 */
export interface EntityInput {
  readonly type: BackupEntityType;
  readonly table: string;
  /** `public` when left out. */
  readonly schema?: string;
  /** The primary key when left out. Any type, composite too; must be unique and not null. */
  readonly key?: string | readonly string[];
  readonly organization?: OwnerPath;
  readonly branch?: OwnerPath;
  readonly client?: string;
  readonly caregiver?: string;
  readonly updatedAt?: string;
  readonly deletedAt?: string;
  /** The business date that date ranges apply to. */
  readonly date?: string;
  /**
   * Restores into the live table: triggers that would alter restored rows (one that sets `updated_at`, say). They stand
   * aside for the transaction of the restore, which locks the table for other writers meanwhile.
   */
  readonly restore?: { readonly disableTriggers?: readonly string[] };
  /** An audit trail: left out where a scope says `includeAuditLogs: false`. */
  readonly auditLog?: boolean;
  readonly classification?: Classification & {
    readonly columns?: { readonly [column: string]: Classification };
  };
}

/** An entity definition that `defineEntity` has checked. */
export interface EntityDefinition extends EntityInput {
  readonly schema: string;
}
