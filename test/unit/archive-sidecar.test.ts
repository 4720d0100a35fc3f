import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { type Claim, decodeClaim, encodeClaim, isClaim } from '../../src/archive/claim.ts';
import { openManifest, readHeader } from '../../src/archive/manifest.ts';
import {
  decodeSidecar,
  encodeSidecar,
  highestSidecar,
  parseSidecarName,
  type Sidecar,
  sidecarName,
} from '../../src/archive/sidecar.ts';
import { buildArchive, codeOf, IDENTITY } from '../vectors/build-archive.ts';

function flipped(bytes: Uint8Array, at: number): Buffer {
  const changed = Buffer.from(bytes);
  changed[at] = (changed[at] ?? 0) ^ 1;
  return changed;
}

function redigest(bytes: Uint8Array): Buffer {
  const undigested = bytes.subarray(0, bytes.length - 32);
  return Buffer.concat([undigested, createHash('sha256').update(undigested).digest()]);
}

describe('claims', () => {
  const claim: Claim = {
    snapshotId: IDENTITY.snapshotId,
    attemptId: IDENTITY.attemptId,
    claimedAt: '2026-01-31T02:00:00.000Z',
    claimedBy: 'worker-7',
  };

  test('come back and are no manifest', async () => {
    const bytes = encodeClaim(claim);
    expect(isClaim(bytes)).toBe(true);
    expect(decodeClaim(bytes)).toEqual(claim);
    expect(await codeOf(() => readHeader(bytes))).toBe('ARCHIVE_INCOMPLETE');
    expect(await codeOf(() => openManifest(bytes))).toBe('ARCHIVE_INCOMPLETE');
    // Also a torn one forbids the attempt to finish.
    expect(await codeOf(() => readHeader(bytes.subarray(0, 20)))).toBe('ARCHIVE_INCOMPLETE');
  });

  test('a manifest is no claim', async () => {
    const { manifest } = await buildArchive({ segments: [] });
    expect(isClaim(manifest)).toBe(false);
    expect(await codeOf(() => decodeClaim(manifest))).toBe('ARCHIVE_CORRUPT');
  });

  test('any damage is found', async () => {
    const bytes = encodeClaim(claim);
    for (let at = 0; at < bytes.length; at += 1) {
      const expected = at === 8 || at === 9 ? 'ARCHIVE_VERSION_UNSUPPORTED' : 'ARCHIVE_CORRUPT';
      expect(await codeOf(() => decodeClaim(flipped(bytes, at))), `at ${at}`).toBe(expected);
      expect(await codeOf(() => decodeClaim(bytes.subarray(0, at))), `cut at ${at}`).toBe('ARCHIVE_CORRUPT');
    }
    expect(await codeOf(() => decodeClaim(Buffer.concat([bytes, bytes])))).toBe('ARCHIVE_CORRUPT');
    const longer = redigest(Buffer.concat([bytes, Buffer.alloc(1)]));
    expect(await codeOf(() => decodeClaim(longer))).toBe('ARCHIVE_CORRUPT');
    const shorter = redigest(Buffer.concat([bytes.subarray(0, -40), Buffer.alloc(32)]));
    expect(await codeOf(() => decodeClaim(shorter))).toBe('ARCHIVE_CORRUPT');
  });

  test('a malformed claim is not written', async () => {
    expect(await codeOf(() => encodeClaim({ ...claim, attemptId: 'x' }))).toBe('ARCHIVE_CORRUPT');
    expect(await codeOf(() => encodeClaim({ ...claim, claimedBy: '' }))).toBe('ARCHIVE_CORRUPT');
  });
});

describe('sidecars', () => {
  const { organizationId, configurationId, snapshotId } = IDENTITY;
  const context = { organizationId, configurationId, snapshotId };
  const sidecar: Sidecar = {
    kind: 'wrapped-keys',
    number: 12,
    context,
    writtenAt: '2026-01-31T02:00:00.000Z',
    payload: { keys: ['a', { b: null }] },
  };
  const mac = { keyId: 'mac-1', key: Buffer.alloc(32, 7) };
  const macKey = () => Promise.resolve(mac.key);
  const place = { name: 'sidecar-wrapped-keys-000012', context };

  test('come back, verified, unchecked or without authentication', async () => {
    const signed = encodeSidecar(sidecar, mac);
    const plain = encodeSidecar(sidecar, undefined);
    const back = await decodeSidecar(signed, place, macKey);
    expect(back).toEqual({ ...sidecar, authentication: 'VERIFIED', macKeyId: 'mac-1' });
    expect((await decodeSidecar(signed, place)).authentication).toBe('UNCHECKED');
    expect(await decodeSidecar(plain, place)).toMatchObject({ authentication: 'NONE', macKeyId: null });
  });

  test('of a configuration has no snapshot', async () => {
    const of = { ...context, snapshotId: null };
    const bytes = encodeSidecar({ ...sidecar, context: of }, mac);
    expect(await decodeSidecar(bytes, { ...place, context: of }, macKey)).toMatchObject({ context: of });
  });

  test('any damage is found without a key, and with a key also when the digest fits', async () => {
    const bytes = encodeSidecar(sidecar, mac);
    const codes = ['ARCHIVE_CORRUPT', 'ARCHIVE_VERSION_UNSUPPORTED'];
    for (let at = 0; at < bytes.length; at += 1) {
      expect(codes, `at ${at}`).toContain(await codeOf(() => decodeSidecar(flipped(bytes, at), place)));
      expect(codes, `cut at ${at}`).toContain(
        await codeOf(() => decodeSidecar(bytes.subarray(0, at), place)),
      );
      if (at >= bytes.length - 32) continue;
      const forged = redigest(flipped(bytes, at));
      expect(codes, `forged at ${at}`).toContain(await codeOf(() => decodeSidecar(forged, place, macKey)));
    }
  });

  test('a stripped MAC or another key is refused', async () => {
    const plain = encodeSidecar(sidecar, undefined);
    expect(await codeOf(() => decodeSidecar(plain, place, macKey))).toBe('ARCHIVE_CORRUPT');
    const signed = encodeSidecar(sidecar, { ...mac, key: Buffer.alloc(32, 8) });
    expect(await codeOf(() => decodeSidecar(signed, place, macKey))).toBe('ARCHIVE_CORRUPT');
  });

  test('name and place must be those inside', async () => {
    const bytes = encodeSidecar(sidecar, mac);
    const other = '0190b2c0-0000-7000-8000-0000000000ff';
    const places = [
      { ...place, name: 'sidecar-wrapped-keys-000013' },
      { ...place, name: 'sidecar-lock-000012' },
      { ...place, context: { ...context, organizationId: other } },
      { ...place, context: { ...context, configurationId: other } },
      { ...place, context: { ...context, snapshotId: other } },
      { ...place, context: { ...context, snapshotId: null } },
    ];
    for (const wrong of places) {
      expect(await codeOf(() => decodeSidecar(bytes, wrong, macKey))).toBe('ARCHIVE_CORRUPT');
    }
  });

  test('names', async () => {
    expect(sidecarName({ kind: 'lock', number: 1 })).toBe('sidecar-lock-000001');
    expect(sidecarName({ kind: 'lock', number: 1_234_567 })).toBe('sidecar-lock-1234567');
    expect(parseSidecarName('sidecar-wrapped-keys-000012')).toEqual({ kind: 'wrapped-keys', number: 12 });
    const wrong = [
      'sidecar-lock-1',
      'sidecar-lock-000000',
      'sidecar-lock-0000001',
      'sidecar--000001',
      'manifest',
    ];
    for (const name of wrong) expect(parseSidecarName(name), name).toBeUndefined();
    for (const number of [0, -1, 1.5])
      expect(await codeOf(() => sidecarName({ kind: 'a', number }))).toBe('INTERNAL');
    expect(await codeOf(() => sidecarName({ kind: 'A/b', number: 1 }))).toBe('INTERNAL');
  });

  test('the highest number holds', () => {
    const names = [
      'sidecar-lock-000009',
      'sidecar-lock-1000000',
      'sidecar-lock-000010',
      'sidecar-tags-2000000',
      'x',
    ];
    expect(highestSidecar(names, 'lock')).toEqual({ kind: 'lock', number: 1_000_000 });
    expect(highestSidecar(names, 'hold')).toBeUndefined();
  });
});
