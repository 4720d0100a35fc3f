const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/**
 * A number of bytes for people, in powers of 1024: `formatBytes(1536)` is `1.5 KiB`. At most two decimals. Never
 * throws: what is not a finite number of at least 0 gives `unknown`.
 */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes) || bytes < 0) return 'unknown';
  let value = bytes;
  let unit = 0;
  while (round(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${round(value)} ${UNITS[unit]}`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
