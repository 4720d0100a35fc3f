import { createServer } from 'node:net';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import type pg from 'pg';
import type { Connection, Submittable } from 'pg';
import { describe, expect, test } from 'vitest';
import { CopyInterrupted, type CopyResult, copyOut } from '../../src/postgres/copy-out.ts';
import { LendingSocket } from '../../src/postgres/lending-socket.ts';

/** Messages of the protocol: a type, the length of what follows with its own four bytes, a body. */
function message(type: string, body: Buffer | string = ''): Buffer {
  const bytes = Buffer.from(body);
  const head = Buffer.alloc(5);
  head.write(type, 0, 'latin1');
  head.writeUInt32BE(bytes.length + 4, 1);
  return Buffer.concat([head, bytes]);
}

const COPY_OUT_RESPONSE = message('H', Buffer.from([0, 0, 1, 0, 0]));
const row = (text: string | Buffer): Buffer => message('d', text);
const end = (rows: number): Buffer =>
  Buffer.concat([message('c'), message('C', `COPY ${rows}\0`), message('Z', 'I')]);
const copyOf = (rows: readonly (string | Buffer)[]): Buffer =>
  Buffer.concat([COPY_OUT_RESPONSE, ...rows.map(row), end(rows.length)]);

/** What of pg's client `copyOut` deals with, over a socket that the test feeds. */
class FakeClient {
  readonly stream: Readable;
  /** What reached pg's own parser. */
  readonly passedOn: string[] = [];
  #query: (Submittable & Handlers) | undefined;
  #rest = Buffer.alloc(0);

  constructor(stream = new Readable({ read: () => undefined })) {
    this.stream = stream;
    this.stream.on('data', (chunk: Buffer) => this.#parse(chunk));
    this.stream.on('error', () => undefined);
    this.stream.on('close', () => this.#query?.handleError(new Error('Connection terminated')));
  }

  query(query: Submittable & Handlers): void {
    this.#query = query;
    query.submit({ stream: this.stream, query: () => undefined } as unknown as Connection);
  }

  #parse(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 5 && this.#rest.length > this.#rest.readUInt32BE(1)) {
      const length = 1 + this.#rest.readUInt32BE(1);
      const body = this.#rest.subarray(5, length);
      const type = this.#rest.toString('latin1', 0, 1);
      this.#rest = this.#rest.subarray(length);
      this.passedOn.push(type);
      if (type === 'E')
        this.#query?.handleError(Object.assign(new Error('from the server'), { code: 'XX001' }));
      if (type === 'C')
        this.#query?.handleCommandComplete({ text: body.toString('utf8', 0, body.length - 1) });
      if (type === 'Z') this.#query?.handleReadyForQuery();
    }
  }
}

interface Handlers {
  handleError(error: unknown): void;
  handleCommandComplete(message: { text?: string }): void;
  handleReadyForQuery(): void;
}

interface Kept {
  readonly text: string;
  readonly rows: number;
  readonly continues: boolean;
}

interface Run {
  readonly client: FakeClient;
  readonly segments: Kept[];
  readonly result: Promise<CopyResult>;
  /** Buffers that are with the reader. */
  readonly out: () => number;
}

function start(
  bufferSize: number | ((nth: number) => number),
  wait?: (nth: number) => Promise<void>,
  client = new FakeClient(),
): Run {
  const segments: Kept[] = [];
  let given = 0;
  let out = 0;
  const result = copyOut(client as unknown as pg.Client, 'COPY', {
    async acquire() {
      await wait?.(given);
      out += 1;
      given += 1;
      return Buffer.alloc(typeof bufferSize === 'number' ? bufferSize : bufferSize(given));
    },
    release(buffer) {
      out -= 1;
      buffer.fill(0xee);
    },
    add({ buffer, length, rows, continues }) {
      out -= 1;
      segments.push({ text: buffer.toString('latin1', 0, length), rows, continues });
      buffer.fill(0xee);
    },
  });
  result.catch(() => undefined);
  return { client, segments, result, out: () => out };
}

function feed(client: FakeClient, stream: Buffer, cuts: readonly number[]): void {
  const at = [...new Set(cuts.map((cut) => cut % stream.length))].sort((a, b) => a - b);
  const from = [0, ...at];
  for (const [i, begin] of from.entries()) {
    const chunk = stream.subarray(begin, from[i + 1] ?? stream.length);
    if (chunk.length > 0) client.stream.push(Buffer.from(chunk));
  }
}

/** The rule of the segments, on the whole text: at the last row end that fits, else where the buffer is full. */
function cut(rows: readonly string[], bufferSize: number): Kept[] {
  const text = rows.join('');
  const segments: Kept[] = [];
  let continues = false;
  for (let at = 0; at < text.length; ) {
    const window = text.slice(at, at + bufferSize);
    const last = at + window.length === text.length;
    const length = last ? window.length : window.lastIndexOf('\n') + 1 || window.length;
    const piece = text.slice(at, at + length);
    segments.push({ text: piece, rows: piece.split('\n').length - 1, continues });
    continues = !piece.endsWith('\n');
    at += length;
  }
  return segments;
}

describe('copyOut', () => {
  test('cuts at the last row end that fits', async () => {
    const { client, segments, result, out } = start(10);
    feed(client, copyOf(['1234\n', '6789\n', 'b\n']), []);
    expect(await result).toEqual({ rows: 3, bytes: 12 });
    expect(segments).toEqual([
      { text: '1234\n6789\n', rows: 2, continues: false },
      { text: 'b\n', rows: 1, continues: false },
    ]);
    expect(out()).toBe(0);
  });

  test('lets a row larger than a buffer span several, the tail with the rows behind it', async () => {
    const { client, segments, result } = start(4);
    feed(client, copyOf(['a\n', '123456789\n', 'b\n', 'c\n']), []);
    expect(await result).toEqual({ rows: 4, bytes: 16 });
    expect(segments.map(({ text, continues, rows }) => [text, continues, rows])).toEqual([
      ['a\n', false, 1],
      ['1234', false, 0],
      ['5678', true, 0],
      ['9\nb\n', true, 2],
      ['c\n', false, 1],
    ]);
  });

  test('gives no segment for no rows, and one for rows without columns', async () => {
    const none = start(64);
    feed(none.client, copyOf([]), []);
    expect(await none.result).toEqual({ rows: 0, bytes: 0 });
    expect([none.segments, none.out()]).toEqual([[], 0]);
    const empty = start(2);
    feed(empty.client, copyOf(['\n', '\n', '\n']), []);
    expect(await empty.result).toEqual({ rows: 3, bytes: 3 });
    expect(empty.segments.map(({ text }) => text)).toEqual(['\n\n', '\n']);
  });

  test('gives the same whatever the chunks, byte by byte too', async () => {
    const rows = ['a\tb\n', '', '\n', `${'x'.repeat(70)}\n`, 'y\n'].filter((text) => text !== '');
    const stream = copyOf(rows);
    for (const size of [1, 2, 3, 5, 7, 64, 71, 72, 1000]) {
      const { client, segments, result } = start(size);
      feed(
        client,
        stream,
        Array.from({ length: stream.length }, (_, i) => i),
      );
      await result;
      expect(segments, `buffers of ${size}`).toEqual(cut(rows, size));
    }
  });

  test('any chunks, any buffers, any other messages between the rows (property)', async () => {
    const others = fc.constantFrom(
      message('N', 'SNOTICE\0Mhello\0\0'),
      message('S', 'TimeZone\0UTC\0'),
      message('A', Buffer.from([0, 0, 0, 1, 65, 0, 0])),
      message('N'),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.string({ maxLength: 40 }).map((text) => `${text.replaceAll(/[^ -~]|\n/g, '?')}\n`),
            fc.option(others),
          ),
          { maxLength: 30 },
        ),
        fc.integer({ min: 1, max: 100 }),
        fc.array(fc.nat(), { maxLength: 60 }),
        fc.infiniteStream(fc.boolean()),
        async (rows, size, cuts, waits) => {
          const stream = Buffer.concat([
            COPY_OUT_RESPONSE,
            ...rows.flatMap(([text, other]) => (other === null ? [row(text)] : [row(text), other])),
            end(rows.length),
          ]);
          const { client, segments, result, out } = start(size, async () => {
            if (waits.next().value) await new Promise((resolve) => setImmediate(resolve));
          });
          feed(client, stream, cuts);
          const texts = rows.map(([text]) => text);
          expect(await result).toEqual({ rows: rows.length, bytes: texts.join('').length });
          expect(segments).toEqual(cut(texts, size));
          expect(out()).toBe(0);
          expect(client.passedOn).toEqual(['C', 'Z']);
          client.stream.destroy();
        },
      ),
      { numRuns: process.env.CARE_SOAK === '1' ? 20_000 : 300 },
    );
  });

  test('waits for a buffer without reading on', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { client, segments, result } = start(4, (nth) => (nth === 1 ? promise : Promise.resolve()));
    feed(client, copyOf(['abc\n', 'def\n', 'ghi\n']), [20]);
    await new Promise((done) => setTimeout(done, 20));
    expect(client.stream.isPaused()).toBe(true);
    expect(segments).toEqual([]);
    resolve();
    expect(await result).toEqual({ rows: 3, bytes: 12 });
  });

  test('rejects with the server’s error and the rows before it; the rest goes to pg', async () => {
    for (let at = 1; at < 12; at += 1) {
      const { client, result, out } = start(8);
      const stream = Buffer.concat([
        COPY_OUT_RESPONSE,
        row('abc\n'),
        row('def\n'),
        row('ghi\n'),
        message('E', 'SERROR\0CXX001\0\0'),
        message('Z', 'E'),
      ]);
      feed(client, stream, [stream.length - at, stream.length - at - 7]);
      const error = await result.catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(CopyInterrupted);
      expect(error).toMatchObject({ rowsRead: 3, by: 'SERVER', cause: { code: 'XX001' } });
      expect([client.passedOn, out()]).toEqual([['E', 'Z'], 0]);
    }
  });

  test('rejects when the server’s count differs from the rows that came', async () => {
    for (const announced of [2, 4]) {
      const { client, result } = start(8);
      feed(
        client,
        Buffer.concat([COPY_OUT_RESPONSE, row('abc\n'), row('def\n'), row('ghi\n'), end(announced)]),
        [],
      );
      await expect(result).rejects.toMatchObject({ cause: { code: 'DATABASE_FAILED' } });
    }
  });

  test('rejects when the connection ends, be it before, between or inside the rows', async () => {
    const stream = copyOf(['abc\n', 'def\n', 'ghi\n']);
    for (let length = 0; length < stream.length; length += 1) {
      const { client, result, out } = start(8);
      if (length > 0) client.stream.push(stream.subarray(0, length));
      client.stream.push(null);
      const error = await result.catch((reason: unknown) => reason);
      expect(error, `after ${length} bytes`).toMatchObject({ by: 'SERVER' });
      expect(out()).toBe(0);
    }
  });

  test('rejects with the sink’s error and cuts the connection, wherever the sink fails', async () => {
    const broken = new Error('the disk is full');
    for (const failing of ['acquire', 'add'] as const) {
      for (const nth of [1, 2]) {
        const client = new FakeClient();
        let calls = 0;
        let out = 0;
        const fail = (where: string): void => {
          if (where === failing && ++calls === nth) throw broken;
        };
        const result = copyOut(client as unknown as pg.Client, 'COPY', {
          async acquire() {
            fail('acquire');
            out += 1;
            return Buffer.alloc(4);
          },
          release: () => {
            out -= 1;
          },
          add() {
            out -= 1;
            fail('add');
          },
        });
        feed(client, copyOf(['abc\n', 'def\n', 'ghi\n', 'jkl\n']), [30]);
        await expect(result).rejects.toMatchObject({ by: 'SINK', cause: broken });
        expect(client.stream.destroyed).toBe(true);
        expect(out).toBe(0);
      }
    }
  });

  test('rejects rather than lose bytes when a buffer has no room for the row that is under way', async () => {
    const smaller = start((nth) => (nth === 1 ? 10 : 3));
    feed(smaller.client, copyOf(['abcd\n', 'efghij\n']), []);
    await expect(smaller.result).rejects.toMatchObject({ by: 'SINK', cause: { code: 'INTERNAL' } });
    const none = start(0);
    feed(none.client, copyOf(['abcd\n']), []);
    await expect(none.result).rejects.toMatchObject({ cause: { code: 'INTERNAL' } });
    expect(none.out()).toBe(0);
  });

  test('gives back a buffer that comes after the connection ended', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { client, result, out } = start(4, () => promise);
    feed(client, copyOf(['abc\n']), []);
    await new Promise((done) => setImmediate(done));
    client.stream.destroy();
    await expect(result).rejects.toMatchObject({ by: 'SERVER' });
    resolve();
    await new Promise((done) => setImmediate(done));
    expect(out()).toBe(0);
  });

  test('over a socket that lends its buffer: nothing is overwritten while a buffer is awaited', async () => {
    const rows = Array.from({ length: 4000 }, (_, n) => `${n}\t${String(n % 10).repeat((n * 37) % 400)}\n`);
    const server = createServer((peer) => {
      peer.on('error', () => undefined);
      const stream = copyOf(rows);
      for (let at = 0; at < stream.length; at += 9001) peer.write(stream.subarray(at, at + 9001));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const socket = new LendingSocket();
    const slow = async (nth: number): Promise<void> => {
      if (nth % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    };
    const run = start(5000, slow, new FakeClient(socket));
    socket.connect(port, '127.0.0.1');
    expect(await run.result).toEqual({ rows: rows.length, bytes: rows.join('').length });
    expect(run.segments).toEqual(cut(rows, 5000));
    expect(run.client.passedOn).toEqual(['C', 'Z']);
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
});
