import type { UUID } from './ids.ts';

/** `*:admin` implies the others of its kind. */
export const PERMISSIONS = [
  'backup:create',
  'backup:read',
  'backup:restore',
  'backup:approve',
  'backup:delete',
  'backup:admin',
  'sync:write',
  'sync:read',
  'sync:resolve',
  'sync:admin',
] as const;
export type Permission = (typeof PERMISSIONS)[number];

/** The authenticated person (or the system) on whose behalf a service acts. */
export interface Actor {
  readonly userId: UUID;
  readonly organizationId: UUID;
  /** The branches that the actor may see: all of the organization's, or these. */
  readonly branchIds: 'ALL' | readonly UUID[];
  readonly permissions: readonly Permission[];
  readonly deviceId?: string;
}
