import { createHash, timingSafeEqual } from 'node:crypto';
import type { ServerHostKeyAlgorithm } from 'ssh2';
import { DataProtectionError } from '../types/errors.ts';

/** The key that a server must show before anything else is said to it. */
export interface HostKey {
  /** What to negotiate, so that a server with keys of several types shows this one. Undefined: whatever it likes. */
  readonly algorithms: ServerHostKeyAlgorithm[] | undefined;
  /** Whether the key that the server shows (the blob of RFC 4253, 6.6) is this one. */
  matches(shown: Buffer): boolean;
}

const ALGORITHMS: Readonly<Record<string, readonly ServerHostKeyAlgorithm[]>> = {
  'ssh-ed25519': ['ssh-ed25519'],
  'ecdsa-sha2-nistp256': ['ecdsa-sha2-nistp256'],
  'ecdsa-sha2-nistp384': ['ecdsa-sha2-nistp384'],
  'ecdsa-sha2-nistp521': ['ecdsa-sha2-nistp521'],
  'ssh-rsa': ['rsa-sha2-512', 'rsa-sha2-256'],
};

const FINGERPRINT = /^SHA256:([A-Za-z0-9+/]{43})=?$/;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/** What `ssh-keygen -l` prints for a key. */
export function fingerprintOf(key: Buffer): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
}

/**
 * Reads `ssh-ed25519 AAAA...` (a line of known_hosts or of `ssh-keyscan` with its host name is understood too) or
 * `SHA256:...`. Throws `CONFIGURATION_INVALID` for anything else, and says how to get the key.
 */
export function parseHostKey(text: unknown, host: string, port: number): HostKey {
  const words = typeof text === 'string' ? text.trim().split(/\s+/) : [];
  const digest = FINGERPRINT.exec(words[0] ?? '')?.[1];
  if (digest !== undefined && words.length === 1) {
    const expected = Buffer.from(digest, 'base64');
    return {
      algorithms: undefined,
      matches: (shown) => timingSafeEqual(createHash('sha256').update(shown).digest(), expected),
    };
  }
  const at = words.findIndex((word) => Object.hasOwn(ALGORITHMS, word));
  const type = words[at] ?? '';
  const blob = words[at + 1] ?? '';
  const key = at >= 0 && at <= 1 && BASE64.test(blob) ? Buffer.from(blob, 'base64') : undefined;
  if (key === undefined || !isKeyOf(type, key)) throw noHostKey(text, host, port);
  return { algorithms: [...(ALGORITHMS[type] ?? [])], matches: (shown) => key.equals(shown) };
}

/** A key begins with its own type. */
function isKeyOf(type: string, key: Buffer): boolean {
  const head = 4 + type.length;
  return (
    key.length > head &&
    key.readUInt32BE(0) === type.length &&
    key.subarray(4, head).toString('latin1') === type
  );
}

function noHostKey(text: unknown, host: string, port: number): DataProtectionError {
  const problem =
    text === undefined || text === '' ? 'SFTP needs `hostKey`' : 'The SFTP `hostKey` is not one';
  return new DataProtectionError(
    `${problem}: "ssh-ed25519 AAAA..." or "SHA256:...". Get it with ` +
      `\`ssh-keyscan -t ed25519 -p ${port} ${host}\` and compare it with what the server’s operator says; ` +
      '`... | ssh-keygen -lf -` prints its fingerprint.',
    'CONFIGURATION_INVALID',
  );
}
