import type { AuditEntry, ListAuditLogInput } from '../types/audit.ts';
import type { Page } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { AUDIT } from './audit-log.ts';
import { integer, text, word } from './column.ts';
import type { Database, Transaction } from './database.ts';
import { decodeColumns, parameters, type RowMapping, selectColumns } from './row-mapping.ts';

/** CHECKPOINT: the chain reached the entry. PRUNED: it and all before it were removed. */
export const AUDIT_RECORD_KINDS = ['CHECKPOINT', 'PRUNED'] as const;
export type AuditRecordKind = (typeof AUDIT_RECORD_KINDS)[number];

/** A record of the chain as it is stored: nobody has checked it. */
export interface StoredAuditRecord {
  readonly kind: AuditRecordKind;
  readonly sequence: number;
  /** The bytes of a sidecar, in base64. */
  readonly record: string;
}

/** What is read of one organization's audit log, its checkpoints, and how it is pruned. */
export interface AuditTrail {
  /** Newest first. Throws VALIDATION_FAILED for a cursor that is not one of this list's. */
  list(input: ListAuditLogInput): Promise<Page<AuditEntry>>;
  /** Records of a kind from this sequence on, in their order. */
  records(kind: AuditRecordKind, from: number): Promise<readonly StoredAuditRecord[]>;
  newestRecord(kind: AuditRecordKind): Promise<StoredAuditRecord | undefined>;
  /** Whether anything but the entry of the newest checkpoint itself is behind it. */
  isUncovered(): Promise<boolean>;
  /** Whether an entry up to this one is there. */
  hasThrough(sequence: number): Promise<boolean>;
  /** The first entry that is not from before this moment; undefined: all are. */
  firstSince(moment: Timestamp): Promise<number | undefined>;
}

const RECORD: RowMapping<StoredAuditRecord> = {
  kind: word('kind', AUDIT_RECORD_KINDS),
  sequence: integer('sequence'),
  record: {
    ...text('record'),
    // PostgreSQL breaks base64 into lines.
    select: (alias) => `translate(encode(${alias}.record, 'base64'), E'\\n', '')`,
  },
};

/** The action of a checkpoint's own entry, which needs no further checkpoint. */
export const CHECKPOINT_CREATED = 'audit.checkpoint_created';
const DEFAULT_LIMIT = 50;

export function auditTrail(db: Database, organizationId: UUID): AuditTrail {
  async function readRecords(
    kind: AuditRecordKind,
    from: number,
    order: 'LIMIT 1' | 'ALL',
  ): Promise<readonly StoredAuditRecord[]> {
    const rows = await db.query(
      `SELECT ${selectColumns(RECORD, 'c')} FROM ${db.table('audit_checkpoints')} c
        WHERE c.organization_id = $1 AND c.kind = $2 AND c.sequence >= $3::bigint
        ORDER BY c.sequence ${order === 'ALL' ? '' : 'DESC LIMIT 1'}`,
      [organizationId, kind, from],
    );
    return rows.map((row) => decodeColumns(RECORD, row));
  }
  return {
    list: (input) => list(db, organizationId, input),
    records: (kind, from) => readRecords(kind, from, 'ALL'),
    newestRecord: async (kind) => (await readRecords(kind, 0, 'LIMIT 1'))[0],
    async isUncovered() {
      return (await db.query(firstUncovered(db, '$1::uuid'), [organizationId])).length > 0;
    },
    async hasThrough(sequence) {
      const rows = await db.query(
        `SELECT FROM ${db.table('audit_log')} a WHERE a.organization_id = $1 AND a.sequence <= $2::bigint LIMIT 1`,
        [organizationId, sequence],
      );
      return rows.length > 0;
    },
    async firstSince(moment) {
      const [row] = await db.query(
        `SELECT ${selectColumns(SEQUENCE, 'a')} FROM ${db.table('audit_log')} a
          WHERE a.organization_id = $1 AND a."timestamp" >= $2::timestamptz ORDER BY a.sequence LIMIT 1`,
        [organizationId, moment],
      );
      return row === undefined ? undefined : decodeColumns(SEQUENCE, row).sequence;
    },
  };
}

const SEQUENCE = { sequence: integer('sequence') };

/**
 * The time of an organization's first entry that no checkpoint covers, other than a checkpoint's own; NULL: there is none.
 * `organization` is an expression.
 */
export const firstUncovered = (db: Pick<Database, 'table'>, organization: string): string =>
  `SELECT a."timestamp" FROM ${db.table('audit_log')} a
    WHERE a.organization_id = ${organization} AND a.action <> '${CHECKPOINT_CREATED}'
      AND a.sequence > (SELECT coalesce(max(c.sequence), 0) FROM ${db.table('audit_checkpoints')} c
        WHERE c.organization_id = ${organization} AND c.kind = 'CHECKPOINT')
    ORDER BY a.sequence LIMIT 1`;

/** Keeps a record for good. false: there is one of its kind and sequence. */
export async function addAuditRecord(
  transaction: Transaction,
  organizationId: UUID,
  { kind, sequence, record }: StoredAuditRecord,
): Promise<boolean> {
  const rows = await transaction.query(
    `INSERT INTO ${transaction.table('audit_checkpoints')} (organization_id, kind, sequence, record)
     VALUES ($1, $2, $3::bigint, decode($4, 'base64')) ON CONFLICT DO NOTHING RETURNING 1`,
    [organizationId, kind, sequence, record],
  );
  return rows.length > 0;
}

/** Removes the entries up to this one; the database refuses it unless the transaction has added a PRUNED record that says so. */
export async function removeAuditEntries(
  transaction: Transaction,
  organizationId: UUID,
  through: number,
): Promise<void> {
  await transaction.query(
    `DELETE FROM ${transaction.table('audit_log')} WHERE organization_id = $1 AND sequence <= $2::bigint`,
    [organizationId, through],
  );
}

async function list(db: Database, organizationId: UUID, input: ListAuditLogInput): Promise<Page<AuditEntry>> {
  const { limit = DEFAULT_LIMIT, cursor, resourceType, resourceId, action, from, to } = input;
  const into = parameters(organizationId);
  const conditions = [
    'a.organization_id = $1::uuid',
    ...(cursor === undefined ? [] : [`a.sequence < ${into.add(sequenceOf(cursor), 'bigint')}`]),
    ...(resourceType === undefined ? [] : [`a.resource_type = ${into.add(resourceType, 'text')}`]),
    ...(resourceId === undefined ? [] : [`a.resource_id = ${into.add(resourceId, 'text')}`]),
    ...(action === undefined ? [] : [`a.action = ${into.add(action, 'text')}`]),
    ...(from === undefined ? [] : [`a."timestamp" >= ${into.add(from, 'timestamptz')}`]),
    ...(to === undefined ? [] : [`a."timestamp" < ${into.add(to, 'timestamptz')}`]),
  ];
  const rows = await db.query(
    `SELECT ${selectColumns(AUDIT, 'a')} FROM ${db.table('audit_log')} a
      WHERE ${conditions.join(' AND ')} ORDER BY a.sequence DESC LIMIT ${into.add(limit + 1, 'bigint')}`,
    into.values,
  );
  const items = rows.slice(0, limit).map((row) => decodeColumns(AUDIT, row));
  const last = items.at(-1);
  return { items, nextCursor: rows.length > limit && last ? cursorOf(last) : null };
}

const cursorOf = ({ sequence }: AuditEntry): string =>
  Buffer.from(`audit_log:${sequence}`).toString('base64url');

function sequenceOf(cursor: string): string {
  const [, sequence] = /^audit_log:([1-9]\d{0,14})$/.exec(Buffer.from(cursor, 'base64url').toString()) ?? [];
  if (sequence !== undefined) return sequence;
  throw new ValidationError('The paging of a list', [
    {
      path: 'cursor',
      message: 'Is not a cursor of this list.',
      remedy: 'Give the `nextCursor` of the page before, unchanged.',
    },
  ]);
}
