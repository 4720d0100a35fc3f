import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { createDataProtection, defineEntity, type KeyProvider } from '../../src/index.ts';
import { runScenario } from './scenario.ts';
import { createServer } from './server.ts';

/** The example on an empty database: tables, library, worker, server, and the story. */
export async function runFieldVisit(
  url: string,
  keys: KeyProvider,
  say: (line: string) => void,
): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  try {
    await pool.query(await readFile(new URL('./schema.sql', import.meta.url), 'utf8'));
    await using protection = await createDataProtection({
      database: url,
      entities: [
        defineEntity({ type: 'VISIT', table: 'visits', classification: { phi: true } }),
        defineEntity({ type: 'EVV_RECORD', table: 'evv_records' }),
        defineEntity({ type: 'NOTE', table: 'notes', classification: { phi: true } }),
      ],
      keys,
      execution: 'worker',
      sync: { entities: [{ type: 'VISIT' }, { type: 'EVV_RECORD' }, { type: 'NOTE' }] },
    });
    await protection.migrate();
    await using _worker = await protection.startWorker({ pollMs: 1_000 });
    const server = createServer(protection);
    try {
      const address = await server.listen({ host: '127.0.0.1', port: 0 });
      await runScenario({ url: address, database: pool, say });
    } finally {
      await server.close();
    }
  } finally {
    await pool.end();
  }
}
