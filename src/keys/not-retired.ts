import { DataProtectionError } from '../types/errors.ts';

/** Why a provider does not remove a key: only the host can, by what `how` says. */
export function notRetired(keyId: string, how: string): DataProtectionError {
  return new DataProtectionError(
    `The key ${JSON.stringify(keyId.slice(0, 255))} cannot be removed from here: ${how}.`,
    'NOT_SUPPORTED',
  );
}
