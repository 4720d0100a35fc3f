/**
 * The time zone that an IANA name stands for, in this runtime's spelling, so that two names of one zone compare equal
 * where the runtime knows that they are. Undefined when there is no such zone; UTC offsets such as `+05:00` are none.
 */
export function canonicalTimeZone(name: string): string | undefined {
  if (!/^[A-Za-z]/.test(name)) return undefined;
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone;
  } catch {
    return undefined;
  }
}
