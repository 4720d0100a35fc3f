import type { ObjectStorage } from '../src/storage/storage.ts';

/** The provider's own client, used as its documentation begins. */
export interface RawClient {
  put(key: string, body: Buffer): Promise<unknown>;
  get(key: string): Promise<Uint8Array>;
  close(): void;
}

/** A server, the library's storage on it, and the raw client on the same. */
export interface Contest extends AsyncDisposable {
  readonly ours: ObjectStorage;
  readonly raw: RawClient;
}
