import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'ssh2';
import { sftpStorage } from '../src/storage/sftp.ts';
import { startSshServer } from '../test/harness/ssh-server.ts';
import type { Contest } from './storage-contest.ts';

export async function sftpContest(): Promise<Contest> {
  const server = await startSshServer();
  const { port, username, privateKey, hostKey } = server;
  const path = join(server.folder, 'ours');
  const ours = sftpStorage({
    host: '127.0.0.1',
    port,
    path,
    hostKey,
    credentials: async () => ({ username, privateKey }),
  });
  const connection = new Client();
  await new Promise<void>((resolve, reject) => {
    connection
      .on('ready', resolve)
      .on('error', reject)
      .connect({ host: '127.0.0.1', port, username, privateKey });
  });
  const session = await new Promise<Parameters<Parameters<Client['sftp']>[0]>[1]>((resolve, reject) => {
    connection.sftp((error, opened) => (error === undefined ? resolve(opened) : reject(error)));
  });
  await mkdir(join(server.folder, 'raw'));
  const remote = (key: string): string => join(server.folder, 'raw', key.replaceAll('/', '-'));
  return {
    ours,
    raw: {
      put: (key, body) =>
        new Promise<void>((resolve, reject) =>
          session.writeFile(remote(key), body, (error) => (error ? reject(error) : resolve())),
        ),
      get: (key) =>
        new Promise((resolve, reject) =>
          session.readFile(remote(key), (error, bytes) => (error ? reject(error) : resolve(bytes))),
        ),
      close: () => void connection.end(),
    },
    async [Symbol.asyncDispose]() {
      await ours.close?.();
      await server.stop();
    },
  };
}
