import type { Duplex } from 'node:stream';
import type pg from 'pg';
import type { Connection, Submittable } from 'pg';
import { DataProtectionError } from '../types/errors.ts';

/**
 * Runs `COPY ... FROM STDIN` with the bytes of `chunks` and resolves with the number of rows that the server says it
 * took. Chunks go to the socket as they are, in CopyData messages of at most 64 KiB; a further one is asked for while
 * the socket takes the last, so two are in memory beside what `chunks` itself holds.
 *
 * Rejects with the server's error, or with that of `chunks`, in which case the server has undone the COPY.
 * A chunk must not be changed after it was given.
 */
export async function copyIn(client: pg.Client, sql: string, chunks: AsyncIterable<Buffer>): Promise<number> {
  const query = new CopyInQuery(sql, chunks);
  client.query(query);
  return query.done;
}

/** The server gathers a whole message before it parses it. Between 16 KiB and 4 MiB the size makes no difference to it. */
const FRAME = 64 * 1024;
const HEADER = 5;
const COPY_DATA = 0x64;
const COPY_DONE = Buffer.from([0x63, 0, 0, 0, 4]);
/** CopyFail with an empty reason. */
const COPY_FAIL = Buffer.from([0x66, 0, 0, 0, 5, 0]);

class CopyInQuery implements Submittable {
  readonly done: Promise<number>;
  readonly #sql: string;
  readonly #chunks: AsyncIterable<Buffer>;
  readonly #resolve: (rows: number) => void;
  readonly #reject: (error: unknown) => void;
  #stream: Duplex | undefined;
  #rows: number | undefined;
  #failure: unknown;
  /** The server has answered with an error, or the connection is gone: nothing more is sent. */
  #over = false;
  #wake: (() => void) | undefined;

  constructor(sql: string, chunks: AsyncIterable<Buffer>) {
    this.#sql = sql;
    this.#chunks = chunks;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.done = promise;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  submit(connection: Connection): void {
    this.#stream = connection.stream;
    connection.query(this.#sql);
  }

  handleCopyInResponse(): void {
    this.#send().catch((error: unknown) => {
      this.#failure = error;
      if (!this.#over) this.#stream?.write(COPY_FAIL);
    });
  }

  handleError(error: unknown): void {
    this.#over = true;
    this.#reject(this.#failure ?? error);
    this.#wake?.();
  }

  handleCommandComplete(message: { text?: string }): void {
    this.#rows = Number(/^COPY (\d+)$/.exec(message.text ?? '')?.[1]);
  }

  handleReadyForQuery(): void {
    this.#over = true;
    if (this.#rows !== undefined && Number.isSafeInteger(this.#rows)) this.#resolve(this.#rows);
    else this.#reject(new DataProtectionError('COPY did not say how many rows it took', 'DATABASE_FAILED'));
  }

  async #send(): Promise<void> {
    const chunks = this.#chunks[Symbol.asyncIterator]();
    let next = chunks.next();
    for (;;) {
      const { done, value } = await next;
      if (this.#over) break;
      if (done === true) {
        this.#stream?.write(COPY_DONE);
        return;
      }
      const goesOn = this.#write(value);
      // The next chunk is made while the socket sends this one.
      next = chunks.next();
      next.catch(() => undefined);
      if (!goesOn) await this.#drained();
    }
    await chunks.return?.();
  }

  /** Whether the socket takes more at once. */
  #write(chunk: Buffer): boolean {
    const stream = this.#stream;
    if (stream === undefined || stream.destroyed) return true;
    const frames = Math.ceil(chunk.length / FRAME);
    const headers = Buffer.allocUnsafe(frames * HEADER);
    let more = true;
    stream.cork();
    for (let i = 0; i < frames; i += 1) {
      const data = chunk.subarray(i * FRAME, (i + 1) * FRAME);
      headers.writeUInt8(COPY_DATA, i * HEADER);
      headers.writeUInt32BE(data.length + 4, i * HEADER + 1);
      stream.write(headers.subarray(i * HEADER, (i + 1) * HEADER));
      more = stream.write(data);
    }
    stream.uncork();
    return more;
  }

  /** Resolves when the socket has taken everything, or the query has ended. */
  #drained(): Promise<void> {
    const stream = this.#stream;
    if (stream === undefined || stream.destroyed || this.#over) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wake = () => {
        stream.off('drain', wake);
        this.#wake = undefined;
        resolve();
      };
      const wake = this.#wake;
      stream.once('drain', wake);
    });
  }
}
