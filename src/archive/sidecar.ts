import { DataProtectionError } from '../types/errors.ts';
import type { Json, Timestamp, UUID } from '../types/ids.ts';
import { fields, integer, text, timestamp, uuid } from './decode.ts';
import { sameBytes } from './digest.ts';
import { hmac } from './encrypt.ts';
import { corrupt, SIDECAR_MAGIC, U32_MAX } from './format.ts';
import { decodeFrame, encodeFrame } from './frame.ts';

/** What a sidecar belongs to. A sidecar of a configuration has no snapshot. */
export interface SidecarContext {
  readonly organizationId: UUID;
  readonly configurationId: UUID;
  readonly snapshotId: UUID | null;
}

/** A fact that changed after the snapshot was written: re-wrapped keys, a lock, a tag, a deletion. */
export interface Sidecar {
  /** `[a-z][a-z0-9-]{0,39}` */
  readonly kind: string;
  /** From 1; of several the highest holds. */
  readonly number: number;
  readonly context: SidecarContext;
  readonly writtenAt: Timestamp;
  readonly payload: Json;
}

export interface ReadSidecar extends Sidecar {
  /**
   * VERIFIED: its MAC is right. UNCHECKED: it has one, but no key was given. NONE: it was written without; the digest
   * shows damage, not forgery.
   */
  readonly authentication: 'VERIFIED' | 'UNCHECKED' | 'NONE';
  /** The id of the MAC key; null when it has none. */
  readonly macKeyId: string | null;
}

export interface SidecarName {
  readonly kind: string;
  readonly number: number;
}

const VERSION = 1;
const KIND = /^[a-z][a-z0-9-]{0,39}$/;
const NAME = /^sidecar-([a-z][a-z0-9-]{0,39})-([0-9]{6,10})$/;
const KEY_ID = /^[A-Za-z0-9._:/-]{1,255}$/;

/** `sidecar-<kind>-000001`, relative to the snapshot’s directory. INTERNAL when kind or number are impossible. */
export function sidecarName({ kind, number }: SidecarName): string {
  if (!KIND.test(kind) || !Number.isSafeInteger(number) || number < 1 || number > U32_MAX) {
    throw new DataProtectionError('A sidecar needs a kind and a number from 1.', 'INTERNAL');
  }
  return `sidecar-${kind}-${String(number).padStart(6, '0')}`;
}

/** Kind and number from an object’s name without its directory; undefined when it is not the name of a sidecar. */
export function parseSidecarName(name: string): SidecarName | undefined {
  const [, kind, digits] = NAME.exec(name) ?? [];
  if (kind === undefined || digits === undefined) return undefined;
  const number = Number(digits);
  if (number < 1 || number > U32_MAX) return undefined;
  return sidecarName({ kind, number }) === name ? { kind, number } : undefined;
}

/** The sidecar of this kind that holds: the one with the highest number among the names of a directory. */
export function highestSidecar(names: Iterable<string>, kind: string): SidecarName | undefined {
  let highest: SidecarName | undefined;
  for (const name of names) {
    const found = parseSidecarName(name);
    if (found?.kind === kind && found.number > (highest?.number ?? 0)) highest = found;
  }
  return highest;
}

/** The bytes to put, create-only, at `sidecarName(sidecar)`. Without a MAC key it is marked unauthenticated. */
export function encodeSidecar(
  sidecar: Sidecar,
  macKey: { readonly keyId: string; readonly key: Uint8Array } | undefined,
): Buffer {
  sidecarName(sidecar);
  const { kind, number, context, writtenAt, payload } = sidecar;
  const { organizationId, configurationId, snapshotId } = context;
  const json = {
    version: VERSION,
    kind,
    number,
    context: { organizationId, configurationId, snapshotId },
    writtenAt,
    macKeyId: macKey?.keyId ?? null,
    payload,
  };
  return encodeFrame(SIDECAR_MAGIC, VERSION, json, macKey?.key);
}

/**
 * The sidecar that was read from `place.name` in the directory of `place.context`. With `macKey` (the key of an id;
 * what it throws is passed on) only an authenticated one is taken, so that nobody can strip a MAC. ARCHIVE_CORRUPT
 * when it is damaged, forged, or not that of its name and place; ARCHIVE_VERSION_UNSUPPORTED when it is newer.
 */
export async function decodeSidecar(
  bytes: Uint8Array,
  place: { readonly name: string; readonly context: SidecarContext },
  macKey?: (keyId: string) => Promise<Uint8Array>,
): Promise<ReadSidecar> {
  const frame = decodeFrame(SIDECAR_MAGIC, VERSION, bytes, 'The sidecar');
  const sidecar = decode(frame.json);
  if ((sidecar.macKeyId === null) !== (frame.mac.length === 0))
    throw corrupt('The sidecar contradicts itself.');
  if (sidecarName(sidecar) !== place.name) throw corrupt('The sidecar is not the one of its name.');
  if (!sameContext(sidecar.context, place.context)) throw corrupt('The sidecar belongs to another place.');
  if (macKey === undefined)
    return { ...sidecar, authentication: sidecar.macKeyId === null ? 'NONE' : 'UNCHECKED' };
  if (sidecar.macKeyId === null) throw corrupt('The sidecar is not authenticated.');
  if (!sameBytes(hmac(await macKey(sidecar.macKeyId), frame.unsigned), frame.mac)) {
    throw corrupt('The sidecar is not the one that was written with its key.');
  }
  return { ...sidecar, authentication: 'VERIFIED' };
}

function decode(json: Json): Omit<ReadSidecar, 'authentication'> {
  const names = ['version', 'kind', 'number', 'context', 'writtenAt', 'macKeyId', 'payload'] as const;
  const found = fields(json, 'The sidecar', names);
  integer(found.version, 'The sidecar’s version', VERSION, VERSION);
  const context = fields(found.context, 'The sidecar’s context', [
    'organizationId',
    'configurationId',
    'snapshotId',
  ]);
  return {
    kind: text(found.kind, 'The sidecar’s kind', KIND),
    number: integer(found.number, 'The sidecar’s number', 1, U32_MAX),
    context: {
      organizationId: uuid(context.organizationId, 'The sidecar’s organization id'),
      configurationId: uuid(context.configurationId, 'The sidecar’s configuration id'),
      snapshotId: context.snapshotId === null ? null : uuid(context.snapshotId, 'The sidecar’s snapshot id'),
    },
    writtenAt: timestamp(found.writtenAt, 'The sidecar’s time'),
    macKeyId: found.macKeyId === null ? null : text(found.macKeyId, 'The sidecar’s key id', KEY_ID),
    payload: found.payload,
  };
}

function sameContext(a: SidecarContext, b: SidecarContext): boolean {
  return (
    a.organizationId === b.organizationId &&
    a.configurationId === b.configurationId &&
    a.snapshotId === b.snapshotId
  );
}
