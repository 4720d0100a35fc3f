import type { Attributes, FileEntryWithStats, SFTPWrapper, Stats } from 'ssh2';
import { clampRange } from './byte-range.ts';
import { isStatus, SFTP_STATUS, SftpConnectionLost, SftpShortRead, statusOf } from './sftp-errors.ts';
import type { ByteRange } from './storage.ts';

/** Every SFTP server takes requests of this size (draft-ietf-secsh-filexfer-02, 3). */
const CHUNK_BYTES = 32 * 1024;

/** Requests in flight for one object: 2 MiB, which is also the window that OpenSSH gives. */
const REQUESTS_IN_FLIGHT = 64;

/** How long what must be answered (a publishing, a removal) is waited for after an abort; then the line is cut. */
const SETTLE_MS = 5_000;

/** BAD_MESSAGE is how OpenSSH says EINVAL, which file systems answer that sync no folders. */
const CANNOT_SYNC_FOLDERS = [
  SFTP_STATUS.OP_UNSUPPORTED,
  SFTP_STATUS.PERMISSION_DENIED,
  SFTP_STATUS.BAD_MESSAGE,
] as const;

type Done<T> = (error: Error | null | undefined, answer: T) => void;
type DoneEmpty = (error?: Error | null) => void;

/** What a put needs beyond the protocol. */
export type SftpExtension = 'fsync@openssh.com' | 'hardlink@openssh.com';

/**
 * One SFTP channel with promises. A request is over when the server answers, when the connection is lost
 * (`SftpConnectionLost`) or when its signal aborts (the signal's reason; the answer is then dropped).
 */
export class SftpSession {
  readonly #sftp: SFTPWrapper;
  readonly #drop: () => void;
  readonly #pending = new Set<(error: SftpConnectionLost) => void>();
  #lost: SftpConnectionLost | undefined;
  #answers = 0;
  #watch: NodeJS.Timeout | undefined;
  #missing: Promise<SftpExtension | undefined> | undefined;

  /** `drop` cuts the connection. */
  constructor(sftp: SFTPWrapper, drop: () => void) {
    this.#sftp = sftp;
    this.#drop = drop;
  }

  /** Fails what is waiting and all that is asked later. */
  lose(error: SftpConnectionLost): void {
    this.#lost ??= error;
    for (const fail of [...this.#pending]) fail(this.#lost);
  }

  lstat(path: string, signal?: AbortSignal): Promise<Stats | undefined> {
    return this.#found(this.#request<Stats>((done) => this.#sftp.lstat(path, done), signal));
  }

  stat(path: string, signal?: AbortSignal): Promise<Stats | undefined> {
    return this.#found(this.#request<Stats>((done) => this.#sftp.stat(path, done), signal));
  }

  /** The entries with their own attributes (links are not followed), or undefined when there is no such folder. */
  readdir(path: string, signal?: AbortSignal): Promise<readonly FileEntryWithStats[] | undefined> {
    return this.#found(this.#request<FileEntryWithStats[]>((done) => this.#sftp.readdir(path, done), signal));
  }

  mkdir(path: string, mode: number, signal?: AbortSignal): Promise<void> {
    const attributes: Partial<Attributes> = { mode };
    return this.#command((done) => this.#sftp.mkdir(path, attributes, done), signal);
  }

  /** Not ended by the signal before the server has answered, unless that takes more than 5 s. */
  link(from: string, to: string, signal?: AbortSignal): Promise<void> {
    return this.#settled((done) => this.#sftp.ext_openssh_hardlink(from, to, done), signal);
  }

  /** Like `link`, it waits for the answer. */
  unlink(path: string, signal?: AbortSignal): Promise<void> {
    return this.#settled((done) => this.#sftp.unlink(path, done), signal);
  }

  /** Like `link`, it waits for the answer. */
  rmdir(path: string, signal?: AbortSignal): Promise<void> {
    return this.#settled((done) => this.#sftp.rmdir(path, done), signal);
  }

  /** Bytes and files that may still be stored, or undefined where the server does not tell. */
  async freeSpace(path: string): Promise<{ bytes: number; files: number } | undefined> {
    const info = await this.#request<unknown>((done) => this.#sftp.ext_openssh_statvfs(path, done));
    if (typeof info !== 'object' || info === null) return undefined;
    const { f_bavail, f_frsize, f_files, f_favail } = Object.fromEntries(Object.entries(info));
    // File systems without a fixed number of files say 0 of 0.
    const files = Number(f_files) === 0 ? Number.POSITIVE_INFINITY : Number(f_favail);
    return { bytes: Number(f_bavail) * Number(f_frsize), files };
  }

  /** The extension that the server lacks. Asked once, with requests that can change nothing. */
  missingExtension(signal?: AbortSignal): Promise<SftpExtension | undefined> {
    this.#missing ??= this.#findMissing().catch((error) => {
      this.#missing = undefined;
      throw error;
    });
    return unlessAborted(this.#missing, signal);
  }

  /** A new file with these bytes, on the disk when it resolves. Fails when there is one of that name. */
  async writeFile(
    path: string,
    body: readonly Uint8Array[],
    mode: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const handle = await this.#open(path, 'wx', mode, signal);
    try {
      await this.#writeAll(handle, body, signal);
      await this.#command((done) => this.#sftp.ext_openssh_fsync(handle, done), signal);
    } catch (error) {
      await this.#close(handle, signal).catch(() => undefined);
      throw error;
    }
    await this.#close(handle, signal);
  }

  /** The bytes of a range of a file, several requests at a time. `SftpShortRead` when the file ends early. */
  async readFile(path: string, range: ByteRange | undefined, signal?: AbortSignal): Promise<Uint8Array> {
    const handle = await this.#open(path, 'r', 0, signal);
    try {
      const { size } = await this.#request<Stats>((done) => this.#sftp.fstat(handle, done), signal);
      return await this.#readAll(handle, clampRange(range, size), signal);
    } finally {
      await this.#close(handle, signal).catch(() => undefined);
    }
  }

  /** Makes the names in a folder durable, where the server opens folders like files and can sync them (OpenSSH does). */
  async syncFolder(path: string): Promise<void> {
    if ((await this.missingExtension()) === 'fsync@openssh.com') return;
    const handle = await this.#openFolder(path);
    if (handle === undefined) return;
    try {
      await this.#command((done) => this.#sftp.ext_openssh_fsync(handle, done));
    } catch (error) {
      if (!isStatus(error, ...CANNOT_SYNC_FOLDERS)) throw error;
    } finally {
      await this.#close(handle).catch(() => undefined);
    }
  }

  async #openFolder(path: string): Promise<Buffer | undefined> {
    try {
      return await this.#open(path, 'r', 0);
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      return undefined;
    }
  }

  async #writeAll(handle: Buffer, body: readonly Uint8Array[], signal?: AbortSignal): Promise<void> {
    const chunks = chunksOf(body);
    await inParallel(async () => {
      for (const { bytes, offset } of chunks) {
        await this.#command((done) => this.#sftp.write(handle, bytes, 0, bytes.length, offset, done), signal);
      }
    });
  }

  async #readAll(handle: Buffer, range: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    const bytes = Buffer.alloc(range.length);
    const spans = spansOf(range.length);
    await inParallel(async () => {
      for (const { start, end } of spans) {
        for (let at = start; at < end; ) {
          const read = await this.#request<number>(
            (done) => this.#sftp.read(handle, bytes, at, end - at, range.offset + at, done),
            signal,
          );
          if (read === 0) throw new SftpShortRead(range.length - at);
          at += read;
        }
      }
    });
    signal?.throwIfAborted();
    return bytes;
  }

  #open(path: string, flags: 'r' | 'wx', mode: number, signal?: AbortSignal): Promise<Buffer> {
    return this.#request<Buffer>((done) => this.#sftp.open(path, flags, { mode }, done), signal);
  }

  #close(handle: Buffer, signal?: AbortSignal): Promise<void> {
    return this.#settled((done) => this.#sftp.close(handle, done), signal);
  }

  async #findMissing(): Promise<SftpExtension | undefined> {
    const noHandle = Buffer.alloc(4);
    const [fsync, hardlink] = await Promise.all([
      this.#isSupported((done) => this.#sftp.ext_openssh_fsync(noHandle, done)),
      this.#isSupported((done) => this.#sftp.ext_openssh_hardlink('', '', done)),
    ]);
    if (!fsync) return 'fsync@openssh.com';
    return hardlink ? undefined : 'hardlink@openssh.com';
  }

  /** ssh2 throws at once for an extension that the server did not name; some servers name what they refuse. */
  async #isSupported(send: (done: DoneEmpty) => void): Promise<boolean> {
    let sent = false;
    try {
      await this.#command((done) => {
        send(done);
        sent = true;
      });
      return true;
    } catch (error) {
      if (error instanceof SftpConnectionLost) throw error;
      return sent && !isStatus(error, SFTP_STATUS.OP_UNSUPPORTED);
    }
  }

  async #found<T>(answer: Promise<T>): Promise<T | undefined> {
    try {
      return await answer;
    } catch (error) {
      if (isStatus(error, SFTP_STATUS.NO_SUCH_FILE)) return undefined;
      throw error;
    }
  }

  #command(send: (done: DoneEmpty) => void, signal?: AbortSignal): Promise<void> {
    return this.#request<void>((done) => send((error) => done(error, undefined)), signal);
  }

  async #settled(send: (done: DoneEmpty) => void, signal: AbortSignal | undefined): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const onAbort = () => {
      timer ??= setTimeout(this.#drop, SETTLE_MS);
    };
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await this.#command(send);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** An abort may mean that nothing answers any more: then the next call shall not meet the same dead line. */
  #watchForAnswers(): void {
    const before = this.#answers;
    this.#watch ??= setTimeout(() => {
      this.#watch = undefined;
      if (this.#answers === before) this.#drop();
    }, SETTLE_MS).unref();
  }

  #request<T>(send: (done: Done<T>) => void, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#lost !== undefined) throw this.#lost;
      signal?.throwIfAborted();
      const end = () => {
        this.#pending.delete(fail);
        signal?.removeEventListener('abort', onAbort);
      };
      const fail = (error: unknown) => {
        end();
        reject(error);
      };
      const onAbort = () => {
        fail(signal?.reason);
        this.#watchForAnswers();
      };
      this.#pending.add(fail);
      signal?.addEventListener('abort', onAbort, { once: true });
      try {
        send((error, answer) => {
          this.#answers += 1;
          end();
          if (error) reject(error);
          else resolve(answer);
        });
      } catch (error) {
        fail(error);
      }
    });
  }
}

/** The promise's outcome, or the signal's reason when that comes first. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/**
 * Runs as many workers as requests may be in flight. They share a generator: one that fails ends it for all. Settles
 * when all have, so that nothing writes into the caller's memory, or reads it, afterwards.
 */
async function inParallel(worker: () => Promise<void>): Promise<void> {
  const outcomes = await Promise.allSettled(Array.from({ length: REQUESTS_IN_FLIGHT }, worker));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/** The pieces one after another as requests; small ones are gathered, large ones are not copied. */
function* chunksOf(pieces: readonly Uint8Array[]): Generator<{ bytes: Buffer; offset: number }> {
  let offset = 0;
  let gathered: Buffer[] = [];
  let size = 0;
  for (const piece of pieces) {
    for (let start = 0; start < piece.byteLength; ) {
      const length = Math.min(CHUNK_BYTES - size, piece.byteLength - start);
      gathered.push(Buffer.from(piece.buffer, piece.byteOffset + start, length));
      start += length;
      size += length;
      if (size < CHUNK_BYTES) continue;
      yield { bytes: oneOf(gathered), offset };
      offset += size;
      gathered = [];
      size = 0;
    }
  }
  if (size > 0) yield { bytes: oneOf(gathered), offset };
}

function oneOf(gathered: readonly Buffer[]): Buffer {
  const [first] = gathered;
  return first !== undefined && gathered.length === 1 ? first : Buffer.concat(gathered);
}

function* spansOf(length: number): Generator<{ start: number; end: number }> {
  for (let start = 0; start < length; start += CHUNK_BYTES) {
    yield { start, end: Math.min(length, start + CHUNK_BYTES) };
  }
}
