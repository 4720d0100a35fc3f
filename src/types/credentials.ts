/**
 * Gives the credential that a destination or key refers to (`credentialsRef`, `customerKeyRef`) from the host's own
 * store. Called when a connection is opened, again when the provider refuses it, and after `expiresAt` (ISO 8601) where
 * it holds one. What it gives is kept in memory only: never in the database, a log or an error. Fields:
 *
 * - AWS: `accessKeyId`, `secretAccessKey`, optionally `sessionToken` and `expiresAt`
 * - Azure: `accountKey`, or `sasToken`, or `connectionString` (with `DefaultEndpointsProtocol`); for Key Vault `tenantId`, `clientId`, `clientSecret`
 * - Google Cloud: `clientEmail` and `privateKey` (of a service account), or `accessToken`
 * - SFTP: `username`, and `password` or `privateKey` (optionally `passphrase`)
 * - `passphraseKeyring`: `passphrase`
 * - customer keys: `key`, 32 bytes in base64
 *
 * Without a reference, a cloud SDK finds credentials by its own chain (environment, instance, workload identity).
 */
export type CredentialProvider = (reference: string) => Promise<Credential> | Credential;

export type Credential = Readonly<Record<string, string>>;
