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
   * (`STORAGE_UNAVAILABLE`, `STORAGE_THROTTLED`, `STORAGE_CORRUPT`, `STORAGE_NOT_MOUNTED`, `STORAGE_UNTRUSTED`): then the
   * object is there whole or not at all.
   * `body` is not changed or kept after the promise settles; the pieces are stored one after another.
   */
  put(key: string, body: readonly Uint8Array[], options?: PutCall): Promise<void>;

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

  /** Removes an object, every version of it. Resolves also when there was none. */
  delete(key: string, options?: StorageCall): Promise<void>;

  /** Uploads of large objects that outlive the process that began them. Absent where the storage has none. */
  readonly uploads?: ResumableUploads;

  /** Objects in tiers that must be thawed before they can be read. Absent where every object can be read at once. */
  readonly tiers?: ArchiveTiers;

  /** Locks that the provider itself keeps. Absent where it has none. */
  readonly retention?: ObjectRetention;

  /** The stores behind one that writes to several, the primary first. Absent for a single store. */
  readonly copies?: readonly StorageCopy[];

  /** Ends connections and timers; harmless to repeat. Absent where there is nothing to end. */
  close?(): Promise<void>;
}

export interface StorageCall {
  /** Aborting rejects with the signal’s reason, at the latest when the running system call returns. */
  readonly signal?: AbortSignal | undefined;
}

export interface PutCall extends StorageCall {
  /** HOT: kept where it can be read at once, whatever storage class the others get (manifests, sidecars). */
  readonly tier?: 'HOT' | undefined;
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

/** A part of a resumable upload. Numbers start at 1 and have no gaps; every part but the last has one size. */
export interface UploadPart {
  readonly number: number;
  /** Bytes. */
  readonly size: number;
  /** SHA-256 of the part's bytes, in hex. */
  readonly digest: string;
}

/**
 * Uploads in parts, in any order and in parallel, that go on after a crash with the parts that are there. Nothing of an
 * upload is visible to `get`, `stat` and `list` before `complete`. The handle is text without a credential: whoever
 * wants to go on later keeps it. The suite in `test/contract/uploads.ts` holds providers to it.
 */
export interface ResumableUploads {
  readonly limits: {
    /** Bytes that every part but the last must have at least, and may have at most. */
    readonly minPartBytes: number;
    readonly maxPartBytes: number;
    readonly maxParts: number;
  };
  /** Begins an upload. `STORAGE_ALREADY_EXISTS` where the key is taken. */
  begin(key: string, options?: PutCall): Promise<string>;
  /** Stores a part whole or not at all; one of the same number is replaced. The provider checks the digest. */
  putPart(handle: string, part: UploadPart, body: Uint8Array, options?: StorageCall): Promise<void>;
  /** The parts that are stored, by number. `STORAGE_NOT_FOUND` when the upload was aborted, completed or has expired. */
  parts(handle: string, options?: StorageCall): Promise<readonly UploadPart[]>;
  /**
   * Publishes the object from exactly these parts, create-only like `put`. A list that is not what is stored is
   * `STORAGE_CORRUPT`, `STORAGE_NOT_FOUND` or `VALIDATION_FAILED`.
   */
  complete(handle: string, parts: readonly UploadPart[], options?: StorageCall): Promise<void>;
  /**
   * Removes what is stored of an unfinished upload. Resolves also when there is none. Where the provider cannot remove
   * parts (Azure), they stay invisible and expire.
   */
  abort(handle: string, options?: StorageCall): Promise<void>;
}

/** READABLE now; ARCHIVED: `get` rejects with `OBJECT_ARCHIVED`; THAWING: asked for and not there yet. */
export type TierState = 'READABLE' | 'ARCHIVED' | 'THAWING';

export interface ArchiveTiers {
  /** `STORAGE_NOT_FOUND` when there is no such object. */
  state(key: string, options?: StorageCall): Promise<TierState>;
  /**
   * Asks for a readable copy for `days` days. Resolves when the provider has taken the request; harmless to
   * repeat. Azure moves the object to a readable tier for good.
   */
  thaw(key: string, options: StorageCall & { readonly days: number }): Promise<void>;
}

export interface ObjectRetention {
  /** Keeps the object (its present version) from deletion until then. Never shortens a lock. */
  retain(key: string, until: Date, options?: StorageCall): Promise<void>;
  /** Sets or lifts a legal hold. */
  hold(key: string, state: 'ON' | 'OFF', options?: StorageCall): Promise<void>;
  /** What protects the object. `versionId` is null where the provider keeps no versions. */
  state(key: string, options?: StorageCall): Promise<RetentionState>;
}

export interface RetentionState {
  readonly retainUntil: Date | null;
  readonly legalHold: boolean;
  readonly versionId: string | null;
}

/** One of several stores. */
export interface StorageCopy {
  readonly storage: ObjectStorage;
  /** Its place in the destination’s list: 0 is the primary. */
  readonly index: number;
  /** Smaller is nearer: the average time of its answers in milliseconds; Infinity where its last call failed. */
  distance(): number;
}
