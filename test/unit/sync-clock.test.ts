import { describe, expect, it } from 'vitest';
import { correct, isSkewed, observe } from '../../src/sync/clock.ts';
import type { Json } from '../../src/types/ids.ts';
import type { ClientStamp } from '../../src/types/offline-sync.ts';

const NOON = Date.parse('2026-03-01T12:00:00.000Z');
const at = (ms: number): string => new Date(NOON + ms).toISOString();

/** Boot A began at noon by the server's clock. */
const stamp = (monotonicMs: number, changes: Partial<ClientStamp> = {}): ClientStamp => ({
  bootId: 'A',
  monotonicMs,
  wallTime: at(monotonicMs),
  counter: 1,
  ...changes,
});
const foreign = (text: string): ClientStamp => JSON.parse(text);
const received = (ms: number, lastEffectiveAt: string | null = null) => ({
  receivedAt: at(ms),
  lastEffectiveAt,
});

const UNKNOWN = { effectiveAt: null, measuredAt: null, skewMs: null };

describe('correct', () => {
  const known = observe([], stamp(60_000), at(60_200));

  it('tells when it was by the server’s clock, whatever the wall clock says', () => {
    const wallTime = at(1000 + 3_600_000);
    expect(correct(known, stamp(1000, { wallTime }), received(60_200))).toEqual({
      effectiveAt: at(1200),
      measuredAt: at(1200),
      skewMs: 3_600_000 - 200,
    });
    expect(correct(known, stamp(1000.7, { wallTime: at(0) }), received(60_200))).toEqual({
      effectiveAt: at(1200),
      measuredAt: at(1200),
      skewMs: -1200,
    });
  });

  it('goes by the message that came fastest', () => {
    const faster = observe(known, stamp(90_000), at(90_050));
    const slower = observe(faster, stamp(95_000), at(99_000));
    expect(correct(slower, stamp(2000), received(99_000)).effectiveAt).toBe(at(2050));
  });

  it('forgets what is long past', () => {
    let state = observe([], stamp(0), at(1));
    for (let i = 1; i <= 20; i += 1) state = observe(state, stamp(i * 1000), at(i * 1000 + 500));
    expect(correct(state, stamp(2000), received(30_000)).effectiveAt).toBe(at(2500));
  });

  it('does not know of a boot from which nothing was received', () => {
    expect(correct(known, stamp(1000, { bootId: 'B' }), received(60_200))).toEqual(UNKNOWN);
    expect(correct(known, undefined, received(60_200))).toEqual(UNKNOWN);
  });

  it('knows several boots, the last eight', () => {
    let state: Json = known;
    for (let i = 0; i < 8; i += 1) state = observe(state, stamp(5000, { bootId: `boot ${i}` }), at(100_000));
    expect(correct(state, stamp(1000), received(200_000)).effectiveAt).toBeNull();
    expect(correct(state, stamp(1000, { bootId: 'boot 0' }), received(200_000)).effectiveAt).toBe(at(96_000));
    // One that is heard of again stays.
    state = observe(state, stamp(6000, { bootId: 'boot 0' }), at(101_000));
    state = observe(state, stamp(0, { bootId: 'another' }), at(102_000));
    expect(correct(state, stamp(1000, { bootId: 'boot 0' }), received(200_000)).effectiveAt).toBe(at(96_000));
  });

  it('is never later than it was received, nor earlier than the one before', () => {
    expect(correct(known, stamp(80_000), received(60_200)).effectiveAt).toBe(at(60_200));
    expect(correct(known, stamp(1000), received(60_200, at(5000))).effectiveAt).toBe(at(5000));
    expect(correct(known, stamp(1000), received(60_200, at(70_000))).effectiveAt).toBe(at(60_200));
  });

  it('is not later than the one after it, and measured apart from both', () => {
    const between = (lastEffectiveAt: string | null, nextEffectiveAt: string | null, ms: number) =>
      correct(known, stamp(ms), { receivedAt: at(60_200), lastEffectiveAt, nextEffectiveAt });
    expect(between(null, at(5000), 10_000)).toMatchObject({ effectiveAt: at(5000), measuredAt: at(10_200) });
    expect(between(at(3000), at(5000), 1000)).toMatchObject({ effectiveAt: at(3000), measuredAt: at(1200) });
    expect(between(at(3000), at(5000), 4000)).toMatchObject({ effectiveAt: at(4200), measuredAt: at(4200) });
    expect(between(null, at(90_000), 80_000)).toMatchObject({ effectiveAt: at(60_200) });
  });

  it('keeps the skew apart from the order', () => {
    expect(correct(known, stamp(1000), received(60_200, at(50_000))).skewMs).toBe(-200);
  });

  it('lives in JSON', () => {
    const stored: Json = JSON.parse(JSON.stringify(known));
    expect(correct(stored, stamp(1000), received(60_200))).toEqual(
      correct(known, stamp(1000), received(60_200)),
    );
  });

  it.each<[string, Json]>([
    ['nothing', null],
    ['text', 'x'],
    ['another shape', [{ boot: 1 }]],
    ['no samples', [{ bootId: 'A', offsets: [] }]],
    ['text for numbers', [{ bootId: 'A', offsets: ['1'] }]],
  ])('takes a state that cannot be read for none: %s', (_, state) => {
    expect(correct(state, stamp(1000), received(1)).effectiveAt).toBeNull();
    expect(observe(state, stamp(0), at(7))).toEqual([{ bootId: 'A', offsets: [NOON + 7] }]);
  });

  it.each<[string, ClientStamp]>([
    ['null', foreign('null')],
    ['text', foreign('"x"')],
    ['empty', foreign('{}')],
    ['no number', { ...stamp(0), monotonicMs: Number.NaN }],
    ['infinite', { ...stamp(0), monotonicMs: Number.POSITIVE_INFINITY }],
    ['negative', { ...stamp(0), monotonicMs: -1 }],
    ['huge', { ...stamp(0), monotonicMs: 1e300 }],
    ['no boot', stamp(1, { bootId: '' })],
    ['an endless boot', stamp(1, { bootId: 'x'.repeat(1000) })],
    ['a number for a boot', foreign('{"bootId": 1, "monotonicMs": 1}')],
  ])('neither believes nor keeps a stamp that is %s', (_, odd) => {
    expect(correct(known, odd, received(60_200))).toEqual(UNKNOWN);
    expect(observe(known, odd, at(60_200))).toEqual(known);
  });

  it('needs no wall clock', () => {
    for (const wallTime of ['', 'yesterday', '+275760-09-13T00:00:00.000Z'])
      expect(correct(known, stamp(1000, { wallTime }), received(60_200))).toEqual({
        effectiveAt: at(1200),
        measuredAt: at(1200),
        skewMs: null,
      });
    expect(
      correct(known, foreign('{"bootId": "A", "monotonicMs": 1000, "wallTime": 5}'), received(60_200)),
    ).toEqual({ effectiveAt: at(1200), measuredAt: at(1200), skewMs: null });
  });

  it('knows nothing of a time that no calendar has', () => {
    const state = observe([], { ...stamp(0), monotonicMs: Number.MAX_SAFE_INTEGER }, at(0));
    expect(correct(state, stamp(0), received(10))).toEqual(UNKNOWN);
    expect(correct(state, stamp(0), received(10, at(5)))).toEqual({ ...UNKNOWN, effectiveAt: at(5) });
  });
});

describe('isSkewed', () => {
  it.each([
    [null, false],
    [0, false],
    [300_000, false],
    [300_001, true],
    [-300_001, true],
    [Number.NaN, false],
  ])('%s: %s', (skew, expected) => {
    expect(isSkewed(skew)).toBe(expected);
  });
});
