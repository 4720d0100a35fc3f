import { createSecretKey } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  decodeBase64,
  deriveMacKey,
  fingerprint,
  unwrapDataKey,
  wrapDataKey,
} from '../../src/keys/key-wrap.ts';

const master = createSecretKey(Uint8Array.from({ length: 32 }, (_, index) => index));
const dataKey = Uint8Array.from({ length: 32 }, (_, index) => 255 - index);
const context = {
  organizationId: '0190a000-0000-7000-8000-000000000001',
  configurationId: '0190a000-0000-7000-8000-000000000002',
  snapshotId: '0190a000-0000-7000-8000-000000000003',
};

describe('local-aes-256-gcm-v1', () => {
  it('opens for ever what it wrapped once', () => {
    const wrapped = {
      keyId: 'key-1',
      scheme: 'local-aes-256-gcm-v1',
      wrapped:
        'avCZ7MTX4mTWLL4WwAz5tOOAx/UvVDoWvkjBpfGhiwmk5TQGYznOcBP7yley6NbJKPIH/B2jIErMBmqJgfvXeWmpf2DGrsfCWLCe39NJnutxZFW4e59a2fm4/1M=',
    };
    expect([...unwrapDataKey(master, wrapped, context)]).toEqual([...dataKey]);
  });

  it('derives for ever the same secrets (compared with an implementation in Python)', () => {
    const mac = deriveMacKey(master, 'key-1', { ...context, purpose: 'sidecar' });
    expect(Buffer.from(mac).toString('hex')).toBe(
      'fe55ebcd98f621b3b4d03d8d8149e65be5e02dd4c5eb4aa397adc91eb7f8bd1f',
    );
    expect(fingerprint(master)).toBe('79709b1d68b79e7d');
  });

  it('has 12 bytes of nonce, 32 of commitment, 32 of key and 16 of tag; only nonce and what it changes vary', () => {
    const [one, two] = [1, 2].map(() =>
      Buffer.from(wrapDataKey(master, 'key-1', dataKey, context).wrapped, 'base64'),
    );
    if (one === undefined || two === undefined) throw new Error('unreachable');
    expect(one.byteLength).toBe(92);
    expect(one.subarray(0, 12)).not.toEqual(two.subarray(0, 12));
    expect(one.subarray(12, 44)).toEqual(two.subarray(12, 44));
    expect(one.subarray(44)).not.toEqual(two.subarray(44));
  });

  it.each(['', '\ud800', undefined, 5])('refuses %j as a field of the context', (field) => {
    const broken = { ...context, snapshotId: field as never };
    expect(() => wrapDataKey(master, 'key-1', dataKey, broken)).toThrow('The key context is not valid');
    expect(() => deriveMacKey(master, 'key-1', { ...context, purpose: field as never })).toThrow('not valid');
  });
});

describe('decodeBase64', () => {
  it('takes the canonical text only', () => {
    expect(decodeBase64('AAE=')).toEqual(Buffer.of(0, 1));
    for (const text of ['AAE', 'AAF=', 'AA E=', 'AAE=\n', '_-8=', 5, undefined, null]) {
      expect(decodeBase64(text)).toBeUndefined();
    }
  });
});
