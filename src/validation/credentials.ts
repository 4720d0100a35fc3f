const SECRET_NAMES =
  /(?:password|passwd|pwd|passphrase|secret|secretkey|accesskey|accesskeyid|privatekey|apikey|accountkey|encryptionkey|keyfile|keyfilename|connectionstring|connstring|databaseurl|dsn|token|credentials?|serviceaccount)$/;

const SECRET_TEXTS: readonly RegExp[] = [
  /-----BEGIN [A-Z ]*PRIVATE KEY-----/,
  /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b/,
  /\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=/i,
  /\b(?:password|passwd|pwd)\s*=\s*\S/i,
  /\b[a-z][a-z0-9+.-]{0,30}:\/\/[^\s/?#@]{0,256}:[^\s/?#]{0,256}@/i,
  /[?&]sig=[A-Za-z0-9%+/]{16,}/,
];

export const CREDENTIAL_REMEDY =
  'Remove it and change the credential if it was real: credentials are never stored. Give it to the host’s credential provider, and its name as `credentialsRef`.';

/** Whether a field of this name would hold a credential: `password`, `secretAccessKey`, `connectionString` and their like. */
export function isCredentialName(name: string): boolean {
  return SECRET_NAMES.test(name.toLowerCase().replace(/[^a-z0-9]/g, ''));
}

/** Whether a text holds what only credentials look like: a private key, an access key, a URL with a password. */
export function holdsCredential(text: string): boolean {
  return SECRET_TEXTS.some((pattern) => pattern.test(text));
}
