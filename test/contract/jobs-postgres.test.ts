import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../harness/embedded-postgres.ts';
import { jobsContract } from './jobs.ts';

let made = 0;

jobsContract('postgres', async () => {
  const postgres = await startEmbeddedPostgres();
  let stopped: number[] = [];
  const first = await readFile(join(postgres.dataDirectory, 'postmaster.pid'), 'utf8');
  let postmaster = Number.parseInt(first, 10);
  const signal = (pids: readonly number[], name: NodeJS.Signals): void => {
    for (const pid of pids) {
      try {
        process.kill(pid, name);
      } catch {
        // It ended meanwhile.
      }
    }
  };
  return {
    place: () => {
      made += 1;
      return { kind: 'postgres', url: postgres.url, schema: `queue_${made}` };
    },
    hang: () => {
      // The postmaster first: then no further session begins.
      signal([postmaster], 'SIGSTOP');
      const sessions = execFileSync('pgrep', ['-P', `${postmaster}`], { encoding: 'utf8' });
      stopped = [...sessions.trim().split('\n').map(Number), postmaster];
      signal(stopped, 'SIGSTOP');
    },
    resume: () => signal(stopped.splice(0), 'SIGCONT'),
    down: () => postgres.crash(),
    up: async () => {
      await postgres.restart();
      const again = await readFile(join(postgres.dataDirectory, 'postmaster.pid'), 'utf8');
      postmaster = Number.parseInt(again, 10);
    },
    wipe: async (place) => {
      if (place.kind !== 'postgres') return;
      const client = new pg.Client({ connectionString: place.url });
      await client.connect();
      try {
        const { rows } = await client.query<{ name: string }>(
          `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
           WHERE schemaname = $1 AND tablename <> 'migration'`,
          [place.schema],
        );
        await client.query(`TRUNCATE ${rows.map(({ name }) => name).join(', ')} CASCADE`);
      } finally {
        await client.end();
      }
    },
    [Symbol.asyncDispose]: () => postgres.stop(),
  };
});
