import { databaseUrl } from '../../test/harness/database-url.ts';
import { withField } from '../field-visit/field.ts';
import { runScenario } from '../field-visit/scenario.ts';
import { quoted, withClient } from './database.ts';
import type { Stage } from './stage.ts';

const DATABASE = 'field_visit';

/** The field visit of examples/field-visit, with its server and a worker, in a database of its own. */
export async function takeInShift({ options, proofs, screen, settings, url }: Stage): Promise<void> {
  await withClient(url, (client) => client.query(`CREATE DATABASE ${quoted(DATABASE)}`));
  const place = { url: databaseUrl(url, DATABASE), keys: settings.keys };
  const { once, order, nothingLost } = await withField(place, (field) =>
    runScenario(field, { say: (line) => screen.line(`   ${line}`), spoil: options.sabotage }),
  );
  proofs.note('offlineOnce', once.held, once.details);
  proofs.note('offlineOrder', order.held, order.details);
  proofs.note('offlineConflict', nothingLost.held, nothingLost.details);
}
