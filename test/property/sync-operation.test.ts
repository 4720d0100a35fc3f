import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SYNC_OPERATIONS, SYNC_PRIORITIES } from '../../src/types/offline-sync.ts';
import { parseInput } from '../../src/validation/index.ts';
import { checkPayload } from '../../src/validation/payload.ts';
import { plainEnvelope } from '../../src/validation/plain-operation.ts';
import { parseOperation, QueueOperationSchema } from '../../src/validation/sync-operation.ts';

/** Values that fit no field, or fit one nearly. */
const odd = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    undefined,
    '',
    ' ',
    '\0',
    '\ud800',
    'x'.repeat(256),
    'x'.repeat(513),
    '€'.repeat(200),
    -1,
    -0,
    0,
    0.5,
    101,
    1_000_001,
    2 ** 53,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    true,
    [],
    {},
    new Date('2026-01-01T00:00:00Z'),
    new Date(Number.NaN),
    new Map(),
    Symbol('x'),
    () => 1,
    10n,
    '2026-01-01',
    '2026-02-30T00:00:00Z',
    '2026-01-01T00:00:00.123456789+01:00',
    '0000-01-01T00:00:00Z',
    '018F4D3E-7A2B-7C11-9A55-3F2A1B4C5D6E',
    '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e\n',
    'visit',
    'carePlan',
    'UPDATE\n',
  ),
  fc.string({ unit: 'binary', maxLength: 5 }),
  fc.double(),
  fc.anything({ withDate: true, withNullPrototype: true, withSparseArray: true }),
);
/** A field that nearly always holds what it should. */
const field = (fits: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 12, arbitrary: fits }, { weight: 1, arbitrary: odd });

/** Few, in both cases, so that an operation sometimes names itself. */
const uuid = fc
  .constantFrom('018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e', '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6f')
  .chain((id) => fc.constantFrom(id, id.toUpperCase()));
const time = fc.constantFrom(
  '2026-01-01T00:00:00Z',
  '2026-01-01T02:00:00.5+02:00',
  '2026-12-31T23:59:59.999Z',
);
const name = fc.constantFrom('phone-17', 'Téléphone', ' ', '__proto__', 'x'.repeat(255));

const stampFields = {
  bootId: field(name),
  monotonicMs: field(fc.constantFrom(0, -0, 1.5, 12_345)),
  wallTime: field(time),
  counter: field(fc.constantFrom(0, 12)),
};
class Stamp {
  readonly bootId = 'b';
  readonly monotonicMs = 1;
  readonly wallTime = '2026-01-01T00:00:00Z';
  readonly counter = 1;
}
const stamp = fc.oneof(
  { weight: 6, arbitrary: fc.record(stampFields) },
  { weight: 2, arbitrary: fc.record({ ...stampFields, more: odd }, { requiredKeys: [] }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<unknown>(
      new Stamp(),
      Object.assign([], new Stamp()),
      Object.assign(new Date(), new Stamp()),
      Object.assign(Object.create(new Stamp()), { a: 1, b: 2, c: 3, d: 4 }),
      Object.assign(new Stamp(), { [Symbol('x')]: 1 }),
      Object.defineProperty({ ...new Stamp() }, 'counter', { enumerable: false }),
    ),
  },
);

const required = {
  operation: field(fc.constantFrom(...SYNC_OPERATIONS)),
  entityType: field(
    fc.constantFrom('VISIT', 'carePlan', 'time-entry', ' EVV  record ', 'x'.repeat(63), '1A', 'Ä'),
  ),
  entityId: field(name),
};
const common = {
  organizationId: field(uuid),
  userId: field(uuid),
  deviceId: field(name),
  installationId: field(name),
  epoch: field(fc.constantFrom(1, 2)),
  operationId: field(uuid),
  sequenceNumber: field(fc.constantFrom(0, -0, 7)),
  schemaVersion: field(fc.constantFrom(1, 1_000_000)),
  previousOperationId: field(fc.oneof(uuid, fc.constant(null))),
  priority: field(fc.constantFrom(...SYNC_PRIORITIES)),
  occurredAt: field(fc.oneof(time, fc.constant(new Date(0)))),
  stamp: field(stamp),
  expiresAt: field(time),
  maxRetries: field(fc.constantFrom(0, 100)),
  branchId: field(uuid),
  sessionId: field(uuid),
};
const rare = {
  dependsOn: field(fc.array(uuid, { maxLength: 3 })),
  batchId: field(uuid),
  batchSize: field(fc.constantFrom(1, 50)),
  requiresApproval: field(fc.boolean()),
  metadata: field(fc.constantFrom({}, { app: '1.2' })),
  unknown: odd,
  toString: odd,
};
/** Few odd things at a time: where all is odd, nothing is told. */
const some = (fields: Readonly<Record<string, fc.Arbitrary<unknown>>>, most: number) =>
  fc
    .subarray(Object.keys(fields), { maxLength: most })
    .chain((names) => fc.record(Object.fromEntries(names.map((one) => [one, fields[one] ?? odd]))));
const envelope = fc
  .tuple(
    fc.oneof(
      { weight: 9, arbitrary: fc.record(required) },
      { weight: 1, arbitrary: fc.record(required, { requiredKeys: [] }) },
    ),
    some(common, 8),
    fc.oneof({ weight: 4, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: some(rare, 2) }),
  )
  .map((parts): Readonly<Record<string, unknown>> => Object.assign({}, ...parts));

const row = fc.constantFrom<unknown>({ notes: 'x', minutes: 5 }, {}, undefined);
const version = fc.oneof(
  fc.constant(undefined),
  fc.record(
    {
      version: field(fc.constantFrom(0, -0, 3)),
      data: field(fc.constantFrom({ notes: 'x' }, {})),
      signature: field(fc.constantFrom('a2V5.c2ln', 'x'.repeat(1000), 'ä', 'a\n')),
      more: fc.constant(undefined),
    },
    { requiredKeys: [] },
  ),
);

/** What the schema says: the value, or the paths of what is wrong. */
function judged(input: unknown): unknown {
  try {
    return parseInput(QueueOperationSchema, 'The operation', input);
  } catch (error) {
    if (!(error instanceof Error && 'issues' in error)) throw error;
    return 'refused';
  }
}

describe('an operation that is read the short way', () => {
  it('is what the schema makes of it', () => {
    let short = 0;
    fc.assert(
      fc.property(envelope, (given) => {
        const read = plainEnvelope(given);
        if (read === undefined) return;
        short += 1;
        const payload = read.operation === 'DELETE' ? {} : { a: 1 };
        expect({ ...read, payload }).toEqual(judged({ ...given, payload }));
      }),
      { numRuns: 3000 },
    );
    expect(short).toBeGreaterThan(500);
  });

  it('is looked at by the schema where reading it throws', () => {
    const stamp = Object.defineProperty({ ...new Stamp() }, 'counter', {
      enumerable: true,
      get: () => {
        throw new Error('unreadable');
      },
    });
    for (const odd of [stamp, new Proxy({ ...new Stamp() }, { ownKeys: () => [].at(0) as never })]) {
      const input = { operation: 'DELETE', entityType: 'VISIT', entityId: '1', stamp: odd };
      expect(parseOperation(input)).toMatchObject({ issues: [{ path: expect.stringMatching(/^stamp/) }] });
    }
  });

  it('is taken and refused as the schema takes and refuses it, rows and all', () => {
    let taken = 0;
    let refused = 0;
    fc.assert(
      fc.property(envelope, row, version, (given, payload, previousVersion) => {
        const input = {
          ...given,
          ...(payload === undefined ? {} : { payload }),
          ...(previousVersion === undefined ? {} : { previousVersion }),
        };
        const parsed = parseOperation(input);
        const rows = [input.payload, previousVersion?.data].filter((one) => one !== undefined);
        // The rows are looked at by themselves.
        const fit = rows.every((one) => !('issues' in checkPayload(one, 'row')));
        const expected = fit ? judged(input) : 'refused';
        if ('issues' in parsed) {
          refused += 1;
          expect(expected).toBe('refused');
          expect(parsed.issues.length).toBeGreaterThan(0);
          return;
        }
        taken += 1;
        const defaults = { payload: {}, schemaVersion: 1, dependsOn: [] };
        expect(parsed.operation).toEqual({ ...defaults, ...(expected as object) });
        const size = Buffer.byteLength(JSON.stringify(expected));
        expect(parsed.bytes).toBeGreaterThanOrEqual(size - 20);
        expect(parsed.bytes).toBeLessThanOrEqual(size + 60);
      }),
      { numRuns: 3000 },
    );
    expect(taken).toBeGreaterThan(300);
    expect(refused).toBeGreaterThan(300);
  });
});
