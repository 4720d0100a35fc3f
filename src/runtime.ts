import { DataProtectionError } from './types/errors.ts';

/** The range in package.json: zstd is in `node:zlib` from 22.15 and, in the next line, from 23.8. */
export function isSupportedNode(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return (major === 22 && minor >= 15) || (major === 23 && minor >= 8) || major > 23;
}

/** Throws RUNTIME_UNSUPPORTED where the library would fail later and less clearly. */
export function assertSupportedNode(version: string): void {
  if (isSupportedNode(version)) return;
  throw new DataProtectionError(
    `@care-commons/data-backup-offline needs Node.js 22.15 or later (22), or 23.8 or later; this is ${version}. ` +
      'Install Node.js 24, the current long-term release, from https://nodejs.org or with your version manager.',
    'RUNTIME_UNSUPPORTED',
  );
}

// `index.ts` imports this file before any other, so that nothing else runs on a Node that lacks what it needs.
assertSupportedNode(process.versions.node);
