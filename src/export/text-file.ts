import type { Row } from './copy-text.ts';
import type { ExportChunk } from './export.ts';
import type { ExportFile } from './file.ts';

/** UTF-16 units of a chunk, before the line that makes it full. */
const CHUNK = 128 * 1024;

/** A file of lines in UTF-8. */
export class TextFile implements ExportFile {
  readonly #line: (row: Row) => string;
  #text: string;
  #rows = 0;

  constructor(header: string, line: (row: Row) => string) {
    this.#text = header;
    this.#line = line;
  }

  add(row: Row): ExportChunk | undefined {
    this.#text += this.#line(row);
    this.#rows += 1;
    return this.#text.length < CHUNK ? undefined : this.end();
  }

  end(): ExportChunk {
    const chunk = { bytes: Buffer.from(this.#text), rows: this.#rows };
    this.#text = '';
    this.#rows = 0;
    return chunk;
  }
}
