import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { ObjectInfo, ObjectStorage } from '../../src/storage/storage.ts';
import { StorageError } from '../../src/types/errors.ts';

/** Objects on a page of a listing: few, so that listings have several. */
const PAGE = 2;

export interface TinyObjectStore {
  readonly port: number;
  /** What is stored, whatever the way to it does. */
  readonly objects: ReadonlyMap<string, Buffer>;
  clear(): void;
  close(): Promise<void>;
}

/** An object store over HTTP, create-only, that stores a body only when all of it has arrived. */
export async function tinyObjectStore(): Promise<TinyObjectStore> {
  const objects = new Map<string, Buffer>();

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '', 'http://store');
    const key = decodeURIComponent(url.pathname.slice(1));
    const object = objects.get(key);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);

    if (request.method === 'PUT') {
      const taken = objects.has(key);
      if (!taken) objects.set(key, Buffer.concat(chunks));
      response.writeHead(taken ? 412 : 201).end();
    } else if (request.method === 'DELETE') {
      objects.delete(key);
      response.writeHead(204).end();
    } else if (url.searchParams.has('prefix')) {
      const [prefix, after] = [url.searchParams.get('prefix') ?? '', url.searchParams.get('after') ?? ''];
      const keys = [...objects.keys()].filter((name) => name.startsWith(prefix) && name > after).sort();
      const page = keys.slice(0, PAGE).map((name) => ({ key: name, size: objects.get(name)?.byteLength }));
      send(response, Buffer.from(JSON.stringify({ page, more: keys.length > PAGE })));
    } else if (object === undefined) {
      response.writeHead(404).end();
    } else if (request.method === 'HEAD') {
      response.writeHead(200, { 'x-size': object.byteLength }).end();
    } else {
      const [offset, length] = [Number(url.searchParams.get('offset')), url.searchParams.get('length')];
      send(response, object.subarray(offset, length === null ? undefined : offset + Number(length)));
    }
  }

  const server = createServer((request, response) => {
    // A body that was cut ends here, and nothing was stored.
    answer(request, response).catch(() => request.socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    objects,
    clear: () => objects.clear(),
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

function send(response: ServerResponse, body: Buffer): void {
  response.writeHead(200, { 'content-length': body.byteLength, 'x-digest': digestOf(body) }).end(body);
}

/** The adapter for it, written like those of the providers: no retry, no time limit, every error mapped. */
export function tinyStorage(url: string): ObjectStorage {
  async function call(key: string, query: string, init: RequestInit): Promise<[Response, Buffer]> {
    let response: Response;
    let body: Buffer;
    try {
      response = await fetch(`${url}/${key}${query}`, init);
      body = Buffer.from(await response.arrayBuffer());
    } catch (cause) {
      init.signal?.throwIfAborted();
      throw new StorageError(`No answer for ${key}.`, 'STORAGE_UNAVAILABLE', { key, cause });
    }
    const after = Number(response.headers.get('retry-after'));
    if (response.status === 429) {
      throw new StorageError('Slow down.', 'STORAGE_THROTTLED', { key, retryAfterMs: after * 1_000 });
    }
    if (response.status === 412) throw new StorageError('Taken.', 'STORAGE_ALREADY_EXISTS', { key });
    if (response.status >= 500) throw new StorageError('Down.', 'STORAGE_UNAVAILABLE', { key });
    const digest = response.headers.get('x-digest');
    if (digest !== null && digest !== digestOf(body)) {
      throw new StorageError(`The answer for ${key} is not whole.`, 'STORAGE_CORRUPT', { key });
    }
    return [response, body];
  }

  const signalOf = (signal: AbortSignal | undefined) => (signal === undefined ? {} : { signal });

  return {
    description: 'tiny',
    async put(key, body, { signal } = {}) {
      await call(key, '', { method: 'PUT', body: Buffer.concat(body), ...signalOf(signal) });
    },
    async get(key, { range, signal } = {}) {
      const query = range ? `?offset=${range.offset}&length=${range.length}` : '';
      const [response, body] = await call(key, query, signalOf(signal));
      if (response.status === 404) throw new StorageError('None.', 'STORAGE_NOT_FOUND', { key });
      return body;
    },
    async stat(key, { signal } = {}) {
      const [response] = await call(key, '', { method: 'HEAD', ...signalOf(signal) });
      if (response.status === 404) return undefined;
      return { key, size: Number(response.headers.get('x-size')), modifiedAt: new Date(0) };
    },
    async *list(prefix, { signal } = {}) {
      for (let after = '', more = true; more; ) {
        signal?.throwIfAborted();
        const [, body] = await call('', `?prefix=${prefix}&after=${after}`, signalOf(signal));
        const answer: { page: ObjectInfo[]; more: boolean } = JSON.parse(body.toString());
        for (const info of answer.page) {
          yield info;
          after = info.key;
        }
        more = answer.more;
      }
    },
    async delete(key, { signal } = {}) {
      await call(key, '', { method: 'DELETE', ...signalOf(signal) });
    },
  };
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
