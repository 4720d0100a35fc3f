import { DataProtectionError } from '../types/errors.ts';

/** Bytes as text. Throws where they are none in the encoding. */
export type DecodeText = (bytes: Buffer) => string;

/**
 * PostgreSQL's encodings by the name that `TextDecoder` has for each, where both read every byte alike. They do not for
 * LATIN5, KOI8U, EUC_JP, EUC_CN, EUC_JIS_2004 and EUC_TW, and SQL_ASCII and MULE_INTERNAL are no encodings to it.
 */
export const TEXT_DECODERS: Readonly<Record<string, string>> = {
  UTF8: 'utf-8',
  LATIN2: 'iso-8859-2',
  LATIN3: 'iso-8859-3',
  LATIN4: 'iso-8859-4',
  LATIN6: 'iso-8859-10',
  LATIN7: 'iso-8859-13',
  LATIN8: 'iso-8859-14',
  LATIN9: 'iso-8859-15',
  LATIN10: 'iso-8859-16',
  ISO_8859_5: 'iso-8859-5',
  ISO_8859_6: 'iso-8859-6',
  ISO_8859_7: 'iso-8859-7',
  ISO_8859_8: 'iso-8859-8',
  KOI8R: 'koi8-r',
  WIN866: 'ibm866',
  WIN874: 'windows-874',
  WIN1250: 'windows-1250',
  WIN1251: 'windows-1251',
  WIN1252: 'windows-1252',
  WIN1253: 'windows-1253',
  WIN1254: 'windows-1254',
  WIN1255: 'windows-1255',
  WIN1256: 'windows-1256',
  WIN1257: 'windows-1257',
  WIN1258: 'windows-1258',
  EUC_KR: 'euc-kr',
};

/** How the text of a database with this encoding is read. Throws `NOT_SUPPORTED`, with the name, where it is not known. */
export function textDecoder(encoding: string): DecodeText {
  // `TextDecoder` takes iso-8859-1 for windows-1252.
  if (encoding === 'LATIN1') return (bytes) => bytes.toString('latin1');
  const label = TEXT_DECODERS[encoding];
  if (label === undefined) {
    throw new DataProtectionError(
      `The database’s encoding ${encoding} cannot be exported: restore the snapshot into a schema of its own instead`,
      'NOT_SUPPORTED',
    );
  }
  const decoder = new TextDecoder(label, { fatal: true, ignoreBOM: true });
  return (bytes) => decoder.decode(bytes);
}
