/** A UUID in its canonical lower-case text form. Ids made by the library are UUIDv7. */
export type UUID = string;

/** An instant: ISO 8601 in UTC (`2026-01-31T02:00:00.000Z`) on the way out; ISO 8601 or `Date` on the way in. */
export type Timestamp = string;

/** A JSON value, as stored in `jsonb` columns and manifests. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
