import { corrupt } from '../archive/format.ts';
import { decodeRewrappedKey, KEY_SIDECAR } from '../archive/key-sidecar.ts';
import { checkDataKey, type SealedDataKey } from '../archive/manifest.ts';
import { decodeSidecar } from '../archive/sidecar.ts';
import type { KeyProvider, MacContext } from '../keys/keys.ts';
import type { WrappedKey } from '../types/encryption.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import { readChecked } from './copies.ts';
import { keyFailure } from './failure.ts';
import { type SidecarPlace, sidecarNames } from './sidecars.ts';

/** Which key opened a snapshot. */
export interface WrappedBy {
  readonly keyId: string;
  /** The sidecar that holds the wrapped data key; null: the manifest's own. */
  readonly sidecar: string | null;
}

export interface FoundDataKey extends WrappedBy {
  readonly dataKey: Uint8Array;
}

/** Sidecars that are tried before the manifest's own keys: a heap of forged ones must not keep anybody from those. */
const FIRST = 8;

/**
 * The data key of a snapshot: from the highest sidecar that gives it, else from its manifest. Whether a key is the right
 * one is not for its place to say: it must be the one that the manifest commits to. So one that is forged, damaged,
 * another snapshot's or an older one is passed over. Throws `KEY_UNAVAILABLE` where no key opens it; before that, what a
 * store or the provider failed with that did not answer and may have the key; or the signal's reason.
 */
export async function findDataKey(
  keys: KeyProvider,
  sealed: SealedDataKey,
  place: SidecarPlace,
  signal: AbortSignal,
): Promise<FoundDataKey> {
  const { names, silent } = await sidecarNames(place, KEY_SIDECAR, signal);
  const own = sealed.wrappedKeys.map((wrapped) => async (): Promise<FoundDataKey> => {
    const dataKey = await unwrap(keys, sealed, wrapped);
    return { dataKey, keyId: wrapped.keyId, sidecar: null };
  });
  const others = names.map((name) => () => fromSidecar(keys, sealed, place, name, signal));
  const failures = [...silent];
  for (const find of [...others.slice(0, FIRST), ...own, ...others.slice(FIRST)]) {
    try {
      return await find();
    } catch (error) {
      signal.throwIfAborted();
      failures.push(error);
    }
  }
  throw mostHopeful(failures);
}

async function fromSidecar(
  keys: KeyProvider,
  sealed: SealedDataKey,
  place: SidecarPlace,
  name: string,
  signal: AbortSignal,
): Promise<FoundDataKey> {
  const { storage, folder, context } = place;
  const macContext = sidecarMac(context);
  return readChecked(storage, `${folder}${name}`, { signal }, async (bytes) => {
    const { payload } = await decodeSidecar(bytes, { name, context }, async (keyId) => {
      const mac = await keys.macKey(macContext, keyId).catch(throwKeyFailure);
      return mac.key;
    });
    const { attemptId, wrappedKey } = decodeRewrappedKey(payload);
    if (attemptId !== sealed.identity.attemptId) throw corrupt('The sidecar is that of another attempt.');
    return { dataKey: await unwrap(keys, sealed, wrappedKey), keyId: wrappedKey.keyId, sidecar: name };
  });
}

/** What a sidecar of this context is authenticated with: `KeyProvider.macKey`. */
export const sidecarMac = ({
  organizationId,
  configurationId,
}: Pick<MacContext, 'organizationId' | 'configurationId'>): MacContext => ({
  organizationId,
  configurationId,
  purpose: 'sidecar',
});

async function unwrap(keys: KeyProvider, sealed: SealedDataKey, wrapped: WrappedKey): Promise<Uint8Array> {
  const { organizationId, configurationId, snapshotId } = sealed.identity;
  const context = { organizationId, configurationId, snapshotId };
  const dataKey = await keys.unwrap(wrapped, context).catch(throwKeyFailure);
  checkDataKey(sealed, dataKey);
  return dataKey;
}

const throwKeyFailure = (error: unknown): never => {
  throw keyFailure(error);
};

/** What may pass comes before a key that is not there, and that before what is damaged. */
function mostHopeful(failures: readonly unknown[]): unknown {
  const known = failures.filter((failure) => failure instanceof DataProtectionError);
  return (
    failures.find((failure) => !(failure instanceof DataProtectionError)) ??
    known.find(({ code, retryable }) => retryable || code.startsWith('STORAGE_')) ??
    known.find((failure) => failure instanceof KeyError) ??
    failures[0]
  );
}
