/**
 * Picks rows of COPY text by what stands in some of their columns, as their bytes come by: a row is kept when each of
 * the columns holds one of its texts. Rows may begin in one chunk and end in another. Pure.
 */
export class RowFilter {
  readonly #wanted: readonly { readonly column: number; readonly texts: ReadonlySet<string> }[];
  #begun: Buffer | undefined;
  /** Rows that came by, and those that were kept. */
  seen = 0;
  kept = 0;

  /** Columns are counted from 0, in the order of the lines. */
  constructor(wanted: readonly { readonly column: number; readonly texts: readonly string[] }[]) {
    this.#wanted = wanted
      .map(({ column, texts }) => ({
        column,
        texts: new Set(texts.map((text) => Buffer.from(text).toString('latin1'))),
      }))
      .toSorted((a, b) => a.column - b.column);
  }

  /** The rows to keep of those that end in the chunk: parts of it, but for the one that had begun before. */
  *keep(chunk: Buffer): Generator<Buffer> {
    let start = 0;
    if (this.#begun !== undefined) {
      const end = chunk.indexOf(NEWLINE);
      if (end < 0) {
        this.#begun = Buffer.concat([this.#begun, chunk]);
        return;
      }
      const row = Buffer.concat([this.#begun, chunk.subarray(0, end + 1)]);
      this.#begun = undefined;
      start = end + 1;
      if (this.#matches(row, 0, row.length - 1)) yield row;
    }
    for (let end = chunk.indexOf(NEWLINE, start); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      if (this.#matches(chunk, start, end)) yield chunk.subarray(start, end + 1);
      start = end + 1;
    }
    // A copy: the chunk may be reused once it has been looked through.
    if (start < chunk.length) this.#begun = Buffer.from(chunk.subarray(start));
  }

  /** Whether the last byte seen ended a row. */
  get atRowEnd(): boolean {
    return this.#begun === undefined;
  }

  #matches(bytes: Buffer, start: number, end: number): boolean {
    this.seen += 1;
    let at = start;
    let column = 0;
    for (const { column: wanted, texts } of this.#wanted) {
      for (; column < wanted; column += 1) {
        const tab = bytes.indexOf(TAB, at);
        if (tab < 0 || tab > end) return false;
        at = tab + 1;
      }
      const tab = bytes.indexOf(TAB, at);
      if (!texts.has(bytes.toString('latin1', at, tab < 0 || tab > end ? end : tab))) return false;
    }
    this.kept += 1;
    return true;
  }
}

const NEWLINE = 0x0a;
const TAB = 0x09;
