import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { type ArchiveWriterOptions, createArchiveWriter } from '../../src/archive/writer.ts';
import {
  CREATED_AT,
  codeOf,
  DATA_KEY,
  IDENTITY,
  sampleRows,
  WRAPPED_KEYS,
} from '../vectors/build-archive.ts';

const BASE: ArchiveWriterOptions = {
  identity: IDENTITY,
  createdAt: CREATED_AT,
  compression: { algorithm: 'NONE' },
  checksum: 'SHA256',
  encryption: { dataKey: DATA_KEY, wrappedKeys: WRAPPED_KEYS },
  reopen: 'CHECK',
  segmentSize: 1000,
  objectSize: 2000,
  buffers: 3,
  store: () => Promise.resolve(),
};

async function addOne(writer: ReturnType<typeof createArchiveWriter>, run = 0): Promise<void> {
  const buffer = await writer.acquire();
  buffer.set(sampleRows(1000));
  writer.add({ part: 0, run, buffer, length: 1000, rows: 1, continues: false });
}

/** Lets everything run that can run. */
async function settle(): Promise<void> {
  for (let round = 0; round < 200; round += 1) await turn();
}

test('acquire waits while every buffer is in use and goes on when one is released', async () => {
  const writer = createArchiveWriter(BASE);
  const buffers = [await writer.acquire(), await writer.acquire(), await writer.acquire()];
  expect(new Set(buffers).size).toBe(3);
  expect(buffers.every((buffer) => buffer.length === 1000)).toBe(true);
  let got: Buffer | undefined;
  const waiting = writer.acquire().then((buffer) => {
    got = buffer;
  });
  await settle();
  expect(got).toBeUndefined();
  writer.release(buffers[0] ?? Buffer.alloc(0));
  await waiting;
  expect(got).toBe(buffers[0]);
});

test('a stalled storage bounds what is held, and nothing is lost when it goes on', async () => {
  const stores: PromiseWithResolvers<void>[] = [];
  let stored = 0;
  const writer = createArchiveWriter({
    ...BASE,
    store: async (_, pieces) => {
      const gate = Promise.withResolvers<void>();
      stores.push(gate);
      await gate.promise;
      stored += pieces.reduce((sum, piece) => sum + piece.length, 0);
    },
  });
  let added = 0;
  const source = (async () => {
    for (; added < 60; added += 1) await addOne(writer);
  })();
  await settle();
  const atStall = added;
  expect(atStall).toBeGreaterThan(3);
  expect(atStall).toBeLessThan(15);
  await settle();
  expect(added).toBe(atStall);

  let open = true;
  const release = (async () => {
    while (open) {
      for (const gate of stores.splice(0)) gate.resolve();
      await turn();
    }
  })();
  await source;
  const finished = await writer.finish(null);
  open = false;
  await release;
  expect(finished).toMatchObject({ segments: 60, rows: 60, rawBytes: 60_000, objects: 30 });
  expect(finished.storedBytes).toBe(stored);
});

test('several streams with fewer buffers than segments do not deadlock', async () => {
  const writer = createArchiveWriter({ ...BASE, buffers: 1, store: () => turn() });
  await Promise.all(
    [0, 1, 2, 3].map(async (run) => {
      for (let index = 0; index < 10; index += 1) await addOne(writer, run);
    }),
  );
  expect(await writer.finish({})).toMatchObject({ segments: 40 });
});

test('the first failure of the storage rejects everything afterwards', async () => {
  const failure = new Error('the storage is full');
  const writer = createArchiveWriter({ ...BASE, store: () => Promise.reject(failure) });
  const held = await writer.acquire();
  for (let index = 0; index < 4; index += 1) await addOne(writer).catch(() => undefined);
  await expect(writer.flush()).rejects.toBe(failure);
  await expect(writer.acquire()).rejects.toBe(failure);
  await expect(writer.finish({})).rejects.toBe(failure);
  expect(() => writer.add({ part: 0, run: 0, buffer: held, length: 1, rows: 1, continues: false })).toThrow(
    failure,
  );
  expect(() => writer.release(held)).not.toThrow();
});

test('abort rejects who waits at once, and resolves when no store runs any more', async () => {
  const gate = Promise.withResolvers<void>();
  const writer = createArchiveWriter({ ...BASE, objectSize: 500, store: () => gate.promise });
  await addOne(writer);
  await settle();
  const flushing = writer.flush();
  const reason = new Error('cancelled');
  let aborted = false;
  const aborting = writer.abort(reason).then(() => {
    aborted = true;
  });
  await expect(flushing).rejects.toBe(reason);
  await settle();
  expect(aborted).toBe(false);
  gate.resolve();
  await aborting;
  await expect(writer.finish({})).rejects.toBe(reason);
});

test('the signal aborts, before and during', async () => {
  const controller = new AbortController();
  const reason = new Error('stop');
  const writer = createArchiveWriter({ ...BASE, signal: controller.signal });
  for (let index = 0; index < 3; index += 1) await writer.acquire();
  const waiting = writer.acquire();
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
  await expect(createArchiveWriter({ ...BASE, signal: controller.signal }).acquire()).rejects.toBe(reason);
});

test('flush stores what is open and the archive goes on', async () => {
  const names: string[] = [];
  const writer = createArchiveWriter({
    ...BASE,
    objectSize: 100_000,
    store: (name) => {
      names.push(name);
      return Promise.resolve();
    },
  });
  await addOne(writer);
  await writer.flush();
  expect(names).toEqual(['o-000001']);
  await addOne(writer);
  expect(await writer.finish({})).toMatchObject({ segments: 2, objects: 2 });
  expect(names).toEqual(['o-000001', 'o-000002']);
});

test('a lent buffer forbids to finish: its rows would be missing', async () => {
  const writer = createArchiveWriter(BASE);
  await writer.acquire();
  expect(await codeOf(() => writer.finish({}))).toBe('INTERNAL');
});

test('a wrong use ends the archive even when the caller swallows the error', async () => {
  const wrong = [
    { length: 1001 },
    { length: -1 },
    { part: -1 },
    { run: 2 ** 32 },
    { rows: 0.5 },
    { continues: true },
    { buffer: Buffer.alloc(1000) },
  ];
  for (const change of wrong) {
    const writer = createArchiveWriter(BASE);
    const buffer = await writer.acquire();
    const segment = { part: 0, run: 0, buffer, length: 10, rows: 1, continues: false, ...change };
    expect(await codeOf(() => writer.add(segment)), JSON.stringify(Object.keys(change))).toBe('INTERNAL');
    expect(await codeOf(() => writer.finish({}))).toBe('INTERNAL');
  }
});

test('a finished archive takes nothing more', async () => {
  const writer = createArchiveWriter(BASE);
  await writer.finish({});
  expect(await codeOf(() => writer.finish({}))).toBe('INTERNAL');
  expect(await codeOf(() => writer.acquire())).toBe('INTERNAL');
});

test('options that no reader would take are refused before anything is written', async () => {
  const wrong: Partial<ArchiveWriterOptions>[] = [
    { identity: { ...IDENTITY, snapshotId: 'org-123' } },
    { identity: { ...IDENTITY, snapshotNumber: '../x' } },
    { segmentSize: 0 },
    { segmentSize: 65 * 1024 * 1024 },
    { objectSize: 0 },
    { buffers: 0 },
    { compression: { algorithm: 'ZSTD', level: 10 } },
    { encryption: { dataKey: DATA_KEY, wrappedKeys: [] } },
    { encryption: { dataKey: DATA_KEY, wrappedKeys: [{ keyId: 'k', scheme: 's', wrapped: 'not base64!' }] } },
  ];
  for (const change of wrong) {
    expect(await codeOf(() => createArchiveWriter({ ...BASE, ...change }))).toBe('CONFIGURATION_INVALID');
  }
  const short = { dataKey: Buffer.alloc(31), wrappedKeys: WRAPPED_KEYS };
  expect(await codeOf(() => createArchiveWriter({ ...BASE, encryption: short }))).toBe('KEY_UNAVAILABLE');
});

test('CHECK finds a buffer that changed while it was sealed; TRUST does not look', async () => {
  for (const [reopen, code] of [
    ['CHECK', 'ARCHIVE_CORRUPT'],
    ['TRUST', undefined],
  ] as const) {
    const writer = createArchiveWriter({ ...BASE, reopen });
    const buffer = await writer.acquire();
    writer.add({ part: 0, run: 0, buffer, length: 1000, rows: 1, continues: false });
    // With NONE sealing takes microtasks only: every step of it sees other bytes.
    for (let round = 0; round < 100; round += 1) {
      buffer.fill(round);
      await Promise.resolve();
    }
    expect(await codeOf(() => writer.flush())).toBe(code);
  }
});
