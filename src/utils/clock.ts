import type { Clock } from '../types/clock.ts';

/** The machine's own time. */
export const systemClock: Clock = { now: () => new Date() };
