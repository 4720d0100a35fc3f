import { corrupt, U32_MAX } from '../archive/format.ts';
import {
  decodeSidecar,
  encodeSidecar,
  type ReadSidecar,
  type SidecarContext,
  sidecarName,
} from '../archive/sidecar.ts';
import { type KeyProvider, NO_CONFIGURATION } from '../keys/keys.ts';
import type { ChainLink } from '../repository/audit-log.ts';
import type { AuditRecordKind } from '../repository/audit-trail.ts';
import { DataProtectionError, KeyError } from '../types/errors.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { isDamage } from './copies.ts';
import { keyFailure } from './failure.ts';

/** A record that is what somebody wrote. `authentication`: VERIFIED, a key of the provider vouches for it. */
export interface AuditRecord extends ChainLink {
  readonly writtenAt: Timestamp;
  readonly authentication: ReadSidecar['authentication'];
}

/** Why a record counts for nothing. */
export type WrongRecord = 'CHECKPOINT_FORGED' | 'CHECKPOINT_KEY_UNKNOWN';

/** Writes and reads the records of one organization's chain: sidecars that hold the hash of an entry. */
export interface AuditRecords {
  /** Whether a key vouches for what `encode` gives, or a digest only. */
  readonly authenticates: boolean;
  /** The bytes of a record. Throws `KEY_UNAVAILABLE`, `CONFIGURATION_INVALID`. */
  encode(kind: AuditRecordKind, record: ChainLink & { readonly writtenAt: Timestamp }): Promise<Buffer>;
  /**
   * The record of these bytes. Throws `ARCHIVE_*` unless it is whole and that of its kind and sequence, and
   * `KEY_UNAVAILABLE`, retryable where the provider did not answer.
   */
  decode(bytes: Uint8Array, kind: AuditRecordKind, sequence: number): Promise<AuditRecord>;
}

const SIDECAR_KINDS: Readonly<Record<AuditRecordKind, string>> = {
  CHECKPOINT: 'audit-checkpoint',
  PRUNED: 'audit-pruning',
};

export function auditRecords(keys: KeyProvider | undefined, organizationId: UUID): AuditRecords {
  const context: SidecarContext = { organizationId, configurationId: NO_CONFIGURATION, snapshotId: null };
  const macContext = { organizationId, configurationId: NO_CONFIGURATION, purpose: 'audit-checkpoint' };
  /** Thousands of records share a few keys, and a key may be a request to a key service. */
  const asked = new Map<string, Promise<Uint8Array>>();
  const keyOf = (provider: KeyProvider, keyId: string): Promise<Uint8Array> => {
    const known =
      asked.get(keyId) ??
      provider.macKey(macContext, keyId).then(
        ({ key }) => key,
        (error: unknown) => {
          throw error instanceof DataProtectionError ? error : unanswered(error);
        },
      );
    asked.set(keyId, known);
    return known;
  };
  return {
    authenticates: keys !== undefined,
    async encode(kind, { sequence, hash, writtenAt }) {
      const mac = await keys?.macKey(macContext).catch((error: unknown) => {
        throw keyFailure(error);
      });
      const sidecar = { kind: SIDECAR_KINDS[kind], number: sequence, context, writtenAt, payload: { hash } };
      return encodeSidecar(sidecar, mac);
    },
    async decode(bytes, kind, sequence) {
      if (sequence < 1 || sequence > U32_MAX) throw corrupt('The record is of an entry that cannot be.');
      const name = sidecarName({ kind: SIDECAR_KINDS[kind], number: sequence });
      const read = await decodeSidecar(bytes, { name, context });
      if (keys !== undefined && read.macKeyId !== null) {
        const verified = await decodeSidecar(bytes, { name, context }, (keyId) => keyOf(keys, keyId));
        return recordOf(verified);
      }
      return recordOf(read);
    },
  };
}

/** What is wrong with a record that `decode` rejected. Throws what says nothing about it, such as a service that does not answer. */
export function wrongRecord(error: unknown): WrongRecord {
  if (isDamage(error)) return 'CHECKPOINT_FORGED';
  if (error instanceof KeyError && !error.retryable) return 'CHECKPOINT_KEY_UNKNOWN';
  throw error;
}

/** Whatever a host's own provider failed with, it does not say that there is no such key. */
const unanswered = (cause: unknown): KeyError =>
  new KeyError('The key provider failed', 'KEY_UNAVAILABLE', { cause, retryable: true });

function recordOf({ number, writtenAt, payload, authentication }: ReadSidecar): AuditRecord {
  const hash =
    payload !== null && typeof payload === 'object' && 'hash' in payload ? payload.hash : undefined;
  if (typeof hash !== 'string') throw corrupt('The record holds no hash.');
  return { sequence: number, hash, writtenAt, authentication };
}
