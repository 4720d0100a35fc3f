import { addAuditRecord, auditTrail, removeAuditEntries } from '../repository/audit-trail.ts';
import type { AuditVerdict, PruneAuditLogInput, PrunedAuditLog } from '../types/audit.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { type AuditAsking, brokenLog } from './audit-checkpoint.ts';
import { type AuditRecord, type AuditRecords, auditRecords } from './audit-records.ts';
import { verifyChainAndCheckpoints } from './audit-verification.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

/** Verifies the audit log, enters that in it, and tells where it is broken. Throws as `verifyChainAndCheckpoints`. */
export async function verifyAuditLog(asking: AuditAsking, signal: AbortSignal): Promise<AuditVerdict> {
  const verdict = await verifyChainAndCheckpoints(asking, signal);
  const { valid, entries, problem } = verdict;
  if (problem !== null) brokenLog(asking, problem);
  const { context } = asking;
  await context.db.withTransaction((transaction) =>
    context.audit.append(transaction, entryOf(asking, 'audit.verified', { valid, entries, ...problem })),
  );
  return verdict;
}

/**
 * Removes entries that are older than `before`, up to the newest authenticated checkpoint that covers none of the others.
 * The removal, its record, which is signed like a checkpoint, and its entry are one transaction. Throws
 * `VALIDATION_FAILED`, `AUDIT_LOG_BROKEN`, `CONFIGURATION_INVALID` without a key provider, `INVALID_STATE` where old entries
 * are covered by no authenticated checkpoint or somebody else prunes, and as `verifyChainAndCheckpoints`.
 */
export async function pruneAuditLog(
  asking: AuditAsking,
  { before, retentionDays }: PruneAuditLogInput,
  signal: AbortSignal,
): Promise<PrunedAuditLog> {
  const { context, organizationId } = asking;
  requireRetention(before, retentionDays, context.clock.now());
  const records = auditRecords(context.keys, organizationId);
  if (!records.authenticates) {
    throw new DataProtectionError(
      'The audit log is pruned behind authenticated checkpoints only: give `keys` to createDataProtection',
      'CONFIGURATION_INVALID',
    );
  }
  const verdict = await verifyChainAndCheckpoints(asking, signal);
  if (verdict.problem !== null) throw brokenLog(asking, verdict.problem);

  const { firstSequence, entries } = verdict;
  const trail = auditTrail(context.db, organizationId);
  const kept = (await trail.firstSince(before)) ?? firstSequence + entries;
  if (kept <= firstSequence) return { removed: 0, through: null };
  const through = await newestAuthenticated(records, asking, { from: firstSequence, until: kept });
  if (through === undefined) {
    throw new DataProtectionError(
      `The entries ${firstSequence} to ${kept - 1} are covered by no authenticated checkpoint of their own time; nothing was removed`,
      'INVALID_STATE',
    );
  }
  const { sequence, hash } = through;
  const writtenAt = context.clock.now().toISOString();
  const record = await records.encode('PRUNED', { sequence, hash, writtenAt });
  const removed = sequence - firstSequence + 1;
  await context.db.withTransaction(async (transaction) => {
    const mark = { kind: 'PRUNED', sequence, record: record.toString('base64') } as const;
    if (!(await addAuditRecord(transaction, organizationId, mark))) throw prunedMeanwhile();
    await removeAuditEntries(transaction, organizationId, sequence);
    const details = { before, retentionDays, removed, through: sequence, hash };
    await context.audit.append(transaction, entryOf(asking, 'audit.pruned', details));
  });
  return { removed, through: sequence };
}

function requireRetention(before: string, retentionDays: number, now: Date): void {
  const latest = new Date(now.getTime() - retentionDays * DAY_MS).toISOString();
  if (before <= latest) return;
  throw new ValidationError('The pruning of the audit log', [
    {
      path: 'before',
      message: `Lies within the last ${retentionDays} days, for which entries must be kept.`,
      remedy: `Write ${latest} or earlier.`,
    },
  ]);
}

/** The newest checkpoint in the database that a key vouches for and that covers no entry from `until` on. */
async function newestAuthenticated(
  records: AuditRecords,
  { context, organizationId }: AuditAsking,
  { from, until }: { readonly from: number; readonly until: number },
): Promise<AuditRecord | undefined> {
  const stored = await auditTrail(context.db, organizationId).records('CHECKPOINT', from);
  for (const { sequence, kind, record } of stored.toReversed()) {
    if (sequence >= until) continue;
    const read = await records.decode(Buffer.from(record, 'base64'), kind, sequence);
    if (read.authentication === 'VERIFIED') return read;
  }
  return undefined;
}

const prunedMeanwhile = (): DataProtectionError =>
  new DataProtectionError('Somebody else has pruned the audit log meanwhile', 'INVALID_STATE', {
    retryable: true,
  });

const entryOf = (
  { organizationId, userId }: AuditAsking,
  action: string,
  details: { readonly [key: string]: Json },
) => ({ organizationId, action, userId, resourceType: 'audit_log', resourceId: organizationId, details });
