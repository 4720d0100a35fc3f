import { DataProtectionError, StorageError } from '../types/errors.ts';
import { type PlannedPart, planParts } from './large-upload-plan.ts';
import { type LargeUploadProgress, type ProgressCounter, progressCounter } from './large-upload-progress.ts';
import { describePart, isStored, type LargeSource, readStretch } from './large-upload-source.ts';
import { codeOf, isAmbiguous } from './resilient-errors.ts';
import type { ObjectStorage, ResumableUploads, UploadPart } from './storage.ts';
import { systemTiming, type Timing } from './timing.ts';

export interface LargeUpload extends LargeSource {
  readonly key: string;
  /** What `onHandle` gave in an earlier run: goes on with the parts that are there. */
  readonly handle?: string | undefined;
  /** Bytes of a part, fitted to the limits of the storage: 8 MiB. Keep it between runs, or all parts are sent again. */
  readonly partBytes?: number;
  /** Parts that are read and sent at a time: 4. Memory is `parallel` parts. */
  readonly parallel?: number;
  readonly signal?: AbortSignal | undefined;
  /** Told the handle of a new upload before its first part is sent: keep it to go on later. */
  onHandle?(handle: string): void | Promise<void>;
  /** Told after every part. */
  onProgress?(progress: LargeUploadProgress): void;
  readonly timing?: Pick<Timing, 'now'>;
}

export interface LargeUploadResult {
  /** Parts that this run sent. An object that was put in one piece counts as one. */
  readonly partsSent: number;
  /** Parts that an earlier run had stored. */
  readonly partsFound: number;
}

const DEFAULT_PART_BYTES = 8 * 1024 * 1024;

/** What is put in one piece, in memory, where the storage has no uploads. */
const LARGEST_PUT_BYTES = 64 * 1024 * 1024;

/**
 * Stores a large object in parts, create-only like `put`, and goes on after a crash with the parts that are there.
 * When it resolves, the object is published whole and its size was checked. When it rejects, nothing is visible, except
 * after an error that leaves it open, as with `put`; what was sent stays for a later run with the same handle.
 *
 * Every part is read in every run, and what is stored counts only where size and SHA-256 are those of the bytes read:
 * so a source that changed between two runs is sent again, and never published as a mixture. An upload that is gone
 * (expired, or published by a run that died right after) begins anew, or is recognized by its bytes.
 *
 * Objects below the least size of a part, and up to 64 MiB where the storage has no uploads, are put in one piece;
 * beyond that `NOT_SUPPORTED`. A source that gives another number of bytes than it says is `VALIDATION_FAILED`.
 */
export async function uploadLarge(storage: ObjectStorage, upload: LargeUpload): Promise<LargeUploadResult> {
  const { size, parallel = 4, partBytes = DEFAULT_PART_BYTES } = upload;
  assertWhole('size', size, 0);
  assertWhole('parallel', parallel, 1);
  assertWhole('partBytes', partBytes, 1);
  const { uploads } = storage;
  if (uploads === undefined || size < uploads.limits.minPartBytes || size === 0) {
    return putWhole(storage, upload);
  }
  const plan = planParts(size, partBytes, uploads.limits);
  const opened = await open(storage, uploads, upload, plan);
  if (opened === 'STORED') return { partsSent: 0, partsFound: plan.length };

  const { handle, present } = opened;
  const { parts, partsSent } = await sendMissing(uploads, handle, upload, plan, present, parallel);
  await publish(storage, uploads, handle, parts, upload, plan);
  await assertPublished(storage, upload);
  return { partsSent, partsFound: plan.length - partsSent };
}

async function putWhole(storage: ObjectStorage, upload: LargeUpload): Promise<LargeUploadResult> {
  const { key, size, signal, timing = systemTiming } = upload;
  if (size > LARGEST_PUT_BYTES) {
    throw new DataProtectionError(
      `${storage.description} has no uploads in parts; objects there have at most ${LARGEST_PUT_BYTES} bytes, this one ${size}.`,
      'NOT_SUPPORTED',
    );
  }
  const counter = progressCounter(size, 1, timing, (progress) => upload.onProgress?.(progress));
  await storage.put(key, size === 0 ? [] : [await readStretch(upload, 0, size)], { signal });
  counter.sent(size);
  return { partsSent: 1, partsFound: 0 };
}

interface OpenUpload {
  readonly handle: string;
  readonly present: ReadonlyMap<number, UploadPart>;
}

/** The upload to go on with, or STORED when an earlier run published it and could not tell. */
async function open(
  storage: ObjectStorage,
  uploads: ResumableUploads,
  upload: LargeUpload,
  plan: readonly PlannedPart[],
): Promise<OpenUpload | 'STORED'> {
  const { key, handle, signal } = upload;
  if (handle !== undefined) {
    try {
      const parts = await uploads.parts(handle, { signal });
      return { handle, present: new Map(parts.map((part) => [part.number, part])) };
    } catch (error) {
      if (codeOf(error) !== 'STORAGE_NOT_FOUND') throw error;
      if (await isStored(storage, key, upload, plan, signal)) return 'STORED';
    }
  }
  const begun = await uploads.begin(key, { signal });
  try {
    await upload.onHandle?.(begun);
  } catch (error) {
    // Nobody would find it again.
    await uploads.abort(begun);
    throw error;
  }
  return { handle: begun, present: new Map() };
}

/** Reads every part, sends those that are not there, and resolves with all of them as this run read them. */
async function sendMissing(
  uploads: ResumableUploads,
  handle: string,
  upload: LargeUpload,
  plan: readonly PlannedPart[],
  present: ReadonlyMap<number, UploadPart>,
  parallel: number,
): Promise<{ parts: UploadPart[]; partsSent: number }> {
  const { size, timing = systemTiming } = upload;
  const stop = new AbortController();
  const signal = upload.signal ? AbortSignal.any([upload.signal, stop.signal]) : stop.signal;
  const counter: ProgressCounter = progressCounter(size, plan.length, timing, (progress) =>
    upload.onProgress?.(progress),
  );
  const parts: UploadPart[] = [];
  const queue = plan.values();
  let partsSent = 0;

  async function worker(): Promise<void> {
    try {
      for (const planned of queue) {
        signal.throwIfAborted();
        const bytes = await readStretch(upload, planned.offset, planned.length);
        const part = describePart(planned, bytes);
        parts[planned.number - 1] = part;
        if (isSame(present.get(part.number), part)) {
          counter.found(part.size);
        } else {
          await uploads.putPart(handle, part, bytes, { signal });
          partsSent += 1;
          counter.sent(part.size);
        }
      }
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  }

  // Nothing is sent any more when this settles.
  const outcomes = await Promise.allSettled(Array.from({ length: parallel }, worker));
  upload.signal?.throwIfAborted();
  if (outcomes.some(({ status }) => status === 'rejected')) throw stop.signal.reason;
  return { parts, partsSent };
}

async function publish(
  storage: ObjectStorage,
  uploads: ResumableUploads,
  handle: string,
  parts: readonly UploadPart[],
  upload: LargeUpload,
  plan: readonly PlannedPart[],
): Promise<void> {
  const { signal } = upload;
  try {
    // It compares the parts with what is stored: another run of the same upload may have replaced one.
    await uploads.complete(handle, parts, { signal });
  } catch (error) {
    signal?.throwIfAborted();
    // Its answer may have been lost, or another run of the same upload was faster and has published it.
    const code = codeOf(error);
    const open = isAmbiguous(error) || code === 'STORAGE_NOT_FOUND' || code === 'STORAGE_ALREADY_EXISTS';
    if (!open || !(await turnsOutStored(storage, upload, plan))) throw error;
  }
}

/** False also where it cannot be found out: the error that led to the question is the answer then. */
async function turnsOutStored(
  storage: ObjectStorage,
  upload: LargeUpload,
  plan: readonly PlannedPart[],
): Promise<boolean> {
  try {
    return await isStored(storage, upload.key, upload, plan, upload.signal);
  } catch {
    upload.signal?.throwIfAborted();
    return false;
  }
}

async function assertPublished(storage: ObjectStorage, { key, size, signal }: LargeUpload): Promise<void> {
  const info = await storage.stat(key, { signal });
  if (info?.size === size) return;
  throw new StorageError(
    `The upload of ${key} was published, but ${info === undefined ? 'there is no object' : `has ${info.size} bytes`} where ${size} bytes should be.`,
    'STORAGE_CORRUPT',
    { key },
  );
}

function isSame(stored: UploadPart | undefined, part: UploadPart): boolean {
  return stored?.size === part.size && stored.digest === part.digest;
}

function assertWhole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new DataProtectionError(
    `uploadLarge: \`${name}\` is a whole number of ${least} or more.`,
    'VALIDATION_FAILED',
  );
}
