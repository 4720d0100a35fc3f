import { describe, expect, it } from 'vitest';
import { signedText } from '../../src/sync/base-signature.ts';

const base = {
  organizationId: '0190b2c0-0000-7000-8000-000000000001',
  entityType: 'VISIT',
  entityId: 'v1',
  version: 7,
  row: { a: 1, b: { c: '12.50', d: null } },
};

describe('signedText', () => {
  it('stays the same: signatures are out there', () => {
    expect(signedText(base)).toBe(
      '["care-sync-base-1","0190b2c0-0000-7000-8000-000000000001","VISIT","v1",7,{"a":1,"b":{"c":"12.50","d":null}}]',
    );
  });

  it('does not change on the way through JSON, nor with the order of keys', () => {
    const row = { b: { d: null, c: '12.50' }, a: 1, odd: ['\ud800', -0, 1e21, '"],["'] };
    const back: typeof row = JSON.parse(JSON.stringify(row));
    expect(signedText({ ...base, row: back })).toBe(signedText({ ...base, row }));
    expect(signedText({ ...base, row: { b: { d: null, c: '12.50' }, a: 1 } })).toBe(signedText(base));
  });

  it.each([
    { ...base, organizationId: '0190b2c0-0000-7000-8000-000000000002' },
    { ...base, entityType: 'CLIENT' },
    { ...base, entityId: 'v2' },
    { ...base, entityType: 'VISIT","v1', entityId: '' },
    { ...base, entityType: 'VISI', entityId: 'Tv1' },
    { ...base, version: 8 },
    // What means the same is not the same here: the row is signed as it was handed out.
    { ...base, row: { a: 1, b: { c: '12.5', d: null } } },
    { ...base, row: { a: 1, b: { c: '12.50' } } },
    { ...base, row: { a: '1', b: { c: '12.50', d: null } } },
    { ...base, row: { a: 1, b: { c: '12.50', d: null }, e: null } },
  ])('is another for another: %#', (other) => {
    expect(signedText(other)).not.toBe(signedText(base));
  });
});
