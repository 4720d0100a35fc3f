import type { UUID } from './ids.ts';

interface ErrorCodeDescription {
  /** What happened. */
  readonly happened: string;
  /** What the operator does. */
  readonly remedy: string;
  /** Whether the same call may succeed later without a change of the input. */
  readonly retryable: boolean;
}

/** Every code that the library throws. Stable: a code is never renamed; `docs/errors.md` is made from this table. */
export const ERROR_CODES = {
  VALIDATION_FAILED: {
    happened:
      'An input does not have the documented shape; every problem is listed with its path and remedy.',
    remedy: 'Correct the fields that `issues` names.',
    retryable: false,
  },
  FORBIDDEN: {
    happened:
      'The actor lacks the permission, or the input names an organization, branch or user that is not the actor’s.',
    remedy: 'Grant the permission that the message names, or leave the field out.',
    retryable: false,
  },
  NOT_FOUND: {
    happened: 'There is no such object in the organization and branches of the actor.',
    remedy: 'Check the id; objects of other organizations are answered as not found.',
    retryable: false,
  },
  INVALID_STATE: {
    happened: 'The object is in a state that does not allow the action.',
    remedy: 'The message names the state and the states that allow it.',
    retryable: false,
  },
  NOT_SUPPORTED: {
    happened: 'This version of the library does not do this yet; nothing was done.',
    remedy: 'The message says what is supported instead.',
    retryable: false,
  },
  RUNTIME_UNSUPPORTED: {
    happened: 'The Node.js version lacks something that the library needs (zstd).',
    remedy: 'Install Node.js 22.15 or later (22), or 23.8 or later.',
    retryable: false,
  },
  CONFIGURATION_INVALID: {
    happened: 'The options given to the library contradict each other or the environment.',
    remedy: 'Correct the option that the message names.',
    retryable: false,
  },
  ENTITY_UNKNOWN: {
    happened: 'A scope names an entity type that was not registered with `defineEntity`.',
    remedy: 'Register the entity, or correct its name.',
    retryable: false,
  },
  ENTITY_INVALID: {
    happened:
      'An entity definition does not fit the database: a table or column is missing, has no key, or is of a kind that cannot be backed up.',
    remedy: 'Correct the definition; the message names the table and column.',
    retryable: false,
  },
  ENTITY_SCOPE_UNSUPPORTED: {
    happened:
      'A scope filters by something that an entity has no column for (branch, client, caregiver, date).',
    remedy:
      'Give the column in `defineEntity`, declare the entity SHARED, or leave the entity out of the scope.',
    retryable: false,
  },
  DATABASE_UNAVAILABLE: {
    happened: 'The connection to PostgreSQL could not be opened or was lost.',
    remedy: 'Check the server and the network; the run can be repeated.',
    retryable: true,
  },
  DATABASE_FAILED: {
    happened:
      'PostgreSQL refused a statement of the library for a reason that has no code of its own; `cause` holds it.',
    remedy: 'See the SQLSTATE in the message.',
    retryable: false,
  },
  SOURCE_LOCK_TIMEOUT: {
    happened:
      'The tables could not be locked in ACCESS SHARE mode in time: somebody holds or waits for an ACCESS EXCLUSIVE lock.',
    remedy: 'Repeat when the migration or maintenance that holds the lock is over.',
    retryable: true,
  },
  SOURCE_CHANGED: {
    happened:
      'A table’s partitions or a type’s definition changed while the backup ran, so its content is not one state of the database.',
    remedy: 'Repeat the backup; keep schema migrations outside the backup window.',
    retryable: true,
  },
  SOURCE_FILTERED: {
    happened: 'Row-level security would hide rows from the role that takes the backup.',
    remedy: 'Give the role BYPASSRLS or ownership of the table that the message names.',
    retryable: false,
  },
  SOURCE_PRIVILEGE_MISSING: {
    happened: 'The role may not read a table that belongs to the scope.',
    remedy: 'GRANT SELECT on the table that the message names.',
    retryable: false,
  },
  SOURCE_ROW_UNREADABLE: {
    happened: 'PostgreSQL cannot export a row (damaged, or larger than its limits).',
    remedy: 'Repair or split the row that the message names.',
    retryable: false,
  },
  SOURCE_UNSUPPORTED: {
    happened:
      'A table holds something that a backup by rows would lose, such as references to large objects.',
    remedy: 'Move the content into the table, or leave the column’s entity out of the scope.',
    retryable: false,
  },
  SOURCE_SNAPSHOT_TOO_OLD: {
    happened:
      'The backup held its database snapshot longer than the allowed age, which keeps VACUUM from working.',
    remedy: 'Raise `maxSnapshotAgeMs`, narrow the scope, or find what slows the storage down.',
    retryable: true,
  },
  STORAGE_NOT_FOUND: {
    happened: 'An object is not in the storage.',
    remedy: 'If it belongs to a snapshot, restore it from a replica: the snapshot is incomplete.',
    retryable: false,
  },
  STORAGE_ALREADY_EXISTS: {
    happened: 'An object of this name exists already and objects are written once.',
    remedy: 'Nothing to do by hand; the library compares digests where a write was ambiguous.',
    retryable: false,
  },
  STORAGE_FULL: {
    happened: 'The storage has no space or quota left; nothing of the object is visible.',
    remedy: 'Free space or raise the quota, then repeat.',
    retryable: true,
  },
  STORAGE_DENIED: {
    happened: 'The storage refused the credentials or the permission.',
    remedy: 'Check the credentials and the policy of the path that the message names.',
    retryable: false,
  },
  STORAGE_UNAVAILABLE: {
    happened: 'The storage did not answer, or failed while it answered.',
    remedy: 'Repeat later.',
    retryable: true,
  },
  STORAGE_INVALID_KEY: {
    happened: 'The name of an object is not a relative path of plain segments.',
    remedy: 'Use letters, digits, `-`, `_`, `.` and `/`; no empty, `.` or `..` segments.',
    retryable: false,
  },
  STORAGE_THROTTLED: {
    happened: 'The storage asked for fewer requests (429, or 503 SlowDown).',
    remedy: 'Repeat after the time that `retryAfterMs` tells; lower the concurrency where it goes on.',
    retryable: true,
  },
  STORAGE_CORRUPT: {
    happened: 'Bytes changed on the way to or from the storage: a length or a checksum did not match.',
    remedy: 'Repeat; where it goes on, look for a proxy that changes or cuts bodies.',
    retryable: true,
  },
  STORAGE_CIRCUIT_OPEN: {
    happened: 'The storage failed several times in a row and is left alone for a while.',
    remedy: 'Repeat later; `storageHealth()` tells since when, and the last failure.',
    retryable: true,
  },
  STORAGE_BUSY: {
    happened: 'More calls wait for the storage than its queue takes.',
    remedy: 'Repeat later, or raise the concurrency of the storage.',
    retryable: true,
  },
  STORAGE_QUOTA_EXCEEDED: {
    happened: 'The organization has used up the quota that the host set for the storage; no backup begins.',
    remedy: 'Raise the quota, or free space within the retention rules.',
    retryable: false,
  },
  STORAGE_NOT_MOUNTED: {
    happened:
      'The path of a network share is there but nothing is mounted on it, or something else than before.',
    remedy: 'Mount the share. What is written to the bare mount point would be lost below the share.',
    retryable: true,
  },
  STORAGE_UNTRUSTED: {
    happened: 'The server of the storage is not the one that the destination names: its host key is another.',
    remedy: 'Find out why before anything else. Where the key was changed on purpose, set the new `hostKey`.',
    retryable: false,
  },
  OBJECT_ARCHIVED: {
    happened: 'An object lies in an archive tier and must be thawed before it can be read.',
    remedy: 'Restores thaw what they need and wait; for other reads, thaw first. Hours to days, by tier.',
    retryable: true,
  },
  EXPORT_ROW_UNSUPPORTED: {
    happened:
      'A row cannot be exported: it holds bytes that are no text in the database’s encoding, or is too long for a string.',
    remedy: 'Leave the entity that the message names out of the export, or restore the snapshot instead.',
    retryable: false,
  },
  CREDENTIALS_UNAVAILABLE: {
    happened: 'The credential that a destination or key refers to was not given, or lacks a field.',
    remedy:
      'Give `credentials` to createDataProtection and let it answer for the reference that the message names.',
    retryable: false,
  },
  DEPENDENCY_MISSING: {
    happened: 'A package that the configured provider needs is not installed.',
    remedy: 'Install the package that the message names.',
    retryable: false,
  },
  QUEUE_UNAVAILABLE: {
    happened: 'The queue (Redis, or PostgreSQL’s) did not answer. What was asked for is in the database.',
    remedy: 'Nothing is lost; workers find it without the queue. Restore the connection for lower latency.',
    retryable: true,
  },
  BACKUP_TIME_LIMIT: {
    happened: 'The run passed its maximum duration or the end of its window.',
    remedy: 'Raise `maxDurationMinutes`, widen the window or raise `maxConcurrency`.',
    retryable: false,
  },
  RETENTION_UNREACHABLE: {
    happened:
      'A limit of the rotation (number, size or age) cannot be reached without deleting what must be kept.',
    remedy: 'Raise the limit that the message names, or release locks and holds that are no longer needed.',
    retryable: false,
  },
  KEY_UNAVAILABLE: {
    happened:
      'The key that a snapshot was encrypted with is missing, or is not the right one. Nothing was decrypted.',
    remedy: 'Provide the key with the id that the message names.',
    retryable: false,
  },
  KEY_IN_USE: {
    happened: 'The key wraps the data keys of snapshots that are kept, and was not retired.',
    remedy:
      'Have them wrapped by the current key (`rewrapKeys`, in every organization), or delete them, and repeat.',
    retryable: false,
  },
  KEYRING_INVALID: {
    happened: 'The keyring is unreadable, malformed, or readable by others.',
    remedy: 'Correct the keyring; `chmod 600` its file.',
    retryable: false,
  },
  ARCHIVE_CORRUPT: {
    happened: 'Stored bytes are not what was written: altered, cut, extended, swapped or replaced.',
    remedy: 'Do not use this copy; heal it from a replica or take a new backup.',
    retryable: false,
  },
  ARCHIVE_INCOMPLETE: {
    happened:
      'There is no manifest (the backup never finished), or an object that the manifest names is missing.',
    remedy: 'Use another snapshot or another copy.',
    retryable: false,
  },
  ARCHIVE_VERSION_UNSUPPORTED: {
    happened: 'The archive was written by a newer version of the format.',
    remedy: 'Update the library.',
    retryable: false,
  },
  BACKUP_ALREADY_RUNNING: {
    happened: 'Another run of the same configuration is going on.',
    remedy: 'Wait for it, or cancel it.',
    retryable: true,
  },
  BACKUP_CANCELLED: {
    happened: 'The run was cancelled; what it had stored was removed.',
    remedy: 'Nothing to do.',
    retryable: false,
  },
  BACKUP_ATTEMPT_LOST: {
    happened: 'Another worker declared this attempt dead and claimed it; the attempt may not finish.',
    remedy: 'Nothing to do; the next run starts afresh.',
    retryable: true,
  },
  BACKUP_INTERRUPTED: {
    happened: 'The process that ran the backup ended before the backup did.',
    remedy: 'Repeat the backup; its remains were removed.',
    retryable: true,
  },
  RESTORE_TARGET_EXISTS: {
    happened: 'The schema to restore into exists already; nothing was changed.',
    remedy: 'Choose another name or drop the schema.',
    retryable: false,
  },
  RESTORE_TARGET_INCOMPATIBLE: {
    happened:
      'The target lacks something that the snapshot needs: an extension, a function, a type, a collation or a privilege.',
    remedy: 'Create what the message names in the target database.',
    retryable: false,
  },
  RESTORE_VALIDATION_FAILED: {
    happened: 'The restored rows are not the archived ones, or violate a constraint; the restore was undone.',
    remedy: 'See the validation results of the operation.',
    retryable: false,
  },
  RESTORE_PRIVILEGE_MISSING: {
    happened: 'The database role lacks a privilege that the restore needs; nothing was changed.',
    remedy: 'Grant what the message names: see docs/restore.md.',
    retryable: false,
  },
  RESTORE_LOCK_TIMEOUT: {
    happened:
      'Rows or tables of the restore were locked by others and did not become free; nothing was changed.',
    remedy: 'Repeat the restore; look for transactions that stay open.',
    retryable: true,
  },
  RESTORE_CASCADES: {
    happened: 'Deletes of the restore would reach rows of other tables; nothing was changed.',
    remedy: 'Set `allowCascades`, or restore without `deleteNotInBackup`.',
    retryable: false,
  },
  RESTORE_TOO_MANY_CONFLICTS: {
    happened: 'More rows are in conflict than people can decide on; nothing was changed.',
    remedy: 'Choose another strategy, or restore less at a time.',
    retryable: false,
  },
  RESTORE_INTERRUPTED: {
    happened:
      'The process that ran the restore ended before the restore did; what it had loaded was removed.',
    remedy: 'Repeat the restore.',
    retryable: true,
  },
  RESTORE_CANCELLED: {
    happened: 'The restore was cancelled; what it had loaded was removed.',
    remedy: 'Nothing to do.',
    retryable: false,
  },
  IDEMPOTENCY_MISMATCH: {
    happened:
      'The operation id was used before with another content; `state` shows what that operation came to.',
    remedy: 'Give every operation an id of its own; a repetition must be sent unchanged.',
    retryable: false,
  },
  SEQUENCE_CONFLICT: {
    happened: 'Another operation of the stream has the sequence number: the outbox was copied or set back.',
    remedy: 'Begin a new `epoch` and hand the operation in again under it.',
    retryable: false,
  },
  DEPENDENCY_CYCLE: {
    happened: 'The operation would close a circle of operations that wait for each other; it was not taken.',
    remedy: 'Correct `dependsOn` or `previousOperationId`.',
    retryable: false,
  },
  APPEND_ONLY: {
    happened: 'The entity takes new records only; this operation would change one.',
    remedy: 'CREATE a record that corrects the earlier one.',
    retryable: false,
  },
  ENTITY_ID_TAKEN: {
    happened: 'The id of a new entity belongs to something that the actor may not see.',
    remedy: 'Make a new id and hand the creation in again.',
    retryable: false,
  },
  CONSTRAINT_VIOLATED: {
    happened: 'The host’s database refused what was to be written: a constraint, a type or a trigger.',
    remedy: 'Correct the payload with `editOperation`; the message names the constraint or column.',
    retryable: false,
  },
  CONFLICT_STALE: {
    happened: 'The entity or the operation has changed since the person looked at it; nothing was decided.',
    remedy: 'Show the conflict or operation as it is now, and decide again.',
    retryable: false,
  },
  SYNC_ATTEMPT_LOST: {
    happened: 'Another worker took the operation over while this one was slow; what this one did was undone.',
    remedy: 'Nothing to do.',
    retryable: true,
  },
  AUDIT_LOG_BROKEN: {
    happened:
      'The audit log does not verify: entries or checkpoints were altered, removed or put in. Nothing was signed or removed.',
    remedy:
      'Run `verifyAuditLog()`, keep the database and the checkpoints as they are, and find out who had access.',
    retryable: false,
  },
  MIGRATION_FAILED: {
    happened: 'The library’s own schema could not be created or changed; it is as it was before.',
    remedy: 'See the message; the role needs CREATE on the database.',
    retryable: false,
  },
  SCHEMA_NEWER: {
    happened: 'The library’s schema in the database was made by a newer version of the library.',
    remedy: 'Update the library in this process.',
    retryable: false,
  },
  SCHEMA_MISSING: {
    happened: 'The library’s schema is not in the database, or is older than this version.',
    remedy: 'Run `await protection.migrate()`.',
    retryable: false,
  },
  INTERNAL: {
    happened: 'Something that should not happen; a bug in the library.',
    remedy: 'Report it with the message.',
    retryable: false,
  },
} as const satisfies Record<string, ErrorCodeDescription>;

export type ErrorCode = keyof typeof ERROR_CODES;

interface ErrorOptions {
  readonly cause?: unknown;
  /** Overrides the code’s default. */
  readonly retryable?: boolean;
}

/**
 * The base of everything that the library throws. `message` is safe to log and to show to the caller: it holds
 * names of tables, ids and codes, never a row’s content, a key or a credential. `cause` may hold more: do not log it.
 */
export class DataProtectionError extends Error {
  readonly code: ErrorCode;
  /** Whether the same call may succeed later without a change of the input. */
  readonly retryable: boolean;

  constructor(message: string, code: ErrorCode, options: ErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'DataProtectionError';
    this.code = code;
    this.retryable = options.retryable ?? ERROR_CODES[code].retryable;
    // The cause may quote rows: keep it out of JSON.stringify and of loggers that walk enumerable fields.
    if ('cause' in options) Object.defineProperty(this, 'cause', { enumerable: false });
  }
}

/** A failure of a backup or restore run. `recoverable` says whether a retry may succeed. */
export class BackupError extends DataProtectionError {
  readonly snapshotId: UUID | undefined;
  readonly recoverable: boolean;

  constructor(
    message: string,
    code: ErrorCode,
    snapshotId?: UUID,
    recoverable = true,
    options: { cause?: unknown } = {},
  ) {
    super(message, code, { ...options, retryable: recoverable });
    this.name = 'BackupError';
    this.snapshotId = snapshotId;
    this.recoverable = recoverable;
  }
}

/** A failure of an offline operation. */
export class SyncError extends DataProtectionError {
  /** undefined: none was made yet. */
  readonly operationId: UUID | undefined;

  constructor(
    message: string,
    code: ErrorCode,
    operationId: UUID | undefined,
    retryable = true,
    options: { cause?: unknown } = {},
  ) {
    super(message, code, { ...options, retryable });
    this.name = 'SyncError';
    this.operationId = operationId;
  }
}

/** A failure of a storage provider: codes `STORAGE_*` and `OBJECT_ARCHIVED`. `key` is the object’s name, which holds no PHI. */
export class StorageError extends DataProtectionError {
  readonly key: string | undefined;
  /** Milliseconds that the provider asked to wait, where it said so. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    code: (ErrorCode & `STORAGE_${string}`) | 'OBJECT_ARCHIVED',
    options: ErrorOptions & { key?: string; retryAfterMs?: number } = {},
  ) {
    super(message, code, options);
    this.name = 'StorageError';
    this.key = options.key;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** A failure of keys: codes `KEY_UNAVAILABLE`, `KEY_IN_USE` and `KEYRING_INVALID`. */
export class KeyError extends DataProtectionError {
  constructor(
    message: string,
    code: 'KEY_UNAVAILABLE' | 'KEY_IN_USE' | 'KEYRING_INVALID',
    options: ErrorOptions = {},
  ) {
    super(message, code, options);
    this.name = 'KeyError';
  }
}

/** Stored bytes that cannot be trusted or read: codes `ARCHIVE_*`. */
export class ArchiveError extends DataProtectionError {
  constructor(message: string, code: ErrorCode & `ARCHIVE_${string}`, options: ErrorOptions = {}) {
    super(message, code, options);
    this.name = 'ArchiveError';
  }
}

/** One problem of an input. */
export interface ValidationIssue {
  /** Path of the field, such as `schedule.startTime`; empty for the input as a whole. */
  readonly path: string;
  readonly message: string;
  /** What to write instead. */
  readonly remedy: string;
}

/** An input that does not have the documented shape. All its problems at once. */
export class ValidationError extends DataProtectionError {
  readonly issues: readonly ValidationIssue[];

  constructor(what: string, issues: readonly ValidationIssue[]) {
    const list = issues.map((issue) =>
      `${issue.path || '(input)'}: ${issue.message} ${issue.remedy}`.trimEnd(),
    );
    super(`${what} is not valid. ${list.join(' | ')}`, 'VALIDATION_FAILED');
    this.name = 'ValidationError';
    this.issues = issues;
  }
}
