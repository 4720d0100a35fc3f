import type pg from 'pg';
import type { Connection, Submittable } from 'pg';
import { DataProtectionError } from '../types/errors.ts';
import { LendingSocket } from './lending-socket.ts';

/** Where `copyOut` puts what it reads: buffers of its own choosing, filled and handed over one by one. */
export interface CopySink {
  /**
   * A buffer to fill, of any size but 0. The stream is paused until the promise resolves: this is the back-pressure.
   */
  acquire(): Promise<Buffer>;
  /** Gives back a buffer that was not used. */
  release(buffer: Buffer): void;
  /** Takes `buffer` over. It holds whole rows, but for a row larger than a buffer, which spans several. */
  add(segment: CopySegment): void;
}

export interface CopySegment {
  readonly buffer: Buffer;
  /** Bytes used. */
  readonly length: number;
  /** Rows that end in it. */
  readonly rows: number;
  /** Whether it begins inside a row that the segment before it began. */
  readonly continues: boolean;
}

export interface CopyResult {
  readonly rows: number;
  readonly bytes: number;
}

const MESSAGE_HEADER = 5;
const COPY_DATA = 0x64;
const COPY_DONE = 0x63;
const ERROR_RESPONSE = 0x45;
/** CopyOutResponse, ParameterStatus, NoticeResponse and NotificationResponse may stand between the rows. */
const PASSED_OVER = new Set([0x48, 0x53, 0x4e, 0x41]);

/**
 * Runs `COPY ... TO STDOUT (FORMAT text)` and cuts the rows into the sink's buffers at the last row end that fits.
 * The server sends one CopyData message a row (PostgreSQL documentation, "COPY Operations"); their number is compared
 * with the command's own count. Bytes are copied once, from the socket's chunk into the buffer.
 *
 * Rejects with `CopyInterrupted`, whose cause is the server's error or the sink's.
 */
export async function copyOut(client: pg.Client, sql: string, sink: CopySink): Promise<CopyResult> {
  const query = new CopyOutQuery(sql, sink);
  client.query(query);
  return query.done;
}

/** A COPY that ended in an error, with how many rows came before it and who failed. */
export class CopyInterrupted extends Error {
  readonly rowsRead: number;
  readonly by: 'SERVER' | 'SINK';

  constructor(rowsRead: number, by: 'SERVER' | 'SINK', cause: unknown) {
    super(`COPY ended after ${rowsRead} rows`, { cause });
    this.name = 'CopyInterrupted';
    this.rowsRead = rowsRead;
    this.by = by;
  }
}

type DataHandler = (chunk: Buffer) => void;

class CopyOutQuery implements Submittable {
  readonly done: Promise<CopyResult>;
  readonly #sql: string;
  readonly #sink: CopySink;
  readonly #resolve: (result: CopyResult) => void;
  readonly #reject: (error: unknown) => void;
  #connection: Connection | undefined;
  #parserOfPg: DataHandler | undefined;

  /** The buffer being filled, its fill and the end of its last whole row. */
  #buffer: Buffer | undefined;
  #filled = 0;
  #rowEnd = 0;
  #rowsInBuffer = 0;
  #continues = false;

  /** Message under way: bytes of its header seen, then bytes of its body to come. */
  readonly #header = Buffer.alloc(MESSAGE_HEADER);
  #headerSeen = 0;
  #type = 0;
  #remaining = 0;

  #rows = 0;
  #bytes = 0;
  #commandRows: number | undefined;
  #settled = false;

  constructor(sql: string, sink: CopySink) {
    this.#sql = sql;
    this.#sink = sink;
    const { promise, resolve, reject } = Promise.withResolvers<CopyResult>();
    this.done = promise;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  submit(connection: Connection): void {
    this.#connection = connection;
    const listeners = connection.stream.listeners('data');
    const [handler] = listeners;
    if (listeners.length !== 1 || handler === undefined) {
      throw new DataProtectionError('The PostgreSQL connection is used by something else', 'INTERNAL');
    }
    this.#parserOfPg = handler as DataHandler;
    connection.stream.removeListener('data', this.#parserOfPg);
    connection.stream.on('data', this.#onData);
    this.#lend(true);
    connection.query(this.#sql);
  }

  handleError(error: unknown): void {
    this.#detach(undefined);
    this.#fail('SERVER', error);
  }

  handleCommandComplete(message: { text?: string }): void {
    this.#commandRows = Number(/^COPY (\d+)$/.exec(message.text ?? '')?.[1]);
  }

  handleReadyForQuery(): void {
    if (this.#commandRows === this.#rows) {
      this.#settle(() => this.#resolve({ rows: this.#rows, bytes: this.#bytes }));
      return;
    }
    const text = `COPY announced ${this.#commandRows} rows and sent ${this.#rows}`;
    this.#fail('SERVER', new DataProtectionError(text, 'DATABASE_FAILED'));
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#parse(chunk, 0).catch((error: unknown) => {
      // The sink failed: the rest of the stream is of no use, and the session cannot be used again.
      this.#fail('SINK', error);
      this.#connection?.stream.destroy();
    });
  };

  /** Synchronous while the buffer has room; where it has to wait for another, the socket is paused meanwhile. */
  async #parse(chunk: Buffer, start: number): Promise<void> {
    let at = start;
    while (at < chunk.length) {
      if (this.#remaining === 0) {
        at = this.#readHeader(chunk, at);
        if (this.#headerSeen < MESSAGE_HEADER) return;
        if (
          this.#type === ERROR_RESPONSE ||
          !(this.#type === COPY_DATA || PASSED_OVER.has(this.#type) || this.#type === COPY_DONE)
        ) {
          this.#detach(Buffer.concat([this.#header, chunk.subarray(at)]));
          return;
        }
        if (this.#type === COPY_DONE) {
          this.#finishBuffer();
          this.#detach(chunk.subarray(at));
          return;
        }
        if (this.#remaining === 0) this.#endMessage();
        continue;
      }
      const available = Math.min(this.#remaining, chunk.length - at);
      if (this.#type !== COPY_DATA) {
        at += available;
        this.#remaining -= available;
        if (this.#remaining === 0) this.#headerSeen = 0;
        continue;
      }
      if (this.#buffer === undefined || this.#filled === this.#buffer.length) {
        const stream = this.#connection?.stream;
        stream?.pause();
        await this.#nextBuffer();
        if (this.#settled) return;
        stream?.resume();
        continue;
      }
      const n = Math.min(available, this.#buffer.length - this.#filled);
      chunk.copy(this.#buffer, this.#filled, at, at + n);
      this.#filled += n;
      at += n;
      this.#remaining -= n;
      if (this.#remaining === 0) this.#endMessage();
    }
  }

  #readHeader(chunk: Buffer, start: number): number {
    const n = Math.min(MESSAGE_HEADER - this.#headerSeen, chunk.length - start);
    chunk.copy(this.#header, this.#headerSeen, start, start + n);
    this.#headerSeen += n;
    if (this.#headerSeen === MESSAGE_HEADER) {
      this.#type = this.#header.readUInt8(0);
      this.#remaining = this.#header.readUInt32BE(1) - 4;
    }
    return start + n;
  }

  #endMessage(): void {
    this.#headerSeen = 0;
    if (this.#type !== COPY_DATA) return;
    this.#rowEnd = this.#filled;
    this.#rows += 1;
    this.#rowsInBuffer += 1;
  }

  /** Hands over what is full up to its last row end and moves the begun row into a fresh buffer. */
  async #nextBuffer(): Promise<void> {
    const next = await this.#sink.acquire();
    if (this.#settled) {
      this.#sink.release(next);
      return;
    }
    const full = this.#buffer;
    const length = this.#rowEnd === 0 ? this.#filled : this.#rowEnd;
    const begun = this.#filled - length;
    if (next.length <= begun) {
      this.#sink.release(next);
      throw new DataProtectionError(`A buffer of ${next.length} bytes has no room for rows`, 'INTERNAL');
    }
    full?.copy(next, 0, length, this.#filled);
    const endsInRow = this.#rowEnd === 0;
    this.#buffer = next;
    this.#filled = begun;
    this.#rowEnd = 0;
    if (full !== undefined) this.#handOver(full, length, endsInRow);
  }

  #finishBuffer(): void {
    const last = this.#buffer;
    this.#buffer = undefined;
    if (last === undefined) return;
    if (this.#filled === 0) this.#sink.release(last);
    else this.#handOver(last, this.#filled, false);
  }

  #handOver(buffer: Buffer, length: number, endsInRow: boolean): void {
    this.#bytes += length;
    this.#sink.add({ buffer, length, rows: this.#rowsInBuffer, continues: this.#continues });
    this.#rowsInBuffer = 0;
    this.#continues = endsInRow;
  }

  /** Gives the connection back to pg, with the bytes that are not rows. */
  #detach(rest: Buffer | undefined): void {
    const connection = this.#connection;
    const parserOfPg = this.#parserOfPg;
    if (connection === undefined || parserOfPg === undefined) return;
    this.#parserOfPg = undefined;
    connection.stream.removeListener('data', this.#onData);
    connection.stream.on('data', parserOfPg);
    this.#lend(false);
    // pg keeps what it has not parsed: it gets bytes of its own.
    if (rest !== undefined && rest.length > 0) parserOfPg(Buffer.from(rest));
    connection.stream.resume();
  }

  #lend(lends: boolean): void {
    const stream = this.#connection?.stream;
    if (stream instanceof LendingSocket) stream.lends = lends;
  }

  #fail(by: 'SERVER' | 'SINK', error: unknown): void {
    this.#settle(() => this.#reject(new CopyInterrupted(this.#rows, by, error)));
  }

  #settle(end: () => void): void {
    if (this.#settled) return;
    this.#settled = true;
    if (this.#buffer !== undefined) this.#sink.release(this.#buffer);
    this.#buffer = undefined;
    end();
  }
}
