import { createHash } from 'node:crypto';
import type { AuditEntry, AuditProblem } from '../types/audit.ts';
import type { Json, UUID } from '../types/ids.ts';
import { integer, json, jsonText, text, timestamp, uuid } from './column.ts';
import type { Database, RawRow, Transaction } from './database.ts';
import { decodeColumns, type RowMapping, selectColumns } from './row-mapping.ts';

/** One action to be entered. `details` hold ids, names and counts: never a row's content, a key or a credential. */
export type NewAuditEntry = Omit<AuditEntry, 'sequence' | 'timestamp' | 'prevHash' | 'hash'>;

/** An entry of a chain, by what the next one is linked to. */
export type ChainLink = Pick<AuditEntry, 'sequence' | 'hash'>;

/** The first entry that does not fit, and what is wrong with it. */
export type ChainVerdict =
  | { readonly valid: true; readonly entries: number; readonly head: string }
  | ({ readonly valid: false } & AuditProblem);

/** What is known of a chain from elsewhere. */
export interface KnownChain {
  /** Reading begins behind this entry, which is trusted. The beginning when left out. */
  readonly after?: ChainLink;
  /** Hashes that entries must have, by sequence, `after` among them. */
  readonly hashes?: ReadonlyMap<number, readonly string[]>;
  readonly signal?: AbortSignal;
}

export interface AuditLog {
  /**
   * Enters an action in the transaction that does it: both happen or neither. Append last, since until the
   * transaction ends no other of the organization can append.
   */
  append(transaction: Transaction, entry: NewAuditEntry): Promise<AuditEntry>;
  /**
   * Reads an organization's chain from its beginning to its head as it is now and checks every link. It finds entries that
   * were altered, removed or put in, and what differs from what is known from elsewhere. Without that it does not find a
   * tail cut off together with the head.
   */
  verifyChain(db: Database, organizationId: UUID, known?: KnownChain): Promise<ChainVerdict>;
}

export const AUDIT: RowMapping<AuditEntry> = {
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
const HEAD: RowMapping<ChainLink> = {
  sequence: integer('sequence'),
  hash: text('hash'),
};

/** What the first entry is linked to. */
const GENESIS = '0'.repeat(64);
/** Before the first entry. */
const BEGINNING: ChainLink = { sequence: 0, hash: GENESIS };
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

async function verifyChain(
  db: Database,
  organizationId: UUID,
  { after = BEGINNING, hashes = new Map(), signal }: KnownChain = {},
): Promise<ChainVerdict> {
  const [row] = await db.query(
    `SELECT ${selectColumns(HEAD, 'h')} FROM ${db.table('audit_heads')} h WHERE h.organization_id = $1`,
    [organizationId],
  );
  const head = row ? decodeColumns(HEAD, row) : BEGINNING;
  const differs = ({ sequence, hash }: ChainLink): boolean =>
    hashes.get(sequence)?.some((known) => known !== hash) === true;
  if (differs(after)) return { valid: false, sequence: after.sequence, reason: 'CHECKPOINT_DIFFERS' };
  let last = after;
  for (;;) {
    signal?.throwIfAborted();
    const rows = await db.query(
      `SELECT ${selectColumns(AUDIT, 'a')} FROM ${db.table('audit_log')} a
        WHERE a.organization_id = $1 AND a.sequence > $2::bigint AND ($3 OR a.sequence <= $4::bigint)
        ORDER BY a.sequence LIMIT $5::bigint`,
      // Without a head nothing may be there at all.
      [organizationId, last.sequence, row === undefined, head.sequence, PAGE],
    );
    for (const stored of rows) {
      const sequence = last.sequence + 1;
      const entry = readable(stored);
      if (entry === undefined) return { valid: false, sequence, reason: 'ALTERED' };
      if (entry.sequence !== sequence) return { valid: false, sequence, reason: 'MISSING' };
      if (entry.hash !== hashOf(entry)) return { valid: false, sequence, reason: 'ALTERED' };
      if (entry.prevHash !== last.hash) return { valid: false, sequence, reason: 'NOT_LINKED' };
      if (differs(entry)) return { valid: false, sequence, reason: 'CHECKPOINT_DIFFERS' };
      last = { sequence, hash: entry.hash };
    }
    if (rows.length < PAGE) break;
  }
  const next = last.sequence + 1;
  if (last.sequence < head.sequence) return { valid: false, sequence: next, reason: 'MISSING' };
  if ([...hashes.keys()].some((sequence) => sequence > last.sequence)) {
    return { valid: false, sequence: next, reason: 'CHECKPOINT_BEYOND_END' };
  }
  if (last.hash !== head.hash) return { valid: false, sequence: last.sequence, reason: 'HEAD_DIFFERS' };
  return { valid: true, entries: last.sequence - after.sequence, head: last.hash };
}

/** undefined: it holds what the library never writes. */
function readable(stored: RawRow): AuditEntry | undefined {
  try {
    return decodeColumns(AUDIT, stored);
  } catch {
    return undefined;
  }
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
