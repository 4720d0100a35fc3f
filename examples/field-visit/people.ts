import type { Actor } from '../../src/index.ts';

export const ORGANIZATION = '0190f000-0000-7000-8000-000000000001';
export const BRANCH = '0190f000-0000-7000-8000-00000000000b';

const person = (n: number, permissions: Actor['permissions']): Actor => ({
  userId: `0190f000-0000-7000-8000-0000000000a${n}`,
  organizationId: ORGANIZATION,
  branchIds: [BRANCH],
  permissions,
});

/** Who a token stands for. A platform has sessions of its own; that is not what this example is about. */
export const PEOPLE: ReadonlyMap<string, Actor> = new Map([
  ['token-ana', person(1, ['sync:write', 'sync:read'])],
  ['token-ben', person(2, ['sync:write', 'sync:read'])],
  ['token-supervisor', person(3, ['sync:read', 'sync:resolve'])],
]);
