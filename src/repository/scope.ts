import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { isUuid } from '../utils/uuid.ts';
import type { Database, Parameter } from './database.ts';
import { type Parameters, parameters } from './row-mapping.ts';

/** Whose rows a repository sees and writes. */
export interface RepositoryScope {
  readonly organizationId: UUID;
  /** All of the organization's, or these: then only configurations limited to some of them, and what belongs to those. */
  readonly branchIds: 'ALL' | readonly UUID[];
}

/** A scope with its database: what every query is made of. */
export interface BoundScope {
  readonly db: Database;
  readonly organizationId: UUID;
  /** null: all. */
  readonly branchIds: readonly UUID[] | null;
}

/** Throws VALIDATION_FAILED where the organization or a branch is not a UUID. */
export function bindScope(db: Database, scope: RepositoryScope): BoundScope {
  const ids = scope.branchIds === 'ALL' ? [] : scope.branchIds;
  const wrong = [
    ...(isUuid(scope.organizationId) ? [] : ['organizationId']),
    ...ids.flatMap((id, index) => (isUuid(id) ? [] : [`branchIds.${index}`])),
  ];
  if (wrong.length > 0) {
    const issues = wrong.map((path) => ({ path, message: 'Is not a UUID.', remedy: 'Give the UUID.' }));
    throw new ValidationError('The scope of a repository', issues);
  }
  return {
    db,
    organizationId: scope.organizationId.toLowerCase(),
    branchIds: scope.branchIds === 'ALL' ? null : ids.map((id) => id.toLowerCase()),
  };
}

/** The same scope inside a transaction. */
export function within(scope: BoundScope, db: Database): BoundScope {
  return { ...scope, db };
}

/** Parameters that begin with the two that the visibility conditions name: $1 the organization, $2 the branches. */
export function scoped(scope: BoundScope): Parameters {
  return parameters(scope.organizationId, scope.branchIds);
}

/** An id as a parameter; what is not a UUID is nobody's id. */
export function idParameter(id: string): Parameter {
  return isUuid(id) ? id : null;
}

/** Whether the row of backup_configurations under `alias` is visible. */
export function configurationVisible(alias: string): string {
  return `${alias}.organization_id = $1::uuid AND ($2::uuid[] IS NULL OR ${alias}.branch_ids <@ $2::uuid[])`;
}

/**
 * Whether the row of backup_snapshots under `alias` is visible: by the branches that it was taken of, and by its
 * configuration's as they are now.
 */
export function snapshotVisible(scope: BoundScope, alias: string): string {
  return `${alias}.organization_id = $1::uuid AND ($2::uuid[] IS NULL OR (${alias}.branch_ids <@ $2::uuid[] AND EXISTS (
    SELECT 1 FROM ${scope.db.table('backup_configurations')} visible
     WHERE visible.organization_id = $1::uuid AND visible.id = ${alias}.configuration_id
       AND visible.branch_ids <@ $2::uuid[])))`;
}

/** Whether the row under `alias`, which names a snapshot by `snapshot_id`, belongs to a visible one. */
export function ofVisibleSnapshot(scope: BoundScope, alias: string): string {
  return `${alias}.organization_id = $1::uuid AND EXISTS (SELECT 1 FROM ${scope.db.table('backup_snapshots')} own
    WHERE own.id = ${alias}.snapshot_id AND ${snapshotVisible(scope, 'own')})`;
}

/** Throws FORBIDDEN where an actor limited to branches writes a configuration that reaches beyond them. */
export function requireOwnBranches(scope: BoundScope, branchIds: readonly UUID[] | null): void {
  const own = scope.branchIds;
  if (own === null) return;
  if (branchIds?.every((id) => own.includes(id.toLowerCase()))) return;
  throw new DataProtectionError('A configuration reaches beyond the branches of the actor', 'FORBIDDEN');
}
