import { DataProtectionError, type ErrorCode } from '../types/errors.ts';
import type { SyncReason } from '../types/sync-reasons.ts';

/**
 * What to do about a failure. TRANSIENT: try again later. OUTAGE: the same, however often; it has nothing to do with the
 * operation. LOOK_AT_BATCH: another statement of the transaction failed before; find out which. DETECT_AGAIN: something
 * is there by now; look for conflicts again. WAIT_FOR_PARENT: a row that it refers to is not there, or (with a DELETE)
 * still refers to it. PERMANENT: it will not succeed as it is. UNKNOWN: try again to the limit, then park it.
 */
export const SYNC_ERROR_CATEGORIES = [
  'TRANSIENT',
  'OUTAGE',
  'LOOK_AT_BATCH',
  'DETECT_AGAIN',
  'WAIT_FOR_PARENT',
  'PERMANENT',
  'UNKNOWN',
] as const;
export type SyncErrorCategory = (typeof SYNC_ERROR_CATEGORIES)[number];

export interface SyncErrorVerdict {
  readonly retryable: boolean;
  /** Somebody has to correct the operation, or what refuses it. */
  readonly requiresManualIntervention: boolean;
  readonly category: SyncErrorCategory;
  /** Whether it uses up one of `maxRetries`. */
  readonly countsAsAttempt: boolean;
  /** Why the operation stands as it does if it is not tried again. While it is: RETRY, or PARENT_MISSING. */
  readonly reason: SyncReason;
  /** What an HTTP API would answer. */
  readonly statusCode: number;
}

function passing(
  category: Exclude<SyncErrorCategory, 'PERMANENT'>,
  reason: SyncReason,
  statusCode: number,
): SyncErrorVerdict {
  return {
    retryable: true,
    requiresManualIntervention: false,
    category,
    countsAsAttempt: category !== 'OUTAGE',
    reason,
    statusCode,
  };
}

function permanent(reason: SyncReason, statusCode: number): SyncErrorVerdict {
  return {
    retryable: false,
    requiresManualIntervention: true,
    category: 'PERMANENT',
    countsAsAttempt: true,
    reason,
    statusCode,
  };
}

const TRANSIENT = passing('TRANSIENT', 'RETRIES_EXHAUSTED', 503);
const OUTAGE = passing('OUTAGE', 'RETRY', 503);
const LOOK_AT_BATCH = passing('LOOK_AT_BATCH', 'RETRIES_EXHAUSTED', 500);
const DETECT_AGAIN = passing('DETECT_AGAIN', 'CONSTRAINT_VIOLATED', 409);
const WAIT_FOR_PARENT = passing('WAIT_FOR_PARENT', 'PARENT_MISSING', 409);
const UNKNOWN = passing('UNKNOWN', 'RETRIES_EXHAUSTED', 500);
const CONSTRAINT_VIOLATED = permanent('CONSTRAINT_VIOLATED', 422);
const FORBIDDEN = permanent('FORBIDDEN', 403);
const INVALID = permanent('VALIDATION_FAILED', 422);
const REFUSED = permanent('REFUSED', 422);

/**
 * What an error says. PASSES: something came in between, so that the operation was not judged, whatever stands around
 * it. JUDGED: it was. VAGUE: only where nothing else in the chain says more.
 */
interface Finding {
  readonly weight: 'PASSES' | 'JUDGED' | 'VAGUE';
  readonly verdict: SyncErrorVerdict;
}

/**
 * What becomes of an operation that failed. Looks at types, codes and SQLSTATEs in the whole chain of causes, never at
 * messages: what passes by itself counts wherever it stands, else the outermost that says something.
 */
export function categorizeSyncError(error: unknown): SyncErrorVerdict {
  const findings = chainOf(error).flatMap((link) => findingOf(link) ?? []);
  const first = (weight: Finding['weight']): SyncErrorVerdict | undefined =>
    findings.find((finding) => finding.weight === weight)?.verdict;
  return first('PASSES') ?? first('JUDGED') ?? first('VAGUE') ?? UNKNOWN;
}

/** The error and its causes, each once. */
function chainOf(error: unknown): readonly object[] {
  const chain = new Set<object>();
  let at = error;
  while (typeof at === 'object' && at !== null && !chain.has(at)) {
    chain.add(at);
    at = Reflect.get(at, 'cause');
  }
  return [...chain];
}

function findingOf(link: object): Finding | undefined {
  if (link instanceof DataProtectionError) return ofLibrary(link);
  const code: unknown = Reflect.get(link, 'code');
  if (typeof code === 'string') {
    const routine: unknown = Reflect.get(link, 'routine');
    const found = SQLSTATE.test(code) ? ofSqlState(code, routine) : ofCode(code);
    if (found !== undefined) return found;
  }
  const name: unknown = Reflect.get(link, 'name');
  if (typeof name !== 'string') return undefined;
  if (TIMEOUT_NAMES.has(name)) return { weight: 'PASSES', verdict: TRANSIENT };
  return VALIDATOR_NAMES.has(name) ? { weight: 'JUDGED', verdict: INVALID } : undefined;
}

/** As PostgreSQL gives them out; EPIPE is none. */
const SQLSTATE = /^(?:\d[0-9A-Z]|F0|HV|P0|XX)[0-9A-Z]{3}$/;
/**
 * Connections that failed, were ended or turned down, a server that is full, and one that takes no writes since another
 * has taken over.
 */
const OUTAGE_STATES = /^(?:08...|28...|3D000|57P0.|53300|25006)$/;
/** Serialization failures and deadlocks, locks and statements that took too long, lack of resources. */
const TRANSIENT_STATES = /^(?:40...|55P03|57014|53...|25P03|25P04)$/;
/** Bad data, integrity, WITH CHECK OPTION, and what triggers of the host raise. */
const CONSTRAINT_STATES = /^(?:22...|23...|44000|P0001)$/;

function ofSqlState(state: string, routine: unknown): Finding | undefined {
  if (OUTAGE_STATES.test(state)) return { weight: 'PASSES', verdict: OUTAGE };
  if (TRANSIENT_STATES.test(state)) return { weight: 'PASSES', verdict: TRANSIENT };
  // "cached plan must not change result type": the next attempt plans anew.
  if (state === '0A000' && routine === 'RevalidateCachedQuery')
    return { weight: 'PASSES', verdict: TRANSIENT };
  if (state === '25P02') return { weight: 'PASSES', verdict: LOOK_AT_BATCH };
  if (state === '23505') return { weight: 'JUDGED', verdict: DETECT_AGAIN };
  if (state === '23503') return { weight: 'JUDGED', verdict: WAIT_FOR_PARENT };
  if (CONSTRAINT_STATES.test(state)) return { weight: 'JUDGED', verdict: CONSTRAINT_VIOLATED };
  // A row-level security policy refused the row; without the routine it is a GRANT that is missing.
  if (state === '42501' && routine === 'ExecWithCheckOptions')
    return { weight: 'JUDGED', verdict: FORBIDDEN };
  return undefined;
}

const CONNECTION_CODES: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'ENETRESET',
  'ERR_NETWORK',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_PREMATURE_CLOSE',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_SOCKET',
]);
const TIMEOUT_CODES: ReadonlySet<string> = new Set([
  'ABORT_ERR',
  'UND_ERR_ABORTED',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
]);
const TIMEOUT_NAMES: ReadonlySet<string> = new Set(['AbortError', 'TimeoutError']);
/** Zod's, Valibot's, and Yup's and Joi's. */
const VALIDATOR_NAMES: ReadonlySet<string> = new Set([
  'ZodError',
  '$ZodError',
  'ValiError',
  'ValidationError',
]);

/** A code of the system, or one that an error of the host shares with the library's. */
function ofCode(code: string): Finding | undefined {
  if (CONNECTION_CODES.has(code)) return { weight: 'PASSES', verdict: OUTAGE };
  if (TIMEOUT_CODES.has(code)) return { weight: 'PASSES', verdict: TRANSIENT };
  if (code === 'FORBIDDEN') return { weight: 'JUDGED', verdict: FORBIDDEN };
  return code === 'VALIDATION_FAILED' ? { weight: 'JUDGED', verdict: INVALID } : undefined;
}

/** Codes that judge an operation whatever the error says of repeating it. */
const JUDGING: ReadonlyMap<ErrorCode, SyncErrorVerdict> = new Map([
  ['VALIDATION_FAILED', INVALID],
  ['FORBIDDEN', FORBIDDEN],
]);

/** What is not retryable with these codes is refused for a reason, or with a status, of its own. */
const REFUSING: ReadonlyMap<ErrorCode, SyncErrorVerdict> = new Map([
  ['NOT_FOUND', permanent('REFUSED', 404)],
  ['INVALID_STATE', permanent('REFUSED', 409)],
  ['CONFLICT_STALE', permanent('REFUSED', 409)],
  ['IDEMPOTENCY_MISMATCH', permanent('REFUSED', 409)],
  ['SEQUENCE_CONFLICT', permanent('REFUSED', 409)],
  ['APPEND_ONLY', permanent('APPEND_ONLY', 409)],
  ['ENTITY_ID_TAKEN', permanent('ENTITY_ID_TAKEN', 409)],
  ['DEPENDENCY_CYCLE', permanent('DEPENDENCY_CYCLE', 422)],
  ['CONSTRAINT_VIOLATED', CONSTRAINT_VIOLATED],
]);

/** Codes that tell of the platform, not of the operation: nothing is rejected because of them. */
const OF_THE_PLATFORM: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'DATABASE_FAILED',
  'INTERNAL',
  'CONFIGURATION_INVALID',
  'CREDENTIALS_UNAVAILABLE',
  'DEPENDENCY_MISSING',
  'ENTITY_INVALID',
  'ENTITY_UNKNOWN',
  'KEY_UNAVAILABLE',
  'KEYRING_INVALID',
  'MIGRATION_FAILED',
  'RUNTIME_UNSUPPORTED',
  'SCHEMA_MISSING',
  'SCHEMA_NEWER',
]);

function ofLibrary({ code, retryable }: DataProtectionError): Finding {
  if (code === 'DATABASE_UNAVAILABLE') return { weight: 'PASSES', verdict: OUTAGE };
  const judged = JUDGING.get(code);
  if (judged !== undefined) return { weight: 'JUDGED', verdict: judged };
  const weight = OF_THE_PLATFORM.has(code) ? 'VAGUE' : 'JUDGED';
  if (retryable) return { weight, verdict: TRANSIENT };
  return { weight, verdict: weight === 'VAGUE' ? UNKNOWN : (REFUSING.get(code) ?? REFUSED) };
}
