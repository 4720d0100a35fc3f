import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { createPostgresQueue } from '../../src/jobs/postgres-queue.ts';
import { backupJob, loggerInto, TEST_TIMING, taking, until } from '../contract/jobs.ts';
import { createTestDatabase } from '../harness/postgres.ts';

/** `FATAL: terminating connection due to administrator command`, as PostgreSQL writes it. */
function termination(): Buffer {
  const fields = Buffer.from('SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0');
  const head = Buffer.alloc(5);
  head.write('E');
  head.writeInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}

/** Ends every second session of a name in the very packet that says it is ready. */
async function endingProxy(port: number, name: string) {
  let ending = true;
  let ended = 0;
  let begun = 0;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    let named = false;
    let started = false;
    for (const socket of [client, upstream]) sockets.add(socket.on('error', () => undefined));
    client.on('data', (chunk) => {
      named ||= chunk.includes(name);
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => {
      const isReady = !started && chunk.at(-6) === 0x5a;
      started ||= isReady;
      if (isReady && named) begun += 1;
      if (!isReady || !named || !ending || begun % 2 === 1) return void client.write(chunk);
      ended += 1;
      client.end(Buffer.concat([chunk, termination()]));
      upstream.destroy();
    });
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    get ended() {
      return ended;
    },
    calm: () => {
      ending = false;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

test('sessions that the server ends as they begin do not end the process', { timeout: 60_000 }, async () => {
  await using database = await createTestDatabase({ migrated: false });
  const url = new URL(database.url);
  await using proxy = await endingProxy(Number(url.port), 'care-backup-queue-work');
  url.port = String(proxy.port);
  const options = { schema: 'care_backup_queue', logger: loggerInto([]), timing: TEST_TIMING };
  await using queue = createPostgresQueue({ ...options, connection: { connectionString: url.href } });
  const taken: string[] = [];
  await queue.work(taking(async ({ snapshotId }) => void taken.push(snapshotId)));
  await until('a session was ended', () => proxy.ended >= 1);
  proxy.calm();
  const job = backupJob();
  await queue.add(job);
  await until('the job is done', () => taken.includes(job.data.snapshotId));
  expect(taken).toEqual([job.data.snapshotId]);
});
