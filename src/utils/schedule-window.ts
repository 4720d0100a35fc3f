import type { BackupSchedule } from '../types/backup.ts';
import {
  DAY,
  dayOf,
  instantsOf,
  parseTimeOfDay,
  SECOND,
  timeOfDay,
  type ZoneClock,
} from './schedule-zone.ts';

/**
 * When runs may start, every day from `start` on for `length` (both in milliseconds), past midnight where it says
 * so. The end is not part of it: a run that starts there would have no time at all.
 */
export interface Window {
  readonly start: number;
  readonly length: number;
}

export function windowOf({ windowStart, windowEnd }: BackupSchedule): Window | null {
  if (windowStart === undefined || windowEnd === undefined) return null;
  const start = parseTimeOfDay(windowStart);
  const length = modulo(parseTimeOfDay(windowEnd) - start, DAY);
  return length === 0 ? null : { start, length };
}

export function isInside(window: Window, wall: number): boolean {
  return sinceOpening(window, wall) < window.length;
}

function sinceOpening(window: Window, wall: number): number {
  return modulo(timeOfDay(wall) - window.start, DAY);
}

/**
 * The end of the window for a run of the wall-clock time `wall` that starts at the instant `at`; null where it lies
 * in none. Where a gap of the clock swallows the end, the run keeps the time that the window would have left it.
 */
export function closesAt(clock: ZoneClock, window: Window, wall: number, at: number): number | null {
  const left = window.length - sinceOpening(window, wall);
  if (left <= 0) return null;
  return instantsOf(clock.read(wall + left)).find((end) => end > at) ?? at + left;
}

/**
 * The wall-clock time at which the window opens next after an instant outside it, and that instant. Clocks that are
 * put back into a window open it again.
 */
export function opensAfter(
  clock: ZoneClock,
  window: Window,
  after: number,
): { readonly at: number; readonly wall: number } {
  for (let day = dayOf(clock.wallAt(after)) - 2; ; day += 1) {
    const wall = day * DAY + window.start;
    const at = instantsOf(clock.read(wall)).find((instant) => instant > after);
    if (at !== undefined) return putBackInto(clock, window, { after, at }) ?? { at, wall };
  }
}

function putBackInto(
  clock: ZoneClock,
  window: Window,
  { after, at }: { readonly after: number; readonly at: number },
): { readonly at: number; readonly wall: number } | null {
  if (clock.offsetAt(at) >= clock.offsetAt(after)) return null;
  const change = clock.changeBetween(after, at);
  const wall = clock.wallAt(change);
  return isInside(window, wall) ? { at: change, wall } : null;
}

/**
 * How long after the opening a configuration starts where its schedule names no time: spread evenly over the first
 * three quarters of the window by its id, always the same for one id, whole seconds. 0 without an id.
 */
export function ownDelay(window: Window, configurationId: string | undefined): number {
  if (configurationId === undefined) return 0;
  const seconds = Math.floor((window.length * 0.75) / SECOND);
  return Math.floor((hash(configurationId) / 2 ** 32) * seconds) * SECOND;
}

/** FNV-1a over UTF-16 code units, then the finalizer of MurmurHash3: ids that differ in one digit lie far apart. */
function hash(text: string): number {
  let state = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    state = Math.imul(state ^ text.charCodeAt(index), 0x01000193);
  }
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35);
  return (state ^ (state >>> 16)) >>> 0;
}

export function modulo(value: number, by: number): number {
  return ((value % by) + by) % by;
}
