import { type Actor, PERMISSIONS } from '../types/actor.ts';
import type { UUID } from '../types/ids.ts';

/** The user id under which the platform itself acts; nobody's. */
const SYSTEM_USER_ID = '00000000-0000-0000-0000-000000000000';

/** An actor for what no person asked for, such as a scheduled backup: all branches, all permissions. */
export const systemActor = (organizationId: UUID): Actor => ({
  userId: SYSTEM_USER_ID,
  organizationId,
  branchIds: 'ALL',
  permissions: PERMISSIONS,
});
