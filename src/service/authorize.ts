import type { Actor, Permission } from '../types/actor.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';

/** Throws `FORBIDDEN` unless the actor has the permission or its kind's admin. */
export function requirePermission(actor: Actor, permission: Permission): void {
  const admin = `${permission.split(':')[0]}:admin`;
  if (actor.permissions.some((held) => held === permission || held === admin)) return;
  throw new DataProtectionError(`The action needs the permission ${permission}`, 'FORBIDDEN');
}

/** Throws `FORBIDDEN` for who is limited to branches: `what` tells of all of them. */
export function requireAllBranches(actor: Actor, what: string): void {
  if (actor.branchIds === 'ALL') return;
  throw new DataProtectionError(
    `${what} is the whole organization’s, and the actor is limited to branches`,
    'FORBIDDEN',
  );
}

/** Throws `FORBIDDEN` where an input names another organization than the actor's. */
export function requireOwnOrganization(actor: Actor, organizationId: UUID | undefined): void {
  if (organizationId === undefined || organizationId === actor.organizationId) return;
  throw new DataProtectionError('`organizationId` is not the actor’s; leave it out', 'FORBIDDEN');
}

/**
 * The branches of a configuration that the actor writes: what is asked for, within the actor's own. An actor limited
 * to branches who asks for none gets its own. Throws `FORBIDDEN` for a branch that is not the actor's, and for an
 * actor who has none.
 */
export function allowedBranches(actor: Actor, asked: readonly UUID[] | null): readonly UUID[] | null {
  const own = actor.branchIds;
  if (own === 'ALL') return asked;
  if (own.length === 0) throw new DataProtectionError('The actor has no branch', 'FORBIDDEN');
  if (asked === null) return own;
  if (asked.every((id) => own.includes(id.toLowerCase()))) return asked;
  throw new DataProtectionError('`branchIds` names a branch that is not the actor’s', 'FORBIDDEN');
}
