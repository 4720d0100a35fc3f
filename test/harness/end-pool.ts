import type pg from 'pg';

/**
 * Ends a pool and waits until its connections are closed, which `pool.end()` does not: a server that stops meanwhile
 * cuts them off, and the error has no listener any more.
 */
export async function endPool(pool: pg.Pool): Promise<void> {
  let open = pool.totalCount;
  const { promise, resolve } = Promise.withResolvers<void>();
  pool.on('remove', () => {
    open -= 1;
    if (open === 0) resolve();
  });
  if (open === 0) resolve();
  await pool.end();
  await promise;
}
