import type { WrappedKey } from '../types/encryption.ts';
import type { Json, UUID } from '../types/ids.ts';
import { fields, uuid } from './decode.ts';
import { decodeWrappedKey } from './header.ts';

/** The kind of the sidecars that hold a data key wrapped anew. */
export const KEY_SIDECAR = 'keys';

/** The data key of an attempt, wrapped by another key than its manifest says. */
export interface RewrappedKey {
  readonly attemptId: UUID;
  readonly wrappedKey: WrappedKey;
}

/** The payload of the sidecar, section 8.1 of `docs/archive-format.md`. */
export function encodeRewrappedKey({ attemptId, wrappedKey }: RewrappedKey): Json {
  const { keyId, scheme, wrapped } = wrappedKey;
  return { attemptId, wrappedKey: { keyId, scheme, wrapped } };
}

/** What the payload says. ARCHIVE_CORRUPT unless it has exactly its fields, within their bounds. */
export function decodeRewrappedKey(payload: Json): RewrappedKey {
  const found = fields(payload, 'The payload', ['attemptId', 'wrappedKey']);
  return {
    attemptId: uuid(found.attemptId, 'The attempt id'),
    wrappedKey: decodeWrappedKey(found.wrappedKey),
  };
}
