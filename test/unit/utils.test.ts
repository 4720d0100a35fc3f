import { describe, expect, it } from 'vitest';
import { formatBytes } from '../../src/utils/bytes.ts';
import { systemClock } from '../../src/utils/clock.ts';
import { formatDuration } from '../../src/utils/duration.ts';
import { isEntityType, normalizeEntityType } from '../../src/utils/entity-type.ts';
import { nearest } from '../../src/utils/nearest.ts';
import { formatNumber } from '../../src/utils/sequence-number.ts';
import { canonicalTimeZone } from '../../src/utils/time-zone.ts';
import { toTimestamp } from '../../src/utils/timestamp.ts';
import { isUuid } from '../../src/utils/uuid.ts';

describe('formatBytes', () => {
  it.each([
    [0, '0 B'],
    [1, '1 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [1024 ** 2 - 1, '1 MiB'],
    [1_234_567, '1.18 MiB'],
    [1024 ** 5, '1 PiB'],
    [Number.MAX_SAFE_INTEGER, '8 PiB'],
    [-1, 'unknown'],
    [Number.NaN, 'unknown'],
    [Number.POSITIVE_INFINITY, 'unknown'],
  ])('%d', (bytes, text) => expect(formatBytes(bytes)).toBe(text));
});

describe('formatDuration', () => {
  it.each([
    [0, '0 ms'],
    [850, '850 ms'],
    [999.4, '999 ms'],
    [999.6, '1 s'],
    [59_999, '1 min'],
    [3_725_000, '1 h 2 min 5 s'],
    [90_000_000, '1 d 1 h'],
    [-1, 'unknown'],
    [Number.NaN, 'unknown'],
  ])('%d', (milliseconds, text) => expect(formatDuration(milliseconds)).toBe(text));
});

describe('formatNumber', () => {
  it.each([
    ['BKP', 123, 'BKP-2026-000123'],
    ['RST', 999_999, 'RST-2026-999999'],
    ['BKP', 1_000_000, 'BKP-2026-1000000'],
  ])('%s %d', (prefix, sequence, text) => expect(formatNumber(prefix, 2026, sequence)).toBe(text));
});

describe('normalizeEntityType', () => {
  it.each([
    ['Visit', 'VISIT'],
    ['EVVRecord', 'EVV_RECORD'],
    ['evvRecord', 'EVV_RECORD'],
    ['carePlan', 'CARE_PLAN'],
    ['CARE_PLAN', 'CARE_PLAN'],
    ['time-entry', 'TIME_ENTRY'],
    [' Family  Member ', 'FAMILY_MEMBER'],
    ['B2B', 'B2B'],
    ['all', 'ALL'],
  ])('%s', (name, normalized) => {
    expect(normalizeEntityType(name)).toBe(normalized);
    expect(normalizeEntityType(normalized)).toBe(normalized);
    expect(isEntityType(normalized)).toBe(true);
  });

  it.each(['', '_', '1ST', 'A__B', 'VISIT;DROP', 'ÄRZTE', 'A'.repeat(64), 'A\n'])(
    'judges %j no entity type',
    (name) => {
      expect(isEntityType(name)).toBe(false);
    },
  );
});

describe('toTimestamp', () => {
  it.each([
    ['2025-01-15T10:30:00Z', '2025-01-15T10:30:00.000Z'],
    ['2025-01-15T10:30:00.123456+02:00', '2025-01-15T08:30:00.123Z'],
    ['2024-02-29T00:00:00Z', '2024-02-29T00:00:00.000Z'],
    ['0099-03-01T00:00:00Z', '0099-03-01T00:00:00.000Z'],
    [new Date(0), '1970-01-01T00:00:00.000Z'],
  ])('%s', (value, iso) => expect(toTimestamp(value)).toBe(iso));

  it.each([
    '2025-02-29T00:00:00Z',
    '2025-13-01T00:00:00Z',
    '2025-00-01T00:00:00Z',
    '2025-04-31T00:00:00Z',
    '2025-01-15',
    '2025-01-15T10:30:00',
    '2025-01-15T10:30Z',
    '2025-01-15T24:00:00Z',
    '2025-01-15T10:30:60Z',
    '2025-01-15 10:30:00Z',
    '0001-01-01T00:00:00+02:00',
    '9999-12-31T23:59:59-01:00',
    '',
    'now',
    new Date(Number.NaN),
    new Date(8.64e15),
  ])('refuses %s', (value) => expect(toTimestamp(value)).toBeUndefined());
});

describe('canonicalTimeZone', () => {
  it('knows the zones of the runtime and no offsets', () => {
    expect(canonicalTimeZone('america/chicago')).toBe('America/Chicago');
    expect(canonicalTimeZone('Etc/UTC')).toBe(canonicalTimeZone('UTC'));
    for (const name of ['', '+05:00', '-03', 'Mars/Olympus', 'America/Chicago\0']) {
      expect(canonicalTimeZone(name)).toBeUndefined();
    }
  });
});

describe('nearest', () => {
  it.each([
    ['starTime', 'startTime'],
    ['STARTTIME', 'startTime'],
    ['timezne', 'timezone'],
    ['password', undefined],
    ['', undefined],
  ])('%s', (name, meant) => expect(nearest(name, ['startTime', 'timezone'])).toBe(meant));
});

it('knows UUIDs of any version', () => {
  expect(isUuid('11111111-1111-1111-1111-111111111111')).toBe(true);
  expect(isUuid('018F4D3E-7A2B-7C11-9A55-3F2A1B4C5D60')).toBe(true);
  for (const text of [
    '',
    'org-123',
    '018f4d3e7a2b7c119a553f2a1b4c5d60',
    '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d60\n',
  ]) {
    expect(isUuid(text)).toBe(false);
  }
});

it('takes the time from the machine', () => {
  const before = Date.now();
  expect(systemClock.now().getTime()).toBeGreaterThanOrEqual(before);
});
