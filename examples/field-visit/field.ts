import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { createDataProtection, defineEntity, type KeyProvider } from '../../src/index.ts';
import type { Field } from './scenario.ts';
import { createServer } from './server.ts';

/** Sets the example up in an empty database: tables, library, server and, when it is asked for, a worker. */
export async function withField<T>(
  { url, keys }: { readonly url: string; readonly keys?: KeyProvider | undefined },
  work: (field: Field) => Promise<T>,
): Promise<T> {
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  pool.on('error', () => undefined);
  try {
    await pool.query(await readFile(new URL('./schema.sql', import.meta.url), 'utf8'));
    // Its end stops the worker too: after the server, so that nothing is asked of what is closed.
    await using protection = await createDataProtection({
      database: url,
      entities: [
        defineEntity({ type: 'VISIT', table: 'visits', classification: { phi: true } }),
        defineEntity({ type: 'EVV_RECORD', table: 'evv_records' }),
        defineEntity({ type: 'NOTE', table: 'notes', classification: { phi: true } }),
      ],
      ...(keys === undefined ? {} : { keys }),
      execution: 'worker',
      sync: { entities: [{ type: 'VISIT' }, { type: 'EVV_RECORD' }, { type: 'NOTE' }] },
    });
    await protection.migrate();
    const server = createServer(protection);
    try {
      const address = await server.listen({ host: '127.0.0.1', port: 0 });
      return await work({
        url: address,
        database: pool,
        startWorker: () => protection.startWorker({ pollMs: 500 }),
      });
    } finally {
      await server.close();
    }
  } finally {
    await pool.end();
  }
}
