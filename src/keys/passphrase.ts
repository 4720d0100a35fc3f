import { DataProtectionError } from '../types/errors.ts';

/** NIST SP 800-63B-4, 3.1.1.2: the least length of a password that alone lets somebody in. */
const LEAST_CHARACTERS = 15;

/** Control characters, surrogates without their other half, and code points that the Unicode of this Node does not know. */
const UNSTABLE = /[\p{Cc}\p{Cs}\p{Cn}]/u;

/**
 * The bytes of a passphrase: UTF-8 of its NFKC, so that all keyboards give the same (NIST SP 800-63B, 5.1.1.2; "stabilized
 * strings" of Unicode Standard Annex 15, 12.1, which is why unassigned code points are refused: a later Unicode may
 * normalize them otherwise). Nothing is trimmed or cut.
 *
 * Throws `CONFIGURATION_INVALID`: shorter than 15 characters (code points), white space at an end, a character that is
 * refused. The message quotes nothing of it.
 */
export function passphraseBytes(text: string, name: string): Buffer {
  const normalized = text.normalize('NFKC');
  if (/^\s|\s$/u.test(text)) {
    throw refused(name, 'begins or ends with white space, such as the line end of a file; give it without');
  }
  if (UNSTABLE.test(text)) {
    throw refused(name, `has a control character, or one that is not in Unicode ${process.versions.unicode}`);
  }
  if ([...normalized].length < LEAST_CHARACTERS) {
    throw refused(name, `is shorter than ${LEAST_CHARACTERS} characters`);
  }
  return Buffer.from(normalized, 'utf8');
}

function refused(name: string, problem: string): DataProtectionError {
  return new DataProtectionError(`The passphrase "${name}" ${problem}.`, 'CONFIGURATION_INVALID');
}
