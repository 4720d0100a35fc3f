import type { Actor, BackupService, DataProtection, DataProtectionOptions } from '../../src/index.ts';
import type { DemoOptions } from './options.ts';
import type { Proofs } from './proofs.ts';
import type { Screen } from './screen.ts';

/** What every part of the demo works with. */
export interface Stage {
  readonly options: DemoOptions;
  readonly screen: Screen;
  readonly proofs: Proofs;
  readonly url: string;
  readonly storageFolder: string;
  /** A folder to work in that goes at the end. */
  readonly folder: string;
  /** The organization that is backed up, and the other one. */
  readonly organizations: readonly [string, string];
  readonly actor: Actor;
  readonly settings: Omit<DataProtectionOptions, 'entities'>;
  readonly protection: DataProtection;
  readonly backups: BackupService;
}
