/** Milliseconds of a `Retry-After` header: seconds or a date (RFC 9110, 10.2.3). Undefined for none, or what is neither. */
export function retryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}
