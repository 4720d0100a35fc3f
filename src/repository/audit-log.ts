import { createHash } from 'node:crypto';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import { integer, json, jsonText, text, timestamp, uuid } from './column.ts';
import type { Database, Transaction } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';

/** One action to be entered. `details` hold ids, names and counts: never a row's content, a key or a credential. */
export interface NewAuditEntry {
  readonly organizationId: UUID;
  readonly action: string;
  readonly userId: UUID;
  readonly resourceType: string;
  readonly resourceId: string;
  readonly details: { readonly [key: string]: Json };
}

/** An entry of an organization's chain: `hash` covers everything before it, `prevHash` the entry before. */
export interface AuditEntry extends NewAuditEntry {
  /** 1 for the organization's first; without gaps. */
  readonly sequence: number;
  readonly timestamp: Timestamp;
  readonly prevHash: string;
  readonly hash: string;
}

/** The first entry that does not fit, and what is wrong with it. */
export type ChainVerdict =
  | { readonly valid: true; readonly entries: number; readonly head: string }
  | {
      readonly valid: false;
      readonly sequence: number;
      readonly reason: 'MISSING' | 'ALTERED' | 'NOT_LINKED' | 'HEAD_DIFFERS';
    };

export interface AuditLog {
  /**
   * Enters an action in the transaction that does it: both happen or neither. Append last, since until the
   * transaction ends no other of the organization can append.
   */
  append(transaction: Transaction, entry: NewAuditEntry): Promise<AuditEntry>;
  /**
   * Reads an organization's chain from its beginning to its head as it is now and checks every link. It finds entries
   * that were altered, removed or put in. It does not find a tail cut off together with the head: for that, compare
   * `head` with one that is kept elsewhere.
   */
  verifyChain(db: Database, organizationId: UUID): Promise<ChainVerdict>;
}

const AUDIT: RowMapping<AuditEntry> = {
  organizationId: uuid('organization_id'),
  sequence: integer('sequence'),
  timestamp: timestamp('timestamp'),
  action: text('action'),
  userId: uuid('user_id'),
  resourceType: text('resource_type'),
  resourceId: text('resource_id'),
  details: json('details'),
  prevHash: text('prev_hash'),
  hash: text('hash'),
};
const HEAD: RowMapping<Pick<AuditEntry, 'sequence' | 'hash'>> = {
  sequence: integer('sequence'),
  hash: text('hash'),
};

/** What the first entry is linked to. */
const GENESIS = '0'.repeat(64);
const PAGE = 1000;

export function createAuditLog(): AuditLog {
  return { append, verifyChain };
}

async function append(tx: Transaction, entry: NewAuditEntry): Promise<AuditEntry> {
  const heads = tx.table('audit_heads');
  const organizationId = entry.organizationId.toLowerCase();
  // The update locks the organization's head to the end of the transaction: the chain has one order.
  const [row] = await tx.query(
    `INSERT INTO ${heads} AS h (organization_id, sequence, hash) VALUES ($1, 0, $2)
     ON CONFLICT (organization_id) DO UPDATE SET sequence = h.sequence RETURNING ${selectColumns(HEAD, 'h')}`,
    [organizationId, GENESIS],
  );
  const head = decodeColumns(HEAD, row ?? {});
  // Through the form in which it is stored, so that the hash is that of what is read back.
  const details = JSON.parse(jsonText(entry.details)) as AuditEntry['details'];
  const content = {
    organizationId,
    sequence: head.sequence + 1,
    timestamp: tx.clock.now().toISOString(),
    action: entry.action,
    userId: entry.userId.toLowerCase(),
    resourceType: entry.resourceType,
    resourceId: entry.resourceId,
    details,
    prevHash: head.hash,
  };
  const entered: AuditEntry = { ...content, hash: hashOf(content) };
  await tx.query(
    `INSERT INTO ${tx.table('audit_log')}
       (organization_id, sequence, "timestamp", action, user_id, resource_type, resource_id, details, prev_hash, hash)
     VALUES ($1, $2::bigint, $3::timestamptz, $4, $5, $6, $7, $8::jsonb, $9, $10)`,
    [
      entered.organizationId,
      entered.sequence,
      entered.timestamp,
      entered.action,
      entered.userId,
      entered.resourceType,
      entered.resourceId,
      jsonText(entered.details),
      entered.prevHash,
      entered.hash,
    ],
  );
  await tx.query(`UPDATE ${heads} SET sequence = $2::bigint, hash = $3 WHERE organization_id = $1`, [
    organizationId,
    entered.sequence,
    entered.hash,
  ]);
  return entered;
}

async function verifyChain(db: Database, organizationId: UUID): Promise<ChainVerdict> {
  const [row] = await db.query(
    `SELECT ${selectColumns(HEAD, 'h')} FROM ${db.table('audit_heads')} h WHERE h.organization_id = $1`,
    [organizationId],
  );
  const head = row ? decodeColumns(HEAD, row) : { sequence: 0, hash: GENESIS };
  let last = { sequence: 0, hash: GENESIS };
  for (;;) {
    const rows = await db.query(
      `SELECT ${selectColumns(AUDIT, 'a')} FROM ${db.table('audit_log')} a
        WHERE a.organization_id = $1 AND a.sequence > $2::bigint AND ($3 OR a.sequence <= $4::bigint)
        ORDER BY a.sequence LIMIT $5::bigint`,
      // Without a head nothing may be there at all.
      [organizationId, last.sequence, row === undefined, head.sequence, PAGE],
    );
    for (const stored of rows) {
      const entry = decodeColumns(AUDIT, stored);
      const sequence = last.sequence + 1;
      if (entry.sequence !== sequence) return { valid: false, sequence, reason: 'MISSING' };
      if (entry.hash !== hashOf(entry)) return { valid: false, sequence, reason: 'ALTERED' };
      if (entry.prevHash !== last.hash) return { valid: false, sequence, reason: 'NOT_LINKED' };
      last = { sequence, hash: entry.hash };
    }
    if (rows.length < PAGE) break;
  }
  if (last.sequence < head.sequence) return { valid: false, sequence: last.sequence + 1, reason: 'MISSING' };
  if (last.hash !== head.hash) return { valid: false, sequence: last.sequence, reason: 'HEAD_DIFFERS' };
  return { valid: true, entries: last.sequence, head: last.hash };
}

/** SHA-256 over one JSON array in a fixed order, the keys of objects sorted. */
function hashOf(entry: Omit<AuditEntry, 'hash'>): string {
  const fields: Json = [
    entry.organizationId,
    entry.sequence,
    entry.timestamp,
    entry.action,
    entry.userId,
    entry.resourceType,
    entry.resourceId,
    entry.details,
    entry.prevHash,
  ];
  return createHash('sha256').update(canonical(fields)).digest('hex');
}

function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${canonical(field)}`).join(',')}}`;
}
