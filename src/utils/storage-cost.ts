import type { PlaceCost, StorageCost, StoragePrice, StoragePrices } from '../types/usage.ts';

/** SI, IEC 80000-13: what `perGbMonth` is asked for. */
const BYTES_PER_GB = 1_000_000_000;
const DEFAULT_CURRENCY = 'USD';
const DAY_MS = 86_400_000;
/** A quota that is reached later than that is not reached. */
const FARTHEST_MS = 100 * 365.25 * DAY_MS;

/** What is paid for in a month. */
type Priceable = Pick<PlaceCost, 'description' | 'type' | 'storageClass' | 'bytes' | 'writes'>;

/** The price of a place: its storage class's, else its type's. Undefined: nobody has set one. */
export function priceOf(
  { type, storageClass }: Pick<Priceable, 'type' | 'storageClass'>,
  prices: StoragePrices,
): StoragePrice | undefined {
  for (const name of [storageClass, type])
    if (name !== null && Object.hasOwn(prices, name)) return prices[name];
  return undefined;
}

/**
 * What places cost in a month: `bytes` ÷ 10^9 × `perGbMonth`, and `writes` ÷ 1000 × `perThousandWrites`. Not rounded.
 * Sums are kept by currency. A place without a price is named in `unpriced` and stands in no sum.
 */
export function storageCost(places: readonly Priceable[], prices: StoragePrices): StorageCost {
  const priced: PlaceCost[] = [];
  const unpriced: Priceable[] = [];
  const perMonth = new Map<string, number>();
  for (const place of places) {
    const price = priceOf(place, prices);
    if (price === undefined) {
      unpriced.push(place);
      continue;
    }
    const currency = price.currency ?? DEFAULT_CURRENCY;
    const storage = (place.bytes / BYTES_PER_GB) * price.perGbMonth;
    const writes = (place.writes / 1000) * (price.perThousandWrites ?? 0);
    const cost = storage + writes;
    priced.push({ ...place, price, currency, storageCost: storage, writesCost: writes, cost });
    perMonth.set(currency, (perMonth.get(currency) ?? 0) + cost);
  }
  return { perMonth: Object.fromEntries(perMonth), places: priced, unpriced };
}

/**
 * When a quota will be used up at a rate; `now` where it is already. null: never, since it does not grow, or not within a
 * hundred years.
 */
export function quotaReachedAt(
  quota: { readonly quotaBytes: number; readonly usedBytes: number },
  bytesPerDay: number,
  now: Date,
): Date | null {
  const left = quota.quotaBytes - quota.usedBytes;
  if (left <= 0) return now;
  if (!(bytesPerDay > 0)) return null;
  const ms = (left / bytesPerDay) * DAY_MS;
  return ms > FARTHEST_MS ? null : new Date(now.getTime() + Math.ceil(ms));
}
