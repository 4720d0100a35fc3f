/** Names that the documents promise, by entry point. An entry point without a list must export at least one name. */
export const EXPECTED_EXPORTS: Readonly<Record<string, readonly string[]>> = {
  '.': [
    'createDataProtection',
    'defineEntity',
    'localKeyring',
    'createKeyringFile',
    'passphraseKeyring',
    'localStorage',
    'memoryStorage',
    'DataProtectionError',
    'BackupError',
    'StorageError',
    'ValidationError',
    'KeyError',
    'ArchiveError',
    'ERROR_CODES',
  ],
  './rules': ['calculateNextBackupTime', 'applyGFSRetention', 'isSnapshotExpired', 'calculateExpirationDate'],
  './validation': ['CreateBackupConfigSchema'],
  './worker': ['runWorker'],
};
