/** A field visit without a network, on an embedded PostgreSQL. Ends with 0 only if everything was as it must be. */
import { randomBytes } from 'node:crypto';
import { localKeyring } from '../../src/index.ts';
import { startEmbeddedPostgres } from '../../test/harness/embedded-postgres.ts';
import { runFieldVisit } from './field.ts';

const server = await startEmbeddedPostgres({ log: (line) => console.log(line) });
try {
  const keys = localKeyring({ keys: [{ id: 'example', key: randomBytes(32) }], current: 'example' });
  await runFieldVisit(server.url, keys, (line) => console.log(line));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  await server.stop();
}
