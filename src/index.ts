import './runtime.ts';

export { createDataProtection, type DataProtection, type DataProtectionOptions } from './compose.ts';
export { type AwsKmsOptions, awsKms } from './keys/aws-kms.ts';
export {
  type AzureKeyVaultOptions,
  type AzureTokenCredential,
  azureKeyVault,
} from './keys/azure-key-vault.ts';
export { type GoogleKmsOptions, googleKms } from './keys/google-kms.ts';
export type { KeyContext, KeyInfo, KeyProvider, MacContext, MacKey } from './keys/keys.ts';
export { createKeyringFile, type LocalKeyringOptions, localKeyring } from './keys/local-keyring.ts';
export {
  type CurrentPassphraseKey,
  type NamedPassphrase,
  type PassphraseKeyringOptions,
  passphraseKeyring,
} from './keys/passphrase-keyring.ts';
export type { BackupService, RunOptions } from './service/backup-service.ts';
export type { OfflineSyncService } from './service/offline-sync-service.ts';
export { defineEntity } from './source/entity.ts';
export {
  type LargeUpload,
  type LargeUploadResult,
  uploadLarge,
} from './storage/large-upload.ts';
export { type LocalStorageOptions, localStorage } from './storage/local.ts';
export { memoryStorage } from './storage/memory.ts';
export type { StorageLimits } from './storage/open-storage.ts';
export type { StorageHealth } from './storage/resilient.ts';
export type {
  ArchiveTiers,
  ByteRange,
  ObjectInfo,
  ObjectRetention,
  ObjectStorage,
  PutCall,
  ResumableUploads,
  RetentionState,
  StorageCall,
  StorageCopy,
  TierState,
  UploadPart,
} from './storage/storage.ts';
export { SYNC_MESSAGES, SYNC_PROTOCOL_VERSION, type SyncMessageName } from './sync/messages.ts';
export * from './types/actor.ts';
export * from './types/audit.ts';
export * from './types/backup.ts';
export type { Clock } from './types/clock.ts';
export type { Credential, CredentialProvider } from './types/credentials.ts';
export * from './types/encryption.ts';
export * from './types/entity.ts';
export * from './types/errors.ts';
export type { BackupEvents } from './types/events.ts';
export * from './types/export.ts';
export type { Json, Timestamp, UUID } from './types/ids.ts';
export * from './types/keys.ts';
export type { LogFields, Logger } from './types/logger.ts';
export * from './types/offline-sync.ts';
export * from './types/sync-handler.ts';
export { SYNC_REASONS, type SyncReason } from './types/sync-reasons.ts';
export * from './types/usage.ts';
export { formatBytes } from './utils/bytes.ts';
export { formatDuration } from './utils/duration.ts';
export type { ScheduledStart } from './utils/schedule.ts';
export { systemActor } from './utils/system-actor.ts';
export type { Worker, WorkerOptions } from './worker/worker.ts';
