import {
  addAuditRecord,
  auditTrail,
  CHECKPOINT_CREATED,
  type StoredAuditRecord,
} from '../repository/audit-trail.ts';
import type { AuditCheckpoint, AuditProblem } from '../types/audit.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { type AuditRecord, auditRecords, wrongRecord } from './audit-records.ts';
import { type AuditStorage, auditStorage } from './audit-storage.ts';
import type { ServiceContext } from './context.ts';

/** Who asks for something about the audit log of an organization. */
export interface AuditAsking {
  readonly context: ServiceContext;
  readonly organizationId: UUID;
  readonly userId: UUID;
}

/** The audit log does not verify: tells it, and gives the error to throw. */
export function brokenLog(
  { context, organizationId }: AuditAsking,
  problem: AuditProblem,
): DataProtectionError {
  const { sequence, reason } = problem;
  context.logger.error({ organizationId, sequence, reason }, 'The audit log does not verify');
  context.events.emit('audit.broken', { organizationId, problem: { sequence, reason } });
  return new DataProtectionError(
    `The audit log does not verify: ${reason} at entry ${sequence}`,
    'AUDIT_LOG_BROKEN',
  );
}

/**
 * Makes a checkpoint of the chain as it is: stored in the default storage first, then kept in the database with its entry in
 * the log. Where nothing is new since the newest one, that is it. What is new is verified first. Whoever fails half-way
 * leaves at most an object that says the truth. Throws `AUDIT_LOG_BROKEN`, `INVALID_STATE` (there is no entry), `KEY_*`,
 * `CONFIGURATION_INVALID`, `STORAGE_*`.
 */
export async function createAuditCheckpoint(
  asking: AuditAsking,
  signal?: AbortSignal,
): Promise<AuditCheckpoint> {
  const { context, organizationId, userId } = asking;
  const trail = auditTrail(context.db, organizationId);
  const records = auditRecords(context.keys, organizationId);
  const storage = auditStorage(context, organizationId);
  const read = async (stored: StoredAuditRecord | undefined) =>
    stored &&
    records
      .decode(Buffer.from(stored.record, 'base64'), stored.kind, stored.sequence)
      .catch((error: unknown) => {
        throw brokenLog(asking, { sequence: stored.sequence, reason: wrongRecord(error) });
      });

  const stored = await trail.newestRecord('CHECKPOINT');
  const newest = await read(stored);
  const isGood = newest !== undefined && (newest.authentication !== 'NONE' || !records.authenticates);
  if (stored !== undefined && isGood && !(await trail.isUncovered())) {
    await storeOnce(asking, storage, newest, Buffer.from(stored.record, 'base64'));
    return checkpointOf(organizationId, storage, newest);
  }

  const after = newest ?? (await read(await trail.newestRecord('PRUNED')));
  const verdict = await context.audit.verifyChain(context.db, organizationId, {
    ...(after === undefined ? {} : { after }),
    ...(signal === undefined ? {} : { signal }),
  });
  if (!verdict.valid) throw brokenLog(asking, verdict);
  const sequence = (after?.sequence ?? 0) + verdict.entries;
  if (sequence === 0) {
    throw new DataProtectionError('The audit log has no entry yet', 'INVALID_STATE');
  }
  const writtenAt = context.clock.now().toISOString();
  const bytes = await records.encode('CHECKPOINT', { sequence, hash: verdict.head, writtenAt });
  const made = await records.decode(bytes, 'CHECKPOINT', sequence);
  await storeOnce(asking, storage, made, bytes);
  await context.db.withTransaction(async (transaction) => {
    const record = { kind: 'CHECKPOINT', sequence, record: bytes.toString('base64') } as const;
    if (!(await addAuditRecord(transaction, organizationId, record))) return;
    await context.audit.append(transaction, {
      organizationId,
      action: CHECKPOINT_CREATED,
      userId,
      resourceType: 'audit_log',
      resourceId: organizationId,
      details: { sequence, hash: made.hash, authenticated: made.authentication === 'VERIFIED' },
    });
  });
  return checkpointOf(organizationId, storage, made);
}

/** Another process may have stored one of the same entry; it must say the same. */
async function storeOnce(
  asking: AuditAsking,
  storage: AuditStorage | undefined,
  { sequence, hash }: AuditRecord,
  bytes: Uint8Array,
): Promise<void> {
  const taken = await storage?.put(sequence, bytes);
  if (taken === undefined || Buffer.from(taken).equals(bytes)) return;
  const other = await auditRecords(asking.context.keys, asking.organizationId)
    .decode(taken, 'CHECKPOINT', sequence)
    .catch((error: unknown) => {
      throw brokenLog(asking, { sequence, reason: wrongRecord(error) });
    });
  if (other.hash !== hash) throw brokenLog(asking, { sequence, reason: 'CHECKPOINT_DIFFERS' });
}

const checkpointOf = (
  organizationId: UUID,
  storage: AuditStorage | undefined,
  { sequence, hash, writtenAt, authentication }: AuditRecord,
): AuditCheckpoint => ({
  organizationId,
  sequence,
  hash,
  writtenAt,
  authenticated: authentication === 'VERIFIED',
  storageKey: storage?.keyOf(sequence) ?? null,
});
