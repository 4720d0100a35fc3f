import * as z from 'zod';
import type { Json, Timestamp } from '../types/ids.ts';
import type { ClientStamp } from '../types/offline-sync.ts';
import { toTimestamp } from '../utils/timestamp.ts';

/** Boots whose clocks are remembered, and samples of each: the last ones. */
const MOST_BOOTS = 8;
const MOST_SAMPLES = 8;
/** What is more than this ahead or behind is told. */
const SKEWED_MS = 5 * 60_000;

/**
 * What is known of a device's clocks: of each boot, for its last messages, when the server received one less the
 * monotonic clock when it was sent, in milliseconds. The oldest first.
 */
export type ClockState = readonly { readonly bootId: string; readonly offsets: readonly number[] }[];

/** What became unreadable counts as not known. */
const StateSchema = z
  .array(z.strictObject({ bootId: z.string(), offsets: z.array(z.number()).min(1) }))
  .catch([]) satisfies z.ZodType<ClockState>;

/** Whatever a device says of its clocks; a wall clock that cannot be read takes nothing from the monotonic one. */
const StampSchema = z.object({
  bootId: z.string().min(1).max(200),
  monotonicMs: z.number().min(0).max(Number.MAX_SAFE_INTEGER),
  wallTime: z.string().catch(''),
});

/** Takes note of the clocks with which a message was sent. A stamp that cannot be read changes nothing. */
export function observe(state: Json, sentAt: ClientStamp, receivedAt: Timestamp): ClockState {
  const boots = StateSchema.parse(state);
  const sent = StampSchema.safeParse(sentAt);
  const received = Date.parse(receivedAt);
  if (!sent.success || Number.isNaN(received)) return boots;
  const { bootId, monotonicMs } = sent.data;
  const known = boots.find((boot) => boot.bootId === bootId);
  const offsets = [...(known?.offsets ?? []), received - monotonicMs].slice(-MOST_SAMPLES);
  return [...boots.filter((boot) => boot !== known), { bootId, offsets }].slice(-MOST_BOOTS);
}

/** When something happened by the server's clock. */
export interface CorrectedTime {
  /** null: nothing was received from that boot of the device, so that nobody knows. */
  readonly effectiveAt: Timestamp | null;
  /** The same by its clocks alone, whatever happened before and after it. */
  readonly measuredAt: Timestamp | null;
  /** How far the device's wall clock was ahead then; null: not known. */
  readonly skewMs: number | null;
}

const UNKNOWN: CorrectedTime = { effectiveAt: null, measuredAt: null, skewMs: null };

/**
 * When something happened that a device stamped. The message that took the least time to arrive tells most about the
 * clocks, so the smallest of the last offsets counts. Never later than it was received or than `nextEffectiveAt`, the time
 * of the operation after it in the stream where that has arrived already, and, within that, never earlier than
 * `lastEffectiveAt`, the time of the one before it. Never throws, whatever a device says.
 */
export function correct(
  state: Json,
  stamp: ClientStamp | undefined,
  {
    receivedAt,
    lastEffectiveAt,
    nextEffectiveAt = null,
  }: {
    readonly receivedAt: Timestamp;
    readonly lastEffectiveAt: Timestamp | null;
    readonly nextEffectiveAt?: Timestamp | null;
  },
): CorrectedTime {
  const read = StampSchema.safeParse(stamp);
  if (!read.success) return UNKNOWN;
  const { bootId, monotonicMs, wallTime } = read.data;
  const boot = StateSchema.parse(state).find((one) => one.bootId === bootId);
  if (boot === undefined) return UNKNOWN;
  const received = Date.parse(receivedAt);
  const time = Math.min(Math.floor(monotonicMs + Math.min(...boot.offsets)), received);
  const last = lastEffectiveAt === null ? Number.NEGATIVE_INFINITY : Date.parse(lastEffectiveAt);
  const next = nextEffectiveAt === null ? received : Math.min(received, Date.parse(nextEffectiveAt));
  const effectiveAt = toTimestamp(new Date(Math.min(Math.max(time, last), next)));
  const measuredAt = toTimestamp(new Date(time));
  const wall = toTimestamp(wallTime);
  return {
    effectiveAt: effectiveAt ?? null,
    measuredAt: measuredAt ?? null,
    skewMs: wall === undefined || measuredAt === undefined ? null : Date.parse(wall) - time,
  };
}

/** Whether a wall clock was so far off, more than 5 minutes, that somebody should know. */
export function isSkewed(skewMs: number | null): boolean {
  return skewMs !== null && Math.abs(skewMs) > SKEWED_MS;
}
