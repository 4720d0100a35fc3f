/**
 * The storage contract. Every provider and every decorator keeps it; the suite in `test/contract/storage.ts` holds
 * them to it. Keys are relative paths of segments `[A-Za-z0-9][A-Za-z0-9._-]*` (at most 255 bytes each) joined by `/`, at
 * most 900 bytes. A key never names what is a folder of another: with `a/b` stored, `a` may be refused. What is no key,
 * or no beginning of one in `list`, is `STORAGE_INVALID_KEY`.
 */
export interface ObjectStorage {
  /** What it is, for logs and errors: a kind and a place, never a credential. */
  readonly description: string;

  /**
   * Stores an object that did not exist. Create-only: `STORAGE_ALREADY_EXISTS` when the key is taken, whatever its
   * content, also when two writers race. When it resolves, the object is durable and readable by every process.
   * When it rejects or is aborted, nothing of the object is visible under its key, unless the answer was lost
   * (`STORAGE_UNAVAILABLE`): then the object is there whole or not at all.
   * `body` is not changed or kept after the promise settles; the pieces are stored one after another.
   */
  put(key: string, body: readonly Uint8Array[], options?: StorageCall): Promise<void>;

  /**
   * The object, or `length` bytes of it from `offset`. `STORAGE_NOT_FOUND` when there is none. A range that reaches
   * past the end gives what is there; the caller checks the length.
   */
  get(key: string, options?: StorageCall & { readonly range?: ByteRange }): Promise<Uint8Array>;

  /** Size in bytes, or undefined when there is no such object. */
  stat(key: string, options?: StorageCall): Promise<ObjectInfo | undefined>;

  /**
   * Every finished object whose key starts with `prefix` (a plain string prefix; '' lists all), in no promised order,
   * however many there are. An object that is being written is not listed.
   */
  list(prefix: string, options?: StorageCall): AsyncIterable<ObjectInfo>;

  /** Removes an object. Resolves also when there was none. */
  delete(key: string, options?: StorageCall): Promise<void>;
}

export interface StorageCall {
  /** Aborting rejects with the signal’s reason, at the latest when the running system call returns. */
  readonly signal?: AbortSignal | undefined;
}

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export interface ObjectInfo {
  readonly key: string;
  readonly size: number;
  readonly modifiedAt: Date;
}
