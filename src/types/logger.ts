import type { Json } from './ids.ts';

/**
 * The logger that the library writes to; pino and console fit. The library never logs a row, a key,
 * a credential or a connection string: only ids, names of tables, counts, sizes, durations and codes.
 */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

export type LogFields = Readonly<Record<string, Json | undefined>>;
