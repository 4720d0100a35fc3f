import { describe, expect, it } from 'vitest';
import { type SftpStorageOptions, sftpStorage } from '../../src/storage/sftp.ts';
import { fingerprintOf, parseHostKey } from '../../src/storage/sftp-host-key.ts';

/** A public key of the given type, as it goes over the wire. */
function blob(type: string, content: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(type.length);
  return Buffer.concat([length, Buffer.from(type), Buffer.from(content)]);
}

const KEY = blob('ssh-ed25519', 'the content of a key');
const LINE = `ssh-ed25519 ${KEY.toString('base64')}`;

describe('the host key', () => {
  it.each([
    LINE,
    `  ${LINE}\n`,
    `${LINE} somebody@somewhere`,
    `example.org ${LINE}`,
    fingerprintOf(KEY),
    `${fingerprintOf(KEY)}=`,
  ])('%j is that key and no other', (text) => {
    const key = parseHostKey(text, 'example.org', 22);
    expect(key.matches(KEY)).toBe(true);
    expect(key.matches(blob('ssh-ed25519', 'the content of a kez'))).toBe(false);
    expect(key.matches(Buffer.concat([KEY, Buffer.from('x')]))).toBe(false);
    expect(key.matches(Buffer.alloc(0))).toBe(false);
  });

  it('asks the server for its type, without SHA-1 signatures', () => {
    const rsa = `ssh-rsa ${blob('ssh-rsa', 'n and e').toString('base64')}`;
    expect(parseHostKey(LINE, 'a', 22).algorithms).toEqual(['ssh-ed25519']);
    expect(parseHostKey(rsa, 'a', 22).algorithms).toEqual(['rsa-sha2-512', 'rsa-sha2-256']);
    expect(parseHostKey(fingerprintOf(KEY), 'a', 22).algorithms).toBeUndefined();
  });

  it.each([
    undefined,
    '',
    'SHA256:',
    'SHA256:tooshort',
    `MD5:${'aa:'.repeat(15)}aa`,
    'ssh-ed25519',
    'ssh-ed25519 AAAA',
    'ssh-ed25519 not base64!',
    `ssh-rsa ${KEY.toString('base64')}`,
    `ssh-dss ${blob('ssh-dss', 'old').toString('base64')}`,
    `one two ${LINE}`,
    `toString ${KEY.toString('base64')}`,
    42,
  ])('%j is refused, with the way to get it', (text) => {
    expect(() => parseHostKey(text, 'example.org', 2222)).toThrow(
      expect.objectContaining({
        code: 'CONFIGURATION_INVALID',
        message: expect.stringContaining('ssh-keyscan -t ed25519 -p 2222 example.org'),
      }),
    );
  });
});

describe('the options', () => {
  const options: SftpStorageOptions = {
    host: 'example.org',
    path: '/backups',
    hostKey: LINE,
    credentials: () => Promise.reject(new Error('asked without need')),
  };

  it('are checked at once, and nothing is opened or asked', () => {
    expect(sftpStorage(options).description).toBe('SFTP example.org:22 /backups');
    expect(sftpStorage({ ...options, path: 'a//b/../c/' }).description).toBe('SFTP example.org:22 a/c');
  });

  it.each([
    { host: '' },
    { port: 0 },
    { port: 65_536 },
    { port: 2.5 },
    { path: '' },
    { path: '~/backups' },
    { path: 'a\0b' },
    { hostKey: '' },
  ])('%j is refused', (change) => {
    expect(() => sftpStorage({ ...options, ...change })).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
    );
  });
});
