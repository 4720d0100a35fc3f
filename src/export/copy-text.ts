import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import type { LineLayout } from './export.ts';
import type { DecodeText } from './text-encoding.ts';

/** A row: text, or null for NULL. */
export type Row = readonly (string | null)[];

/** Bytes that are made text at once: what is small does not live long. */
const PIECE = 32 * 1024;
/** Longer rows do not fit into a string of this runtime once they are escaped. */
const LONGEST_ROW = 256 * 1024 * 1024;

/**
 * Rows of COPY text, the text format of PostgreSQL's `COPY ... TO` with its default delimiter and NULL, as their bytes come
 * by; rows may begin in one chunk and end in another. It takes what COPY writes and nothing else: another escape, or
 * another number of fields, is `ARCHIVE_CORRUPT`, not a guess. In memory: a chunk, and the row that has begun.
 */
export class CopyTextRows {
  readonly #what: string;
  readonly #layout: LineLayout;
  readonly #decode: DecodeText;
  #begun: Buffer[] = [];
  #begunBytes = 0;

  /** `what` names the rows in errors. */
  constructor(what: string, layout: LineLayout, decode: DecodeText) {
    this.#what = what;
    this.#layout = layout;
    this.#decode = decode;
  }

  /** Whether the last byte seen ended a row. */
  get atRowEnd(): boolean {
    return this.#begunBytes === 0;
  }

  /** The rows that end in the chunk, with the fields that the layout names. Errors: `ARCHIVE_CORRUPT`, `EXPORT_ROW_UNSUPPORTED`. */
  *rows(chunk: Buffer): Generator<Row> {
    const begun = this.#begun.length === 0 ? 0 : chunk.indexOf(NEWLINE) + 1;
    if (begun > 0) {
      const row = Buffer.concat([...this.#begun, chunk.subarray(0, begun)]);
      this.#begun = [];
      this.#begunBytes = 0;
      yield* this.#lines(row);
    }
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    for (let start = begun; start < end; ) {
      const next = chunk.indexOf(NEWLINE, Math.min(start + PIECE, end - 1)) + 1;
      yield* this.#lines(chunk.subarray(start, next));
      start = next;
    }
    this.#begin(chunk.subarray(end));
  }

  *#lines(bytes: Buffer): Generator<Row> {
    const text = this.#text(bytes);
    for (let start = 0; start < text.length; ) {
      const newline = text.indexOf('\n', start);
      yield this.#row(text.slice(start, newline));
      start = newline + 1;
    }
  }

  #begin(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#begunBytes += bytes.length;
    if (this.#begunBytes > LONGEST_ROW) {
      throw new DataProtectionError(
        `A row of ${this.#what} is longer than ${LONGEST_ROW} bytes`,
        'EXPORT_ROW_UNSUPPORTED',
      );
    }
    // A copy: the rest of the chunk need not be kept.
    this.#begun.push(Buffer.from(bytes));
  }

  #text(lines: Buffer): string {
    try {
      return this.#decode(lines);
    } catch {
      throw new DataProtectionError(
        `Rows of ${this.#what} hold bytes that are no text in the database’s encoding`,
        'EXPORT_ROW_UNSUPPORTED',
      );
    }
  }

  #row(line: string): Row {
    const { width, positions } = this.#layout;
    const fields = width === 0 && line === '' ? [] : line.split('\t');
    if (fields.length !== width) {
      throw this.#corrupt(`has a row of ${fields.length} fields instead of ${width}`);
    }
    return positions.map((position) => this.#value(fields[position] ?? ''));
  }

  #value(field: string): string | null {
    if (!field.includes('\\')) return field;
    if (field === '\\N') return null;
    return field.replace(ESCAPE, (_, letter: string) => {
      const character = ESCAPED[letter];
      if (character === undefined) throw this.#corrupt('holds an escape that COPY does not write');
      return character;
    });
  }

  #corrupt(what: string): ArchiveError {
    return new ArchiveError(`The archive of ${this.#what} ${what}`, 'ARCHIVE_CORRUPT');
  }
}

const NEWLINE = 0x0a;
const ESCAPE = /\\(.?)/g;
/** PostgreSQL's documentation, COPY, "Text Format". */
const ESCAPED: Readonly<Record<string, string>> = {
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
};
