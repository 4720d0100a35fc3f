import type { RowExporter } from '../export/export.ts';
import type { Job, JobKind } from '../jobs/jobs.ts';
import type { KeyProvider } from '../keys/keys.ts';
import type { SessionLocks } from '../repository/advisory-lock.ts';
import type { AuditLog } from '../repository/audit-log.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Database, Transaction } from '../repository/database.ts';
import type { WrappingKeys } from '../repository/wrapping-keys.ts';
import type { LiveRestoreRequest, RestoreTarget } from '../restore/restore.ts';
import type { SnapshotSource } from '../source/source.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import type { Actor } from '../types/actor.ts';
import type { StorageDestination } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import type { Logger } from '../types/logger.ts';
import type { StoragePrices } from '../types/usage.ts';
import type { EventBus } from './event-bus.ts';
import type { RunningWork } from './running-work.ts';

/** A destination that has been opened. */
export interface OpenedStorage {
  readonly storage: ObjectStorage;
  /** What stands before the organization in every key; '' or no trailing slash. */
  readonly prefix: string;
}

/** What the services are made of; built once in `compose.ts`. */
export interface ServiceContext {
  readonly db: Database;
  readonly locks: SessionLocks;
  readonly audit: AuditLog;
  readonly repository: (
    scope: Pick<Actor, 'organizationId' | 'branchIds'>,
    db?: Database,
  ) => BackupRepository;
  readonly source: SnapshotSource;
  readonly restoreTarget: RestoreTarget;
  readonly rowExporter: RowExporter;
  /** Whether the entities are in the database of the library's own tables. */
  readonly dataIsOwn: boolean;
  /** The library's own tables in a transaction that the restore target has begun. */
  readonly within: (client: Parameters<LiveRestoreRequest['finish']>[0]) => Transaction;
  /** undefined: nothing can be encrypted. */
  readonly keys: KeyProvider | undefined;
  readonly wrappingKeys: WrappingKeys;
  /** Throws `NOT_SUPPORTED` for a type that this version does not know. */
  readonly openStorage: (destination: StorageDestination) => OpenedStorage;
  readonly defaultDestination: StorageDestination | undefined;
  /** What storage costs; empty: nobody has said. */
  readonly storagePrices: StoragePrices;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: EventBus;
  /** Names this process in attempts and claims. */
  readonly worker: string;
  readonly maxSnapshotAgeMs: number;
  readonly work: RunningWork;
  /** Where what is asked for is done: in the background of this process, or by a worker. */
  readonly execution: 'inline' | 'worker';
  /** Between two looks whether what was thawed can be read, in milliseconds. */
  readonly thawPollMs: number;
  /** Wakes a worker. Does nothing where there are none; never rejects, since workers look by themselves too. */
  readonly wake: (job: Job<JobKind>) => Promise<void>;
}
