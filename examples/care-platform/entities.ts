/**
 * The platform's tables as entities of the library. Columns that go by the names the library looks for
 * (`organization_id`, `branch_id`, `client_id`, `caregiver_id`, `updated_at`, `deleted_at`) are not repeated.
 */

interface Sensitivity {
  phi?: boolean;
  pii?: boolean;
  financial?: boolean;
}

/** The row's own column, the way through the entity that `through` refers to, or nobody's own. */
type ScopeColumn = string | { through: string; entity: string } | 'SHARED';

export interface EntityDescription {
  type: string;
  table: string;
  schema?: string;
  organization?: ScopeColumn;
  branch?: ScopeColumn;
  client?: string;
  caregiver?: string;
  updatedAt?: string;
  deletedAt?: string;
  date?: string;
  auditLog?: boolean;
  classification?: Sensitivity & { columns?: Record<string, Sensitivity> };
}

export const entities = [
  { type: 'SERVICE_CODE', table: 'service_codes', organization: 'SHARED', branch: 'SHARED' },
  {
    type: 'ORGANIZATION',
    table: 'organizations',
    organization: 'id',
    branch: 'SHARED',
    classification: { columns: { tax_id: { financial: true } } },
  },
  { type: 'BRANCH', table: 'branches', branch: 'id' },
  { type: 'USER', table: 'users', classification: { pii: true } },
  {
    type: 'CAREGIVER',
    table: 'caregivers',
    caregiver: 'id',
    classification: { pii: true, columns: { hourly_rate: { financial: true } } },
  },
  {
    type: 'CLIENT',
    table: 'clients',
    client: 'id',
    classification: {
      phi: true,
      pii: true,
      columns: { diagnoses: { phi: true }, ssn_last4: { pii: true }, address: { pii: true } },
    },
  },
  { type: 'CARE_PLAN', table: 'care_plans', classification: { phi: true } },
  {
    type: 'TASK',
    table: 'tasks',
    organization: { through: 'care_plan_id', entity: 'CARE_PLAN' },
    branch: { through: 'care_plan_id', entity: 'CARE_PLAN' },
    date: 'due_on',
    classification: { phi: true },
  },
  {
    type: 'VISIT',
    table: 'visits',
    date: 'visit_date',
    classification: { phi: true, columns: { amount: { financial: true } } },
  },
  { type: 'EVV_RECORD', table: 'evv_records', date: 'clock_in_at', classification: { phi: true, pii: true } },
  { type: 'NOTE', table: 'notes', date: 'created_at', classification: { phi: true } },
  { type: 'DOCUMENT', table: 'documents', date: 'created_at', classification: { phi: true, pii: true } },
  { type: 'INVOICE', table: 'invoices', date: 'issued_on', classification: { phi: true, financial: true } },
  { type: 'PAYMENT', table: 'payments', date: 'received_at', classification: { financial: true } },
  { type: 'PAYROLL', table: 'payroll', date: 'paid_at', classification: { pii: true, financial: true } },
  {
    type: 'AUDIT_LOG',
    table: 'audit_log',
    date: 'changed_at',
    auditLog: true,
    classification: { phi: true, pii: true },
  },
] as const satisfies readonly EntityDescription[];
