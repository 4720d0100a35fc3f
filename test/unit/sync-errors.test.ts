import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { databaseError } from '../../src/postgres/errors.ts';
import { categorizeSyncError, SYNC_ERROR_CATEGORIES } from '../../src/sync/errors.ts';
import { DataProtectionError, ERROR_CODES, SyncError, ValidationError } from '../../src/types/errors.ts';
import { SYNC_REASONS } from '../../src/types/sync-reasons.ts';

const pg = (code: string, fields: object = {}): Error =>
  Object.assign(new Error('Network timeout, Validation, Unauthorized, 500'), {
    code,
    severity: 'ERROR',
    ...fields,
  });
const coded = (code: string): Error => Object.assign(new Error('x'), { code });
const named = (name: string): Error => Object.assign(new Error('x'), { name });
const short = (error: unknown): string => {
  const { category, reason, statusCode } = categorizeSyncError(error);
  return `${category} ${reason} ${statusCode}`;
};

const TRANSIENT = 'TRANSIENT RETRIES_EXHAUSTED 503';
const OUTAGE = 'OUTAGE RETRY 503';
const UNKNOWN = 'UNKNOWN RETRIES_EXHAUSTED 500';
const VIOLATED = 'PERMANENT CONSTRAINT_VIOLATED 422';
const INVALID = 'PERMANENT VALIDATION_FAILED 422';
const FORBIDDEN = 'PERMANENT FORBIDDEN 403';

const STATES: readonly (readonly [string, string])[] = [
  ...['40001', '40P01', '55P03', '57014', '53100', '53200', '53400', '25P03'].map(
    (state) => [state, TRANSIENT] as const,
  ),
  ...['08000', '08003', '08006', '57P01', '57P02', '57P03', '53300', '25006', '28P01', '3D000'].map(
    (state) => [state, OUTAGE] as const,
  ),
  ['25P02', 'LOOK_AT_BATCH RETRIES_EXHAUSTED 500'],
  ['23505', 'DETECT_AGAIN CONSTRAINT_VIOLATED 409'],
  ['23503', 'WAIT_FOR_PARENT PARENT_MISSING 409'],
  ...['23502', '23514', '23P01', '22001', '22P02', '22003', '44000', 'P0001'].map(
    (state) => [state, VIOLATED] as const,
  ),
  ...['42P01', '42703', '42601', '42501', '0A000', 'XX000', 'P0002', '58030', 'HV000'].map(
    (state) => [state, UNKNOWN] as const,
  ),
];

describe('SQLSTATE', () => {
  it.each(STATES)('%s', (state, expected) => {
    expect(short(pg(state))).toBe(expected);
    expect(short(coded(state))).toBe(expected);
  });

  it.each(STATES)('%s, as the library wraps it', (state, expected) => {
    expect(short(databaseError(pg(state), 'Applying the operation'))).toBe(expected);
    expect(short(new Error('host', { cause: { code: state } }))).toBe(expected);
  });

  it('of a cached plan, and of a row-level security policy, by the routine', () => {
    expect(short(pg('0A000', { routine: 'RevalidateCachedQuery' }))).toBe(TRANSIENT);
    expect(short(pg('42501', { routine: 'ExecWithCheckOptions' }))).toBe(FORBIDDEN);
  });

  it('is none where the code only looks like one', () => {
    expect(short(coded('P2002'))).toBe(UNKNOWN);
    expect(short(Object.assign(new Error('x'), { code: 40001 }))).toBe(UNKNOWN);
    expect(short(coded('EPIPE'))).toBe(OUTAGE);
  });
});

describe('other errors', () => {
  it.each(['ECONNRESET', 'ECONNREFUSED', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_SOCKET'])(
    '%s is an outage',
    (code) => {
      expect(short(new TypeError('fetch failed', { cause: coded(code) }))).toBe(OUTAGE);
    },
  );

  it('timeouts and aborts pass', async () => {
    expect(short(named('AbortError'))).toBe(TRANSIENT);
    expect(short(AbortSignal.abort().reason)).toBe(TRANSIENT);
    expect(short(new DOMException('x', 'TimeoutError'))).toBe(TRANSIENT);
    expect(short(coded('UND_ERR_HEADERS_TIMEOUT'))).toBe(TRANSIENT);
  });

  it('validators refuse', () => {
    expect(short(z.string().safeParse(1).error)).toBe(INVALID);
    expect(short(new ValidationError('The row', []))).toBe(INVALID);
    expect(short(named('ValiError'))).toBe(INVALID);
    expect(short(coded('VALIDATION_FAILED'))).toBe(INVALID);
    expect(short(coded('FORBIDDEN'))).toBe(FORBIDDEN);
  });

  it.each([
    new Error('Validation failed: Unauthorized'),
    new TypeError('x is not a function'),
    'Unauthorized',
    undefined,
    null,
    0,
    {},
  ])('%s is not known', (error) => {
    expect(short(error)).toBe(UNKNOWN);
  });
});

describe('errors of the library', () => {
  it.each([
    ['VALIDATION_FAILED', INVALID],
    ['FORBIDDEN', FORBIDDEN],
    ['NOT_FOUND', 'PERMANENT REFUSED 404'],
    ['INVALID_STATE', 'PERMANENT REFUSED 409'],
    ['APPEND_ONLY', 'PERMANENT APPEND_ONLY 409'],
    ['ENTITY_ID_TAKEN', 'PERMANENT ENTITY_ID_TAKEN 409'],
    ['DEPENDENCY_CYCLE', 'PERMANENT DEPENDENCY_CYCLE 422'],
    ['CONSTRAINT_VIOLATED', VIOLATED],
    ['NOT_SUPPORTED', 'PERMANENT REFUSED 422'],
    ['STORAGE_UNAVAILABLE', TRANSIENT],
    ['SYNC_ATTEMPT_LOST', TRANSIENT],
    ['DATABASE_UNAVAILABLE', OUTAGE],
    ['DATABASE_FAILED', UNKNOWN],
    ['SCHEMA_MISSING', UNKNOWN],
    ['INTERNAL', UNKNOWN],
  ] as const)('%s', (code, expected) => {
    expect(short(new DataProtectionError('x', code))).toBe(expected);
  });

  it('are believed where they say whether they may be repeated', () => {
    expect(short(new SyncError('x', 'INVALID_STATE', 'operation'))).toBe(TRANSIENT);
    expect(short(new SyncError('x', 'STORAGE_UNAVAILABLE', 'operation', false))).toBe(
      'PERMANENT REFUSED 422',
    );
    expect(short(new DataProtectionError('x', 'DATABASE_FAILED', { retryable: true }))).toBe(TRANSIENT);
    // Not where they judge the operation, nor where the database is not to be had.
    expect(short(new SyncError('x', 'FORBIDDEN', 'operation'))).toBe(FORBIDDEN);
    expect(short(new DataProtectionError('x', 'DATABASE_UNAVAILABLE', { retryable: false }))).toBe(OUTAGE);
  });
});

describe('a chain of causes', () => {
  it('passes where anything in it passes', () => {
    const refused = new DataProtectionError('x', 'VALIDATION_FAILED', { cause: pg('40001') });
    expect(short(refused)).toBe(TRANSIENT);
    expect(short(new Error('outer', { cause: refused }))).toBe(TRANSIENT);
    expect(short(Object.assign(pg('23514'), { cause: coded('ECONNRESET') }))).toBe(OUTAGE);
  });

  it('is judged by the outermost that judges', () => {
    expect(short(new DataProtectionError('x', 'ENTITY_ID_TAKEN', { cause: pg('23505') }))).toBe(
      'PERMANENT ENTITY_ID_TAKEN 409',
    );
    expect(short(new DataProtectionError('x', 'INTERNAL', { cause: new ValidationError('x', []) }))).toBe(
      INVALID,
    );
    expect(short(new Error('x', { cause: new Error('y', { cause: pg('23502') }) }))).toBe(VIOLATED);
  });

  it('may be a circle', () => {
    const error = new Error('x');
    error.cause = new Error('y', { cause: error });
    expect(short(error)).toBe(UNKNOWN);
  });
});

it('keeps the two fields of the seed: what is not permanent is tried again, by itself', () => {
  const all = [
    ...STATES.map(([state]) => pg(state)),
    ...Object.keys(ERROR_CODES).map((code) => coded(code)),
    new Error('?'),
  ];
  const seen = new Set<string>();
  for (const error of all) {
    const verdict = categorizeSyncError(error);
    seen.add(verdict.category);
    expect(verdict.retryable).toBe(verdict.category !== 'PERMANENT');
    expect(verdict.requiresManualIntervention).toBe(!verdict.retryable);
    expect(verdict.countsAsAttempt).toBe(verdict.category !== 'OUTAGE');
    expect(Object.keys(SYNC_REASONS)).toContain(verdict.reason);
  }
  expect([...seen].sort()).toEqual(SYNC_ERROR_CATEGORIES.toSorted());
});
