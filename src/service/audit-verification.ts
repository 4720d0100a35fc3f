import type { ChainLink } from '../repository/audit-log.ts';
import { type AuditTrail, auditTrail, type StoredAuditRecord } from '../repository/audit-trail.ts';
import type { AuditProblem, AuditVerdict } from '../types/audit.ts';
import type { AuditAsking } from './audit-checkpoint.ts';
import { type AuditRecord, type AuditRecords, auditRecords, wrongRecord } from './audit-records.ts';
import { auditStorage } from './audit-storage.ts';
import { inParallel } from './in-parallel.ts';

/** Checkpoints that are read from the storage at once. */
const READS = 8;

/**
 * Verifies the chain from its beginning, or from what was pruned, to its end, against every checkpoint in the database and
 * in the default storage. A verdict, whatever it finds. Throws `STORAGE_*` and `KEY_UNAVAILABLE` where the checkpoints cannot
 * be asked.
 */
export async function verifyChainAndCheckpoints(
  asking: AuditAsking,
  signal: AbortSignal,
): Promise<AuditVerdict> {
  const trail = auditTrail(asking.context.db, asking.organizationId);
  for (;;) {
    const pruned = await trail.newestRecord('PRUNED');
    const verdict = await verifyBehind(asking, trail, pruned, signal);
    if (verdict.valid) return verdict;
    // What was pruned meanwhile is not missing.
    if ((await trail.newestRecord('PRUNED'))?.sequence === pruned?.sequence) return verdict;
  }
}

async function verifyBehind(
  asking: AuditAsking,
  trail: AuditTrail,
  pruned: StoredAuditRecord | undefined,
  signal: AbortSignal,
): Promise<AuditVerdict> {
  const { context, organizationId } = asking;
  const records = auditRecords(context.keys, organizationId);
  const found = new Found();
  const after = await readPruned(records, pruned, found);
  const from = after?.sequence ?? 0;
  // All of them before the chain: it is never shorter than what they saw.
  const kept = await trail.records('CHECKPOINT', from);
  for (const one of kept) {
    signal.throwIfAborted();
    await found.take(one.sequence, records.decode(Buffer.from(one.record, 'base64'), one.kind, one.sequence));
  }
  const stored = await readStored(asking, records, { from, found, signal });
  if (after !== undefined && (await trail.hasThrough(from))) {
    found.problems.push({ sequence: from, reason: 'NOT_REMOVED' });
  }
  const chain = await context.audit.verifyChain(context.db, organizationId, {
    ...(after === undefined ? {} : { after }),
    hashes: found.hashes,
    signal,
  });
  const problem = firstOf(chain.valid ? found.problems : [...found.problems, chain]);
  const before = problem === null ? Number.POSITIVE_INFINITY : Math.max(0, problem.sequence - 1 - from);
  const authenticated = found.authenticated.filter((one) => problem === null || one < problem.sequence);
  return {
    valid: problem === null,
    problem,
    verifiedAt: context.clock.now().toISOString(),
    firstSequence: from + 1,
    entries: chain.valid ? Math.min(chain.entries, before) : before,
    head: problem === null && chain.valid ? chain.head : null,
    checkpoints: {
      inDatabase: kept.length,
      inStorage: stored === undefined ? null : stored.size,
      missingInStorage:
        stored === undefined ? 0 : kept.filter(({ sequence }) => !stored.has(sequence)).length,
      authenticatedThrough: authenticated.toSorted((one, other) => one - other).at(-1) ?? null,
    },
  };
}

/** What the records say. */
class Found {
  readonly hashes = new Map<number, readonly string[]>();
  readonly problems: AuditProblem[] = [];
  /** Entries that a key vouches for. */
  readonly authenticated: number[] = [];

  /** Notes a record, or what is wrong with it. */
  async take(sequence: number, reading: Promise<AuditRecord>): Promise<AuditRecord | undefined> {
    try {
      const record = await reading;
      this.hashes.set(sequence, [...(this.hashes.get(sequence) ?? []), record.hash]);
      if (record.authentication === 'VERIFIED') this.authenticated.push(sequence);
      return record;
    } catch (error) {
      this.problems.push({ sequence, reason: wrongRecord(error) });
      return undefined;
    }
  }
}

/** Behind what the chain begins. One that no key vouches for counts for nothing where there are keys: only they prune. */
async function readPruned(
  records: AuditRecords,
  pruned: StoredAuditRecord | undefined,
  found: Found,
): Promise<ChainLink | undefined> {
  if (pruned === undefined) return undefined;
  const { sequence, kind, record } = pruned;
  const read = await found.take(sequence, records.decode(Buffer.from(record, 'base64'), kind, sequence));
  if (read?.authentication !== 'NONE') return read;
  found.problems.push({ sequence, reason: 'CHECKPOINT_FORGED' });
  return undefined;
}

/** The sequences of the checkpoints in the default storage from `from` on; undefined: there is none. */
async function readStored(
  { context, organizationId }: AuditAsking,
  records: AuditRecords,
  { from, found, signal }: { readonly from: number; readonly found: Found; readonly signal: AbortSignal },
): Promise<ReadonlySet<number> | undefined> {
  const storage = auditStorage(context, organizationId);
  if (storage === undefined) return undefined;
  const listed = (await storage.list(signal)).filter((sequence) => sequence >= from);
  await inParallel(listed, READS, signal, async (sequence) => {
    await found.take(
      sequence,
      storage.read(sequence, signal, (bytes) => records.decode(bytes, 'CHECKPOINT', sequence)),
    );
  });
  return new Set(listed);
}

const firstOf = (problems: readonly AuditProblem[]): AuditProblem | null => {
  const [first] = problems.toSorted((one, other) => one.sequence - other.sequence);
  return first === undefined ? null : { sequence: first.sequence, reason: first.reason };
};
