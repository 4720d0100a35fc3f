/** A field visit without a network, on an embedded PostgreSQL. Ends with 0 only if everything was as it must be. */
import { randomBytes } from 'node:crypto';
import { localKeyring } from '../../src/index.ts';
import { startEmbeddedPostgres } from '../../test/harness/embedded-postgres.ts';
import { withField } from './field.ts';
import { runScenario } from './scenario.ts';

const say = (line: string): void => console.log(line);
const server = await startEmbeddedPostgres({ log: say });
try {
  const keys = localKeyring({ keys: [{ id: 'example', key: randomBytes(32) }], current: 'example' });
  const findings = await withField({ url: server.url, keys }, (field) => runScenario(field, { say }));
  for (const [name, { held, details }] of Object.entries(findings)) {
    say(`${held ? 'PROVEN' : 'FAILED'} ${name}: ${details}`);
    if (!held) process.exitCode = 1;
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  await server.stop();
}
