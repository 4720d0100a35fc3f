import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectInfo, ObjectStorage, ResumableUploads, UploadPart } from '../../src/storage/storage.ts';
import { type DataProtectionError, StorageError } from '../../src/types/errors.ts';

/** Bytes that every process of the test makes alike. */
export function contentOf(size: number): Buffer {
  const content = Buffer.alloc(size);
  for (let offset = 0; offset + 4 <= size; offset += 4)
    content.writeUInt32LE((offset * 2_654_435_761) >>> 0, offset);
  return content;
}

interface Order {
  readonly operation: 'stat' | 'begin' | 'putPart' | 'parts' | 'complete' | 'abort';
  readonly target: string;
  readonly part?: UploadPart;
  readonly parts?: readonly UploadPart[];
}

/** Memory behind a socket, so that it outlives the processes that are killed while they use it. */
export async function serveUploads(onPart: (stored: number) => Promise<void>) {
  const storage = memoryStorage();
  const { uploads } = storage;
  if (uploads === undefined) throw new Error('Memory has uploads.');
  let stored = 0;

  async function follow(order: Order, body: Buffer): Promise<unknown> {
    if (order.operation === 'stat') return storage.stat(order.target);
    if (order.operation === 'begin') return uploads?.begin(order.target);
    if (order.operation === 'parts') return uploads?.parts(order.target);
    if (order.operation === 'complete') return uploads?.complete(order.target, order.parts ?? []);
    if (order.operation === 'abort') return uploads?.abort(order.target);
    if (order.part === undefined) throw new Error('No part.');
    await uploads?.putPart(order.target, order.part, body);
    stored += 1;
    await onPart(stored);
    return null;
  }

  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk);
      const order: Order = JSON.parse(decodeURIComponent(request.url?.slice(1) ?? ''));
      response.end(JSON.stringify({ answer: (await follow(order, Buffer.concat(chunks))) ?? null }));
    } catch (error) {
      response.end(JSON.stringify({ code: codeOf(error), message: String(error) }));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    storage,
    uploads,
    url: `http://127.0.0.1:${port}/`,
    stored: () => stored,
    close: () => {
      server.closeAllConnections();
      return new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'INTERNAL';
}

/** The other end: only what `uploadLarge` needs. */
export function remoteStorage(url: string): ObjectStorage {
  async function call<T>(order: Order, body?: Uint8Array): Promise<T> {
    const response = await fetch(url + encodeURIComponent(JSON.stringify(order)), {
      method: 'POST',
      body: body === undefined ? null : Buffer.from(body),
    });
    const answer = (await response.json()) as {
      answer?: T;
      code?: DataProtectionError['code'];
      message?: string;
    };
    if (answer.code === 'STORAGE_NOT_FOUND' || answer.code === 'STORAGE_ALREADY_EXISTS') {
      throw new StorageError(answer.message ?? '', answer.code);
    }
    if (answer.code !== undefined) throw new Error(answer.message);
    return answer.answer as T;
  }
  const uploads: ResumableUploads = {
    limits: { minPartBytes: 1, maxPartBytes: 1024 * 1024, maxParts: 1_000 },
    begin: (key) => call({ operation: 'begin', target: key }),
    putPart: (handle, part, body) => call({ operation: 'putPart', target: handle, part }, body),
    parts: (handle) => call({ operation: 'parts', target: handle }),
    complete: (handle, parts) => call({ operation: 'complete', target: handle, parts }),
    abort: (handle) => call({ operation: 'abort', target: handle }),
  };
  return {
    ...memoryStorage(),
    description: 'the memory of the test',
    async stat(key) {
      const info = await call<Pick<ObjectInfo, 'key' | 'size'> | null>({ operation: 'stat', target: key });
      return info === null ? undefined : { ...info, modifiedAt: new Date(0) };
    },
    uploads,
  };
}
