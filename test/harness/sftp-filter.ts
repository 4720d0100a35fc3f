import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import ssh2 from 'ssh2';
import { requireProgram, SSHD } from './debian-package.ts';

/** OpenSSH's own, which comes with sshd. */
const SFTP_SERVER =
  process.platform === 'darwin' ? '/usr/libexec/sftp-server' : '/usr/lib/openssh/sftp-server';

/** Packet types of draft-ietf-secsh-filexfer-02, 3. */
const OPEN = 3;
const STATUS = 101;
const HANDLE = 102;
const EXTENDED = 200;

/**
 * OpenSSH's sftp-server behind an SSH server of the test's own, on 127.0.0.1, that answers itself where a folder shall
 * be synced: with `folderSync.fault`, a status, or by cutting the connection.
 */
export async function startSftpFilter() {
  await requireProgram(SSHD);
  // One in 250 of the ed25519 keys that ssh2 1.17 makes is one that it cannot read.
  const key = ssh2.utils.generateKeyPairSync('ecdsa', { bits: 256 });
  const folderSync: { fault: number | 'CUT' | undefined; passed: number } = { fault: undefined, passed: 0 };
  const ssh = new ssh2.Server({ hostKeys: [key.private] }, (client) => {
    client.on('error', () => undefined);
    client.on('authentication', (context) => context.accept());
    client.on('session', (accept) => {
      accept().on('subsystem', (acceptSubsystem) => {
        const channel = acceptSubsystem();
        const child = spawn(SFTP_SERVER, { stdio: ['pipe', 'pipe', 'ignore'] });
        client.on('close', () => child.kill());
        child.stdin.on('error', () => undefined);
        const opening = new Set<number>();
        const folders = new Set<string>();
        const fromClient = packets((packet) => {
          const id = packet.readUInt32BE(5);
          if (packet[4] === OPEN && isFolder(stringAt(packet, 9).toString())) opening.add(id);
          const [name, handle] = packet[4] === EXTENDED ? stringsAt(packet, 9) : [];
          if (name?.toString() === 'fsync@openssh.com' && folders.has(handle?.toString('hex') ?? '')) {
            if (folderSync.fault === 'CUT') return void client.end();
            if (folderSync.fault !== undefined) return void channel.write(status(id, folderSync.fault));
            folderSync.passed += 1;
          }
          child.stdin.write(packet);
        });
        const fromServer = packets((packet) => {
          if (packet[4] === HANDLE) {
            // The server uses handles again that were closed.
            const handle = stringAt(packet, 9).toString('hex');
            if (opening.delete(packet.readUInt32BE(5))) folders.add(handle);
            else folders.delete(handle);
          }
          channel.write(packet);
        });
        channel.on('data', fromClient);
        child.stdout.on('data', fromServer);
      });
    });
  });
  // Without delay, as sshd sends: else every answer waits 40 ms for an acknowledgement.
  const server = createServer({ noDelay: true }, (socket) => ssh.injectSocket(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    hostKey: key.public,
    folderSync,
    close: () => new Promise<void>((resolve) => void server.close(() => resolve())),
  };
}

function packets(take: (packet: Buffer) => void): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0);
  return (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
      const end = 4 + rest.readUInt32BE(0);
      take(rest.subarray(0, end));
      rest = rest.subarray(end);
    }
  };
}

function stringAt(packet: Buffer, offset: number): Buffer {
  return packet.subarray(offset + 4, offset + 4 + packet.readUInt32BE(offset));
}

/** Two strings after each other. */
function stringsAt(packet: Buffer, offset: number): [Buffer, Buffer | undefined] {
  const first = stringAt(packet, offset);
  const next = offset + 4 + first.length;
  return [first, next + 4 <= packet.length ? stringAt(packet, next) : undefined];
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function status(id: number, code: number): Buffer {
  const packet = Buffer.alloc(4 + 1 + 4 + 4 + 4 + 4);
  packet.writeUInt32BE(packet.length - 4, 0);
  packet[4] = STATUS;
  packet.writeUInt32BE(id, 5);
  packet.writeUInt32BE(code, 9);
  return packet;
}
