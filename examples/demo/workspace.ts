import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EmbeddedPostgresServer, startEmbeddedPostgres } from '../../test/harness/embedded-postgres.ts';
import type { Screen } from './screen.ts';

/** A folder and a PostgreSQL of the demo's own, both gone when it is removed. */
export class Workspace {
  readonly folder = mkdtempSync(join(tmpdir(), 'care-demo-'));
  #server: EmbeddedPostgresServer | undefined;

  /** The server's connection string, once it has been started. */
  get url(): string | undefined {
    return this.#server?.url;
  }

  /** Gives the connection string. */
  async startPostgres(screen: Screen): Promise<string> {
    if (process.getuid?.() === 0) {
      screen.line(
        '   PostgreSQL does not run as root: it runs as the system user `postgres`, which is made if',
      );
      screen.line('   this machine has none, and stays.');
    }
    this.#server = await startEmbeddedPostgres({ log: (line) => screen.line(`   ${line}`) });
    return this.#server.url;
  }

  /** Harmless when repeated. A server that is still being started goes with the process. */
  async remove(): Promise<void> {
    await this.#server?.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}
