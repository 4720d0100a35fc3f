import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ContainerClient, StorageSharedKeyCredential } from '@azure/storage-blob';

/** Microsoft's emulator of Blob Storage, its data in memory, in a process of its own on a random port of 127.0.0.1. */
export interface Azurite extends AsyncDisposable {
  /** `http://127.0.0.1:<port>`: the account is the first segment of the path. */
  readonly endpoint: string;
  readonly accountName: string;
  readonly accountKey: string;
  /** Makes a fresh container. */
  container(): Promise<ContainerClient>;
  /** Harmless when repeated. */
  stop(): Promise<void>;
}

/** Ends the emulator and its folder when the process of the tests ends, however it ends. */
const END_WITH_PARENT = `data:text/javascript,${encodeURIComponent(
  'import { rmSync } from "node:fs"; const folder = process.cwd();' +
    'process.on("disconnect", () => { rmSync(folder, { recursive: true, force: true }); process.exit(); });',
)}`;
/**
 * It closes connections that were idle for 5 s, and on a busy machine that meets a request on its way, which only the
 * retrying decorator repeats. `--blobKeepAliveTimeout` would be for this, but Azurite 3.37 reads it under another name.
 */
const KEEP_CONNECTIONS = `data:text/javascript,${encodeURIComponent(
  'import { Server } from "node:http"; const { listen } = Server.prototype;' +
    'Server.prototype.listen = function (...place) { this.keepAliveTimeout = 60_000; return listen.apply(this, place); };',
)}`;
const LISTENS = /successfully listens on (http:\/\/127\.0\.0\.1:\d+)/;

export async function startAzurite(): Promise<Azurite> {
  const folder = await mkdtemp(join(tmpdir(), 'care-azurite-'));
  const program = createRequire(import.meta.url).resolve('azurite/dist/src/blob/main.js');
  const accountName = 'careaccount';
  const accountKey = randomBytes(64).toString('base64');
  const server = spawn(
    process.execPath,
    [
      ...['--import', END_WITH_PARENT, '--import', KEEP_CONNECTIONS],
      ...[program, '--silent', '--inMemoryPersistence', '--disableTelemetry'],
      ...['--skipApiVersionCheck', '--blobHost', '127.0.0.1', '--blobPort', '0'],
    ],
    {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, AZURITE_ACCOUNTS: `${accountName}:${accountKey}` },
    },
  );
  const ended = new Promise<void>((resolve) => server.once('close', () => resolve()));
  const stop = async (): Promise<void> => {
    server.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  const endpoint = await new Promise<string>((resolve, reject) => {
    let output = '';
    const read = (chunk: Buffer) => {
      output += chunk.toString();
      const [, address] = LISTENS.exec(output) ?? [];
      if (address !== undefined) resolve(address);
    };
    server.stdout?.on('data', read);
    server.stderr?.on('data', read);
    server.once('error', reject);
    void ended.then(() => reject(new Error(`azurite ended before it listened: ${output}`)));
  }).catch(async (error: unknown) => {
    await rm(folder, { recursive: true, force: true });
    throw error;
  });
  return {
    endpoint,
    accountName,
    accountKey,
    async container() {
      const credential = new StorageSharedKeyCredential(accountName, accountKey);
      const client = new ContainerClient(`${endpoint}/${accountName}/c-${randomUUID()}`, credential);
      await client.create();
      return client;
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
