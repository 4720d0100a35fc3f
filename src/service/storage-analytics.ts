import type { GrowthStep, PlaceGrowth } from '../repository/usage.ts';
import type { UUID } from '../types/ids.ts';
import type {
  GrowthRate,
  MonthGrowth,
  QuotaProjection,
  StorageAnalytics,
  StorageAnalyticsInput,
  StorageCost,
} from '../types/usage.ts';
import { lastMonths } from '../utils/calendar-months.ts';
import { quotaReachedAt, storageCost } from '../utils/storage-cost.ts';
import type { Asking } from './asking.ts';
import { type CatalogUsage, catalogUsage, mergedPlaces, sum, totalsOf, usedQuotas } from './catalog-usage.ts';

const DAY_MS = 86_400_000;
const DEFAULT_MONTHS = 12;
/** The days that the present rate is taken over, and those of a month's writes. */
const RATE_DAYS = 90;
const WRITE_DAYS = 30;

/** Size, growth by months, projection to the quotas, and cost. Throws `NOT_FOUND`. */
export async function storageAnalytics(
  asking: Asking,
  { configurationId, months = DEFAULT_MONTHS }: StorageAnalyticsInput,
): Promise<StorageAnalytics> {
  const now = asking.context.clock.now();
  const used = await catalogUsage(asking, configurationId);
  const totals = totalsOf(used);
  const growth = await placeGrowth(asking, now, configurationId);
  // Quotas are the whole organization's.
  const everybodys = configurationId === undefined ? growth : await placeGrowth(asking, now);
  return {
    asOf: now.toISOString(),
    now: totals,
    months: await growthByMonth(asking, used, { now, months, storedBytes: totals.storedBytes }),
    growth: await growthRate(asking, used, { now, storedBytes: totals.storedBytes }),
    quotas: await projections(asking, used, { now, growth: everybodys }),
    cost: monthlyCost(asking, used, growth),
  };
}

/** Each configuration's snapshots fall in the months of its own zone. */
async function growthByMonth(
  { repository }: Asking,
  { configurations }: CatalogUsage,
  { now, months, storedBytes }: { readonly now: Date; readonly months: number; readonly storedBytes: number },
): Promise<readonly MonthGrowth[]> {
  const steps = new Map<string, GrowthStep[]>();
  const zones = Map.groupBy(configurations, (one) => one.timezone);
  if (zones.size === 0) zones.set('UTC', []);
  for (const [timezone, group] of zones) {
    const calendar = lastMonths(timezone, now, months);
    const found = await repository.findGrowth(
      group.map((one) => one.configurationId),
      calendar.map(({ startsAt }) => startsAt.toISOString()),
    );
    for (const [index, { month }] of calendar.entries()) {
      steps.set(month, [...(steps.get(month) ?? []), ...found.filter(({ bucket }) => bucket === index + 1)]);
    }
  }
  // Zones may disagree on which month it is: then the union has one month too many.
  const newestFirst = [...steps].sort().toReversed().slice(0, months);
  let storedBytesAtEnd = storedBytes;
  const growth = newestFirst.map(([month, its]) => {
    const one = { ...monthGrowth(month, its), storedBytesAtEnd };
    storedBytesAtEnd -= one.addedBytes - one.removedBytes;
    return one;
  });
  return growth.toReversed();
}

function monthGrowth(month: string, steps: readonly GrowthStep[]): Omit<MonthGrowth, 'storedBytesAtEnd'> {
  const snapshots = sum(steps.map((step) => step.snapshots));
  const addedBytes = sum(steps.map((step) => step.addedBytes));
  return {
    month,
    snapshots,
    addedBytes,
    addedObjects: sum(steps.map((step) => step.addedObjects)),
    averageSnapshotBytes: snapshots === 0 ? null : addedBytes / snapshots,
    removedSnapshots: sum(steps.map((step) => step.removedSnapshots)),
    removedBytes: sum(steps.map((step) => step.removedBytes)),
  };
}

async function growthRate(
  { repository }: Asking,
  { configurations }: CatalogUsage,
  { now, storedBytes }: { readonly now: Date; readonly storedBytes: number },
): Promise<GrowthRate> {
  const since = daysBefore(now, RATE_DAYS);
  const ids = configurations.map((one) => one.configurationId);
  const steps = await repository.findGrowth(ids, [since.toISOString()]);
  const recent = steps.filter(({ bucket }) => bucket > 0);
  const net = sum(recent.flatMap(({ addedBytes, removedBytes }) => [addedBytes, -removedBytes]));
  const days = daysOf(
    steps.map(({ firstAt }) => firstAt),
    now,
  );
  const bytesPerDay = net / days;
  const before = storedBytes - net;
  return { days, bytesPerDay, per30Days: before > 0 ? (bytesPerDay * 30) / before : null };
}

async function projections(
  asking: Asking,
  { places }: CatalogUsage,
  { now, growth }: { readonly now: Date; readonly growth: readonly PlaceGrowth[] },
): Promise<QuotaProjection[]> {
  const quotas = await usedQuotas(asking, places);
  return quotas.map(({ place, quota }) => {
    const own = growth.filter((one) => one.place === place);
    const net = sum(own.flatMap(({ addedBytes, removedBytes }) => [addedBytes, -removedBytes]));
    const bytesPerDay =
      net /
      daysOf(
        own.map(({ firstAt }) => firstAt),
        now,
      );
    const reachedAt = quotaReachedAt(quota, bytesPerDay, now);
    return { ...quota, bytesPerDay, reachedAt: reachedAt?.toISOString() ?? null };
  });
}

function monthlyCost(
  { context }: Asking,
  { places }: CatalogUsage,
  growth: readonly PlaceGrowth[],
): StorageCost {
  const paid = mergedPlaces(context, places).map(({ place, usage }) => {
    const { description, type, storageClass, bytes, formerBytes } = usage;
    const own = growth.find((one) => one.place === place && one.storageClass === storageClass);
    return { description, type, storageClass, bytes: sum([bytes, formerBytes]), writes: own?.writes ?? 0 };
  });
  return storageCost(
    paid.filter(({ bytes, writes }) => bytes > 0 || writes > 0),
    context.storagePrices,
  );
}

const placeGrowth = (
  { repository }: Asking,
  now: Date,
  configurationId?: UUID,
): Promise<readonly PlaceGrowth[]> =>
  repository.findPlaceGrowth(
    daysBefore(now, RATE_DAYS).toISOString(),
    daysBefore(now, WRITE_DAYS).toISOString(),
    configurationId,
  );

const daysBefore = (now: Date, days: number): Date => new Date(now.getTime() - days * DAY_MS);

/** The days that a rate is taken over: since the first of these instants, one at least, `RATE_DAYS` at most. */
function daysOf(instants: readonly string[], now: Date): number {
  const first = Math.min(...instants.map((instant) => Date.parse(instant)), now.getTime());
  return Math.min(RATE_DAYS, Math.max(1, (now.getTime() - first) / DAY_MS));
}
