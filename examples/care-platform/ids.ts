import { createHash } from 'node:crypto';

/** Tables whose uuid is computed from the seed; the other keys are numbers given in order. */
export type IdKind =
  | 'organization'
  | 'branch'
  | 'user'
  | 'caregiver'
  | 'client'
  | 'care_plan'
  | 'visit'
  | 'note'
  | 'document';

/** The text whose md5, followed by the row's number, becomes the row's uuid. */
export function idPrefix(seed: number, kind: IdKind, organization: number): string {
  return `${seed}:${kind}:${organization}:`;
}

/**
 * The id of the n-th row of a kind within the organization-th organization, both counted from 1: the same that
 * the generator gives it (a valid version 8 uuid).
 */
export function platformId(seed: number, kind: IdKind, organization: number, n: number): string {
  if (!Number.isInteger(n) || n < 1 || !Number.isInteger(organization) || organization < 1) {
    throw new RangeError(`rows and organizations are counted from 1, not ${organization}/${n}`);
  }
  const hex = createHash('md5')
    .update(`${idPrefix(seed, kind, organization)}${n}`)
    .digest('hex');
  const parts = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `a${hex.slice(17, 20)}`,
    hex.slice(20),
  ];
  return parts.join('-');
}

/** The id of the n-th organization, counted from 1. */
export function organizationId(seed: number, n: number): string {
  return platformId(seed, 'organization', n, 1);
}

/** The ids of all branches of the n-th organization, for a platform generated with so many `visits`. */
export function branchIds(seed: number, n: number, visits: number): string[] {
  return Array.from({ length: rowsPerOrganization(visits).branches }, (_, i) =>
    platformId(seed, 'branch', n, i + 1),
  );
}

export const SERVICE_CODE_COUNT = 24;

/** Rows that one organization gets in each of its tables, derived from its number of visits. */
export function rowsPerOrganization(visits: number) {
  const branches = Math.min(20, 2 + Math.floor(visits / 5_000));
  const inEveryBranch = (rows: number) => Math.ceil(rows / branches) * branches;
  const clients = inEveryBranch(Math.max(20, visits / 50));
  const caregivers = inEveryBranch(Math.max(10, visits / 100));
  const carePlans = clients + Math.floor(clients / 2);
  const invoices = Math.max(clients, Math.floor(visits / 10));
  return {
    organizations: 1,
    branches,
    users: 4 * branches,
    caregivers,
    clients,
    care_plans: carePlans,
    tasks: 3 * carePlans,
    visits,
    evv_records: Math.ceil(visits / 2),
    notes: Math.max(30, Math.floor(visits / 10)),
    documents: clients,
    invoices,
    payments: invoices - Math.floor(invoices / 5) + Math.floor((invoices + 4) / 5),
    payroll: 6 * caregivers,
    audit_log: Math.max(20, Math.floor(visits / 10)),
  };
}

export type OrganizationTable = keyof ReturnType<typeof rowsPerOrganization>;
