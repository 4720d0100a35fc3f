import { connect, type Socket } from 'node:net';
import type { Client, ConnectConfig, SFTPWrapper } from 'ssh2';
import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, StorageError } from '../types/errors.ts';
import { levelOf, SftpConnectionLost } from './sftp-errors.ts';
import { fingerprintOf, type HostKey } from './sftp-host-key.ts';
import { SftpSession, unlessAborted } from './sftp-session.ts';

export interface SftpServer {
  readonly host: string;
  readonly port: number;
  readonly hostKey: HostKey;
  readonly credentials: () => Promise<Credential>;
  /** For errors. */
  readonly description: string;
}

/** A loan of the shared connection; it stays open while one is out. */
export interface SftpLease extends Disposable {
  readonly session: SftpSession;
}

const HANDSHAKE_MS = 20_000;
const IDLE_MS = 60_000;
const TCP_KEEPALIVE_MS = 30_000;

/** A connection, or the attempt to open one. */
interface Line {
  readonly socket: Promise<Socket>;
  readonly session: Promise<SftpSession>;
  readonly end: () => void;
  state: 'opening' | 'open' | 'ended';
  users: number;
  idle: NodeJS.Timeout | undefined;
}

/**
 * Opened by the first call that needs it, shared by all, opened again after a loss, ended when nobody has used it for
 * a minute. It keeps the process alive only while a call runs; so ssh2's own keepalive, whose timer would, is off,
 * and TCP's is on.
 */
export class SftpConnection {
  readonly #server: SftpServer;
  #line: Line | undefined;

  constructor(server: SftpServer) {
    this.#server = server;
  }

  async acquire(signal: AbortSignal | undefined): Promise<SftpLease> {
    signal?.throwIfAborted();
    if (this.#line === undefined || this.#line.state === 'ended') this.#line = open(this.#server);
    const line = this.#line;
    line.users += 1;
    clearTimeout(line.idle);
    try {
      const session = await unlessAborted(line.session, signal);
      (await line.socket).ref();
      return { session, [Symbol.dispose]: () => release(line) };
    } catch (error) {
      release(line);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#line?.end();
  }
}

function release(line: Line): void {
  line.users -= 1;
  if (line.users > 0 || line.state === 'ended') return;
  if (line.state === 'opening') {
    line.end();
    return;
  }
  void line.socket.then((socket) => line.users === 0 && socket.unref());
  line.idle = setTimeout(line.end, IDLE_MS).unref();
}

function open(server: SftpServer): Line {
  const ended = new AbortController();
  const socket = Promise.withResolvers<Socket>();
  const line: Line = {
    socket: socket.promise,
    session: establish(server, socket.resolve, ended).then(
      (session) => {
        if (line.state === 'opening') line.state = 'open';
        return session;
      },
      (error) => {
        line.end();
        throw error;
      },
    ),
    end: () => {
      line.state = 'ended';
      clearTimeout(line.idle);
      ended.abort();
    },
    state: 'opening',
    users: 0,
    idle: undefined,
  };
  ended.signal.addEventListener('abort', line.end, { once: true });
  // Whoever waited may have been aborted.
  line.session.catch(() => undefined);
  return line;
}

/** Logs in and opens the SFTP channel. `ended` is aborted from outside to end it, and by it when it has ended. */
async function establish(
  server: SftpServer,
  onSocket: (socket: Socket) => void,
  ended: AbortController,
): Promise<SftpSession> {
  const { Client: SshClient, utils } = await loadSsh2(server.description);
  const login = loginOf(await server.credentials(), server.description, utils.parseKey);
  if (ended.signal.aborted) throw lost(server, undefined);
  const client: Client = new SshClient();
  const socket = connect({ host: server.host, port: server.port, noDelay: true });
  socket.setKeepAlive(true, TCP_KEEPALIVE_MS);
  onSocket(socket);

  let session: SftpSession | undefined;
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => undefined);
  let shown: Buffer | undefined;
  const fail = (cause: unknown) => {
    session?.lose(new SftpConnectionLost('The SFTP connection was lost.', { cause }));
    failed.reject(describeOpening(server, cause, shown));
    ended.abort();
  };
  ended.signal.addEventListener('abort', () => {
    session?.lose(new SftpConnectionLost('The SFTP connection was ended.'));
    failed.reject(lost(server, undefined));
    client.end();
    socket.unref();
    socket.destroySoon();
  });
  client
    .on('error', fail)
    .on('end', () => fail(undefined))
    .on('close', () => fail(undefined));

  const config: ConnectConfig = {
    ...login,
    sock: socket,
    readyTimeout: HANDSHAKE_MS,
    keepaliveInterval: 0,
    hostVerifier: (key: Buffer) => {
      const trusted = server.hostKey.matches(key);
      if (!trusted) shown = key;
      return trusted;
    },
  };
  if (server.hostKey.algorithms !== undefined) {
    config.algorithms = { serverHostKey: server.hostKey.algorithms };
  }
  const opened = (async () => {
    await new Promise<void>((resolve) => client.once('ready', resolve).connect(config));
    const sftp = await new Promise<SFTPWrapper>((resolve, reject) =>
      client.sftp((error, channel) => (error ? reject(error) : resolve(channel))),
    );
    sftp
      .on('error', fail)
      .on('end', () => fail(undefined))
      .on('close', () => fail(undefined));
    session = new SftpSession(sftp, () => ended.abort());
    return session;
  })();
  opened.catch(fail);
  return Promise.race([opened, failed.promise]).catch((error) => {
    throw error instanceof DataProtectionError ? error : describeOpening(server, error, shown);
  });
}

function describeOpening(server: SftpServer, cause: unknown, shown: Buffer | undefined): StorageError {
  if (shown !== undefined) {
    return new StorageError(
      `${server.description} showed another host key than \`hostKey\`: ${fingerprintOf(shown)}. Nothing was sent to it.`,
      'STORAGE_UNTRUSTED',
      { cause },
    );
  }
  switch (levelOf(cause)) {
    case 'handshake':
      return new StorageError(
        `${server.description} could not prove that it has the \`hostKey\`, or has no algorithm in common. Nothing was sent to it.`,
        'STORAGE_UNTRUSTED',
        { cause },
      );
    case 'client-authentication':
      return new StorageError(`${server.description} refused the login.`, 'STORAGE_DENIED', { cause });
    default:
      return lost(server, cause);
  }
}

function lost(server: SftpServer, cause: unknown): StorageError {
  return new StorageError(
    `The connection to ${server.description} could not be opened or was lost.`,
    'STORAGE_UNAVAILABLE',
    { cause },
  );
}

function loginOf(
  credential: Credential,
  description: string,
  parseKey: (key: string, passphrase?: string) => unknown,
): Pick<ConnectConfig, 'username' | 'password' | 'privateKey' | 'passphrase'> {
  const { username, password, privateKey, passphrase } = credential;
  const lacks = (what: string) =>
    new DataProtectionError(`The credential of ${description} ${what}.`, 'CREDENTIALS_UNAVAILABLE');
  if (!username) throw lacks('has no `username`');
  if (privateKey) {
    // The reason why it cannot be read might quote it.
    if (parseKey(privateKey, passphrase) instanceof Error) {
      throw lacks('has a `privateKey` that cannot be read, or not with its `passphrase`');
    }
    return { username, privateKey, ...(passphrase ? { passphrase } : {}) };
  }
  if (!password) throw lacks('has neither `password` nor `privateKey`');
  return { username, password };
}

async function loadSsh2(description: string) {
  try {
    return (await import('ssh2')).default;
  } catch (cause) {
    throw new DataProtectionError(
      `${description} needs the package ssh2: npm install ssh2`,
      'DEPENDENCY_MISSING',
      { cause },
    );
  }
}
