import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { readHeader } from '../../src/archive/manifest.ts';
import { checkObject, objectPlans } from '../../src/archive/reader.ts';
import { decodeSidecar } from '../../src/archive/sidecar.ts';
import type { Json } from '../../src/types/ids.ts';
import { codeOf, IDENTITY, readBack } from '../vectors/build-archive.ts';

const ROOT = join(import.meta.dirname, '../vectors/v1');
const Good = z.object({
  name: z.string(),
  encrypted: z.boolean(),
  checksum: z.string(),
  contents: z.json(),
  segments: z.array(
    z.object({
      part: z.number(),
      run: z.number(),
      rows: z.number(),
      continues: z.boolean(),
      length: z.number(),
      sha256: z.string(),
    }),
  ),
});
const Bad = z.object({ name: z.string(), encrypted: z.boolean(), code: z.string(), keyless: z.boolean() });
const Index = z.object({ dataKey: z.hex(), macKey: z.hex(), good: z.array(Good), bad: z.array(Bad) });
const index = Index.parse(JSON.parse(readFileSync(join(ROOT, 'vectors.json'), 'utf8')));
const DATA_KEY = Buffer.from(index.dataKey, 'hex');

function load(kind: string, { name, encrypted }: { name: string; encrypted: boolean }) {
  const directory = join(ROOT, kind, name);
  const objects = new Map(
    readdirSync(directory)
      .filter((file) => file !== 'manifest')
      .map((file) => [file, readFileSync(join(directory, file))]),
  );
  const manifest = readFileSync(join(directory, 'manifest'));
  return { manifest, objects, identity: IDENTITY, dataKey: encrypted ? DATA_KEY : undefined };
}

function checkWithoutKeys({ manifest, objects }: ReturnType<typeof load>): void {
  const header = readHeader(manifest, IDENTITY);
  for (const plan of objectPlans(header)) checkObject(header, plan, objects.get(plan.name));
}

test('every vector on disk is tested', () => {
  for (const kind of ['good', 'bad'] as const) {
    expect(index[kind].map(({ name }) => name).toSorted()).toEqual(readdirSync(join(ROOT, kind)).toSorted());
    expect(index[kind].length).toBeGreaterThan(10);
  }
});

test.each(index.good)('good: $name', async (vector) => {
  const archive = load('good', vector);
  checkWithoutKeys(archive);
  const back = await readBack(archive);
  expect(back.checksum).toBe(vector.checksum);
  expect(back.contents).toEqual(vector.contents);
  const segments = back.segments.map(({ raw, ...segment }) => {
    return { ...segment, length: raw.length, sha256: createHash('sha256').update(raw).digest('hex') };
  });
  expect(segments).toEqual(vector.segments);
});

test.each(index.bad)('bad: $name is $code', async (vector) => {
  const archive = load('bad', vector);
  expect(await codeOf(() => readBack(archive))).toBe(vector.code);
  expect(await codeOf(() => checkWithoutKeys(archive))).toBe(vector.keyless ? vector.code : undefined);
});

test('sidecars', async () => {
  const { organizationId, configurationId, snapshotId } = IDENTITY;
  const place = { name: 'sidecar-lock-000003', context: { organizationId, configurationId, snapshotId } };
  const macKey = () => Promise.resolve(Buffer.from(index.macKey, 'hex'));
  const signed = readFileSync(join(ROOT, 'sidecars/authenticated'));
  const plain = readFileSync(join(ROOT, 'sidecars/unauthenticated'));
  const payload: Json = { until: '2027-01-31T02:00:00.000Z' };
  expect(await decodeSidecar(signed, place, macKey)).toMatchObject({ authentication: 'VERIFIED', payload });
  expect(await decodeSidecar(plain, place)).toMatchObject({ authentication: 'NONE', payload });
});
