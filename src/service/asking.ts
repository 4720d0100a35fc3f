import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Actor } from '../types/actor.ts';
import type { BackupConfigStatus, BackupConfiguration } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';

/** Who asks, and what he sees. */
export interface Asking {
  readonly context: ServiceContext;
  readonly actor: Actor;
  readonly repository: BackupRepository;
  /** For what the actor was allowed to start: it sees the whole organization. */
  readonly system: BackupRepository;
}

export const notFound = (what: string, id: UUID): DataProtectionError =>
  new DataProtectionError(`There is no ${what} ${id}`, 'NOT_FOUND');

export const alreadyRunning = (configuration: BackupConfiguration): DataProtectionError =>
  new DataProtectionError(
    `A backup of configuration ${configuration.id} is running`,
    'BACKUP_ALREADY_RUNNING',
  );

/** Throws `INVALID_STATE` unless the configuration's status is one of these. */
export function requireStatus(
  configuration: BackupConfiguration,
  allowed: readonly BackupConfigStatus[],
  action: string,
): void {
  if (allowed.includes(configuration.status)) return;
  throw new DataProtectionError(
    `The configuration is ${configuration.status} and cannot ${action}; it must be ${allowed.join(' or ')}`,
    'INVALID_STATE',
  );
}
