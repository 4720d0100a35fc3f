/** SSH_FX_* of draft-ietf-secsh-filexfer-02, 7. OpenSSH says FAILURE for whatever errno has no own one. */
export const SFTP_STATUS = {
  NO_SUCH_FILE: 2,
  PERMISSION_DENIED: 3,
  FAILURE: 4,
  BAD_MESSAGE: 5,
  OP_UNSUPPORTED: 8,
} as const;

/** The connection ended before the server answered. Whether it did what it was asked is not known. */
export class SftpConnectionLost extends Error {}

/** A file was shorter than the server had said. */
export class SftpShortRead extends Error {
  constructor(missing: number) {
    super(`The object ended ${missing} bytes early.`);
  }
}

/** The status that the server answered with, or undefined when it was no answer. */
export function statusOf(error: unknown): number | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' ? error.code : undefined;
}

export function isStatus(error: unknown, ...statuses: readonly number[]): boolean {
  const status = statusOf(error);
  return status !== undefined && statuses.includes(status);
}

/** Where ssh2 says that an error arose: `client-authentication`, `handshake`, `client-socket`, ... */
export function levelOf(error: unknown): string | undefined {
  return error instanceof Error && 'level' in error && typeof error.level === 'string'
    ? error.level
    : undefined;
}

export function codeForStatus(error: unknown) {
  if (error instanceof SftpShortRead) return 'STORAGE_CORRUPT';
  return isStatus(error, SFTP_STATUS.PERMISSION_DENIED) ? 'STORAGE_DENIED' : 'STORAGE_UNAVAILABLE';
}
